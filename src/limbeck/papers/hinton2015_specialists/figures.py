"""What specialists change: beside the generalist, and by how many of their sets hold the true class."""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.evaluation import measure, parameters
from limbeck.papers.measures import RowView
from limbeck.teachers.specialists import GeneralistWithSpecialists

__all__ = ["covered", "relative_change", "times_the_compute", "times_the_parameters"]


def relative_change(view: RowView) -> float:
    """Return the accuracy of a row's model as a change of the generalist's, in per cent of that."""
    right = {role: measure(view.logits(role), view.samples().labels).accuracy for role in (view.row.role, "teacher")}
    return 100.0 * (right[view.row.role] / right["teacher"] - 1)


def times_the_parameters(view: RowView) -> float:
    """Return the size of a row's model in those of the generalist."""
    return parameters(view.model(view.row.role)) / parameters(view.model("teacher"))


def times_the_compute(view: RowView) -> float:
    """Return the FLOPs of a row's training in those of the generalist's."""
    own, generalist = (view.trained(role).compute[role].total() for role in (view.row.role, "teacher"))
    return own / generalist


def covered(view: RowView) -> Mapping[str, Mapping[str, float]]:
    """Return what the specialists change for test samples whose class is in none, one, two and more of their sets."""
    together, labels = view.model("together"), view.samples().labels.cpu()
    if not isinstance(together, GeneralistWithSpecialists):
        raise TypeError("specialists answer together")
    after, before = (view.logits(role).argmax(1) == labels for role in ("together", "teacher"))
    sets = torch.stack([torch.isin(labels, group) for group in together.groups]).sum(0).clamp_max(3)
    return {str(count): _change(before[sets == count], after[sets == count]) for count in range(4)}


def _change(before: Tensor, after: Tensor) -> Mapping[str, float]:
    right, now = int(before.sum()), int(after.sum())
    relative = 100.0 * (now / right - 1) if right else 0.0
    return {"examples": float(len(before)), "change": float(now - right), "relative_change": relative}
