"""The figures of a model, task by task: what is wrong, what is right, and the loss on the labels."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import DataError, InputError
from limbeck.losses import cross_entropy, squared_error
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, REGRESSION, Task

__all__ = ["Metrics", "Places", "Words", "average_precision", "figures_of", "words_of"]


@checked_fields
@dataclass(frozen=True)
class Metrics:
    """The figures of a model: less `errors` are better, and of equally many the smaller `nll`.

    | task | examples | errors | accuracy | nll | more |
    |---|---|---|---|---|---|
    | classification, binary | labelled samples | wrong ones | share that is right | log-likelihood, negative | |
    | multilabel | labelled samples | those with a wrong label | share without | sum over labels | label_accuracy, map |
    | dense | labelled places | wrong ones | share that is right | of a place | miou |
    | regression | labelled samples | mean squared error | R² | half of it | mae |

    nll: mean over what is counted, in nats.  label_accuracy: share of right labels, mean over classes.
    map: average precision, mean over the classes with a positive sample; left out where there is none.
    miou: intersection over union, mean over the classes that are present or predicted.
    R²: 1 - Σ(z-y)²/Σ(y-ȳ)², mean over the numbers to predict.  mae: mean absolute error.
    """

    examples: int
    errors: float
    accuracy: float
    nll: float
    more: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        figures = {"examples": self.examples, "errors": self.errors, "accuracy": self.accuracy, "nll": self.nll}
        return {**figures, **self.more}


@checked_fields
@dataclass(frozen=True)
class Words:
    """What a table calls the figures of a task.

    errors, accuracy: the figures of these names.  counted: whether errors are a count of examples, each of which is
    right or wrong by itself, so that an interval over examples can be given.  pattern: how an error is written.
    """

    errors: str
    accuracy: str
    counted: bool = True
    pattern: str = "{:.1f}"


@checked
def words_of(task: Task) -> Words:
    """Return what the figures of a task are called.

    >>> from limbeck.tasks import MULTILABEL
    >>> words_of(MULTILABEL).accuracy
    'exact matches'
    """
    return _WORDS[task.name]


_WORDS: Mapping[str, Words] = {
    CLASSIFICATION.name: Words("errors", "accuracy"),
    BINARY.name: Words("errors", "accuracy"),
    MULTILABEL.name: Words("examples with a wrong label", "exact matches"),
    DENSE.name: Words("wrong places", "accuracy of places", counted=False),
    REGRESSION.name: Words("mean squared error", "R²", counted=False, pattern="{:.4g}"),
}


def figures_of(logits: Tensor, labels: Tensor, task: Task) -> Metrics:
    """Measure all of a set at once: logits as `predict` gives them, labels as the set has them."""
    labels = labels.to(logits.device)
    return _FIGURES[task.name](logits, labels)


def _classes(logits: Tensor, labels: Tensor) -> Metrics:
    known = labels != UNLABELLED
    examples = _some(known)
    errors = int(((logits.argmax(-1) != labels) & known).sum())
    nll = _nll(logits, labels) / examples
    return Metrics(examples, errors, 1.0 - errors / examples, nll)


def _labels(logits: Tensor, labels: Tensor) -> Metrics:
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


def _numbers(answers: Tensor, labels: Tensor) -> Metrics:
    known = REGRESSION.labelled(labels)
    examples = _some(known)
    answers, labels = answers[known].double(), labels[known].double()
    if not bool(answers.isfinite().all()):
        raise InputError(_NO_NUMBERS.format("answers"))
    difference = answers - labels
    squares, spread = difference.square().sum(0), (labels - labels.mean(0)).square().sum(0)
    explained = torch.where(spread > 0, 1.0 - squares / torch.where(spread > 0, spread, 1.0), (squares == 0).double())
    error = 2.0 * float(squared_error(answers, labels))
    return Metrics(examples, error, float(explained.mean()), 0.5 * error, {"mae": float(difference.abs().mean())})


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


def _places(logits: Tensor, labels: Tensor) -> Metrics:
    return Places.of(logits, labels).metrics()


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
_FIGURES: Mapping[str, Callable[[Tensor, Tensor], Metrics]] = {
    CLASSIFICATION.name: _classes,
    BINARY.name: _classes,
    MULTILABEL.name: _labels,
    DENSE.name: _places,
    REGRESSION.name: _numbers,
}
