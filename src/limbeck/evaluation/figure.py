"""What the figures of a task are: how its models are measured, and what the figures are called and mean."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from limbeck.arguments import checked_fields
from limbeck.batch import UNLABELLED
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.evaluation.fidelity import Nearness, fidelity
from limbeck.losses import cross_entropy
from limbeck.records import Number
from limbeck.tasks import Task

__all__ = [
    "NO_LABELS",
    "NO_NUMBERS",
    "Figure",
    "Figures",
    "Metrics",
    "labelled_places",
    "largest_share",
    "number",
    "summed_nll",
]


@checked_fields
@dataclass(frozen=True)
class Metrics:
    """The figures of a model on labelled data.  Less `errors` is better; of equally many, less `nll`.

    | task | examples | errors | accuracy | nll | more | |---|---|---|---|---|---| | classification, binary | samples |
    wrong ones | share right | negative log-likelihood | | | multilabel | samples | with a wrong label | share without |
    sum over labels | label_accuracy, map | | dense | places | wrong ones | share right | of a place | miou | |
    ranking | samples | without a hit in the top 10 | recall@10 | log loss | mrr, ndcg | |
    regression | samples | mean squared error | R² | half of it | mae |

    Attributes:
        examples: labelled samples or places.
        errors: a number of them, the perplexity of tokens, or the mean squared error in squared label units.
        accuracy: in [0, 1], or R² = 1 - Σ(z-y)²/Σ(y-ȳ)², mean over the numbers to predict.
        nll: mean over examples, in nats.
        more: label_accuracy: share of right labels, mean over classes; map: average precision, mean over the classes
            with a positive sample, left out without any; miou: intersection over union, mean over the classes that are
            present or predicted; top3: share of tokens among the three likeliest; bits_per_byte: Σ nll / (ln 2 · bytes
            of the tokens), which can be compared between vocabularies; mrr: mean reciprocal rank; ndcg: NDCG@10; mae:
            mean absolute error.

    Example:
        >>> Metrics(examples=10, errors=2, accuracy=0.8, nll=0.5).accuracy
        0.8
    """

    examples: int
    errors: int | float
    accuracy: float
    nll: Number
    more: Mapping[str, Number] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        figures = {"examples": self.examples, "errors": self.errors, "accuracy": self.accuracy, "nll": self.nll}
        return {**figures, **self.more}


@dataclass(frozen=True)
class Figure:
    """A figure of a table.

    Attributes:
        name: its name in `Metrics` or `Nearness`.
        title: of the column.
        pattern: the format of a value; "" for a share in percent.

    Example:
        >>> Figure("nll", "NLL", "{:.3f}").title
        'NLL'
    """

    name: str
    title: str
    pattern: str


class Figures(ABC):
    """How a task is measured, and the words for it.

    Attributes:
        task: the task.
        errors: name of the main figure, `Metrics.errors`; less is better.
        pattern: its format.
        counts: whether it counts things (examples, places) or is a measure, such as a mean.
        by_example: whether it counts examples that are right or wrong independently, so that there is an interval over
            examples.
        accuracy: name of `Metrics.accuracy`; more is better, and 1 is perfect.
        share: whether the accuracy is a share, written in percent, or a score such as R².
        unit: what is counted.
        nll: what the loss on the labels is, as a sentence.
        nll_is_errors: whether the loss is the main figure times a constant.
        more: further figures, by their names in `Metrics.more`.
        near: figures of the similarity of student and teacher, by their names in `Nearness`.

    Example:
        >>> from limbeck.evaluation import figures_of
        >>> from limbeck.tasks import REGRESSION
        >>> figures_of(REGRESSION).accuracy
        'R²'
    """

    task: ClassVar[Task]
    errors: ClassVar[str]
    pattern: ClassVar[str] = "{:.1f}"
    counts: ClassVar[bool] = True
    by_example: ClassVar[bool] = True
    accuracy: ClassVar[str]
    share: ClassVar[bool] = True
    unit: ClassVar[str] = "test examples"
    nll: ClassVar[str] = "NLL: mean negative log-likelihood in nats."
    nll_is_errors: ClassVar[bool] = False
    more: ClassVar[tuple[Figure, ...]] = ()
    near: ClassVar[tuple[Figure, ...]] = (
        Figure("agreement", "labels as the teacher gives them", ""),
        Figure("kl", "KL(teacher ‖ student) of a label, nats", "{:.4f}"),
    )

    @abstractmethod
    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        """Measure all of a set at once: logits as `predict` gives them, labels as the set has them."""

    def part(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return what a batch contributes, (rows, ...) each, for `total`; here all of it, where a sum can be less."""
        return logits, labels

    def total(self, parts: Iterable[tuple[Tensor, ...]]) -> Metrics:
        """Measure a set from what each of its batches contributes, in their order; `part` and this belong together."""
        logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return self.measure(logits, labels)

    def measure_batches(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Metrics:
        """Measure a set from the logits and labels of its batches."""
        return self.total(self.part(logits, labels) for logits, labels in batches)

    def of_set(self, metrics: Metrics, samples: SampleSet) -> Metrics:
        """Return the figures with those that only the set tells, beside its labels."""
        return metrics

    def counted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of what `nearness` compares: of all, or of those places that are no padding."""
        return logits

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return whether each labelled example is right, (n,) bool; InputError unless figures are `by_example`."""
        raise InputError(f"task {self.task.name}: there is no right or wrong for a whole example")

    def nearness(self, student: Tensor, teacher: Tensor) -> Nearness:
        """Compare the answers of a student with those of its teacher on the same samples."""
        found = fidelity(student.flatten(0, -2), teacher.flatten(0, -2))
        return Nearness(agreement=found.agreement, kl=found.kl)

    def constant_accuracy(self, labels: Tensor) -> float:
        """Return the accuracy of the best answer that is the same for every sample."""
        counts = torch.unique(labels[labels != UNLABELLED], return_counts=True)[1]
        return largest_share(counts)

    # ---------------------------------------------------------------------------------------------------------- words

    @property
    def better(self) -> str:
        """The word for a better main figure."""
        return "fewer" if self.counts else "lower"

    @property
    def worse(self) -> str:
        """The word for a worse main figure."""
        return "more" if self.counts else "higher"

    def error_text(self, value: float) -> str:
        """Return a main figure as it is written in a sentence."""
        return number(value) if self.counts else self.pattern.format(value)

    def accuracy_text(self, value: float, digits: int = 2) -> str:
        """Return an accuracy as it is written: a share in percent, or a score as the number that it is."""
        return f"{100 * value:.{digits}f} %" if self.share else f"{value:.3f}"

    def constant_text(self, constant: float) -> str:
        """Say what the best constant answer comes to."""
        return f"the most frequent answer alone gives {self.accuracy_text(constant, 1)}"

    def result(self, examples: int, distilled: float, alone: float, teacher: float | None) -> str:
        """Say what the models' main figures are."""
        own, other = self.error_text(distilled), self.error_text(alone)
        if self.counts:
            said, whose = f"of {examples:,} {self.unit} the student has {own} {self.errors}", "the teacher has"
        else:
            said, whose = f"on the test set the student's {self.errors} is {own}", "the teacher's is"
        said = f"{said} when distilled, {other} when trained alone"
        return said + ("" if teacher is None else f"; {whose} {self.error_text(teacher)}")

    def came_to(self, value: float) -> str:
        """Say what one model's main figure is, as what the model does."""
        return f"comes to {self.error_text(value)} ({self.errors})"


def number(value: float, digits: int = 1) -> str:
    """Return a number with its thousands set apart, without decimals that are 0.

    >>> number(1234.0), number(15.64)
    ('1,234', '15.6')
    """
    return f"{value:,.0f}" if value == round(value) else f"{value:,.{digits}f}"


def largest_share(counts: Tensor) -> float:
    """Return the largest of some counts as a share of their sum; 0 where there are none."""
    return float(counts.max()) / float(counts.sum()) if len(counts) else 0.0


def summed_nll(logits: Tensor, labels: Tensor) -> float:
    """Return the loss on the labels, summed; InputError where a counted place has no distribution."""
    total = float(cross_entropy(logits.double(), labels, reduction="sum"))
    if math.isnan(total):
        raise InputError(NO_NUMBERS.format("logits"))
    return total


def labelled_places(known: Tensor) -> int:
    """Return how many places are labelled; DataError where none is."""
    examples = int(known.sum())
    if not examples:
        raise DataError(NO_LABELS)
    return examples


NO_NUMBERS = "{}: found NaN or infinity, expected numbers; look at the model or its data"
NO_LABELS = "evaluation: the set has no labels, expected at least one labelled sample"
