"""A network that was exported, asked as the network that it was exported from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.exporting.graph import INPUTS, Inputs, Interface, Port, as_named
from limbeck.outputs import Outputs

__all__ = ["ExportedNetwork", "ExportedStep", "graph_inputs"]

_MASK, _IDS = "attention_mask", "input_ids"

Call = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""From the inputs of a graph by name to its answers in their order."""


def graph_inputs(inputs: Inputs, interface: Interface) -> dict[str, Tensor]:
    """Return what a graph without a state is asked with, for inputs that its network is called with."""
    given = as_named(inputs)
    if interface.normalisation is not None:
        given = {INPUTS: interface.normalisation.raw(given[INPUTS])}
    return _taken(given, interface.inputs)


def _taken(given: Mapping[str, Tensor], ports: Sequence[Port]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for port in ports:
        each = given.get(port.name)
        if each is None and port.name.endswith(_MASK):  # which may be left out where all tokens are real
            ids = given.get(port.name.removesuffix(_MASK) + _IDS)
            each = None if ids is None else torch.ones_like(ids)
        if each is None:
            raise ModelError(f"export: found no input '{port.name}'; expected it, as the exported file takes it")
        found[port.name] = each.to(getattr(torch, port.dtype))
    return found


class ExportedNetwork(nn.Module):
    """A graph in a file, called as the network that it was exported from: normalised inputs, or keywords, to logits."""

    def __init__(self, call: Call, interface: Interface) -> None:
        super().__init__()
        self.call, self.interface = call, interface

    @classmethod
    def of(cls, call: Call, interface: Interface) -> "ExportedNetwork":
        """Return what calls a graph, which may be one step."""
        return (ExportedStep if interface.states else cls)(call, interface)

    def forward(self, inputs: Inputs | None = None, /, **keywords: Tensor) -> Any:
        """Return logits (N, ...)."""
        return self.call(graph_inputs(keywords if inputs is None else inputs, self.interface))[0]


class ExportedStep(ExportedNetwork):
    """A graph that is one step: it is called for each place in turn, and takes and answers a state."""

    state_axis: ClassVar[int] = 1

    def __init__(self, call: Call, interface: Interface) -> None:
        super().__init__(call, interface)
        self.state_axis = interface.state_axis  # type: ignore[misc]

    def forward(self, inputs: Inputs | None = None, /, state: Any = None, **keywords: Tensor) -> Outputs:
        """Return `Outputs` with logits (N, L, V) and the state after the last place."""
        return self._stepped(as_named(keywords if inputs is None else inputs), state)

    def _stepped(self, given: Mapping[str, Tensor], state: Any) -> Outputs:
        ports = self.interface.inputs
        own, states = ports[: -self.interface.states], ports[-self.interface.states :]
        taken = _taken(given, own)
        first = next(iter(taken.values()))
        if state is None:
            sizes = [[len(first) if isinstance(size, str) else size for size in port.shape] for port in states]
            state = tuple(torch.zeros(size) for size in sizes)
        answers: list[Tensor] = []
        for place in range(first.shape[1]):
            one = {name: each[:, place : place + 1].contiguous() for name, each in taken.items()}
            carried = dict(zip((port.name for port in states), state, strict=True))
            logits, *after = self.call({**one, **carried})
            answers.append(logits)
            state = tuple(after)
        return Outputs(torch.cat(answers, 1), state=state)
