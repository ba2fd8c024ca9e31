"""Divergences between a target and the student: one loss per example, and the factor each declares for temperature.

Softening by T shrinks the gradient with respect to the logits: that of KL, cross-entropy, reverse KL, Jensen-Shannon
and skewed KL as 1/T², that of total variation as 1/T, that of a correlation not at all.  The factor that a divergence
declares undoes it, which keeps the balance with the hard labels when T changes (Hinton, Vinyals & Dean 2015, section
2).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError, one_of
from limbeck.losses import logspace
from limbeck.losses.correlation import row_loss
from limbeck.losses.dense import Dense, scaled
from limbeck.losses.reduction import compute_dtype
from limbeck.losses.sparse import Sampled, TopK, buckets, check_ids

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
    """A divergence between a target and the student's softened distribution.

    Attributes:
        name: the name with its parameters; two different divergences have different names.
        per_example: function (student_logits (..., K), target, temperature) -> (...), in nats where it has a unit,
            without the factor.  The target is a constant: `Dense`, or one that `topk` or `sampled` allows.
        factor: function of the temperature.  A distillation loss multiplies the divergence by it once (T² for KL), so
            that gradients keep their size when the temperature changes.
        least_classes: the smallest number of classes for which the divergence is informative.
        formula: of one that compares the masses of classes one by one, what computes it; None for others.
        share: its parameter β or a.
        entropies: of one that is a cross-entropy less so many entropies of the target, 0 or 1; None for others.

    Raises:
        InputError: if a field has the wrong type.

    Example:
        >>> from limbeck.losses import soften
        >>> target = soften(torch.tensor([[0.0, 4.0]]), temperature=2.0)
        >>> KL.factor(2.0) * KL.per_example(torch.zeros(1, 2), target, 2.0)
        tensor([1.3113])

    Reference:
        Hinton, Vinyals & Dean (2015), section 2, arXiv:1503.02531, for the factor T².
    """

    HOW_MADE: ClassVar[str] = "use one such as losses.divergence('js', beta=0.5)"

    name: str
    per_example: Callable[[Tensor, Any, float], Tensor] = field(repr=False)
    factor: Callable[[float], float] = field(repr=False)
    least_classes: int = field(default=1, repr=False)
    formula: logspace.Formula | None = field(default=None, repr=False)
    share: float = field(default=0.0, repr=False)
    entropies: int | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The name without parameters."""
        return self.name.partition("(")[0]

    @property
    def topk(self) -> Literal["lower bound"] | None:
        """What its value with a `TopK` target is, beside the dense one; None if it refuses such a target.

        >>> KL.topk, correlation().topk
        ('lower bound', None)
        """
        return None if self.formula is None else "lower bound"

    @property
    def sampled(self) -> Literal["unbiased"] | None:
        """What its value and gradient with a `Sampled` target are; None if it refuses such a target.

        >>> KL.sampled, REVERSE_KL.sampled
        ('unbiased', None)
        """
        return None if self.entropies is None else "unbiased"


@checked
def jensen_shannon(beta: float = 0.5) -> Divergence:
    """Build the divergence JSD_β = β·KL(p̃ ‖ m) + (1-β)·KL(q̃ ‖ m), where m = β·p̃ + (1-β)·q̃.

    At β = ½ it is symmetric and lies in [0, log 2].  Near agreement it is β·(1-β) times KL; the factor T² does not
    compensate for that, so it needs a larger weight or learning rate.

    Args:
        beta: β in (0, 1).  JSD_β/β → KL(p̃ ‖ q̃) as β → 0, and JSD_β/(1-β) → KL(q̃ ‖ p̃) as β → 1; at both ends it is
            0.

    Returns:
        The divergence, with factor T².

    Raises:
        InputError: if β is not in (0, 1).

    Example:
        >>> from limbeck.losses import soften
        >>> jensen_shannon(0.5).per_example(torch.tensor([0.0, 100.0]), soften(torch.tensor([100.0, 0.0])), 1.0)
        tensor(0.6931)

    Reference:
        Agarwal et al. (2024), "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        arXiv:2306.13649.
    """
    _open_unit_interval("beta", beta, "at 0 and 1 the divergence is 0; their limits are kl and reverse_kl")

    return _of_masses(f"js(beta={beta!r})", logspace.js(beta), _square, share=beta)


@checked
def skewed(skew: float = 0.1) -> Divergence:
    """Build the skewed divergence KL_a = KL(p̃ ‖ a·p̃ + (1-a)·q̃), where a is `skew`.

    It is at most log(1/a), however far apart student and target are.  Near agreement it is (1-a)² times KL.

    Args:
        skew: a in [0, 1); 0 gives KL.

    Returns:
        The divergence, with factor T².

    Raises:
        InputError: if the skew is not in [0, 1).

    Example:
        >>> from limbeck.losses import soften
        >>> skewed(0.1).per_example(torch.tensor([0.0, 100.0]), soften(torch.tensor([100.0, 0.0])), 1.0)
        tensor(2.3026)

    Reference:
        Lee (1999), "Measures of Distributional Similarity"; Ko et al. (2024), "DistiLLM: Towards Streamlined
        Distillation for Large Language Models", arXiv:2402.03898.
    """
    checks.unit_interval("skew", skew)
    if skew == 1:
        raise InputError(
            "skew: found 1, expected a number in [0, 1); at 1 the divergence does not depend on the student"
        )

    formula = logspace.skewed_kl(skew) if skew else logspace.kl
    return _of_masses(f"skewed_kl(skew={skew!r})", formula, _square, share=skew)


@checked
def correlation(tau_squared: bool = False) -> Divergence:
    """Build 1 - Pearson's correlation of p̃ and q̃ over the classes, the inter-class part of DIST.

    A distribution that is equal for all classes has correlation 0 and no gradient.  With two classes the correlation is
    always 1 or -1, which carries no information.

    Args:
        tau_squared: declare the factor T², as the paper's published code does, instead of 1.

    Returns:
        The divergence, for three classes or more; its values are in [0, 2].

    Example:
        >>> from limbeck.losses import soften
        >>> correlation().per_example(torch.tensor([0.0, 5.0]), soften(torch.tensor([1.0, 2.0])), 1.0).round()
        tensor(0.)

    Reference:
        Huang et al. (2022), "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536.
    """

    def per_example(student_logits: Tensor, target: Dense | TopK | Sampled, temperature: float) -> Tensor:
        if not isinstance(target, Dense):
            raise _not_taken(name, target)
        return row_loss(_scaled(student_logits, target, temperature), target.log_probs)

    name = f"correlation(tau_squared={tau_squared!r})"
    return Divergence(name, per_example, _square if tau_squared else _constant, least_classes=3)


@checked
def divergence(kind: str, **parameters: Any) -> Divergence:
    """Return a divergence by the name that recipes use.

    Args:
        kind: "kl", "cross_entropy", "reverse_kl", "js", "skewed_kl", "total_variation" or "correlation".
        **parameters: parameters of that divergence, such as `beta` of "js" or `skew` of "skewed_kl".

    Returns:
        The divergence.

    Raises:
        InputError: if there is no such divergence, it has no such parameter, or a value is out of range.

    Example:
        >>> divergence("js", beta=0.25).name
        'js(beta=0.25)'
        >>> divergence("reversed_kl")
        Traceback (most recent call last):
        limbeck.errors.InputError: divergence: there is no 'reversed_kl'; did you mean 'reverse_kl'?

    Reference:
        The papers are listed at `jensen_shannon`, `skewed` and `correlation`.
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


def _scaled(student_logits: Tensor, target: Dense | TopK | Sampled, temperature: float) -> Tensor:
    checks.positive("temperature", temperature)
    if isinstance(target, Dense):
        checks.shapes_match("student_logits", student_logits.shape, "the target", target.log_probs.shape)
    else:
        leading = student_logits.shape[:-1]
        checks.shapes_match("student_logits without the class axis", leading, "the target", target.places)
    return scaled(compute_dtype(student_logits), temperature)


def _of_masses(
    name: str,
    formula: logspace.Formula,
    factor: Callable[[float], float],
    *,
    share: float = 0.0,
    entropies: int | None = None,
) -> Divergence:
    """Return a divergence that compares the masses of classes one by one, so that classes can be merged."""

    def per_example(student_logits: Tensor, target: Dense | TopK | Sampled, temperature: float) -> Tensor:
        own = _scaled(student_logits, target, temperature)
        if isinstance(target, Dense):
            return logspace.rows(own, target.log_probs, formula)
        if isinstance(target, TopK):
            log_probs = torch.cat([target.log_probs, target.log_tail.unsqueeze(-1)], -1)
            return logspace.rows(buckets(own, target.ids), log_probs.to(own.dtype), formula)
        if entropies is None:
            raise _not_taken(name, target)
        check_ids(target.ids, own.shape[-1], repeated=True)
        drawn = F.log_softmax(own, -1).gather(-1, target.ids).mean(-1)
        return -drawn - entropies * target.entropy.to(own.dtype)

    return Divergence(name, per_example, factor, formula=formula, share=share, entropies=entropies)


def _not_taken(name: str, target: object) -> InputError:
    kind = "a top-k target" if isinstance(target, TopK) else "a sampled target"
    mend = "use kl or cross_entropy" if isinstance(target, Sampled) else "use kl, js, reverse_kl or total_variation"
    return InputError(f"divergence {name}: found {kind}, expected dense probabilities; {mend}, or a dense teacher")


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


KL = _of_masses("kl", logspace.kl, _square, entropies=1)
"""KL(p̃ ‖ q̃) = Σ p̃ (log p̃ - log q̃): 0 exactly when student and target agree."""

CROSS_ENTROPY = _of_masses("cross_entropy", logspace.cross_entropy, _square, entropies=0)
"""H(p̃, q̃) = -Σ p̃ log q̃ = H(p̃) + KL(p̃ ‖ q̃): the same gradients as KL, another value."""

REVERSE_KL = _of_masses("reverse_kl", logspace.reverse_kl, _square)
"""KL(q̃ ‖ p̃) = Σ q̃ (log q̃ - log p̃): infinite where the student gives a class what the target gives exactly 0."""

TOTAL_VARIATION = _of_masses("total_variation", logspace.total_variation, _linear)
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
