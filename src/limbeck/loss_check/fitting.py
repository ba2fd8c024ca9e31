"""Which terms a loss is made of, by its gradient, and which factor of T, rows, classes and weights each one has."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from limbeck.loss_check.calling import Call
from limbeck.loss_check.findings import Finding, finding
from limbeck.loss_check.variants import HARD, Hard, Soft, soft_terms

__all__ = [
    "Answer",
    "Case",
    "Checked",
    "Explained",
    "Factor",
    "explained",
    "factor_of",
    "means_of_means",
    "row_weights",
    "rows_of",
]

_EXPLAINED = 3e-5
"""The largest part of a gradient that may be left over; a loss that is computed in float32 leaves some 1e-6."""

_OF_UNEQUAL_ROWS = 2.5
"""What rows of different weights cost, more than one mistake of a term."""

_APART = 1e-9
"""1 - cos² of two gradients of a row that are told apart."""

_EQUAL = 1e-3
"""The largest relative error of a factor."""


@dataclass(frozen=True)
class Case:
    """What a loss is called with.

    student, teacher: (..., K) float64.  labels: (...) int64.  mask: (...) bool.  alpha: the weight of the hard labels;
    None where the loss takes no weight.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    temperature: float
    alpha: float | None = None
    mask: Tensor | None = None

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.student.shape[-1]

    @property
    def rows(self) -> int:
        """How many rows of logits there are."""
        return self.labels.numel()


@dataclass(frozen=True)
class Answer:
    """What a loss answers: its value, the gradients of the student's and the teacher's logits or None, its shape."""

    value: float
    gradient: Tensor | None
    teacher_gradient: Tensor | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Explained:
    """The terms that a loss is made of: a soft one, a hard one, or both."""

    soft: Soft | None
    hard: Hard | None

    @property
    def cost(self) -> float:
        """How much has to be assumed."""
        return sum(0.0 if each is None else each.cost for each in (self.soft, self.hard))

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What is wrong with the terms."""
        return tuple(wrong for each in (self.soft, self.hard) if each is not None for wrong in each.mistakes)


def _gradients(case: Case, term: Soft | Hard | None) -> Tensor:
    """Return the gradient (..., K) of the sum of a term's rows with respect to the student's logits; 0 for no term."""
    return _all_gradients(case, [term])[0]


def _all_gradients(case: Case, terms: Sequence[Soft | Hard | None]) -> Tensor:
    """Return the gradients (terms, ..., K), all in one pass."""
    students = case.student.detach().expand(len(terms), *case.student.shape).clone().requires_grad_()
    loss = students.sum() * 0
    for student, term in zip(students.unbind(), terms, strict=True):
        if term is not None:
            loss = loss + rows_of(term, case, student).sum()
    return torch.autograd.grad(loss, students)[0]


def rows_of(term: Soft | Hard, case: Case, student: Tensor | None = None) -> Tensor:
    """Return what a term gives for each row (...)."""
    logits = case.student if student is None else student
    if isinstance(term, Soft):
        return term.loss(logits, case.teacher, case.temperature)
    return term.loss(logits, case.teacher, case.labels, case.temperature)


def explained(answers: Sequence[tuple[Case, Tensor]], *, hard: bool) -> Explained | None:
    """Return the simplest pair of terms that gives all gradients, with free weights of each row; None where none does.

    Rows of different weights are one more thing to assume.  hard: whether the loss takes labels.
    """
    softs: list[Soft | None] = [None, *soft_terms()]
    hards: list[Hard | None] = [None, *(HARD if hard else ())]
    pairs = [Explained(*each) for each in product(softs, hards) if any(each)]
    cost = torch.tensor([pair.cost for pair in pairs])
    unequal = torch.zeros(len(pairs), dtype=torch.bool)
    which = torch.cartesian_prod(torch.arange(len(softs)), torch.arange(len(hards)))[1:]
    for case, gradient in answers:
        of_soft, of_hard = _all_gradients(case, softs), _all_gradients(case, hards)
        basis = torch.stack([of_soft[which[:, 0]], of_hard[which[:, 1]]], -1).flatten(1, -3)  # (pairs, rows, K, 2)
        flat = gradient.reshape(-1, case.classes)
        weights = _weights(basis, flat)
        left = _left(basis, flat, weights)
        cost[~(left < _EXPLAINED)] = torch.inf
        spread = weights.amax(1) - weights.amin(1)
        unequal |= (spread > _EQUAL * weights.abs().amax(1)).any(-1)
    cost += _OF_UNEQUAL_ROWS * unequal
    best = int(cost.argmin())
    return pairs[best] if cost[best] < torch.inf else None


def _left(basis: Tensor, gradient: Tensor, weights: Tensor) -> Tensor:
    """Return which part of a gradient (rows, K) weights (..., rows, 2) of bases (..., rows, K, 2) leave over."""
    rest = gradient - (basis @ weights.unsqueeze(-1)).squeeze(-1)
    left: Tensor = rest.norm(dim=(-2, -1)) / gradient.norm().clamp_min(1e-300)
    return left


def _weights(basis: Tensor, gradient: Tensor) -> Tensor:
    """Return the least-squares weights (..., rows, 2) of bases (..., rows, K, 2); of two that are alike the first."""
    scale = basis.norm(dim=-2).clamp_min(1e-300)
    unit = basis / scale.unsqueeze(-2)
    alike = (unit[..., 0] * unit[..., 1]).sum(-1)
    on = (unit * gradient.unsqueeze(-1)).sum(-2)
    rest = 1 - alike.square()
    apart = torch.stack([on[..., 0] - alike * on[..., 1], on[..., 1] - alike * on[..., 0]], -1) / rest.unsqueeze(-1)
    first = torch.stack([on[..., 0], torch.zeros_like(rest)], -1)
    weights: Tensor = torch.where((rest > _APART).unsqueeze(-1), apart, first) / scale
    return weights


def row_weights(case: Case, gradient: Tensor, terms: Explained) -> tuple[Tensor, Tensor, float]:
    """Return the weights of each row (rows,) that the soft and the hard term have in a gradient, and what is left."""
    parts = [_gradients(case, terms.soft), _gradients(case, terms.hard)]
    basis = torch.stack(parts, -1).flatten(0, -3)
    flat = gradient.reshape(-1, case.classes)
    weights = _weights(basis, flat)
    return weights[:, 0], weights[:, 1], float(_left(basis, flat, weights))


@dataclass(frozen=True)
class Factor:
    """What a term is multiplied by, beside the mean over rows: constant · weight · T^power · rows^… · classes^…."""

    power: int = 0
    rows: int = 0
    classes: int = 0
    weight: str = "1"
    constant: float = 1.0


def _weight(name: str, alpha: float | None) -> float:
    return {"alpha": alpha or 0.0, "1 - alpha": 1 - (alpha or 0.0), "1": 1.0}[name]


def factor_of(measured: Sequence[tuple[Case, float]], *, power: int, weight: str) -> Factor | None:
    """Return the simplest factor that a term has in all cases, given as its mean weight; None where none fits.

    power, weight: those of a right loss.  With weight "1" the weights are not known, and any constant may be one.
    """
    known = weight != "1"
    temperatures = len({case.temperature for case, _ in measured}) > 1
    best: tuple[float, Factor] | None = None
    powers = sorted({power, *(range(-4, 5) if temperatures else (0, 1))}, key=lambda each: abs(each - power))
    for exponent, rows, classes in product(powers, (0, 1, -1), (0, -1, 1)):
        for name in (weight, *(each for each in ("alpha", "1 - alpha", "1") if known and each != weight)):
            ratios = [
                value
                / (_weight(name, case.alpha) * case.temperature**exponent * case.rows**rows * case.classes**classes)
                for case, value in measured
            ]
            middle = sum(ratios) / len(ratios)
            if not middle > 0 or max(abs(each / middle - 1) for each in ratios) > _EQUAL:
                continue
            constant = next((each for each in (1.0, 2.0, 0.5) if abs(middle / each - 1) < _EQUAL), middle)
            cost = (exponent != power) + 1.01 * (rows != 0) + 1.02 * (classes != 0) + (name != weight)
            cost += 0.0 if constant == 1.0 else 0.5 if not known else 1.5 if constant in (2.0, 0.5) else 2.5
            if best is None or cost < best[0]:
                best = (cost, Factor(exponent, rows, classes, name, constant))
    return None if best is None else best[1]


@dataclass(frozen=True)
class Checked:
    """A loss whose terms are known.

    main: the cases that it was explained by, with its answers.  soft, hard: the factor of each term; None if there is
    no such term, or no factor fits.
    """

    call: Call
    main: tuple[tuple[Case, Answer], ...]
    terms: Explained
    soft: Factor | None
    hard: Factor | None

    @property
    def labelled(self) -> bool:
        """Whether the loss takes labels."""
        return self.call.takes("labels")

    @property
    def fits(self) -> bool:
        """Whether a factor is known of each term."""
        return (self.terms.soft is None or self.soft is not None) and (self.terms.hard is None or self.hard is not None)

    def expected(self, case: Case, rows: int) -> tuple[float, float]:
        """Return the sums over rows of the weights of the soft and the hard term, of a case of which `rows` count."""
        return _total(self.soft, case, rows), _total(self.hard, case, rows)


def _total(factor: Factor | None, case: Case, rows: int) -> float:
    if factor is None:
        return 0.0
    scale = case.temperature**factor.power * float(case.classes) ** factor.classes * float(max(rows, 1)) ** factor.rows
    return float(factor.constant * _weight(factor.weight, case.alpha) * scale)


def means_of_means(weights: Tensor) -> Finding:
    """Return what the different weights (rows,) of a term's rows say: a mean of means, if parts weigh the same."""
    low, high = float(weights.min()), float(weights.max())
    evidence = f"the rows of a batch weigh {low / float(weights.mean()):.3g} to {high / float(weights.mean()):.3g}"
    share = weights / weights.sum()
    for parts in range(2, len(weights) + 1):
        sizes = 1 / (share * parts)
        whole = (sizes - sizes.round()).abs().max() < 1e-3
        if bool(whole) and all(int((sizes.round() == size).sum()) % int(size) == 0 for size in sizes.round().unique()):
            smallest, largest = int(sizes.min().round()), int(sizes.max().round())
            evidence += f" of the mean, as {parts} parts of {smallest} to {largest} rows give"
            return finding("mean_of_means", evidence)
    return finding("unequal_rows", evidence + " of the mean")
