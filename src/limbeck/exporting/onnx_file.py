"""ONNX: a network as a graph of standard operations, which ONNX Runtime and others run without torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ExportError, ModelError, RunError, lacks_memory, one_line, silenced
from limbeck.exporting.graph import Graph, Interface, traced
from limbeck.exporting.network import ExportedNetwork
from limbeck.exporting.recurrent import fold_recurrent, graphs_of, has_recurrent, recurrent_operations, translations

__all__ = ["DATA", "ONE_FILE", "ONNX", "check_onnx", "opsets", "read_onnx", "write_onnx"]

ONNX = "model.onnx"
DATA = "model.onnx.data"
ONE_FILE = 2**30  # bytes of weights above which they lie in a second file, since protobuf ends at 2 GiB
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_onnx() -> None:
    """Require the packages that write and run ONNX; ModelError in one line where one is not installed."""
    import importlib

    for name in _PACKAGES:
        try:
            with silenced():
                importlib.import_module(name)
        except ImportError:
            raise ModelError(f"onnx needs the package {name}; pip install 'limbeck[export]'") from None


def write_onnx(graph: Graph, folder: Path, metadata: Mapping[str, Any]) -> Interface:
    """Write a graph, checked by ONNX's own checker; return its interface with the names that its free axes have.

    metadata: plain values that are put into the file.  ExportError where the exporter or the checker refuses it.
    """
    check_onnx()
    import onnx

    path = folder / ONNX
    with recurrent_operations():
        program = traced(graph)
    inputs, outputs = ([port.name for port in ports] for ports in (graph.interface.inputs, graph.interface.outputs))
    large = sum(each.nbytes for each in program.state_dict.values()) >= ONE_FILE
    try:
        with silenced():
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                custom_translation_table=translations(),
                verbose=False,
            )
            if made is None:
                raise ExportError("export: the ONNX exporter gave nothing; use --to torch-export")
            made.save(path, external_data=large)
            model = onnx.load(path, load_external_data=False)
            interface = _name_axes(model, graph.interface)
            beside = large and not has_recurrent(model)  # weights that stay where they are
            if not beside:
                onnx.load_external_data_for_model(model, str(folder))
                fold_recurrent(model)
            _without_places(model.graph)
            for name, value in metadata.items():
                entry = model.metadata_props.add()
                entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
            if beside:
                path.write_bytes(model.SerializeToString())
            else:
                (folder / DATA).unlink(missing_ok=True)
                onnx.save_model(model, str(path), save_as_external_data=large, location=DATA)
            onnx.checker.check_model(str(path), full_check=True)
    except ExportError:
        raise
    except Exception as error:
        reason = error
        while isinstance(reason.__cause__, Exception):  # the first of them names what went wrong; the last, the step
            reason = reason.__cause__
        if lacks_memory(reason):
            raise reason from None
        raise ExportError(
            f"export: the network cannot be written as ONNX ({one_line(reason)}); use --to torch-export or safetensors"
        ) from error
    return interface


def opsets(folder: Path) -> dict[str, int]:
    """Return the version of each set of operations that a file uses."""
    import onnx

    model = onnx.load(folder / ONNX, load_external_data=False)
    return {each.domain or "ai.onnx": each.version for each in model.opset_import}


def _without_places(graph: Any) -> None:
    """Leave out what the exporter notes of each node's code: the paths of a machine, and most of a small file."""
    for part in graphs_of(graph):
        for each in (part, *part.node, *part.input, *part.output, *part.value_info, *part.initializer):
            del each.metadata_props[:]
            each.doc_string = ""


def _name_axes(model: Any, interface: Interface) -> Interface:
    """Give the free axes their names in place of the exporter's, and require them to be free.

    ONNX Runtime takes axes of one name to have one size, so that a second size gets a name of its own.
    """
    names: dict[str, str] = {}
    for port, value in zip(interface.inputs, model.graph.input, strict=True):
        for axis, dimension in zip(port.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str):
                if not dimension.dim_param:
                    raise ExportError(f"export: the ONNX exporter fixed the {axis} of '{port.name}'; use torch-export")
                taken = axis in names.values()
                names.setdefault(dimension.dim_param, f"{port.name}_{axis}" if taken else axis)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in names:
                dimension.dim_param = names[dimension.dim_param]
    ports = []
    for port, value in zip(interface.inputs, model.graph.input, strict=True):
        sizes = zip(port.shape, value.type.tensor_type.shape.dim, strict=True)
        ports.append(replace(port, shape=tuple(each.dim_param or axis for axis, each in sizes)))
    return replace(interface, inputs=tuple(ports))


def read_onnx(folder: Path, interface: Interface) -> ExportedNetwork:
    """Read a file with ONNX Runtime, on as many threads as torch has; RunError where it cannot be read."""
    check_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    try:
        session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if lacks_memory(error):
            raise
        raise RunError(f"'{folder / ONNX}' cannot be read ({one_line(error)}); export the model again") from error

    def call(given: Mapping[str, Tensor]) -> list[Tensor]:
        answers = session.run(None, {name: each.detach().cpu().numpy() for name, each in given.items()})
        return [torch.from_numpy(each) for each in answers]

    return ExportedNetwork.of(call, interface)
