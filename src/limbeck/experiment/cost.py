"""The compute of trainings, in floating-point operations, so that gains can be set against what they cost.

A sample that a network learns from costs three forward passes (one forward, and backward twice as much); a sample that
a teacher answers costs one, once if its answers are stored.  Validation is not counted: it is the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from limbeck.data import SampleSet
from limbeck.evaluation.cost import flops
from limbeck.objective import Objective
from limbeck.peers import Peer, Predictions, publications
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, ModelTeacher
from limbeck.training import Result

__all__ = ["LEARNING", "Compute", "forward_flops", "spent", "spent_by_peers"]

_TEXTS = 16  # that the mean of the FLOPs is over, spread over the set
LEARNING = 3
"""Forward passes that a sample costs the network that learns from it."""


@dataclass(frozen=True)
class Compute:
    """FLOPs: of learning networks, of the forward passes of what taught them, and of what had taught those.

    >>> (Compute(learning=3.0) + Compute(answers=1.0, teachers=2.0)).total()
    6.0
    """

    learning: float = 0.0
    answers: float = 0.0
    teachers: float = 0.0

    def __add__(self, other: "Compute") -> "Compute":
        return Compute(self.learning + other.learning, self.answers + other.answers, self.teachers + other.teachers)

    def total(self, *, teachers: bool = True) -> float:
        """Return the sum, with or without the training of the teachers."""
        return self.learning + self.answers + (self.teachers if teachers else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {"learning": self.learning, "answers": self.answers, "teachers": self.teachers, "total": self.total()}


def forward_flops(model: nn.Module, samples: SampleSet) -> int:
    """Return the FLOPs of a forward pass of one sample of a set; of texts of several lengths, the mean over a few."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    positions = [0]
    if samples.max_length and samples.lanes is None:
        positions = torch.linspace(0, len(samples) - 1, min(_TEXTS, len(samples))).long().tolist()
    found = []
    for position in positions:
        one = samples.batch(torch.tensor([position]), augment=None, seed=0, view=0)
        found.append(flops(model, one.to(device).inputs))
    return round(sum(found) / len(found))


def spent(
    student: nn.Module, teacher: Teacher | None, objective: Objective, result: Result, samples: SampleSet
) -> Compute:
    """Return what a training took."""
    seen = len(result.history) * len(samples)
    learning = LEARNING * forward_flops(student, samples) * seen
    answer = _answer_flops(teacher, samples)
    return Compute(learning, answer * seen * _share_read(objective, result.steps) if answer else 0.0)


def spent_by_peers(
    peers: Sequence[Peer],
    results: Sequence[Result],
    *,
    update: Literal["simultaneous", "sequential"] = "simultaneous",
    every: int = 1,
) -> Compute:
    """Return what peers took together: what each learnt, and what all others told it after the burn-in.

    Those that publish predictions answer for all of the samples each time, however many peers read them.
    """
    total = Compute()
    answers = [forward_flops(peer.distiller.student, peer.train_set) for peer in peers]
    for peer, result, own in zip(peers, results, answers, strict=True):
        seen, distiller = len(result.history) * len(peer.train_set), peer.distiller
        if isinstance(distiller.published, Predictions):
            times = publications(result.steps, distiller.burn_in, every, update)
            told = float(own * len(distiller.published.samples) * times)
        else:
            listening = max(0, result.steps - distiller.burn_in) / max(result.steps, 1)
            told = (sum(answers) - own) * seen * listening
        total += Compute(LEARNING * own * seen, told)
    return total


def _answer_flops(teacher: Teacher | None, samples: SampleSet) -> int:
    """Return the FLOPs of an answer to one sample; 0 where it is looked up, and was paid for when it was stored."""
    if isinstance(teacher, EnsembleTeacher):
        return sum(_answer_flops(member, samples) for member in teacher.members)
    return forward_flops(teacher.model, samples) if isinstance(teacher, ModelTeacher) else 0


def _share_read(objective: Objective, steps: int) -> float:
    """Return the share of the steps at which the teacher is asked; the objective's schedules tell."""
    if "teacher" not in objective.reads():
        return 0.0
    if not any(callable(term.weight) for term in objective.terms.values()):
        return float("teacher" in objective.reads_at(0))
    return sum("teacher" in objective.reads_at(step) for step in range(steps)) / max(steps, 1)
