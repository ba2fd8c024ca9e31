"""Weights that share few values: each layer's weights become codes of the centroids that k-means finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.clusters import kmeans
from limbeck.compress.prune import LAYERS, skipped
from limbeck.compress.selection import check_globs, select_layers
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import (
    Shared,
    is_rounded,
    named,
    places_of,
    put,
    replace,
    store_codes,
    weights_of_layer,
)
from limbeck.errors import InputError

__all__ = ["CARD", "Codes"]

CARD = Card(
    name="codes",
    summary="the weights of each layer share few values, which retraining adjusts; stored as codes",
    authors="Song Han, Huizi Mao, William J. Dally",
    year=2016,
    title="Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding",
    source="https://arxiv.org/abs/1510.00149",
    formula="w_i = C_k, k the code of weight i; ∂L/∂C_k = Σ over code k of ∂L/∂w_i",
)


@checked_fields
@dataclass(frozen=True)
class Codes(Transform):
    """Let the weights of a layer that are not 0 share 2^b values.

    The values are the centroids of k-means from a linear start.  Retraining changes the centroids alone (and biases and
    norms); the weights that were pruned stay 0.

    Attributes:
        bits: b, from 1 to 8.
        select: paths or patterns of layers.
        skip: those that stay as they are; none by default.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> model, log = Codes(bits=2).apply(nn.Sequential(nn.Linear(16, 16)))
        >>> log.changed["0"], model[0].weight.unique().numel()
        ('Linear (16, 16): 256 weights share 4 values', 4)

    Reference:
        Han et al. (2016), "Deep Compression", arXiv:1510.00149.
    """

    bits: int = 6
    select: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.at_least("bits", self.bits, 1, at_most=8)
        check_globs(self.select, self.skip)

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Share the values of the selected layers."""
        chosen = select_layers(
            model, self.select, skipped(model, self.select, self.skip), kind=self.kind, complaint=_complaint
        )
        changed: dict[str, str] = {}
        for group in places_of(model, list(chosen.layers)):
            path, name = group[0]
            module = model.get_submodule(path)
            weight = getattr(module, name).detach()
            mask = weight != 0
            if not bool(mask.any()):
                raise InputError(f"codes: found only zeros in '{path}', expected weights; skip it")
            found = kmeans(weight[mask], self.bits)
            codes = torch.zeros_like(weight, dtype=torch.int64)
            codes[mask] = found.codes
            replace(model, group, nn.Parameter(found.centroids))
            put(model, group, Shared(codes, mask, self.bits))
            kind = type(module).__name__.removeprefix("Parametrized")
            line = f"{kind} {tuple(weight.shape)}: {int(mask.sum()):,} weights share {len(found.centroids)} values"
            changed[path] = ", ".join(filter(None, [changed.get(path), line]))
        return model, Log(changed, chosen.kept, {"layers": list(chosen.layers)})

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Put tables of centroids into the planned layers."""
        for group in places_of(model, plan["layers"]):
            path, name = group[0]
            weight = getattr(model.get_submodule(path), name).detach()
            centroids = weight.new_zeros(2**self.bits)
            if plan.get("settled"):
                size = plan["streams"][named(group[0])]
                stream = torch.zeros(size, dtype=torch.uint8)
                store_codes(model, group, stream, tuple(weight.shape), centroids)
                continue
            replace(model, group, nn.Parameter(centroids))
            put(
                model,
                group,
                Shared(torch.zeros_like(weight, dtype=torch.int64), torch.ones_like(weight) > 0, self.bits),
            )
        return model


def _complaint(module: nn.Module) -> str | None:
    if not isinstance(module, LAYERS) or not weights_of_layer(module):
        return f"codes does not change a {type(module).__name__}"
    return "its weight is quantised or shared already" if is_rounded(module) else None
