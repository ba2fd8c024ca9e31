"""The family of hypotheses: the terms of a distillation loss, right and with the known mistakes, one value a row.

A soft term is a divergence of what is made of the teacher's logits and of the student's; each of the two can be wrong
by itself, and what is wrong adds up.  A hard term is a cross-entropy on labels.  Only the shape of the gradient matters
here: factors such as a missing T² are measured afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.batch import UNLABELLED

__all__ = ["HARD", "Hard", "Soft", "entropies", "soft_terms"]


@dataclass(frozen=True)
class Soft:
    """A soft term: (student (..., K), teacher (..., K), T) -> (...), and what is wrong with it.

    power: the exponent of T that keeps its gradient's size, by which the term has to be multiplied; None where it is
    another loss without such a factor.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor]
    mistakes: tuple[str, ...] = ()
    power: int | None = 2
    target: Callable[[Tensor, float], Tensor] | None = None

    @property
    def cost(self) -> float:
        """How much has to be assumed."""
        return 1.0 + 2 * len(self.mistakes)


@dataclass(frozen=True)
class Hard:
    """A hard term: (student (..., K), teacher (..., K), labels (...), T) -> (...), and what is wrong with it."""

    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    mistakes: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        """How much has to be assumed."""
        return 1.0 + 2 * len(self.mistakes)


def _softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(-1)


_TARGETS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "": _softmax,
    "no T": lambda v, t: v.softmax(-1),
    "inverted": lambda v, t: (v * t).softmax(-1),
    "teacher_softmaxed_twice": lambda v, t: _softmax(v, t).softmax(-1),
    "teacher_softmaxed_twice, T later": lambda v, t: _softmax(v.softmax(-1), t),
    "axis": lambda v, t: (v / t).softmax(0),
    "log_probabilities_as_target": lambda v, t: (v / t).log_softmax(-1),
    "logits_as_target": lambda v, t: v / t,
}
"""What a loss may take for the teacher's probabilities, by the mistake."""

_ANSWERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "": lambda z, t: (z / t).log_softmax(-1),
    "no T": lambda z, t: z.log_softmax(-1),
    "inverted": lambda z, t: (z * t).log_softmax(-1),
    "student_softmaxed_twice": lambda z, t: _softmax(z, t).log_softmax(-1),
    "student_softmaxed_twice, T later": lambda z, t: (z.softmax(-1) / t).log_softmax(-1),
    "axis": lambda z, t: (z / t).log_softmax(0),
    "probabilities_as_log": _softmax,
    "logits_as_log": lambda z, t: z / t,
}
"""What a loss may take for the student's log-probabilities, by the mistake."""


def _mistakes(target: str, answer: str) -> tuple[str, ...]:
    """Return the mistakes of a pair, each once: a temperature that is nowhere is one mistake, on one side another."""
    parts = [each.partition(",")[0] for each in (target, answer)]
    if parts == ["no T", "no T"]:
        return ("temperature_ignored",)
    if "no T" in parts:
        side = "temperature_on_student_alone" if parts[0] == "no T" else "temperature_on_teacher_alone"
        return (side, *(each for each in parts if each not in ("", "no T")))
    if parts == ["inverted", "inverted"]:
        return ("temperature_inverted",)
    return tuple(dict.fromkeys(each for each in parts if each))


def _cross(target: Callable[[Tensor, float], Tensor], answer: Callable[[Tensor, float], Tensor]) -> Soft:
    return Soft(lambda z, v, t: -(target(v, t) * answer(z, t)).sum(-1), target=target)


def _reverse(z: Tensor, v: Tensor, t: float) -> Tensor:
    q, p = (z / t).log_softmax(-1), (v / t).log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)


def _of_probabilities(z: Tensor, v: Tensor, t: float) -> Tensor:
    q = _softmax(z, t)
    return (q * (q.log() - _softmax(v, t))).sum(-1)


def _jensen_shannon(z: Tensor, v: Tensor, t: float) -> Tensor:
    q, p = _softmax(z, t), _softmax(v, t)
    middle = (q + p) / 2
    return ((p * (p.log() - middle.log())).sum(-1) + (q * (q.log() - middle.log())).sum(-1)) / 2


_OTHER = (
    Soft(_reverse, ("swapped_arguments",)),
    Soft(lambda z, v, t: _reverse(z, v, 1.0), ("swapped_arguments", "temperature_ignored")),
    Soft(_of_probabilities, ("swapped_arguments", "probabilities_as_log")),
    Soft(_jensen_shannon, ("jensen_shannon",)),
    Soft(lambda z, v, t: (_softmax(z, t) - _softmax(v, t)).square().mean(-1), ("squared_probabilities",), power=None),
    Soft(lambda z, v, t: (z.softmax(-1) - v.softmax(-1)).square().mean(-1), ("squared_probabilities",), power=None),
    Soft(lambda z, v, t: ((z - v) / t).square().mean(-1), ("logit_matching",), power=None),
    Soft(lambda z, v, t: F.cosine_similarity(z, v, dim=-1).neg(), ("cosine",), power=None),
)


def soft_terms() -> list[Soft]:
    """Return all soft terms, those with fewer mistakes first."""
    found = list(_OTHER)
    for (wrong_target, target), (wrong_answer, answer) in product(_TARGETS.items(), _ANSWERS.items()):
        term = _cross(target, answer)
        found.append(Soft(term.loss, _mistakes(wrong_target, wrong_answer), target=target))
    return sorted(found, key=lambda term: term.cost)


def entropies(term: Soft, teacher: Tensor, temperature: float) -> Tensor | None:
    """Return Σ p log p of a term's target (...), by which its KL lies above its cross-entropy; None if it is no KL."""
    if term.target is None:
        return None
    target = term.target(teacher, temperature)
    return torch.xlogy(target, target).sum(-1)


def _of(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return minus what log-probabilities (..., K) say of the labels (...); 0 where there is no label."""
    known = labels != UNLABELLED
    rows = log_probabilities.gather(-1, torch.where(known, labels, 0).unsqueeze(-1)).squeeze(-1)
    return -torch.where(known, rows, 0.0)


HARD = (
    Hard(lambda z, v, y, t: _of(z.log_softmax(-1), y)),
    Hard(lambda z, v, y, t: _of((z / t).log_softmax(-1), y), ("hard_at_temperature",)),
    Hard(lambda z, v, y, t: _of(z.softmax(-1).log_softmax(-1), y), ("hard_softmaxed_twice",)),
    Hard(lambda z, v, y, t: _of(_softmax(z, t).log_softmax(-1), y), ("hard_softmaxed_twice", "hard_at_temperature")),
    Hard(lambda z, v, y, t: _of(z.softmax(-1), y), ("hard_probabilities",)),
    Hard(lambda z, v, y, t: _of(z.log_softmax(-1), v.argmax(-1)), ("hard_of_teacher",)),
)
"""The hard terms, those with fewer mistakes first."""
