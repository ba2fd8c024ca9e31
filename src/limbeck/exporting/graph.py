"""A network as a function of named tensors, which is what exporters take, and what its inputs and answers are."""

from collections.abc import Callable, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import asdict, dataclass
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from limbeck.carry import state_axis
from limbeck.compress.weights import computed_by, fold, layers_of, places_of, weights_of_layer
from limbeck.errors import ExportError, LimbeckError, lacks_memory, one_line, silenced
from limbeck.exporting.lengths import DECODER_LENGTH, axes_of, of_lengths
from limbeck.models.layers import merged
from limbeck.outputs import run_model

__all__ = [
    "INPUTS",
    "LOGITS",
    "Graph",
    "Inputs",
    "Interface",
    "Normalisation",
    "Port",
    "graph_of",
    "plain",
    "traced",
]

INPUTS, LOGITS = "inputs", "logits"
BATCH = "batch"
SIZES = ("height", "width")
_MASK = "attention_mask"

Inputs = Tensor | Mapping[str, Tensor]
"""What a network is called with: one tensor (N, ...), or several by the names of its keywords."""


@dataclass(frozen=True)
class Port:
    """An input or an answer of a graph: its name, its type, and its shape, in which free axes have names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Normalisation:
    """What a graph does with raw inputs first: pixels (uint8) are divided by 255; then (x - mean) / std by channel."""

    dtype: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def pixels(self) -> bool:
        """Whether the raw inputs are pixels."""
        return self.dtype == "uint8"

    def numbers(self, dims: int) -> tuple[Tensor, Tensor]:
        """Return mean and std shaped for inputs (N, C, ...) of so many axes."""
        shape = (-1, *[1] * (dims - 2))
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        return torch.tensor(mean).view(shape), torch.tensor(std).view(shape)

    def raw(self, inputs: Tensor) -> Tensor:
        """Return the raw inputs of normalised ones; pixels exactly, other numbers to rounding."""
        mean, std = self.numbers(inputs.dim())
        found = inputs * std + mean
        return (found * 255).round().clamp(0, 255).to(torch.uint8) if self.pixels else found


@dataclass(frozen=True)
class Interface:
    """What a graph takes and answers.

    mapping: whether the network is called with keywords.  states: how many of the last inputs, and of the last answers,
    are recurrent state; the graph is then one step.  state_axis: the batch axis of these.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    mapping: bool
    states: int = 0
    state_axis: int = 1
    normalisation: Normalisation | None = None

    @property
    def keywords(self) -> bool:
        """Whether the graph is called with keywords: where it has several inputs, or the network has."""
        return self.mapping or self.states > 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Interface":
        """Read what `as_dict` gave; KeyError, TypeError or ValueError where it is damaged."""

        def ports(listed: Any) -> tuple[Port, ...]:
            return tuple(Port(str(each["name"]), str(each["dtype"]), tuple(each["shape"])) for each in listed)

        scale = found["normalisation"]
        if scale is not None:
            mean, std = (None if scale[name] is None else tuple(map(float, scale[name])) for name in ("mean", "std"))
            scale = Normalisation(str(scale["dtype"]), mean, std)
        return cls(
            ports(found["inputs"]),
            ports(found["outputs"]),
            bool(found["mapping"]),
            int(found["states"]),
            int(found["state_axis"]),
            scale,
        )


@dataclass(frozen=True)
class Graph:
    """A function of tensors, an example of its inputs by name, and its interface."""

    function: nn.Module
    example: dict[str, Tensor]
    interface: Interface


class _Function(nn.Module):
    """Answers the logits (float32) of a network alone, from inputs that are named as the network's keywords."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, names: Sequence[str], *, mapping: bool, truths: Set[str]) -> None:
        super().__init__()
        self.network, self.mapping, self.truths = network, mapping, truths
        self.scaled = self.pixels = False
        self.nesting: Any = None

        def forward(*values: Tensor, **keywords: Tensor) -> Any:
            return self._answer({**dict(zip(names, values, strict=False)), **keywords})

        kind = Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = Signature([Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        self.forward = forward  # with a signature of its own, from which exporters have the names of the inputs

    def scale(self, normalisation: Normalisation, dims: int) -> None:
        """Scale and normalise raw inputs (N, C, ...) of so many axes first."""
        mean, std = normalisation.numbers(dims)
        self.scaled, self.pixels = True, normalisation.pixels
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def step(self, nesting: Any) -> None:
        """Take the parts of a state as the last inputs, and answer those of the next one too."""
        self.nesting = nesting

    def _answer(self, named: dict[str, Tensor]) -> Any:
        named = {name: each.bool() if name in self.truths else each for name, each in named.items()}
        if self.nesting is not None:
            names = list(named)[: len(named) - self.nesting.num_leaves]
            state = tree_unflatten([each for name, each in named.items() if name not in names], self.nesting)
            given = {name: named[name] for name in names}
            answer = run_model(self.network, given if self.mapping else given[INPUTS], state=state)
            return answer.logits.float(), *tree_flatten(answer.state)[0]
        if self.mapping:
            return run_model(self.network, named).logits.float()
        values = named[INPUTS]
        if self.pixels:
            values = values.to(torch.float32) / 255
        if self.scaled:
            values = (values - self.mean) / self.std
        return run_model(self.network, values).logits.float()


def plain(model: nn.Module, *, float32: bool = True) -> nn.Module:
    """Return a copy of a network for exporters: on the CPU, in eval mode, in float32, each weight a contiguous tensor.

    Adapters are merged, and masked, rounded or shared weights are what they are computed to be.  Tied ones stay tied.
    """
    copied = deepcopy(merged(model)).to("cpu").eval().requires_grad_(False)
    with torch.no_grad():
        paths = [path for path, module in layers_of(copied) if weights_of_layer(module, 1)]
        for group in places_of(copied, paths, 1):
            path, name = group[0]
            if computed_by(copied.get_submodule(path), name):
                fold(copied, group).requires_grad_(False)
        if float32:
            copied.float()
        for tensor in (*copied.parameters(), *copied.buffers()):
            if not tensor.is_contiguous():
                tensor.data = tensor.data.contiguous()
    return copied


def as_named(inputs: Inputs) -> dict[str, Tensor]:
    """Return inputs by name, as a graph takes them: masks as int64."""
    named = dict(inputs) if isinstance(inputs, Mapping) else {INPUTS: inputs}
    return {name: (each.long() if each.dtype == torch.bool else each).contiguous() for name, each in named.items()}


def graph_of(
    model: nn.Module, inputs: Inputs, normalisation: Normalisation | None = None, resized: Tensor | None = None
) -> Graph:
    """Return a network as a graph.

    inputs: a few samples.  normalisation: of raw inputs, where the graph does it; None where its inputs are normalised.
    resized: images (N, C, H', W') of another size than the inputs' where the sizes are free axes of the graph too.
    A network that answers with a recurrent state becomes one step: length 1, state in and out.
    """
    network, mapping, named = plain(model), isinstance(inputs, Mapping), as_named(inputs)
    keywords = inputs if isinstance(inputs, Mapping) else {}
    truths = {name for name, each in keywords.items() if each.dtype == torch.bool}
    for name in named:
        if name == LOGITS or not name.isidentifier():
            raise ExportError(f"export: found an input named '{name}'; expected a keyword, and not that of the answer")
    with torch.no_grad():
        outputs = run_model(network, inputs)
        state, nesting = tree_flatten(outputs.state)
        if outputs.state is None or not state:
            if normalisation is not None and (mapping or not named[INPUTS].is_floating_point()):
                raise ExportError(
                    "with: found normalisation for inputs that are whole numbers; expected pixels or numbers. Leave it"
                    " out"
                )
            function = _Function(network, list(named), mapping=mapping, truths=truths)
            if normalisation is not None:
                function.scale(normalisation, named[INPUTS].dim())
                named = {INPUTS: normalisation.raw(named[INPUTS])}
            free = {} if resized is None else dict(zip((2, 3), SIZES, strict=True))
            axes = {} if normalisation is not None else _lengths(network, named, lambda each: _handed(each, inputs))
            ports = tuple(
                _port(name, each, {0: BATCH, **({1: axes[name]} if name in axes else {}), **free})
                for name, each in named.items()
            )
            along = _length_of_answer(outputs.logits, named, axes)
            if resized is not None:
                along = _sizes_of_answer(outputs.logits, run_model(network, resized).logits, named[INPUTS], resized)
            answer = _port(LOGITS, outputs.logits.float(), {0: BATCH, **along})
            return Graph(function, named, Interface(ports, (answer,), mapping, normalisation=normalisation))
        axis, count = state_axis(network), len(next(iter(named.values())))
        flat = next((name for name, each in named.items() if each.dim() < 2), None)
        if flat is not None:
            raise ExportError(
                f"export: found '{flat}' of shape {tuple(named[flat].shape)} beside a recurrent state, which makes the"
                " graph one step; expected (N, L). Answer the logits alone, or use safetensors"
            )
        first = {name: each[:, :1].contiguous() for name, each in named.items() if name != _MASK}
        before = {f"state_{number}": torch.zeros_like(each) for number, each in enumerate(state)}
        for name, each in before.items():
            if each.dim() <= axis or each.shape[axis] != count:
                raise ExportError(
                    f"export: found a second answer with {name} of shape {tuple(each.shape)}, which is read as a"
                    f" recurrent state; expected a row a sample on axis {axis}. Answer the logits alone if it is none"
                )
        step = _Function(network, [*first, *before], mapping=mapping, truths=truths)
        step.step(nesting)
        logits, *after = step(**first, **before)
    ports = tuple(_port(name, each, {0: BATCH}) for name, each in first.items())
    states = tuple(_port(name, each, {axis: BATCH}) for name, each in before.items())
    nexts = tuple(_port(f"next_{name}", each, {axis: BATCH}) for name, each in zip(before, after, strict=True))
    given = Interface((*ports, *states), (_port(LOGITS, logits, {0: BATCH}), *nexts), mapping, len(states), axis)
    return Graph(step, {**first, **before}, given)


def _handed(named: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
    """Return named inputs as the network is called with them, and with the types of its own inputs."""
    if isinstance(inputs, Tensor):
        return named[INPUTS].to(inputs.dtype)
    return {name: each.to(inputs[name].dtype) for name, each in named.items()}


def _port(name: str, tensor: Tensor, free: Mapping[int, str]) -> Port:
    shape = tuple(free.get(axis, size) for axis, size in enumerate(tensor.shape))
    return Port(name, str(tensor.dtype).removeprefix("torch."), shape)


def _lengths(
    network: nn.Module, named: Mapping[str, Tensor], given: Callable[[Mapping[str, Tensor]], Any]
) -> dict[str, str]:
    """Return the axes of inputs that are lengths of texts, if the network answers any other length."""
    axes = axes_of(named)
    for more in (1, -1) if axes else ():
        try:
            run_model(network, given(of_lengths(named, axes, more)))
        except LimbeckError:
            continue
        return axes
    return {}


def _length_of_answer(logits: Tensor, inputs: Mapping[str, Tensor], axes: Mapping[str, str]) -> dict[int, str]:
    """Return the axis of an answer for each token that is as long as the tokens: those of a decoder, if it has any."""
    names = [name for name, axis in axes.items() if axis == DECODER_LENGTH] or list(axes)
    found = {inputs[name].shape[1]: axes[name] for name in reversed(names)}
    length = found.get(logits.shape[1]) if logits.dim() == 3 else None
    return {} if length is None else {1: length}


def _sizes_of_answer(logits: Tensor, others: Tensor, images: Tensor, resized: Tensor) -> dict[int, str]:
    """Return the axes of an answer that follow the sizes of images, as two sizes show."""
    sizes = [(images.shape[axis], resized.shape[axis], name) for axis, name in zip((2, 3), SIZES, strict=True)]
    free: dict[int, str] = {}
    for axis, (size, other) in enumerate(zip(logits.shape, others.shape, strict=True)):
        if axis and size != other:
            likely = [name for *both, name in sizes if both == [size, other] and name not in free.values()]
            free[axis] = likely[0] if likely else f"size_{axis}"
    return free


def traced(graph: Graph) -> torch.export.ExportedProgram:
    """Return a graph as torch.export traces it, with free axes that are really free; ExportError where they are not."""
    free = torch.export.Dim.DYNAMIC
    shapes = {
        port.name: {axis: free for axis, size in enumerate(port.shape) if isinstance(size, str)}
        for port in graph.interface.inputs
    }
    args, keywords = ((), graph.example) if graph.interface.keywords else (tuple(graph.example.values()), {})
    try:
        with torch.no_grad(), silenced():
            return torch.export.export(graph.function, args, keywords, dynamic_shapes=shapes, strict=False)
    except ExportError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        if "DataDependent" in str(error):
            raise ExportError(
                "export: found a forward that decides by the values of its inputs, as `if mask.all()` or"
                " lengths.tolist() do; expected one that a graph can hold. Use safetensors"
            ) from error
        if "specialized it to be a constant" in str(error):
            raise ExportError(
                "export: found a forward that fixes the number of samples or tokens, or the size of images, as len(x),"
                " int(x.shape[0]) or a loop over a length do; expected x.shape[0] or x.size(1). Change it,"
                " or use safetensors"
            ) from error
        raise ExportError(
            f"export: torch.export cannot trace the network ({one_line(error)}); use safetensors"
        ) from error
