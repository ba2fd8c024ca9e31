"""What a teacher says of the classes that are not the label: how classes relate, and whether that can be believed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.diagnosis.correlation import pearson, spearman_rows
from limbeck.errors import InputError
from limbeck.losses import soften
from limbeck.losses.reduction import check_labels
from limbeck.randomness import permutation
from limbeck.records import Number

__all__ = [
    "OtherClasses",
    "class_correlation",
    "class_profiles",
    "off_diagonal",
    "other_classes",
    "seconded",
    "seconded_classes",
]


def class_correlation(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return Pearson's correlation of the class probabilities over a set: (K, K) float64 (Tang et al. 2020, figure 3).

    logits: (n, K), n ≥ 2.  A class whose probability does not vary has NaN, with 1 on the diagonal.

    >>> class_correlation(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), temperature=2.0).round(decimals=6)
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    if logits.dim() != 2 or len(logits) < 2:
        raise InputError(f"logits: found shape {tuple(logits.shape)}, expected (n, K) with n ≥ 2")
    checks.logits("logits", logits)
    probs = soften(logits.double(), temperature).log_probs.exp()
    apart = probs - probs.mean(0)
    norms = apart.norm(dim=0)
    norms = torch.where(norms <= 1e-12 * probs.amax(0) * math.sqrt(len(probs)), torch.nan, norms)
    found: Tensor = (apart.T @ apart) / norms[:, None] / norms[None, :]
    return found.clamp(-1.0, 1.0).fill_diagonal_(1.0)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return what stands above the diagonal of a symmetric matrix, row by row: (K(K-1)/2,).

    >>> off_diagonal(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    tensor([2.])
    """
    row, column = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[row, column]


@dataclass(frozen=True)
class OtherClasses:
    """What logits say of the classes that are not the label, in nats and free of the logit of the label itself.

    All is of the examples whose label is the prediction (of all where there is none): where it is not, the prediction
    would be one of the other classes, and its logit tells how often a model errs, not what it knows of them.

    margin: median over the examples of the label's logit less the mean of the others.
    spread: root mean square of the others' logits around their mean, within an example.
    evenness: spread / margin; 0 where the other classes are all alike, as label smoothing makes them.
    tightness: (95th percentile - median)/median of the margin; 0 where all examples reach the same confidence.
    epsilon: the label smoothing ε whose optimum the median margin is, g = log(K(1-ε)/ε + 1) (He et al. 2019).
    reliability: correlation of the mean profiles of the classes between two halves of the set; None for K < 3 or where
        no class has two examples.
    class_share: share of the spread's square that is the same for all examples of a class.
    """

    margin: float
    spread: Number
    evenness: Number
    tightness: Number
    epsilon: float
    reliability: float | None
    class_share: float | None


def other_classes(logits: Tensor, labels: Tensor, *, seed: int = 0) -> OtherClasses:
    """Measure what logits (n, K) say beside the label; labels (n,), each labelled.

    seed: of the halves that are compared.

    >>> found = other_classes(torch.tensor([[4.0, 1.0, -1.0], [4.0, 1.0, -1.0]]), torch.tensor([0, 0]))
    >>> found.margin, found.spread, round(found.class_share, 6)
    (4.0, 1.0, 1.0)
    """
    right = _right(logits, labels)
    logits, labels = logits[right], labels[right]
    profiles, margins = _profiles(logits, labels)
    middle, high = (float(margins.quantile(share)) for share in (0.5, 0.95))
    classes = logits.shape[1]
    spread = math.sqrt(float(profiles.square().sum()) / max(len(labels) * (classes - 1), 1))
    reliability, share = _halves(profiles, labels, spread, seed)
    return OtherClasses(
        margin=middle,
        spread=spread,
        evenness=spread / middle if middle > 0 else math.inf,
        tightness=(high - middle) / middle if middle > 0 else math.inf,
        epsilon=min(1.0, classes / (math.exp(min(max(middle, 0.0), 700.0)) + classes - 1)),
        reliability=reliability,
        class_share=share,
    )


def seconded(first: Tensor, second: Tensor, labels: Tensor) -> float | None:
    """Return how far two models agree on the order of the classes that are not the label.

    The mean of Spearman's rank correlation between their logits (n, K) without the label's, over the examples whose
    label the first one predicts (all where there is none); None for K < 3.  Two networks trained apart from each other
    agree where there is something to be known about the other classes, and do not where what one of them says is noise.

    >>> logits = torch.tensor([[9.0, 3.0, 1.0, 2.0]])
    >>> seconded(logits, 10 * logits, torch.tensor([0]))
    1.0
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.shape[1] < 3:
        return None
    right = _right(first, labels)
    others = [_without_label(each[right], labels[right]) for each in (first, second)]
    value = float(spearman_rows(others[0], others[1]).nanmean())
    return None if value != value else round(value, 12)


def class_profiles(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what each class is like on average: (K, K) float64, NaN rows for classes without examples.

    Row t holds the mean over the examples of class t of the others' logits around their mean, and 0 at t itself.
    logits: (n, K).  labels: (n,), each labelled.

    >>> class_profiles(torch.tensor([[4.0, 1.0, -1.0], [5.0, 3.0, 1.0]]), torch.tensor([0, 0]))[0]
    tensor([ 0.,  1., -1.], dtype=torch.float64)
    """
    profiles, _ = _profiles(logits, labels)
    classes = logits.shape[1]
    total = torch.zeros(classes, classes, dtype=torch.float64, device=logits.device).index_add_(0, labels, profiles)
    return total / torch.bincount(labels, minlength=classes)[:, None]


def seconded_classes(first: Tensor, second: Tensor, labels: Tensor) -> float | None:
    """Return how far two models agree on which classes are alike: Pearson's correlation of their class profiles.

    first, second: logits (n, K) on the same examples, of which those count whose label the first predicts (all where
    there is none).  None for K < 3.  Networks that share no weights agree where the classes have relations; where these
    are accidents of one training they do not.
    """
    checks.shapes_match("first", first.shape, "second", second.shape)
    if first.shape[1] < 3:
        return None
    right = _right(first, labels)
    profiles = [class_profiles(each[right], labels[right]) for each in (first, second)]
    known = ~profiles[0].isnan() & ~torch.eye(first.shape[1], dtype=torch.bool, device=first.device)
    return pearson(profiles[0][known], profiles[1][known])


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which examples (n,) count: those whose label is the prediction, or all where there is none."""
    _check(logits, labels)
    right = logits.argmax(1) == labels
    return right if bool(right.any()) else torch.ones_like(right)


def _without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (n, K - 1) of the classes that are not the label."""
    _check(logits, labels)
    kept = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return logits[kept].view(len(logits), -1).double()


def _check(logits: Tensor, labels: Tensor) -> None:
    """Require logits (n, K) of two classes or more, and a label for each."""
    check_labels(labels, logits.shape[:1])
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise InputError(f"logits: found shape {tuple(logits.shape)}, expected (n, K) with K ≥ 2")
    checks.logits("logits", logits)
    if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise InputError(f"labels: expected at least one, each from 0 to {logits.shape[1] - 1}")


def _profiles(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the others' logits around their mean, (n, K) with 0 at the label, and the label's logit less that mean."""
    others = _without_label(logits, labels)
    mean = others.mean(1, keepdim=True)
    apart = (logits.double() - mean).scatter(1, labels[:, None], 0.0)
    return apart, logits.double().gather(1, labels[:, None]).squeeze(1) - mean.squeeze(1)


def _halves(profiles: Tensor, labels: Tensor, spread: float, seed: int) -> tuple[float | None, float | None]:
    """Return the correlation of the classes' mean profiles between halves, and the share of variance they hold."""
    classes = profiles.shape[1]
    order = permutation(seed, "halves", 0, len(labels)).to(labels.device)
    grouped = order[torch.argsort(labels[order], stable=True)]  # class by class, in random order within a class
    counts = torch.bincount(labels, minlength=classes)
    rank = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[grouped]]
    means = []
    for half in (0, 1):
        chosen = grouped[rank % 2 == half]
        total = torch.zeros(classes, classes, dtype=torch.float64, device=labels.device)
        total.index_add_(0, labels[chosen], profiles[chosen])
        means.append(total / torch.bincount(labels[chosen], minlength=classes)[:, None])
    known = (counts >= 2)[:, None].expand(classes, classes) & ~torch.eye(
        classes, dtype=torch.bool, device=labels.device
    )
    if classes < 3 or not bool(known.any()) or spread == 0:
        return None, None
    first, second = (each[known] for each in means)
    reliability = pearson(first, second)
    return reliability, float((first * second).mean()) / spread**2
