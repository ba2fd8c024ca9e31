"""Pruning: weights of the smallest magnitude become 0 and stay so, at once or along a ramp; or those that move to 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.pruning import dropout_after_pruning, magnitude_masks, ramp, two_of_four
from limbeck.compress.selection import check_globs, select_layers
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import (
    Mask,
    Movement,
    Place,
    computed_by,
    fold,
    is_rounded,
    layers_of,
    named,
    places_of,
    put,
    weights_of_layer,
)
from limbeck.errors import InputError

__all__ = ["CARD", "Prune", "Ramp", "add_hook", "first_and_last", "hooks_of"]

CARD = Card(
    name="prune",
    summary="the weights of the smallest magnitude become 0 and stay so, at once or along a ramp",
    authors="Song Han, Jeff Pool, John Tran, William J. Dally",
    year=2015,
    title="Learning both Weights and Connections for Efficient Neural Networks",
    source="https://arxiv.org/abs/1506.02626",
    formula="w' = m·w, m = 0 for the ⌊s·n⌋ smallest |w|; along a ramp s_t = s·(1 - (1 - t/n)³)",
)

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.RNNBase, nn.ParameterList)
"""What pruning, quantising and sharing change."""


@checked_fields
@dataclass(frozen=True)
class Prune(Transform):
    """Leave out weights: by magnitude, or by movement.

    While it is retrained, the network computes each weight as mask·weight, so that what is left out is exactly 0 after
    every step, in every average of the weights and after every resume.  A weight that several layers share has one
    mask.

    Attributes:
        sparsity: the share that is left out, in [0, 1); of 2:4 it is one half.
        scope: "layer" for each layer's own threshold, "global" for one over all selected layers.
        pattern: "any" weight, or "2:4": two of four neighbours along the input.
        by: "magnitude", or "movement", whose scores are learned from the loss along a ramp.
        ramp_steps: training steps n until the sparsity is reached, fewer than the training has; 0 to prune at once.
            In a recipe, the retraining then keeps its last weights and has no patience.
        every: steps between two drawings of the masks along the ramp.
        scale_dropout: whether the dropout in front of a pruned linear layer becomes p·√(kept/all).
        select: paths or patterns of layers.
        skip: those that stay as they are; None for the first and the last layer, where `select` is the default.

    Raises:
        InputError: if a value is out of range, or two do not go together.

    Example:
        >>> model, log = Prune(sparsity=0.75, skip=()).apply(nn.Sequential(nn.Linear(16, 16)))
        >>> log.changed["0"], int((model[0].weight == 0).sum())
        ('Linear (16, 16): 192 of 256 weights are 0', 192)

    Reference:
        Han et al. (2015), arXiv:1506.02626; Zhu & Gupta (2017), arXiv:1710.01878, for the ramp; Sanh et al. (2020),
        arXiv:2005.07683, for movement.
    """

    sparsity: float = 0.5
    scope: Literal["layer", "global"] = "layer"
    pattern: Literal["any", "2:4"] = "any"
    by: Literal["magnitude", "movement"] = "magnitude"
    ramp_steps: int = 0
    every: int = 100
    scale_dropout: bool = False
    select: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity: found {self.sparsity!r}, expected a number in [0, 1)")
        checks.choice("scope", self.scope, ("layer", "global"))
        checks.choice("pattern", self.pattern, ("any", "2:4"))
        checks.choice("by", self.by, ("magnitude", "movement"))
        checks.at_least("ramp_steps", self.ramp_steps, 0)
        checks.at_least("every", self.every, 1)
        if self.pattern == "2:4" and (self.ramp_steps or self.by == "movement" or self.sparsity != 0.5):
            raise InputError("pattern: found 2:4, expected sparsity 0.5 at once and by magnitude; leave the other keys")
        if self.scale_dropout and self.ramp_steps:
            raise InputError(
                "scale_dropout: found beside ramp_steps, along which the share of weights that are left changes; leave"
                " one of them out"
            )
        if self.by == "movement" and (not self.ramp_steps or self.scope == "global"):
            raise InputError("by: found movement, expected scope: layer and a ramp, such as ramp_steps: 1000")
        check_globs(self.select, self.skip or ())

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Mask the selected layers."""
        skip = skipped(model, self.select, self.skip)
        chosen = select_layers(model, self.select, skip, kind=self.kind, complaint=complaint)
        groups = places_of(model, list(chosen.layers))
        weights = {}
        for group in groups:
            if computed_by(model.get_submodule(group[0][0]), group[0][1]):
                fold(model, group)  # what was pruned before stays the smallest
            weights[group[0]] = weights_of_layer(model.get_submodule(group[0][0]))[group[0][1]].detach()
        masks = self._masks({named(place): weight for place, weight in weights.items()})
        for group in groups:
            mask = masks[named(group[0])]
            put(model, group, Movement(weights[group[0]]) if self.by == "movement" else Mask(mask))
        if self.ramp_steps:
            self._follow(model, [group[0] for group in groups])
        changed: dict[str, str] = {}
        dropout: dict[str, float] = {}
        for place, mask in zip(weights, masks.values(), strict=True):
            left_out = _left_out(model, place)
            changed[place[0]] = ", ".join(filter(None, [changed.get(place[0]), self._told(model, place, left_out)]))
            if self.scale_dropout:
                dropout |= _scaled_dropout(model, place[0], mask)
        zeros = sum(_left_out(model, place) for place in weights)
        total = sum(weight.numel() for weight in weights.values())
        plan = {"layers": list(chosen.layers), **({"dropout": dropout} if dropout else {})}
        _set_dropout(model, dropout)
        return model, Log(changed, chosen.kept, plan, {"sparsity": zeros / total})

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Put masks on the planned layers; a network that is stored for use has none."""
        _set_dropout(model, plan.get("dropout", {}))
        if plan.get("settled"):
            return model
        groups = places_of(model, plan["layers"])
        for group in groups:
            if computed_by(model.get_submodule(group[0][0]), group[0][1]):
                fold(model, group)
            weight = weights_of_layer(model.get_submodule(group[0][0]))[group[0][1]]
            mask = Movement(weight) if self.by == "movement" else Mask(torch.ones_like(weight, dtype=torch.bool))
            put(model, group, mask)
        if self.ramp_steps:
            self._follow(model, [group[0] for group in groups])
        return model

    def _masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.pattern == "2:4":
            return {name: two_of_four(weight) for name, weight in weights.items()}
        now = 0.0 if self.ramp_steps else self.sparsity
        return magnitude_masks(weights, now, scope=self.scope)

    def _follow(self, model: nn.Module, places: Sequence[Place]) -> None:
        add_hook(model, Ramp(tuple(places), self.sparsity, self.scope, self.ramp_steps, self.every))

    def _told(self, model: nn.Module, place: Place, left_out: int) -> str:
        weight = getattr(model.get_submodule(place[0]), place[1])
        shape = f"({len(weight)}, {weight[0].numel()})"
        name = type(model.get_submodule(place[0])).__name__.removeprefix("Parametrized")
        named = "" if place[1] == "weight" else f" {place[1]}"
        if self.ramp_steps:
            share = f"up to {self.sparsity:.1%} of {weight.numel():,} weights in {self.ramp_steps:,} steps"
            return f"{name} {shape}{named}: {share}"
        return f"{name} {shape}{named}: {left_out:,} of {weight.numel():,} weights are 0"


@dataclass(frozen=True)
class Ramp:
    """Draws masks anew before some of a training's steps, by what the weights then are.

    places: of the weights, each tied one once.  What was left out stays so, in a later training too.
    """

    places: tuple[Place, ...]
    sparsity: float
    scope: Literal["layer", "global"]
    steps: int
    every: int

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> None:
        if step > self.steps or (step % self.every and step != self.steps):
            return
        now = ramp(step, final=self.sparsity, steps=self.steps)
        masked: dict[str, tuple[Mask, Tensor]] = {}
        for path, name in self.places:
            module = model.get_submodule(path)
            mask = computed_by(module, name)[0]
            if isinstance(mask, Movement):
                mask.sparsity.clamp_(min=now)  # a later training with this ramp begins where it ended
            elif isinstance(mask, Mask):
                masked[f"{path}.{name}"] = mask, mask(weights_of_layer(module)[name])
        if masked:
            drawn = magnitude_masks({name: weight for name, (_, weight) in masked.items()}, now, scope=self.scope)
            for name, (mask, _) in masked.items():
                mask.mask.logical_and_(drawn[name])


def add_hook(model: nn.Module, hook: Any) -> None:
    """Let a network have something done to it before each training step: `hook(model, step)`."""
    model.before_step = (*hooks_of(model), hook)  # type: ignore[assignment]


def hooks_of(model: nn.Module) -> tuple[Any, ...]:
    """Return what is done to a network before each training step."""
    found: tuple[Any, ...] = getattr(model, "before_step", ())
    return found


def skipped(model: nn.Module, select: Sequence[str], skip: Sequence[str] | None) -> Sequence[str]:
    """Return the layers that stay: those that are named, or the first and the last where nothing is named."""
    if skip is not None:
        return skip
    return first_and_last(model) if tuple(select) == ("*",) else ()


def first_and_last(model: nn.Module) -> list[str]:
    """Return the paths of the first and the last layer with weights, and of those that share these weights."""
    layers = [
        (path, module) for path, module in layers_of(model) if isinstance(module, LAYERS) and weights_of_layer(module)
    ]
    ends = {id(weight) for _, module in layers[:1] + layers[-1:] for weight in weights_of_layer(module).values()}
    return [path for path, module in layers if any(id(each) in ends for each in weights_of_layer(module).values())]


def complaint(module: nn.Module) -> str | None:
    """Return why a layer cannot be pruned; None where it can."""
    if not isinstance(module, LAYERS) or not weights_of_layer(module):
        return f"prune does not change a {type(module).__name__}"
    return "its weight is quantised or shared already; prune first" if is_rounded(module) else None


def _left_out(model: nn.Module, place: Place) -> int:
    module = model.get_submodule(place[0])
    mask = computed_by(module, place[1])[0]
    return int((~mask.mask).sum()) if isinstance(mask, Mask) else 0


def _scaled_dropout(model: nn.Module, path: str, mask: Tensor) -> dict[str, float]:
    """Return the path and new rate of the dropout that stands right before a layer in a sequence, if there is one."""
    parent, _, name = path.rpartition(".")
    sequence = model.get_submodule(parent)
    children = list(sequence.named_children())
    number = next((number for number, (own, _) in enumerate(children) if own == name), 0)
    own, before = children[number - 1] if number and isinstance(sequence, nn.Sequential) else ("", None)
    if not isinstance(before, nn.Dropout):
        return {}
    return {f"{parent}.{own}".removeprefix("."): dropout_after_pruning(before.p, int(mask.sum()), mask.numel())}


def _set_dropout(model: nn.Module, rates: Mapping[str, float]) -> None:
    for path, rate in rates.items():
        model.get_submodule(path).p = float(rate)  # type: ignore[assignment]
