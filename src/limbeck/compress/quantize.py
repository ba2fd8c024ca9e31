"""Quantisation: weights, and inputs of layers, in numbers of 16, 8 or 4 bits, at once or while the network retrains."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.gradients import first_step
from limbeck.compress.prune import LAYERS, add_hook, skipped
from limbeck.compress.quantisation import Grid, activation_range, grouped
from limbeck.compress.selection import check_globs, select_layers
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import (
    Half,
    InputGrid,
    LearnedSteps,
    Rounded,
    computed_by,
    fold,
    is_rounded,
    places_of,
    put,
    quantize_input,
    store_grid,
    store_half,
    weights_of_layer,
)
from limbeck.errors import InputError

__all__ = ["CARD", "Quantize"]

CARD = Card(
    name="quantize",
    summary="weights, and inputs of layers, in 16, 8 or 4 bits; retraining sees the rounded numbers",
    authors="Benoit Jacob, Skirmantas Kligys, Bo Chen, Menglong Zhu, Matthew Tang, Andrew Howard, Hartwig Adam,"
    " Dmitry Kalenichenko",
    year=2018,
    title="Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    source="https://arxiv.org/abs/1712.05877",
    formula="w' = s·clamp(round(w/s)), s = max|w|/(2^(b-1) - 1) of each output; gradient 1 inside the range",
)

_BITS = {"int8": 8, "int4": 4}
_GROUP_OF_INT4 = 32
_MOST_VALUES = 1 << 16
"""Of a layer's inputs in each batch that a range is chosen from."""


@checked_fields
@dataclass(frozen=True)
class Quantize(Transform):
    """Round weights, and inputs of layers, to fewer bits.

    The network goes on learning with its full weights and answers with the rounded ones, so that retraining it after
    this transform is quantisation-aware; without retraining the result is that of rounding alone.  `settled` stores the
    codes instead of the full weights; the answers stay the same, bit for bit.

    Attributes:
        to: "int8" or "int4" for a grid of whole numbers, "fp16" or "bf16" for 16-bit floating point.
        group: neighbours along the input that share a scale; 0 for one scale an output, None for that with int8 and 32
            with int4.
        activations: "none", "dynamic" (a range for each token, or sample of maps, as it comes) or "static" (a range
            from calibration samples); of linear and convolutional layers, in 8 bits.
        by: how a static range is chosen: "minmax", which follows the batches of a retraining, "percentile" or "mse",
            which stay.
        learned: whether the steps of the weights' grids are learned.
        freeze: training steps after which ranges and the statistics of BatchNorms no longer change; None for never.
        select: paths or patterns of layers.
        skip: those that stay as they are; None for the first and the last layer, where `select` is the default and `to`
            a grid.

    Raises:
        InputError: if a value is out of range, or two do not go together.

    Example:
        >>> model, log = Quantize(to="int8", skip=()).apply(nn.Sequential(nn.Linear(16, 4)))
        >>> log.changed["0"], model[0].weight[0].unique().numel() <= 255
        ('Linear (4, 16): int8', True)

    Reference:
        Jacob et al. (2018), arXiv:1712.05877; Esser et al. (2020), "Learned Step Size Quantization", arXiv:1902.08153;
        Polino et al. (2018), "Model compression via distillation and quantization", arXiv:1802.05668.
    """

    to: Literal["int8", "int4", "fp16", "bf16"] = "int8"
    group: int | None = None
    activations: Literal["none", "dynamic", "static"] = "none"
    by: Literal["minmax", "percentile", "mse"] = "minmax"
    learned: bool = False
    freeze: int | None = None
    select: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        checks.choice("to", self.to, ("int8", "int4", "fp16", "bf16"))
        checks.choice("activations", self.activations, ("none", "dynamic", "static"))
        checks.choice("by", self.by, ("minmax", "percentile", "mse"))
        if self.group is not None:
            checks.at_least("group", self.group, 0)
        if self.freeze is not None:
            checks.at_least("freeze", self.freeze, 0)
        if self.to not in _BITS and (self.group is not None or self.activations != "none" or self.learned):
            raise InputError(f"to: found {self.to}, which has no grid; leave out group, activations and learned")
        if self.by != "minmax" and self.activations != "static":
            raise InputError(f"by: found {self.by}, expected activations: static beside it")
        check_globs(self.select, self.skip or ())

    @property
    def needs_statistics(self) -> bool:
        """Whether ranges of inputs are chosen."""
        return self.activations == "static"

    @property
    def _group(self) -> int:
        if self.group is None:
            return _GROUP_OF_INT4 if self.to == "int4" else 0
        return self.group

    @property
    def _least(self) -> int:
        """Axes of a weight that is changed: a bias takes as little as it has in a grid, and 16 bits suit it too."""
        return 2 if self.to in _BITS else 1

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Round the selected layers."""
        skip = skipped(model, self.select, self.skip) if self.to in _BITS else self.skip or ()
        chosen = select_layers(model, self.select, skip, kind=self.kind, complaint=self._complaint)
        paths = list(chosen.layers)
        ranges = self._ranges(model, statistics, paths)
        for group in places_of(model, paths, self._least):
            path, name = group[0]
            weight = getattr(model.get_submodule(path), name).detach()
            computation = self._computation(weight)
            computation(weight)  # raises where a number is too large
            put(model, group, computation)
        self._watch(model, paths, ranges)
        changed = {path: self._told(chosen.layers[path]) for path in paths}
        return model, Log(changed, chosen.kept, {"layers": paths})

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Put the planned layers' weights into the form that is trained, or the one that is stored."""
        for group in places_of(model, plan["layers"], self._least):
            path, name = group[0]
            module = model.get_submodule(path)
            weight = getattr(module, name).detach()
            if not plan.get("settled"):
                put(model, group, self._computation(weight))
                continue
            if computed_by(module, name):
                fold(model, group)
            if self.to in _BITS:
                columns = weight[0].numel()
                groups = -(-columns // self._group) if self._group else 1
                codes = torch.zeros_like(weight, dtype=torch.int8)
                store_grid(model, group, Grid(codes, weight.new_ones(len(weight), groups), self._group), _BITS[self.to])
            else:
                half = weight.to(torch.float16 if self.to == "fp16" else torch.bfloat16)
                store_half(model, group, half, weight.dtype)
        self._watch(model, plan["layers"], {})
        return model

    def _computation(self, weight: Tensor) -> nn.Module:
        if self.to == "fp16" or self.to == "bf16":
            return Half(self.to)
        bits = _BITS[self.to]
        if not self.learned:
            return Rounded(bits, self._group)
        start = first_step(grouped(weight, self._group), highest=2 ** (bits - 1) - 1, each=True)
        return LearnedSteps(start, bits, self._group)

    def _watch(self, model: nn.Module, paths: list[str], ranges: Mapping[str, tuple[float, float]]) -> None:
        """Round the inputs of layers too, and fix what is fixed after some steps."""
        if self.activations != "none":
            for path in paths:
                module = model.get_submodule(path)
                if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                    low, high = ranges.get(path, (0.0, 0.0))
                    maps = not isinstance(module, nn.Linear)
                    module.input_grid = InputGrid(
                        8, dynamic=self.activations == "dynamic", maps=maps, low=low, high=high
                    )
                    module.input_grid.observing = self.by == "minmax"  # other ranges are those of the calibration
                    module.register_forward_pre_hook(quantize_input)
        if self.freeze is not None:
            add_hook(model, Freeze(self.freeze))

    def _ranges(
        self, model: nn.Module, statistics: Statistics | None, paths: list[str]
    ) -> dict[str, tuple[float, float]]:
        if statistics is None or self.activations != "static":
            return {}
        seen: dict[str, list[Tensor]] = {}

        def see(path: str, _module: nn.Module, given: Tensor) -> None:
            if given.is_floating_point():
                flat = given.detach().flatten()
                ends = torch.stack([flat.amin(), flat.amax()])  # which no sample of the values may miss
                step = max(1, -(-flat.numel() // _MOST_VALUES))
                while math.gcd(step, given.shape[-1]) > 1:  # so that it comes by every feature
                    step += 1
                seen.setdefault(path, []).extend([flat[::step], ends] if step > 1 else [flat])

        statistics.visit(model, paths, see)
        found = {path: activation_range(torch.cat(values), by=self.by) for path, values in seen.items()}
        return {path: (float(low), float(high)) for path, (low, high) in found.items()}

    def _complaint(self, module: nn.Module) -> str | None:
        able = isinstance(module, LAYERS) if self.to in _BITS else not _is_norm(module)
        if not able or not weights_of_layer(module, self._least):
            return f"quantize does not change a {type(module).__name__}"
        return "its weight is quantised or shared already" if is_rounded(module, self._least) else None

    def _told(self, module: nn.Module) -> str:
        name = type(module).__name__.removeprefix("Parametrized")
        weights = weights_of_layer(module, self._least)
        shape = " and ".join(str(tuple(each.shape)) for each in weights.values() if each.dim() > 1) or "()"
        inputs = "" if self.activations == "none" or not hasattr(module, "input_grid") else ", inputs in 8 bits"
        return f"{name} {shape}: {self.to}{inputs}"


@dataclass(frozen=True)
class Freeze:
    """Keeps ranges and the statistics of BatchNorms as they are from a step on."""

    step: int

    def __call__(self, model: nn.Module, step: int) -> None:
        for module in model.modules():
            if isinstance(module, InputGrid):
                module.observing = module.observing and step < self.step
            elif isinstance(module, _BatchNorm) and step >= self.step:
                module.eval()


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
