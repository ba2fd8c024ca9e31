"""Weights of 8 bits in an ONNX file: linear, recurrent and convolutional layers by ONNX Runtime, embeddings here."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from limbeck.errors import ExportError, lacks_memory, one_line, silenced
from limbeck.exporting.onnx_file import DATA, ONE_FILE, ONNX
from limbeck.exporting.recurrent import graphs_of

__all__ = ["quantize_file"]

_LINEAR, _CONVOLUTIONS = {"MatMul", "Gemm", "LSTM"}, {"Conv"}
"""Operations whose weights become 8-bit: unsigned, since products with signed ones saturate where there is no VNNI."""
_FEWEST = 1024  # weights of an embedding that becomes 8-bit: the further nodes take some hundred bytes
_MIDDLE = 128  # the unsigned number that stands for 0 in embeddings


def quantize_file(folder: Path, calibration: Sequence[Mapping[str, Tensor]] = ()) -> bool:
    """Make the weights of a file 8-bit, and return whether that took the calibration.

    Linear and LSTM layers keep their inputs in float until they run, and scale them then ("dynamic").  The inputs of
    convolutions are scaled by what they are on `calibration`, batches of the graph's inputs by name; without any,
    convolutions stay in float.  Embeddings are scaled by row; a head that shares its weights with one, too.
    ExportError where it cannot be done, or where nothing becomes smaller.
    """
    import onnx

    before, level = _bytes(folder), logging.root.level
    kinds = {node.op_type for node in onnx.load(folder / ONNX, load_external_data=False).graph.node}
    steps: list[Callable[[Path, Path], None]] = [_quantize_linear] if kinds & _LINEAR else []
    calibrated = bool(kinds & _CONVOLUTIONS and calibration)
    if calibrated:
        steps.append(lambda path, small: _quantize_convolutions(path, small, calibration))
    with tempfile.TemporaryDirectory() as place:
        last = folder
        try:
            with silenced():
                for number, step in enumerate([*steps, _quantize_embeddings]):
                    made = Path(place) / str(number)
                    made.mkdir()
                    step(last / ONNX, made / ONNX)
                    last = made
        except Exception as error:
            if lacks_memory(error):
                raise
            raise ExportError(f"quantize: ONNX Runtime cannot make the file int8 ({one_line(error)})") from error
        finally:
            logging.root.setLevel(level)
        if _bytes(last) >= before:
            raise ExportError(
                "quantize: found no layer that becomes smaller in int8; expected linear ones, embeddings, or "
                "convolutions and samples that calibrate them. Leave it out"
            )
        (folder / DATA).unlink(missing_ok=True)
        for path in last.iterdir():
            shutil.move(path, folder / path.name)
    return calibrated


def _bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (ONNX, DATA) if (folder / name).exists())


def _large(path: Path) -> bool:
    return _bytes(path.parent) >= ONE_FILE


def _quantize_linear(path: Path, small: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        path,
        small,
        weight_type=QuantType.QUInt8,
        per_channel=True,
        op_types_to_quantize=sorted(_LINEAR),
        use_external_data_format=_large(path),
    )


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
        quant_pre_process(path, prepared, skip_symbolic_shape=True, save_as_external_data=_large(path))
        quantize_static(
            prepared,
            small,
            Reader(),
            weight_type=QuantType.QUInt8,
            activation_type=QuantType.QUInt8,
            per_channel=True,
            op_types_to_quantize=sorted(_CONVOLUTIONS),
            use_external_data_format=_large(path),
        )


def _quantize_embeddings(path: Path, small: Path) -> None:
    """Keep tables of embeddings in 8 bits with a scale for each row, and heads that share them."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    elsewhere = {each.name for each in graph.output}  # and in loops and branches
    elsewhere |= {name for part in [*graphs_of(graph)][1:] for node in part.node for name in node.input}
    for table in [each for each in graph.initializer if _is_table(each) and each.name not in elsewhere]:
        users = [node for node in graph.node if table.name in node.input]
        heads = {id(n): _products(graph, n, elsewhere) for n in users if n.op_type == "Transpose"}
        if any(node.op_type == "Gather" for node in users) and all(heads.get(id(n), _reads(n, table)) for n in users):
            _quantize_table(graph, table, heads)
    large = sum(len(each.raw_data) for each in graph.initializer) >= ONE_FILE
    onnx.save_model(model, str(small), save_as_external_data=large, location=DATA)


def _is_table(tensor: Any) -> bool:
    import onnx

    return bool(
        tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= _FEWEST
    )


def _reads(node: Any, table: Any) -> bool:
    """Return whether a node looks rows of a table up."""
    axes = [each.i for each in node.attribute if each.name == "axis"]
    return node.op_type == "Gather" and node.input[0] == table.name and axes in ([], [0])


def _products(graph: Any, transpose: Any, elsewhere: Set[str]) -> list[Any]:
    """Return the products whose second factor is a transposed table; none where it has another use as well."""
    users = [node for node in graph.node if transpose.output[0] in node.input]
    if transpose.output[0] in elsewhere:
        return []
    fit = all(node.op_type == "MatMul" and list(node.input).index(transpose.output[0]) == 1 for node in users)
    return users if fit else []


def _quantize_table(graph: Any, table: Any, heads: Mapping[int, list[Any]]) -> None:
    """Put a table of 8-bit rows and their scales in the place of one, and the nodes that read these in place of others.

    A row of numbers x becomes q = round(x / s) + 128 with s = max|x| / 127.  A head, x @ table.T, is a product of whole
    numbers as ONNX Runtime makes it of a linear layer: its inputs are scaled as it runs.
    """
    import onnx

    node, name = onnx.helper.make_node, table.name
    values = onnx.numpy_helper.to_array(table)
    scale = np.abs(values).max(1, keepdims=True) / 127
    scale[scale == 0] = 1
    rows = (np.rint(values / scale) + _MIDDLE).astype(np.uint8)
    constants = {"rows": rows, "scale": scale.astype(np.float32), "middle": np.array(_MIDDLE, np.float32)}
    if heads:
        constants["zero"] = np.array(_MIDDLE, np.uint8)
    made = {key: f"{name}.{key}" for key in constants}

    def lookup(old: Any) -> list[Any]:
        ids, end = old.input[1], old.output[0]
        return [
            node("Gather", [made["rows"], ids], [f"{end}.rows"]),
            node("Cast", [f"{end}.rows"], [f"{end}.float"], to=onnx.TensorProto.FLOAT),
            node("Sub", [f"{end}.float", made["middle"]], [f"{end}.steps"]),
            node("Gather", [made["scale"], ids], [f"{end}.scale"]),
            node("Mul", [f"{end}.steps", f"{end}.scale"], [end]),
        ]

    def transposed() -> list[Any]:
        pairs = ((made[key], f"{name}.{key}.T") for key in ("rows", "scale"))
        return [node("Transpose", [old], [new], perm=[1, 0]) for old, new in pairs]

    def product(old: Any) -> list[Any]:
        inputs, end = old.input[0], old.output[0]
        whole = [f"{end}.whole", f"{end}.inputs.scale", f"{end}.inputs.zero"]
        return [
            node("DynamicQuantizeLinear", [inputs], whole),
            node("MatMulInteger", [whole[0], f"{name}.rows.T", whole[2], made["zero"]], [f"{end}.sum"]),
            node("Cast", [f"{end}.sum"], [f"{end}.float"], to=onnx.TensorProto.FLOAT),
            node("Mul", [whole[1], f"{name}.scale.T"], [f"{end}.scale"]),
            node("Mul", [f"{end}.float", f"{end}.scale"], [end]),
        ]

    products = {id(each) for users in heads.values() for each in users}
    found: list[Any] = transposed() if heads else []
    for old in graph.node:
        if id(old) in products:
            found += product(old)
        elif id(old) not in heads:
            found += lookup(old) if name in old.input else [old]
    del graph.node[:]
    graph.node.extend(found)
    graph.initializer.remove(table)
    graph.initializer.extend(onnx.numpy_helper.from_array(each, f"{name}.{key}") for key, each in constants.items())
