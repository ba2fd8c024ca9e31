"""Everything that logits and labels tell of a model."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.evaluation.calibration import Reliability, reliability
from limbeck.evaluation.resampling import Estimate, bootstrap_mean, wilson
from limbeck.evaluation.scores import Scores, confusion_matrix, per_class_accuracy, score

__all__ = ["Assessment", "assess", "assess_scores"]

_TOP = 5
_MOST_CONFUSED = 20


@checked_fields
@dataclass(frozen=True, eq=False)
class Assessment:
    """The figures of a classifier on a set, with intervals over its examples.

    Attributes:
        examples: labelled samples.
        errors: wrong ones.
        accuracy: in [0, 1].
        wilson: the accuracy with Wilson's interval.
        bootstrap: the accuracy with its bootstrap interval.
        top5: share of samples whose label is among the 5 highest logits; None up to 5 classes.
        nll: mean negative log-likelihood in nats.
        brier: mean of Σ over classes of (p - y)², in [0, 2].
        ece: expected calibration error with bins of equal width, in [0, 1].
        ece_mass: the same with bins of equal mass.
        reliability: the diagram behind `ece`.
        reliability_mass: the diagram behind `ece_mass`.
        confusion: (K, K) int64, a row for each label.
        class_accuracy: accuracy of each class; None for a class without samples.

    Example:
        >>> assess(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).accuracy
        1.0
    """

    examples: int
    errors: int
    accuracy: float
    wilson: Estimate
    bootstrap: Estimate
    top5: float | None
    nll: float
    brier: float
    ece: float
    ece_mass: float
    reliability: Reliability
    reliability_mass: Reliability
    confusion: Tensor
    class_accuracy: tuple[float | None, ...]

    def most_confused(self, count: int = _MOST_CONFUSED) -> list[tuple[int, int, int]]:
        """Return (label, prediction, samples) of the most frequent errors, the most frequent first."""
        wrong = self.confusion.clone().fill_diagonal_(0).flatten()
        classes = len(self.confusion)
        top = wrong.topk(min(count, len(wrong)))
        found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(cell // classes, cell % classes, n) for cell, n in found if n]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; the whole confusion matrix only up to 100 classes."""
        return {
            **vars(self),
            "class_examples": self.confusion.sum(1).tolist(),
            "confusion": self.confusion.tolist() if len(self.confusion) <= 100 else None,
            "most_confused": self.most_confused(),
        }


@checked
def assess(
    logits: Tensor, labels: Tensor, *, bins: int = 15, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Assessment:
    """Measure a classifier's logits in every way.

    Args:
        logits: (n, K) floating point.
        labels: (n,) int64 in [0, K); `UNLABELLED` (-100) is not counted.
        bins: of both reliability diagrams.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Returns:
        The figures.

    Raises:
        InputError: if shapes, labels or numbers are wrong.
        DataError: if no sample has a label.

    Example:
        >>> found = assess(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> found.errors, found.class_accuracy, found.most_confused()
        (1, (1.0, 0.0), [(1, 0, 1)])
    """
    return assess_scores(score(logits, labels), bins=bins, resamples=resamples, confidence=confidence, seed=seed)


@checked
def assess_scores(
    scores: Scores, *, bins: int = 15, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Assessment:
    """Measure samples that are scored already, as `assess` does.

    Args:
        scores: from `score`.
        bins: of both reliability diagrams.
        resamples: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the bootstrap.

    Returns:
        The figures.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> assess_scores(score(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))).errors
        1
    """
    correct, examples = scores.correct, len(scores.labels)
    right = int(correct.sum())
    width = reliability(scores.confidence, correct, bins=bins, scheme="width")
    mass = reliability(scores.confidence, correct, bins=bins, scheme="mass")
    confusion = confusion_matrix(scores.predictions, scores.labels, scores.classes).cpu()
    by_class: list[float] = per_class_accuracy(confusion).tolist()
    return Assessment(
        examples=examples,
        errors=examples - right,
        accuracy=1.0 - (examples - right) / examples,
        wilson=wilson(right, examples, confidence=confidence),
        bootstrap=bootstrap_mean(correct.double(), resamples=resamples, confidence=confidence, seed=seed),
        top5=float((scores.rank < _TOP).double().mean()) if scores.classes > _TOP else None,
        nll=float(scores.nll.mean()),
        brier=float(scores.brier.mean()),
        ece=width.ece,
        ece_mass=mass.ece,
        reliability=width,
        reliability_mass=mass,
        confusion=confusion,
        class_accuracy=tuple(None if value != value else value for value in by_class),
    )
