"""Which part of a distillation does the work: students on targets that hold some of it, and their differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.evaluation import Estimate, Interval, bootstrap_mean, t_interval

__all__ = ["ARMS", "EFFECTS", "TARGETS", "Attribution", "Effect", "attribute", "effect"]

TARGETS = {
    "hard": "hard labels",
    "ls": "label smoothing",
    "pt": "KD-pt",
    "sim": "KD-sim",
    "pt+sim": "KD-pt+sim",
    "topk": "KD-topk",
    "kd": "KD",
}
"""The students that are compared, by the target that they learn from."""

ARMS = {**TARGETS, "hints": "KD with hints"}
"""All students that are compared: those by target, and one that learns from the teacher's features as well."""

EFFECTS: Mapping[str, Mapping[str, float]] = {
    "smoothing": {"ls": 1, "hard": -1},
    "rescaling": {"pt": 1, "ls": -1},
    "relations": {"sim": 1, "ls": -1},
    "interaction": {"pt+sim": 1, "pt": -1, "sim": -1, "ls": 1},
    "remainder": {"kd": 1, "pt+sim": -1},
    "whole": {"kd": 1, "hard": -1},
    "features": {"hints": 1, "kd": -1},
}
"""Contrasts of the students' accuracies; the first five add up to the sixth, and the last comes on top of it."""

_POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """One part of the whole, in shares of the held-out examples.

    over_seeds: paired t-interval over the seeds.  over_examples: bootstrap interval over the held-out examples.
    detectable: the effect that so many seeds and examples would find 8 times in 10; None for one seed.
    found: whether both intervals leave out 0 on the same side.
    """

    name: str
    over_seeds: Interval
    over_examples: Estimate
    detectable: float | None
    found: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict."""
        return {**vars(self), "verdict": self.verdict()}

    def verdict(self) -> str:
        """Return in plain words what may be said of the effect.

        >>> right = torch.ones(3, 100, dtype=torch.bool)
        >>> effect("smoothing", {"ls": right, "hard": right}).verdict()
        'smoothing: +0.00 points, no example is answered differently'
        """
        said = f"{self.name}: {100 * self.over_seeds.mean:+.2f} points"
        if self.detectable == 0:
            return f"{said}, no example is answered differently"
        if self.found:
            low = min(self.over_seeds.low, self.over_examples.low)
            high = max(self.over_seeds.high, self.over_examples.high)
            kind = "helps" if self.over_seeds.mean > 0 else "harms"
            return f"{said} [{100 * low:+.2f}, {100 * high:+.2f}], it {kind}"
        if self.detectable is None:
            return f"{said}, not distinguishable with one seed"
        least = f"{100 * self.detectable:.2f} points"
        return f"{said}, not distinguishable with this budget (an effect of {least} would be found)"


@dataclass(frozen=True)
class Attribution:
    """The students' accuracies and what their differences come to.

    accuracies: by arm, on the held-out examples.  left_out: arms that could not be trained, with the reason.
    """

    accuracies: Mapping[str, Interval]
    effects: tuple[Effect, ...]
    examples: int
    seeds: int
    left_out: Mapping[str, str]

    def effect(self, name: str) -> Effect | None:
        """Return an effect by name; None where an arm of it was left out."""
        return next((each for each in self.effects if each.name == name), None)


def attribute(correct: Mapping[str, Tensor], *, left_out: Mapping[str, str] | None = None) -> Attribution:
    """Attribute what distillation does to its parts (Tang et al. 2020).

    correct: by arm (see `ARMS`), whether each held-out example is right, bool (seeds, n): the same seeds and examples
    for all.  smoothing = LS - hard, rescaling = pt - LS, relations = sim - LS, interaction = (pt+sim) - pt - sim + LS,
    remainder = KD - (pt+sim), features = hints - KD; an effect whose arms are not all there is left out.

    >>> right = torch.rand(3, 50) < 0.9
    >>> found = attribute({"hard": right, "kd": right})
    >>> [each.name for each in found.effects]
    ['whole']
    """
    shapes = {tuple(each.shape) for each in correct.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or any(each.dtype != torch.bool for each in correct.values()):
        raise InputError(f"correct: found shapes {sorted(shapes)}, expected bool (seeds, n), one shape for all arms")
    seeds, examples = next(iter(shapes))
    return Attribution(
        accuracies={name: t_interval(each.double().mean(1).tolist()) for name, each in correct.items()},
        effects=tuple(effect(name, correct) for name, contrast in EFFECTS.items() if contrast.keys() <= correct.keys()),
        examples=examples,
        seeds=seeds,
        left_out=dict(left_out or {}),
    )


def effect(
    name: str,
    correct: Mapping[str, Tensor],
    contrast: Mapping[str, float] | None = None,
    *,
    confidence: float = 0.95,
) -> Effect:
    """Return an effect from what each arm gets right; see `attribute`.

    contrast: the arms with their signs; by default those of `EFFECTS`.  confidence: of both intervals.
    """
    signs = contrast or EFFECTS[name]
    whole = torch.stack([sign * correct[arm].double() for arm, sign in signs.items()]).sum(0)
    over_seeds = t_interval(whole.mean(1).tolist(), confidence=confidence)
    over_examples = bootstrap_mean(whole.mean(0), confidence=confidence, purpose=f"effect {name}")
    apart = [each.low > 0 or each.high < 0 for each in (over_seeds, over_examples)]
    same = (over_seeds.mean > 0) == (over_examples.value > 0)
    return Effect(
        name=name,
        over_seeds=over_seeds,
        over_examples=over_examples,
        detectable=_detectable(whole),
        found=over_seeds.half_width is not None and all(apart) and same,
    )


def _detectable(whole: Tensor) -> float | None:
    """Return the effect that a test at 5 % finds with a power of 80 %, over seeds or examples, whichever is larger."""
    from scipy.stats import norm, t

    seeds, examples = whole.shape
    if seeds < 2 or examples < 2:
        return None
    over_seeds = float(whole.mean(1).std()) / math.sqrt(seeds)
    over_examples = float(whole.mean(0).std()) / math.sqrt(examples)
    return max(
        float(t.ppf(0.975, seeds - 1) + t.ppf(_POWER, seeds - 1)) * over_seeds,
        float(norm.ppf(0.975) + norm.ppf(_POWER)) * over_examples,
    )
