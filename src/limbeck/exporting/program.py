"""torch-export: a network as a program of torch (.pt2), which torch runs without the network's code."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from limbeck.errors import ExportError, RunError, lacks_memory, one_line, silenced
from limbeck.exporting.graph import Graph, Interface, traced
from limbeck.exporting.network import ExportedNetwork

__all__ = ["PROGRAM", "read_program", "write_program"]

PROGRAM = "model.pt2"


def write_program(graph: Graph, folder: Path) -> None:
    """Trace a graph and write it, without samples and the places of its code; ExportError where torch.export cannot."""
    try:
        program = traced(graph)
    except ExportError as error:
        if any(isinstance(each, nn.RNNBase) for each in graph.function.modules()):
            raise ExportError(
                "export: found a recurrent layer over texts of any length, or over packed ones, which torch.export"
                " cannot hold; use --to onnx, or safetensors"
            ) from error
        raise
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    program.example_inputs = None  # samples
    with silenced():
        torch.export.save(program, folder / PROGRAM)


def read_program(folder: Path, interface: Interface) -> ExportedNetwork:
    """Read a program.  Reading one can run its author's code, so callers first check that the folder is trusted."""
    try:
        with silenced():
            run = torch.export.load(folder / PROGRAM).module()
    except Exception as error:
        if lacks_memory(error):
            raise
        raise RunError(f"'{folder / PROGRAM}' cannot be read ({one_line(error)}); export the model again") from error

    def call(given: Mapping[str, Tensor]) -> list[Tensor]:
        answer = run(**given) if interface.keywords else run(*given.values())
        return [answer] if isinstance(answer, Tensor) else list(answer)

    return ExportedNetwork.of(call, interface)
