"""The figures of each task: how its models are measured, and what the figures are called and mean.

One class a task, found with `figures_of`.  A new task is a class in `limbeck.tasks` and one here; see `Figures`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import DataError, InputError
from limbeck.evaluation.fidelity import Nearness, fidelity
from limbeck.evaluation.ranking import RankedItems
from limbeck.evaluation.scores import score
from limbeck.losses import cross_entropy, positives_log_loss, squared_error
from limbeck.records import Number
from limbeck.tasks import (
    BINARY,
    CLASSIFICATION,
    DENSE,
    FIRST_ITEMS,
    MULTILABEL,
    RANKING,
    REGRESSION,
    Task,
)

__all__ = ["FIGURES", "Figure", "Figures", "Metrics", "Places", "average_precision", "figures_of", "number"]


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
        errors: a number of them, or the mean squared error in squared label units.
        accuracy: in [0, 1], or R² = 1 - Σ(z-y)²/Σ(y-ȳ)², mean over the numbers to predict.
        nll: mean over examples, in nats.
        more: label_accuracy: share of right labels, mean over classes; map: average precision, mean over the classes
            with a positive sample, left out without any; miou: intersection over union, mean over the classes that are
            present or predicted; mrr: mean reciprocal rank; ndcg: NDCG@10; mae: mean absolute error.

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

    def measure_batches(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Metrics:
        """Measure a set from the logits and labels of its batches; this keeps them all, a sum need not."""
        logits, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        return self.measure(logits, labels)

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
        return _largest_share(counts)

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


@checked
def figures_of(task: Task) -> Figures:
    """Return the figures of a task.

    Args:
        task: one of `limbeck.tasks`.

    Returns:
        The figures.

    Example:
        >>> from limbeck.tasks import MULTILABEL
        >>> figures_of(MULTILABEL).accuracy
        'exact matches'
    """
    if task.name not in FIGURES:
        raise InputError(f"task {task.name}: it has no figures; add a class to limbeck.evaluation.figures")
    return FIGURES[task.name]


class _Classes(Figures):
    task = CLASSIFICATION
    errors = "errors"
    accuracy = "accuracy"

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = labels != UNLABELLED
        examples = _some(known)
        errors = int(((logits.argmax(-1) != labels) & known).sum())
        nll = _nll(logits, labels) / examples
        return Metrics(examples, errors, 1.0 - errors / examples, nll)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return score(logits, labels).correct

    def result(self, examples: int, distilled: float, alone: float, teacher: float | None) -> str:
        own, other = number(distilled), number(alone)
        said = f"of {examples:,} {self.unit} the student gets {own} wrong when distilled, {other} when trained alone"
        return said + ("" if teacher is None else f"; the teacher gets {number(teacher)} wrong")

    def came_to(self, value: float) -> str:
        return f"gets {number(value)} wrong"


class _TwoClasses(_Classes):
    task = BINARY


class _Labels(Figures):
    task = MULTILABEL
    errors = "examples with a wrong label"
    accuracy = "exact matches"
    nll = "NLL: mean negative log-likelihood in nats, added up over the labels of an example."
    more = (
        Figure("label_accuracy", "labels that are right", ""),
        Figure("map", "mean average precision", "{:.4f}"),
    )

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = labels != UNLABELLED
        examples = _some(known.any(1))
        right = (logits.argmax(-1) == labels) | ~known
        errors = examples - int((right.all(1) & known.any(1)).sum())
        nll = _nll(logits, labels) / examples
        shares = (right & known).sum(0).double() / known.sum(0).double()
        more = {"label_accuracy": float(shares[known.any(0)].mean())}
        scores = logits[..., 1].double() - logits[..., 0].double()
        precisions = [
            average_precision(scores[known[:, label], label], labels[known[:, label], label] == 1)
            for label in range(labels.shape[1])
        ]
        defined = [precision for precision in precisions if precision is not None]
        if defined:
            more["map"] = sum(defined) / len(defined)
        return Metrics(examples, errors, 1.0 - errors / examples, nll, more)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels != UNLABELLED
        return ((logits.argmax(-1) == labels) | ~known).all(1)[known.any(1)]

    def constant_accuracy(self, labels: Tensor) -> float:
        rows = labels[(labels != UNLABELLED).any(1)]
        return _largest_share(torch.unique(rows, dim=0, return_counts=True)[1])


class _Places(Figures):
    task = DENSE
    errors = "wrong places"
    by_example = False
    accuracy = "accuracy of places"
    unit = "places of test examples"
    nll = "NLL: mean negative log-likelihood in nats of a place."
    more = (Figure("miou", "mean intersection over union", "{:.4f}"),)

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return Places.of(logits, labels).metrics()

    def measure_batches(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Metrics:
        first, *rest = (Places.of(logits, labels) for logits, labels in batches)
        return sum(rest, start=first).metrics()


class _Items(Figures):
    task = RANKING
    errors = "users without a hit in the top 10"
    accuracy = "recall@10"
    unit = "test users"
    nll = "NLL: log loss in nats, its mean over the items to be found plus three times that over the others."
    more = (Figure("mrr", "mean reciprocal rank", "{:.4f}"), Figure("ndcg", "NDCG@10", "{:.4f}"))
    near = (
        Figure("agreement", "items of the teacher's top 10 among the student's", ""),
        Figure("kl", "KL(teacher ‖ student) of the softmax over the items, nats", "{:.4f}"),
    )

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        return self.measure_batches([(logits, labels)])

    def measure_batches(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Metrics:
        totals = torch.zeros(6, dtype=torch.float64)
        for logits, labels in batches:
            positives, known = self.task.positives(labels), self.task.known(labels)
            items = RankedItems.of(logits, positives, known)
            hits = (items.found(FIRST_ITEMS).any(1)).sum().double()
            nll = positives_log_loss(logits, positives, known=known, reduction="sum").double()
            figures = (items.recall(FIRST_ITEMS), items.reciprocal_ranks(), items.ndcg(FIRST_ITEMS))
            sums = [torch.tensor(float(len(items.ranks))), hits, nll, *(each.sum() for each in figures)]
            totals += torch.stack([each.double().cpu() for each in sums])
        examples = int(totals[0])
        if not examples:
            raise DataError(_NO_LABELS)
        hits, nll, recall, mrr, ndcg = totals[1:].tolist()
        if math.isnan(nll):
            raise InputError(_NO_NUMBERS.format("logits"))
        more = {"mrr": mrr / examples, "ndcg": ndcg / examples}
        return Metrics(examples, examples - int(hits), recall / examples, nll / examples, more)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        items = RankedItems.of(logits, self.task.positives(labels), self.task.known(labels))
        return items.found(FIRST_ITEMS).any(1)

    def nearness(self, student: Tensor, teacher: Tensor) -> Nearness:
        own, other = self.task.predictions(student), self.task.predictions(teacher)
        shared = (own.unsqueeze(-1) == other.unsqueeze(-2)).any(-1)
        return Nearness(agreement=float(shared.double().mean()), kl=fidelity(student, teacher).kl)

    def constant_accuracy(self, labels: Tensor) -> float:
        """Return the recall@10 of the items that most samples are to be given, the same for all."""
        positives = self.task.positives(labels)
        there = positives != UNLABELLED
        if not bool(there.any()):
            return 0.0
        counts = torch.bincount(positives[there])
        first = counts.argsort(stable=True, descending=True)[:FIRST_ITEMS]
        found = (torch.isin(positives, first) & there).sum(1).double()
        wanted = there.sum(1)
        return float((found / wanted.clamp_min(1)).sum() / (wanted > 0).sum())

    def constant_text(self, constant: float) -> str:
        return f"the ten most frequent items for everyone give {self.accuracy_text(constant, 1)}"


class _Numbers(Figures):
    task = REGRESSION
    errors = "mean squared error"
    pattern = "{:.4g}"
    counts = False
    by_example = False
    accuracy = "R²"
    share = False
    nll = "NLL: half the squared error."
    nll_is_errors = True
    more = (Figure("mae", "mean absolute error", "{:.4g}"),)
    near = (Figure("distance", "mean squared distance to the teacher", "{:.4g}"),)

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = self.task.labelled(labels)
        examples = _some(known)
        answers, labels = logits[known].double(), labels[known].double()
        if not bool(answers.isfinite().all()):
            raise InputError(_NO_NUMBERS.format("answers"))
        difference = answers - labels
        squares, spread = difference.square().sum(0), (labels - labels.mean(0)).square().sum(0)
        explained = torch.where(
            spread > 0, 1.0 - squares / torch.where(spread > 0, spread, 1.0), (squares == 0).double()
        )
        error = 2.0 * float(squared_error(answers, labels))
        more = {"mae": float(difference.abs().mean())}
        return Metrics(examples, error, float(explained.mean()), 0.5 * error, more)

    def nearness(self, student: Tensor, teacher: Tensor) -> Nearness:
        return Nearness(distance=float((student.double() - teacher.double()).square().mean()))

    def constant_accuracy(self, labels: Tensor) -> float:
        return 0.0

    def constant_text(self, constant: float) -> str:
        return "the mean of the labels gives 0"


FIGURES: Mapping[str, Figures] = {
    figures.task.name: figures for figures in (_Classes(), _TwoClasses(), _Labels(), _Places(), _Items(), _Numbers())
}
"""The figures of all tasks, by their names."""


def number(value: float, digits: int = 1) -> str:
    """Return a number with its thousands set apart, without decimals that are 0.

    >>> number(1234.0), number(15.64)
    ('1,234', '15.6')
    """
    return f"{value:,.0f}" if value == round(value) else f"{value:,.{digits}f}"


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """Return Σ (R_i - R_{i-1})·P_i over the distinct scores, highest first; None without a positive.

    scores: (n,).  positive: (n,) bool.  P_i and R_i: precision and recall of what scores at least the i-th.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    from sklearn.metrics import average_precision_score

    checks.shapes_match("scores", scores.shape, "positive", positive.shape)
    if bool(scores.isnan().any()):
        raise InputError(_NO_NUMBERS.format("scores"))
    if not bool(positive.any()):
        return None
    finite = scores.double().nan_to_num().cpu().numpy()  # scikit-learn refuses infinity; the order stays
    return float(average_precision_score(positive.cpu().numpy(), finite))


@dataclass(frozen=True)
class Places:
    """What is counted of places, such as pixels, so that a set can be measured batch by batch.

    confusion: (K, K) int64, a row for each label.  nll: sum over the labelled places.
    """

    confusion: Tensor
    nll: float

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> "Places":
        """Count logits (n, ..., K) against labels (n, ...)."""
        labels = labels.to(logits.device)
        nll = _nll(logits, labels)
        known, classes = labels != UNLABELLED, logits.shape[-1]
        cells = labels[known] * classes + logits.argmax(-1)[known]
        return cls(torch.bincount(cells, minlength=classes * classes).view(classes, classes), nll)

    def __add__(self, other: "Places") -> "Places":
        return Places(self.confusion + other.confusion, self.nll + other.nll)

    def metrics(self) -> Metrics:
        """Return the figures of all that was counted."""
        examples = int(self.confusion.sum())
        if not examples:
            raise DataError(_NO_LABELS)
        right = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        overlap = right[union > 0].double() / union[union > 0].double()
        errors = examples - int(right.sum())
        more = {"miou": float(overlap.mean())}
        return Metrics(examples, errors, 1.0 - errors / examples, self.nll / examples, more)


def _largest_share(counts: Tensor) -> float:
    return float(counts.max()) / float(counts.sum()) if len(counts) else 0.0


def _nll(logits: Tensor, labels: Tensor) -> float:
    """Return the loss on the labels, summed; InputError where a counted place has no distribution."""
    total = float(cross_entropy(logits.double(), labels, reduction="sum"))
    if math.isnan(total):
        raise InputError(_NO_NUMBERS.format("logits"))
    return total


def _some(known: Tensor) -> int:
    examples = int(known.sum())
    if not examples:
        raise DataError(_NO_LABELS)
    return examples


_NO_NUMBERS = "{}: found NaN or infinity, expected numbers; look at the model or its data"
_NO_LABELS = "evaluation: the set has no labels, expected at least one labelled sample"
