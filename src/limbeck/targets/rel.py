"""KD-rel: a given hierarchy of the classes, and no teacher."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch, Legend
from limbeck.card import Card
from limbeck.devices import exact
from limbeck.errors import InputError, one_of
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, at_label, labels_of
from limbeck.tasks import Need

__all__ = ["CARD", "RelatedClasses", "related_classes"]

CARD = Card(
    name="rel",
    summary="a given hierarchy of the classes alone: siblings of the true class before the rest",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ_t = β1, β2 shared by the siblings of t, β3 by the other classes",
)


@checked
def related_classes(
    labels: Tensor,
    groups: Sequence[int] | Tensor,
    masses: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    dtype: torch.dtype = torch.float32,
) -> Dense:
    """Divide probability by a class hierarchy: β1 to the true class, β2 to its siblings, β3 to the other classes.

    β2 and β3 are divided evenly.  If a class has no siblings, or there are no classes beyond them, the classes that
    exist share β2 + β3: the true class always has β1.

    Args:
        labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform; the caller masks it.
        groups: (K,) int64, the group of each class; classes of one group are siblings.
        masses: β1, β2, β3, 0 or above, summing to 1.
        dtype: of the result; at least float32.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if a shape is wrong, a label is out of range, or the masses do not sum to 1.

    Example:
        >>> related_classes(torch.tensor([0, 3]), groups=[0, 0, 1, 2], masses=[0.6, 0.3, 0.1]).log_probs.exp()
        tensor([[0.6000, 0.3000, 0.0500, 0.0500],
                [0.1333, 0.1333, 0.1333, 0.6000]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-rel), arXiv:2002.03532.
    """
    checks.shares("masses", masses, count=3)
    groups = torch.as_tensor(groups)
    if groups.ndim != 1 or groups.dtype != torch.int64 or len(groups) < 2:
        raise InputError(f"groups: found {groups.dtype} {tuple(groups.shape)}, expected the group of each class, (K,)")
    classes, dtype = len(groups), compute_dtype(torch.empty(0, dtype=dtype)).dtype
    _, group, sizes = (each.to(labels.device) for each in groups.unique(return_inverse=True, return_counts=True))
    index, labelled = at_label(labels, group.expand(*labels.shape, -1))
    siblings = exact(sizes[group]) - 1
    rest = classes - 1 - siblings
    true, near, far = (mass / math.fsum(masses) for mass in masses)
    alone = (siblings == 0) | (rest == 0)
    log_near = torch.where(alone, (near + far) / (classes - 1), near / siblings).log().to(dtype).to(labels.device)
    log_far = torch.where(alone, (near + far) / (classes - 1), far / rest).log().to(dtype).to(labels.device)
    rows = torch.where(group[index] == group, log_near[index], log_far[index])
    rows = rows.scatter(-1, index, math.log(true) if true else -math.inf)
    return Dense(torch.where(labelled, rows, -math.log(classes)))


@checked_fields
@dataclass(frozen=True)
class RelatedClasses(Target):
    """Match a class hierarchy: probability β1 on the true class, β2 shared by its siblings, β3 by the other classes.

    It needs labels and no teacher.

    Attributes:
        groups: {group: [classes]} with classes by name or number, the group number of each class in order, or "coarse"
            for the hierarchy that the data set has.
        masses: β1, β2, β3, 0 or above, summing to 1.  If a class has no siblings, or there are no classes beyond them,
            the classes that exist share β2 + β3.

    Raises:
        InputError: if the groups have another form or the masses do not sum to 1; when data is known, also if a class
            is missing from the groups or repeated.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
        >>> target = RelatedClasses({"pets": [0, 1], "cars": [2, 3]}, masses=(0.6, 0.3, 0.1))
        >>> target(Outputs(torch.zeros(1, 4)), batch, temperature=4.0).log_probs.exp()
        tensor([[0.6000, 0.3000, 0.0500, 0.0500]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-rel), arXiv:2002.03532.
    """

    needs_labels = True

    groups: Any = "coarse"
    masses: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        checks.shares("masses", self.masses, count=3)
        plain = isinstance(self.groups, Sequence) and not isinstance(self.groups, str)
        if plain and all(isinstance(group, int) and not isinstance(group, bool) for group in self.groups):
            object.__setattr__(self, "groups", tuple(self.groups))
        elif plain or not (
            isinstance(self.groups, Mapping) or (isinstance(self.groups, str) and self.groups == "coarse")
        ):
            raise InputError(
                f"groups: found {checks.shown(self.groups)}, expected {{group: [classes]}}, the number of the group of"
                " each class, or coarse"
            )

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        labels, dtype = labels_of(batch, self.kind), compute_dtype(outputs.logits[:0]).dtype
        groups = _group_of_each(self.groups, outputs.logits.shape[-1], (), None)
        return related_classes(labels, groups, self.masses, dtype=dtype)

    def settled(self, legend: Legend) -> Self:
        legend.task.require(Need.SEVERAL_CLASSES, what="groups: a hierarchy is of", mend="use another target")
        if not legend.names:
            return self
        return replace(self, groups=_group_of_each(self.groups, len(legend.names), legend.names, legend.groups))


def _group_of_each(groups: Any, classes: int, names: Sequence[str], coarse: Sequence[int] | None) -> tuple[int, ...]:
    """Return the number of the group of each class; InputError for a hierarchy that misses or repeats one."""
    if groups == "coarse":
        if coarse is None:
            raise InputError(
                "groups: found coarse, but the data has no hierarchy of its classes; write it: {group: [classes]}"
            )
        return tuple(coarse)
    if not isinstance(groups, Mapping):
        if len(groups) != classes:
            raise InputError(f"groups: found the group of {len(groups)} classes, expected one for each of {classes}")
        return tuple(groups)
    found: dict[int, tuple[int, str]] = {}
    for number, (group, members) in enumerate(groups.items()):
        if not isinstance(members, Sequence) or isinstance(members, str):
            raise InputError(f"groups.{group}: found {checks.shown(members)}, expected a list of classes")
        for member in members:
            each = _number_of(member, str(group), classes, names)
            if each in found:
                raise InputError(
                    f"groups.{group}: class {member!r} is in '{found[each][1]}' already, expected each class once"
                )
            found[each] = number, str(group)
    missing = [each for each in range(classes) if each not in found]
    if missing:
        shown = repr(names[missing[0]]) if names else str(missing[0])
        raise InputError(f"groups: {len(missing)} of {classes} classes are in no group, class {shown} first; add them")
    return tuple(found[each][0] for each in range(classes))


def _number_of(member: Any, group: str, classes: int, names: Sequence[str]) -> int:
    if isinstance(member, int) and not isinstance(member, bool):
        if not 0 <= member < classes:
            raise InputError(f"groups.{group}: found class {member}, expected 0 to {classes - 1}")
        return member
    if isinstance(member, str) and not names:
        raise InputError(f"groups.{group}: found the name {member!r}, but the classes have only numbers; use them")
    if member not in names:
        raise InputError(f"groups.{group}: found class {checks.shown(member)}; {one_of(str(member), names)}")
    return list(names).index(member)
