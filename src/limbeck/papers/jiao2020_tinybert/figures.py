"""What of the teacher's score a student keeps, and what its smaller size saves."""

import time
from statistics import median

import torch

from limbeck.data import TextSet
from limbeck.evaluation import file_bytes
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.papers.measures import RowView

__all__ = ["kept_percent", "milliseconds", "times_faster", "weight_bytes"]

_TURNS = 60


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
    """Return the median processor time of one sentence of middle length at batch 1, on one thread."""
    return _milliseconds(view)[view.row.role]


def times_faster(view: RowView) -> float:
    """Return the teacher's time for that sentence over the role's."""
    found = _milliseconds(view)
    return found["teacher"] / found[view.row.role]


def _milliseconds(view: RowView) -> dict[str, float]:
    """Return the times of the teacher and of the row's role, measured in turns, which other programs disturb less."""
    samples = view.samples()
    lengths = samples.lengths if isinstance(samples, TextSet) else torch.zeros(len(samples))
    middle = lengths.argsort(stable=True)[len(samples) // 2 : len(samples) // 2 + 1]
    inputs = samples.batch(middle, augment=None, seed=0, view=0).inputs
    models = {role: view.model(role) for role in ("teacher", view.row.role)}
    times: dict[str, list[float]] = {role: [] for role in models}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_TURNS):
            for role, model in models.items():
                with evaluating(model), torch.no_grad():
                    began = time.process_time()
                    run_model(model, inputs)
                    times[role].append(1000.0 * (time.process_time() - began))
    finally:
        torch.set_num_threads(threads)
    return {role: median(each) for role, each in times.items()}
