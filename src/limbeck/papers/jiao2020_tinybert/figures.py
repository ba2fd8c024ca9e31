"""What of the teacher's score a student keeps, and what its smaller size saves."""

import torch

from limbeck.evaluation import file_bytes, time_forward
from limbeck.papers.measures import RowView

__all__ = ["kept_percent", "milliseconds", "times_faster", "weight_bytes"]


def kept_percent(view: RowView) -> float:
    """Return the accuracy of the row's role as a share of its teacher's, in per cent."""
    scores = {}
    for role in ("teacher", view.row.role):
        labels = view.samples().labels
        scores[role] = float((view.logits(role).argmax(1) == labels).double().mean())
    return 100.0 * scores[view.row.role] / scores["teacher"]


def weight_bytes(view: RowView) -> float:
    """Return the bytes of the role's weights in a file."""
    return float(file_bytes(view.model(view.row.role)))


def milliseconds(view: RowView) -> float:
    """Return the median time of one sentence of middle length at batch 1, on one thread."""
    return _milliseconds(view, view.row.role)


def times_faster(view: RowView) -> float:
    """Return the teacher's time for that sentence over the role's."""
    return _milliseconds(view, "teacher") / _milliseconds(view, view.row.role)


def _milliseconds(view: RowView, role: str) -> float:
    samples = view.samples()
    lengths = samples.lengths if hasattr(samples, "lengths") else torch.zeros(len(samples))
    middle = lengths.argsort(stable=True)[len(samples) // 2 : len(samples) // 2 + 1]
    inputs = samples.batch(middle, augment=None, seed=0, view=0).inputs
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 1000.0 * time_forward(view.model(role), inputs).seconds
    finally:
        torch.set_num_threads(threads)
