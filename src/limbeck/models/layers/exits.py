"""A network that can answer early: exits at modules that are named, each with a classifier of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, ModelError
from limbeck.evaluation.cost import flop_counter
from limbeck.networks import evaluating
from limbeck.outputs import Outputs, Tap, canonical_path, run_model

__all__ = ["DEEPEST", "ExitOf", "WithExits"]

DEEPEST = "deepest"
"""The feature that the last linear layer reads, and what the exits' features are compared with."""


class Exit(nn.Module):
    """Average a feature over its places, bring it to the width of the deepest one, and classify it."""

    def __init__(self, width: int, deepest: int, classes: int) -> None:
        super().__init__()
        self.adapter = nn.Sequential(nn.Linear(width, deepest), nn.ReLU())
        self.classifier = nn.Linear(deepest, classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adapted feature (N, deepest) and the logits (N, classes)."""
        vector = self.adapter(_averaged(feature))
        return vector, self.classifier(vector)


class WithExits(nn.Module):
    """A network with exits at some of its modules.

    It answers `Outputs` with the network's own logits, each exit's logits under `heads` and each exit's feature, and
    the deepest one, (N, d) under `features`.

    base: whose last linear layer with `classes` outputs reads the deepest feature.
    exits: name of each exit -> path of the module it reads, in the order in which the base calls them.
    inputs: an example, (n, ...), from which the widths are read.
    Raises ModelError for a path that is none, and for a module that is never called.

    >>> base = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    >>> outputs = WithExits(base, {"early": "1"}, torch.zeros(2, 3), classes=4)(torch.zeros(5, 3))
    >>> outputs.logits.shape, outputs.heads["early"].shape, outputs.features["early"].shape
    (torch.Size([5, 4]), torch.Size([5, 4]), torch.Size([5, 6]))
    """

    def __init__(self, base: nn.Module, exits: Mapping[str, str], inputs: Any, classes: int) -> None:
        super().__init__()
        self.base = base
        self.paths = dict(exits)
        self._taps: dict[str, str | Tap] = {**exits, DEEPEST: Tap(_last_linear(base, classes), side="input")}
        with evaluating(base), torch.no_grad():
            found = run_model(base, inputs, self._taps).features
        deepest = _averaged(found[DEEPEST]).shape[1]
        self.exits = nn.ModuleDict(
            {name: Exit(_averaged(found[name]).shape[1], deepest, classes) for name in self.paths}
        )

    def forward(self, *inputs: Any, **named: Any) -> Outputs:
        """Return the outputs of the base and of all exits."""
        answer = run_model(self.base, named or inputs[0], self._taps)
        heads, features = {}, {DEEPEST: _averaged(answer.features[DEEPEST])}
        for name, leave in self.exits.items():
            features[name], heads[name] = leave(answer.features[name])
        return Outputs(answer.logits, features, heads, answer.state)

    def forward_flops(self, inputs: Any) -> list[int]:
        """Return the FLOPs up to each exit, those of the exits before it included, and of the whole; at batch 1."""
        counts, heads = [], 0
        with evaluating(self), torch.no_grad():
            features = run_model(self.base, inputs, self._taps).features
            for name, leave in self.exits.items():
                with flop_counter() as counter:
                    leave(features[name])
                heads += counter.get_total_flops()
                counts.append(self._until(name, inputs) + heads)
            with flop_counter() as counter:
                run_model(self.base, inputs)
            counts.append(counter.get_total_flops() + heads)
        return counts

    def _until(self, name: str, inputs: Any) -> int:
        """Return the FLOPs of the base until the module of an exit has answered."""

        def reached(*_: Any) -> None:
            raise _Reached

        modules = {canonical_path(path): module for path, module in self.base.named_modules()}
        handle = modules[canonical_path(self.paths[name])].register_forward_hook(reached)
        counter = flop_counter()
        try:
            with counter:
                run_model(self.base, inputs)
        except _Reached:
            return int(counter.get_total_flops())
        finally:
            handle.remove()
        raise ModelError(f"exits: module '{self.paths[name]}' was not called in the forward pass; name another")


class _Reached(LimbeckError):
    """The module of an exit has answered."""


class ExitOf(nn.Module):
    """One exit of a network as a network of its own."""

    def __init__(self, network: WithExits, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the exit's logits."""
        logits: Tensor = self.network(*inputs, **named).heads[self.name]
        return logits


def _averaged(feature: Tensor) -> Tensor:
    """Return a feature (N, C), (N, C, H, W) or (N, L, C) as (N, C)."""
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature.flatten(1)


def _last_linear(model: nn.Module, classes: int) -> str:
    linear: dict[str, int] = {
        path: module.out_features for path, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    own = [path for path, outputs in linear.items() if outputs == classes]
    if not own:
        raise ModelError(
            f"exits: the network has no linear layer with {classes} outputs, whose input would be the deepest feature; "
            "give it one"
        )
    return own[-1]
