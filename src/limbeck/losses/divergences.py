"""Divergences between a target and the student: one loss per example, and the factor each declares for temperature.

Softening by T shrinks the gradient with respect to the logits: that of KL, cross-entropy, reverse KL, Jensen-Shannon
and skewed KL as 1/T², that of total variation as 1/T, that of a correlation not at all.  The factor that a divergence
declares undoes it, which keeps the balance with the hard labels when T changes (Hinton, Vinyals & Dean 2015, section
2).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError, one_of
from limbeck.losses import logspace
from limbeck.losses.correlation import row_loss
from limbeck.losses.dense import Dense
from limbeck.losses.reduction import compute_dtype

__all__ = [
    "CROSS_ENTROPY",
    "KL",
    "REVERSE_KL",
    "TOTAL_VARIATION",
    "Divergence",
    "correlation",
    "divergence",
    "jensen_shannon",
    "kinds",
    "skewed",
]


@checked_fields
@dataclass(frozen=True)
class Divergence:
    """A divergence and its temperature factor.

    name: with the values of its parameters, so that two that differ have different names.
    per_example(student_logits (..., K), target, temperature) -> (...), without the factor; the target is a constant.
    factor(temperature): what a distillation loss multiplies it with, once.
    least_classes: how many classes it says anything of.

    >>> from limbeck.losses import soften
    >>> target = soften(torch.tensor([[0.0, 4.0]]), temperature=2.0)
    >>> KL.factor(2.0) * KL.per_example(torch.zeros(1, 2), target, 2.0)
    tensor([1.3113])
    """

    HOW_MADE: ClassVar[str] = "use one such as losses.divergence('js', beta=0.5)"

    name: str
    per_example: Callable[[Tensor, Dense, float], Tensor] = field(repr=False)
    factor: Callable[[float], float] = field(repr=False)
    least_classes: int = field(default=1, repr=False)


@checked
def jensen_shannon(beta: float = 0.5) -> Divergence:
    """Make JSD_β = β·KL(p̃ ‖ m) + (1-β)·KL(q̃ ‖ m), where m = β·p̃ + (1-β)·q̃ (Agarwal et al. 2024).

    beta: above 0 and below 1.  JSD_β/β → KL(p̃ ‖ q̃) as β → 0, and JSD_β/(1-β) → KL(q̃ ‖ p̃) as β → 1; it is 0 at both
    ends.  At β = ½ it lies in [0, log 2] and is symmetric.  Near agreement it is β·(1-β) times KL, which no factor
    makes up for: it wants a larger weight or learning rate.

    >>> from limbeck.losses import soften
    >>> jensen_shannon(0.5).per_example(torch.tensor([0.0, 100.0]), soften(torch.tensor([100.0, 0.0])), 1.0)
    tensor(0.6931)
    """
    _open_unit_interval("beta", beta, "at 0 and 1 the divergence is 0; their limits are kl and reverse_kl")

    return Divergence(f"js(beta={beta!r})", _per_example(logspace.js(beta)), _square)


@checked
def skewed(skew: float = 0.1) -> Divergence:
    """Make the skewed KL_a = KL(p̃ ‖ a·p̃ + (1-a)·q̃), a being `skew` (Lee 1999; Ko et al. 2024).

    skew: in [0, 1).  At 0 it is KL; above, it is at most log(1/a), however far apart student and target are.  Near
    agreement it is (1-a)² times KL.

    >>> from limbeck.losses import soften
    >>> skewed(0.1).per_example(torch.tensor([0.0, 100.0]), soften(torch.tensor([100.0, 0.0])), 1.0)
    tensor(2.3026)
    """
    checks.unit_interval("skew", skew)
    if skew == 1:
        raise InputError("skew: found 1, expected a number in [0, 1); at 1 the student has no part in it")

    formula = logspace.skewed_kl(skew) if skew else logspace.kl
    return Divergence(f"skewed_kl(skew={skew!r})", _per_example(formula), _square)


@checked
def correlation(tau_squared: bool = False) -> Divergence:
    """Make 1 - Pearson's correlation of p̃ and q̃ over the classes, the inter-class part of DIST (Huang et al. 2022).

    tau_squared: declare the factor T² that the paper's published code multiplies with, instead of 1.
    A distribution that is the same for all classes correlates with nothing: 0, without gradient.  Of two classes the
    correlation is 1 or -1 and says nothing.

    >>> from limbeck.losses import soften
    >>> correlation().per_example(torch.tensor([0.0, 5.0]), soften(torch.tensor([1.0, 2.0])), 1.0).round()
    tensor(0.)
    """

    def per_example(student_logits: Tensor, target: Dense, temperature: float) -> Tensor:
        return row_loss(_scaled(student_logits, target, temperature), target.log_probs)

    name = f"correlation(tau_squared={tau_squared!r})"
    return Divergence(name, per_example, _square if tau_squared else _constant, least_classes=3)


@checked
def divergence(kind: str, **parameters: Any) -> Divergence:
    """Return a divergence by the name that a recipe gives it, with its parameters.

    >>> divergence("js", beta=0.25).name
    'js(beta=0.25)'
    >>> divergence("reversed_kl")
    Traceback (most recent call last):
    limbeck.errors.InputError: divergence: there is no 'reversed_kl'; did you mean 'reverse_kl'?
    """
    if kind not in _KINDS:
        raise InputError(f"divergence: there is no '{kind}'; {one_of(kind, _KINDS)}")
    accepted = inspect.signature(_KINDS[kind]).parameters
    for name in parameters:
        if name not in accepted:
            allowed = one_of(name, accepted) if accepted else "it takes none"
            raise InputError(f"divergence: '{kind}' has no parameter '{name}'; {allowed}")
    return _KINDS[kind](**parameters)


def kinds() -> Mapping[str, Callable[..., Divergence]]:
    """Return what makes each divergence, by the name that a recipe gives it."""
    return _KINDS


def _scaled(student_logits: Tensor, target: Dense, temperature: float) -> Tensor:
    checks.positive("temperature", temperature)
    checks.shapes_match("student_logits", student_logits.shape, "the target", target.log_probs.shape)
    return compute_dtype(student_logits) / temperature


def _per_example(formula: logspace.Formula) -> Callable[[Tensor, Dense, float], Tensor]:
    def per_example(student_logits: Tensor, target: Dense, temperature: float) -> Tensor:
        return logspace.rows(_scaled(student_logits, target, temperature), target.log_probs, formula)

    return per_example


def _square(temperature: float) -> float:
    return temperature * temperature


def _linear(temperature: float) -> float:
    return temperature


def _constant(_: float) -> float:
    return 1.0


def _open_unit_interval(name: str, value: float, reason: str) -> None:
    checks.finite(name, value)
    if not 0 < value < 1:
        raise InputError(f"{name}: found {value!r}, expected a number above 0 and below 1; {reason}")


KL = Divergence("kl", _per_example(logspace.kl), _square)
"""KL(p̃ ‖ q̃) = Σ p̃ (log p̃ - log q̃): 0 exactly when student and target agree."""

CROSS_ENTROPY = Divergence("cross_entropy", _per_example(logspace.cross_entropy), _square)
"""H(p̃, q̃) = -Σ p̃ log q̃ = H(p̃) + KL(p̃ ‖ q̃): the same gradients as KL, another value."""

REVERSE_KL = Divergence("reverse_kl", _per_example(logspace.reverse_kl), _square)
"""KL(q̃ ‖ p̃) = Σ q̃ (log q̃ - log p̃): infinite where the student gives a class what the target gives exactly 0."""

TOTAL_VARIATION = Divergence("total_variation", _per_example(logspace.total_variation), _linear)
"""½·Σ |p̃ - q̃|, in [0, 1]."""

_KINDS: Mapping[str, Callable[..., Divergence]] = {
    "kl": lambda: KL,
    "cross_entropy": lambda: CROSS_ENTROPY,
    "reverse_kl": lambda: REVERSE_KL,
    "js": jensen_shannon,
    "skewed_kl": skewed,
    "total_variation": lambda: TOTAL_VARIATION,
    "correlation": correlation,
}
