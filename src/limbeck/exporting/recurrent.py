"""Recurrent layers in graphs of ONNX: one operation each, over any length, with padding and packed sequences.

torch.export unrolls an `nn.LSTM` over the one length that it sees.  ONNX has these layers as operations; for it they
are traced as operations of limbeck's own, which exist in graphs alone, and written as those of ONNX.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from limbeck.errors import ExportError

__all__ = ["fold_recurrent", "graphs_of", "has_recurrent", "recurrent_operations", "translations"]

_LSTM = "LSTM"
_ORDERS = {_LSTM: (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}
"""The gates of each kind in the order of ONNX, by their numbers in that of torch."""

_OPERATIONS = ("LSTM", "GRU", "RNN")  # of ONNX
_CELLS: tuple[Any, ...] = (nn.LSTM, nn.GRU, nn.RNN)
_INPUTS = "Tensor inputs, Tensor weight, Tensor recurrence, Tensor bias, Tensor hidden"
torch.library.define("limbeck::lstm", f"({_INPUTS}, Tensor cell, Tensor? lengths) -> (Tensor, Tensor, Tensor)")
torch.library.define("limbeck::gated", f"({_INPUTS}, Tensor? lengths, str kind) -> (Tensor, Tensor)")


def _answers(inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
    """Return outputs (L, directions, N, H) and states (directions, N, H) without values, for inputs (L, N, D)."""
    return inputs.new_empty(inputs.shape[0], *states[0].shape), *map(torch.empty_like, states)


torch.library.register_fake("limbeck::lstm", lambda x, w, r, b, hidden, cell, lengths: _answers(x, hidden, cell))
torch.library.register_fake("limbeck::gated", lambda x, w, r, b, hidden, lengths, kind: _answers(x, hidden))


@contextmanager
def recurrent_operations() -> Iterator[None]:
    """Let `nn.LSTM`, `nn.GRU`, `nn.RNN` and packed sequences be traced as operations for the scope, in this thread."""
    before = [cell.forward for cell in _CELLS]
    packing, own = _Packing(), threading.get_ident()

    def over(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(layer: Any, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's own name
            if threading.get_ident() != own or (isinstance(input, Tensor) and input.dim() != 3):
                return original(layer, input, hx)
            if layer.proj_size:
                raise ExportError("export: found an LSTM with proj_size, which ONNX has not; expected one without")
            return _answer(layer, input, hx, packing)

        return forward

    try:
        for cell in _CELLS:
            cell.forward = over(cell.forward)
        with packing:
            yield
    finally:
        for cell, forward in zip(_CELLS, before, strict=True):
            cell.forward = forward


class _Packing(TorchFunctionMode):
    """Keeps packed sequences padded, (L, N, D), and their lengths beside them.

    Their outputs are padded to L in any case, so also where no sequence is as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def lengths(self, sizes: Tensor) -> Tensor:
        if id(sizes) not in self._kept:
            raise ExportError(
                "export: found a packed sequence that was made of parts of another; expected what pack_padded_sequence"
                " returns"
            )
        return self._kept[id(sizes)][1]

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")  # functions of torch that have no public name
        if name == "_pack_padded_sequence":
            inputs, lengths, batch_first = args
            data = inputs.transpose(0, 1) if batch_first else inputs
            sizes = lengths.new_zeros(data.shape[0])  # in the place of the batch sizes, as many as places
            self._kept[id(sizes)] = (sizes, lengths)
            return data, sizes
        if name == "_pad_packed_sequence":
            data, sizes, batch_first, value, total = args
            lengths = self.lengths(sizes)
            seen = torch.arange(data.shape[0], device=data.device)[:, None] < lengths[None]
            padded = torch.where(seen[..., None], data, value)
            if not isinstance(total, int) or total > 0:  # -1 where it was not asked for
                padded = nn.functional.pad(padded, (0, 0, 0, 0, 0, total - data.shape[0]), value=value)
            return (padded.transpose(0, 1) if batch_first else padded), lengths
        return function(*args, **(keywords or {}))


def _answer(layer: Any, inputs: Any, hx: Any, packing: _Packing) -> Any:
    """Answer as a layer does, with an operation for each of its depths."""
    packed = isinstance(inputs, PackedSequence)
    lengths = packing.lengths(inputs.batch_sizes).to(torch.int32) if packed else None
    data = inputs.data if packed else inputs.transpose(0, 1) if layer.batch_first else inputs
    directions = 1 + layer.bidirectional
    if hx is None:
        zeros = data.new_zeros(layer.num_layers * directions, data.shape[1], layer.hidden_size)
        given: tuple[Tensor, ...] = (zeros, zeros) if layer.mode == _LSTM else (zeros,)
    else:
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        if packed and inputs.sorted_indices is not None:
            given = tuple(each.index_select(1, inputs.sorted_indices) for each in given)
    ends = []
    for depth in range(layer.num_layers):
        states = [each[depth * directions : (depth + 1) * directions] for each in given]
        weights = [_weights(layer, name, depth) for name in ("weight_ih", "weight_hh", "bias")]
        if layer.mode == _LSTM:
            outputs, *end = torch.ops.limbeck.lstm(data, *weights, *states, lengths)
        else:
            outputs, *end = torch.ops.limbeck.gated(data, *weights, *states, lengths, layer.mode)
        data = outputs.transpose(1, 2).flatten(2)  # (L, N, directions * H)
        ends.append(end)
    after = tuple(torch.cat(each) for each in zip(*ends, strict=True))
    if packed and inputs.unsorted_indices is not None:
        after = tuple(each.index_select(1, inputs.unsorted_indices) for each in after)
    if packed:
        data = PackedSequence(data, inputs.batch_sizes, inputs.sorted_indices, inputs.unsorted_indices)
    elif layer.batch_first:
        data = data.transpose(0, 1)
    return data, after if layer.mode == _LSTM else after[0]


def _weights(layer: Any, name: str, depth: int) -> Tensor:
    """Return weights (directions, gates * H, ...) of a depth, or both biases (directions, 2 * gates * H)."""
    order, found = _ORDERS[layer.mode], []
    for suffix in ("", "_reverse")[: 1 + layer.bidirectional]:
        parts = [name] if name != "bias" else ["bias_ih", "bias_hh"]
        if name == "bias" and not layer.bias:
            found.append(layer.weight_hh_l0.new_zeros(2 * len(order) * layer.hidden_size))
            continue
        gates = [getattr(layer, f"{part}_l{depth}{suffix}").chunk(len(order)) for part in parts]
        found.append(torch.cat([each[number] for each in gates for number in order]))
    return torch.stack(found)


def translations() -> dict[Any, Callable[..., Any]]:
    """Return how the exporter writes each operation: as that of ONNX."""
    from onnxscript import opset18

    def settings(hidden: Any) -> dict[str, Any]:
        directions, _, size = hidden.shape
        return {"hidden_size": int(size), "direction": "bidirectional" if directions == 2 else "forward"}

    def lstm(inputs: Any, weight: Any, recurrence: Any, bias: Any, hidden: Any, cell: Any, lengths: Any = None) -> Any:
        return opset18.LSTM(inputs, weight, recurrence, bias, lengths, hidden, cell, **settings(hidden))

    def gated(
        inputs: Any, weight: Any, recurrence: Any, bias: Any, hidden: Any, lengths: Any = None, kind: str = "GRU"
    ) -> Any:
        given = (inputs, weight, recurrence, bias, lengths, hidden)
        if kind == "GRU":
            return opset18.GRU(*given, linear_before_reset=1, **settings(hidden))
        activation = kind.removeprefix("RNN_").capitalize()
        return opset18.RNN(*given, activations=[activation] * int(hidden.shape[0]), **settings(hidden))

    return {torch.ops.limbeck.lstm.default: lstm, torch.ops.limbeck.gated.default: gated}


def has_recurrent(model: Any) -> bool:
    """Return whether a file has a recurrent layer."""
    return any(node.op_type in _OPERATIONS for node in model.graph.node)


def fold_recurrent(model: Any) -> None:
    """Compute what a file's recurrent layers make of their weights alone, so that these lie in it as they are used."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph, made = model.graph, {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: each for each in graph.initializer}
    wanted = {name for node in graph.node if node.op_type in _OPERATIONS for name in node.input[1:4] if name}
    if not wanted:
        return
    for name in sorted(wanted & set(made)):
        nodes, used = _behind(name, made, constants)
        if nodes is None:
            continue
        answer = onnx.ValueInfoProto(name=name)
        part = onnx.helper.make_graph(nodes, "weights", [], [answer], [constants[each] for each in used])
        (value,) = ReferenceEvaluator(
            onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        ).run(None, {})
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        made[name].output[list(made[name].output).index(name)] = f"{name}.unused"
    _without_unused(graph)


def _behind(name: str, made: Mapping[str, Any], constants: Mapping[str, Any]) -> tuple[list[Any] | None, set[str]]:
    """Return the nodes that make a value, in their order, and the constants that they use; None if others are used."""
    nodes: list[Any] = []
    used: set[str] = set()

    def visit(each: str) -> bool:
        if each in constants or not each:
            used.update({each} - {""})
            return True
        if each not in made or not all(visit(before) for before in made[each].input):
            return False
        if made[each] not in nodes:
            nodes.append(made[each])
        return True

    return (nodes if visit(name) else None), used


def graphs_of(graph: Any) -> Iterator[Any]:
    """Yield a graph and those inside of its nodes, as loops and branches have them."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for part in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(part)


def _without_unused(graph: Any) -> None:
    """Leave out nodes and constants that nothing uses."""
    while True:
        used = {name for part in graphs_of(graph) for node in part.node for name in node.input}
        used |= {each.name for part in graphs_of(graph) for each in part.output}
        used -= {""}  # of inputs that are left out
        idle = [node for node in graph.node if not used & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for each in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(each)
