"""ONNX: a network as a graph of standard operations, which ONNX Runtime and others run without torch."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ExportError, ModelError, RunError, lacks_memory, one_line, silenced
from limbeck.exporting.graph import Graph, Interface, traced
from limbeck.exporting.network import ExportedNetwork

__all__ = ["ONNX", "check_onnx", "quantize_file", "read_onnx", "write_onnx"]

ONNX = "model.onnx"
_DATA = "model.onnx.data"
_ONE_FILE = 2**30  # bytes of weights above which they lie in a second file, since protobuf ends at 2 GiB
_LINEAR, _CONVOLUTIONS = {"MatMul", "Gemm", "LSTM"}, {"Conv"}
"""Operations whose weights become 8-bit: unsigned, since products with signed ones saturate where there is no VNNI."""
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


def write_onnx(graph: Graph, folder: Path, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Write a graph, checked by ONNX's own checker; return the version of each set of operations that it uses.

    metadata: plain values that are put into the file.  ExportError where the exporter or the checker refuses it.
    """
    check_onnx()
    import onnx

    program, path = traced(graph), folder / ONNX
    inputs, outputs = ([port.name for port in ports] for ports in (graph.interface.inputs, graph.interface.outputs))
    large = sum(each.nbytes for each in program.state_dict.values()) >= _ONE_FILE
    try:
        with silenced():
            made = torch.onnx.export(program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False)
            if made is None:
                raise ExportError("export: the ONNX exporter gave nothing; use --to torch-export")
            made.save(path, external_data=large)
            model = onnx.load(path, load_external_data=False)
            _name_axes(model, graph.interface)
            for name, value in metadata.items():
                entry = model.metadata_props.add()
                entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
            path.write_bytes(model.SerializeToString())
            onnx.checker.check_model(str(path), full_check=True)
    except ExportError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ExportError(
            f"export: the network cannot be written as ONNX ({one_line(error)}); use --to torch-export or safetensors"
        ) from error
    return {each.domain or "ai.onnx": each.version for each in model.opset_import}


def _name_axes(model: Any, interface: Interface) -> None:
    """Give the free axes their names in place of the exporter's, and require them to be free."""
    names: dict[str, str] = {}
    for port, value in zip(interface.inputs, model.graph.input, strict=True):
        for axis, dimension in zip(port.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str):
                if not dimension.dim_param:
                    raise ExportError(f"export: the ONNX exporter fixed the {axis} of '{port.name}'; use torch-export")
                names[dimension.dim_param] = axis
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in names:
                dimension.dim_param = names[dimension.dim_param]


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

    return ExportedNetwork(call, interface)


def quantize_file(folder: Path, calibration: Sequence[Mapping[str, Tensor]] = ()) -> bool:
    """Make the weights of a file 8-bit with ONNX Runtime, and return whether that took the calibration.

    Linear and LSTM layers keep their inputs in float until they run, and scale them then ("dynamic").  The inputs of
    convolutions are scaled by what they are on `calibration`, batches of the graph's inputs by name; without any,
    convolutions stay in float.  ExportError where it cannot be done.
    """
    import onnx

    path, small = folder / ONNX, folder / f"{ONNX}.int8"
    before, level = path.stat().st_size, logging.root.level
    kinds = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    calibrated = bool(kinds & _CONVOLUTIONS and calibration)
    try:
        with silenced():
            if kinds & _LINEAR:
                _quantize_linear(path, small)
            if calibrated:
                _quantize_convolutions(small if small.exists() else path, small, calibration)
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ExportError(f"quantize: ONNX Runtime cannot make the file int8 ({one_line(error)})") from error
    finally:
        logging.root.setLevel(level)
    if not small.exists() or small.stat().st_size >= before:
        raise ExportError(
            "quantize: found no layer that becomes smaller in int8; expected linear ones, or convolutions and samples"
            " that calibrate them. Leave it out"
        )
    small.replace(path)
    return calibrated


def _quantize_linear(path: Path, small: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kinds, signless = sorted(_LINEAR), QuantType.QUInt8
    quantize_dynamic(path, small, weight_type=signless, per_channel=True, op_types_to_quantize=kinds)


def _quantize_convolutions(path: Path, small: Path, calibration: Sequence[Mapping[str, Tensor]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: each.numpy() for name, each in batch.items()}

    with tempfile.TemporaryDirectory() as place:
        prepared = Path(place) / ONNX  # with batch normalisation folded into the convolutions
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        kinds, signless = sorted(_CONVOLUTIONS), QuantType.QUInt8
        quantize_static(
            prepared,
            small,
            Reader(),
            weight_type=signless,
            activation_type=signless,
            per_channel=True,
            op_types_to_quantize=kinds,
        )
