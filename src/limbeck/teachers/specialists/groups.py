"""Which classes belong to one specialist: classes that the generalist confuses, or sets that are given by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.data.names import ambiguous
from limbeck.errors import InputError, one_of
from limbeck.randomness import permutation, uniform

__all__ = ["cluster_classes", "confusion_columns", "covariance_columns", "named_groups", "online_kmeans"]

_PASSES = 20
_STARTS = 5


def named_groups(groups: Sequence[Sequence[int | str]], class_names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return groups of classes as numbers, sorted, or raise InputError with the line that says what is wrong with one.

    groups: of names or numbers.  A class may be in several groups or in none, but only once in each; a group of all
    classes would leave its dustbin nothing.

    >>> named_groups([["cat", "dog"], [0, "car"]], ["boat", "car", "cat", "dog"])
    ((2, 3), (0, 1))
    """
    if not groups:
        raise InputError("groups: found none, expected the classes of at least one specialist")
    numbers = {name: number for number, name in enumerate(class_names)}
    found = []
    for place, group in enumerate(groups):
        where = f"groups[{place}]"
        if complaint := ambiguous(group, class_names):
            raise InputError(f"{where}: {complaint}")
        members: list[int] = []
        for entry in group:
            if isinstance(entry, bool) or not isinstance(entry, int | str):
                raise InputError(f"{where}: found {checks.shown(entry)}, expected a class's name or number")
            if isinstance(entry, str) and entry not in numbers:
                raise InputError(f"{where}: there is no class '{entry}'; {one_of(entry, class_names)}")
            if isinstance(entry, int) and not 0 <= entry < len(class_names):
                raise InputError(f"{where}: found class {entry}, expected 0 to {len(class_names) - 1}")
            members.append(numbers[entry] if isinstance(entry, str) else entry)
            if members[-1] in members[:-1]:
                raise InputError(f"{where}: found class {checks.shown(entry)} twice, expected each class once")
        if not members:
            raise InputError(f"{where}: found no class, expected at least one")
        if len(members) == len(class_names):
            raise InputError(f"{where}: it holds all {len(members)} classes, so that no class is left for the dustbin")
        found.append(tuple(sorted(members)))
    return tuple(found)


def covariance_columns(probabilities: Tensor, *, variances: bool = False) -> Tensor:
    """Return the covariance of a generalist's predictions, (K, K) float64; column k says what k is predicted with.

    probabilities: (n, K), of at least two examples.  No labels are needed (Hinton, Vinyals & Dean 2015, section 5.1).
    variances: leave them on the diagonal.  They say nothing of other classes, yet make up most of the distance between
        two columns, so that K-means then finds classes of like variance; without them the diagonal is 0.

    >>> covariance_columns(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])).round(decimals=2)
    tensor([[ 0.0000, -0.1200, -0.1200],
            [-0.1200,  0.0000,  0.0400],
            [-0.1200,  0.0400,  0.0000]], dtype=torch.float64)
    """
    if probabilities.dim() != 2 or len(probabilities) < 2:
        raise InputError(f"probabilities: found {tuple(probabilities.shape)}, expected (n, K) of at least 2 examples")
    covariance = torch.cov(probabilities.double().T)
    return covariance if variances else covariance.fill_diagonal_(0.0)


def confusion_columns(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return how often class i is predicted where k is true, as the share of k's examples: (K, K), k the column.

    The supervised baseline of `covariance_columns`.  Unlabelled examples do not count; a class without any is taken to
    be predicted as itself.

    >>> confusion_columns(torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 1])).round(decimals=2)
    tensor([[0.6700, 0.0000],
            [0.3300, 1.0000]], dtype=torch.float64)
    """
    classes = probabilities.shape[1]
    checks.shapes_match("labels", labels.shape, "the examples", probabilities.shape[:1])
    labelled = labels != UNLABELLED
    pairs = probabilities[labelled].argmax(1) * classes + labels[labelled]
    counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()
    totals = counts.sum(0)
    return torch.where(totals > 0, counts / totals.clamp_min(1), torch.eye(classes).double())


def cluster_classes(
    columns: Tensor, count: int, *, smallest: int = 2, largest: int | None = None, overlap: float = 1.0, seed: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Return `count` groups of classes by on-line K-means on the columns of (d, K).

    Each class joins the cluster of the nearest centre that has room; then every other that has room and whose centre is
    at most `overlap` times as far (1: none); then a cluster that is too small takes in the nearest classes.
    smallest, largest: bounds of a group's size; by default 2 and all but one.  A class may end in no group when all are
    full: the generalist then answers for it.
    seed: of the order in which the columns are seen; the same seed gives the same groups.

    >>> columns = torch.tensor([[0.0, 0.1, 5.0, 5.2, 5.1]])
    >>> cluster_classes(columns, 2)
    ((0, 1), (2, 3, 4))
    """
    classes = columns.shape[1]
    largest = classes - 1 if largest is None else largest
    checks.at_least("count", count, 1)
    checks.at_least("smallest", smallest, 1)
    checks.at_least("largest", largest, 1)
    checks.finite("overlap", overlap)
    if overlap < 1:
        raise InputError(f"overlap: found {overlap!r}, expected a multiple of the distance to the nearest, 1 or above")
    if count > classes:
        raise InputError(f"count: found {count} groups for {classes} classes, expected at most one for each class")
    if largest > classes - 1:
        raise InputError(f"largest: found {largest} of {classes} classes, expected at least one to be left out")
    if smallest > largest:
        raise InputError(f"smallest: found {smallest}, expected at most the largest size, {largest}")
    points = columns.T.double()
    distances = torch.cdist(points, online_kmeans(points, count, seed=seed))
    groups: list[set[int]] = [set() for _ in range(count)]
    order = distances.flatten().argsort(stable=True).tolist()
    nearest = distances.amin(1).tolist()
    pairs = [divmod(place, count) for place in order]
    placed: set[int] = set()
    for label, group in pairs:
        if label not in placed and len(groups[group]) < largest:
            groups[group].add(label)
            placed.add(label)
    for label, group in pairs:
        if float(distances[label, group]) <= overlap * nearest[label] and len(groups[group]) < largest and overlap > 1:
            groups[group].add(label)
    for label, group in pairs:
        if len(groups[group]) < smallest:
            groups[group].add(label)
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def online_kmeans(points: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Return the centres of on-line K-means (MacQueen 1967): each point in turn moves the nearest centre towards it.

    points: (n, d), at least `count` of them.  Of five starts, each with points far from each other as its first centres
    (Arthur & Vassilvitskii 2007), the one with the least squared distance is taken; a start ends when a pass through
    the points changes no assignment, or after twenty.  Returns (count, d) float64.

    >>> online_kmeans(torch.tensor([[0.0], [1.0], [10.0], [12.0]]), 2).sort(0).values
    tensor([[ 0.5000],
            [11.0000]], dtype=torch.float64)
    """
    checks.at_least("count", count, 1)
    if points.dim() != 2 or len(points) < count:
        raise InputError(f"points: found {tuple(points.shape)}, expected (n, d), at least {count} of them")
    points = points.double()
    best, found = torch.inf, points[:count]
    for start in range(_STARTS):
        centres = _passes(points, _spread(points, count, seed, start), seed, start)
        total = float(torch.cdist(points, centres).amin(1).square().sum())
        if total < best * (1 - 1e-12):
            best, found = total, centres
    return found


def _spread(points: Tensor, count: int, seed: int, start: int) -> Tensor:
    """Draw first centres from the points, each with a chance that is its squared distance to those drawn before."""
    draws = uniform(seed, "k-means starts", torch.tensor([start]), torch.tensor([0]), count)[0].double()
    chances = torch.ones(len(points), dtype=torch.float64)
    chosen: list[int] = []
    for draw in draws:
        running = chances.cumsum(0)
        place = int(torch.searchsorted(running, draw * running[-1], right=True).clamp(max=len(points) - 1))
        chosen.append(place)
        chances = torch.cdist(points, points[chosen]).amin(1).square()
        if not chances.sum() > 0:  # fewer different points than centres
            chances = torch.ones(len(points), dtype=torch.float64)
    return points[chosen].clone()


def _passes(points: Tensor, centres: Tensor, seed: int, start: int) -> Tensor:
    assigned = torch.full((len(points),), -1)
    for number in range(_PASSES):
        before = assigned.clone()
        counts = torch.ones(len(centres), dtype=torch.float64)
        for place in permutation(seed, f"k-means order {start}", number, len(points)).tolist():
            nearest = int((centres - points[place]).square().sum(1).argmin())
            counts[nearest] += 1
            centres[nearest] += (points[place] - centres[nearest]) / counts[nearest]
            assigned[place] = nearest
        if torch.equal(assigned, before):
            break
    means = [points[assigned == number].mean(0) for number in range(len(centres))]
    return torch.stack([c if m.isnan().any() else m for m, c in zip(means, centres, strict=True)])
