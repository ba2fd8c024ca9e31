"""A network in an ONNX file as a black-box teacher: it is run by ONNX Runtime and answers, and no more."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.checks import shown
from limbeck.data import SampleSet
from limbeck.data.content import check_fits
from limbeck.errors import CheckpointError, DataError, InputError, ModelError, lacks_memory, one_line, one_of

__all__ = ["OnnxModel", "onnx"]

Answers = Literal["logits", "probabilities", "numbers"]

_FLOOR = 1e-12
_SLACK = 1e-3  # by which probabilities may add up to more or less than 1
_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
}
_SESSIONS: "WeakKeyDictionary[OnnxModel, Any]" = WeakKeyDictionary()
_OPENING = threading.Lock()


def onnx(
    input_shape: Sequence[int],
    classes: int,
    path: str,
    answers: Answers = "logits",
    output: str | None = None,
    input_name: str | None = None,
    raw: bool = False,
) -> "OnnxModel":
    """Return the network of an ONNX file as a teacher of a recipe.

    The file is data: its operators are those of ONNX Runtime, and nothing else is run.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        path: the .onnx file, which holds its weights itself.
        answers: what it answers: logits, probabilities (of a classifier of scikit-learn, say), or numbers to predict.
        output: the name of the output that is read; by default its only one, else one that is called as `answers` says.
        input_name: the name of the input; by default its only one.  Texts are given by their names (input_ids, ...).
        raw: give it inputs before the normalisation of the set, in the units of the data; pixels in [0, 1].
    """
    return OnnxModel(input_shape, classes, path, answers=answers, output=output, input_name=input_name, raw=raw)


class OnnxModel(nn.Module):
    """An ONNX file that answers batches on the CPU.

    model: (bytes,) uint8, the file itself, which is saved with a run.  shift, scale: with `raw`, what undoes the
    normalisation of the set: inputs * scale + shift.
    """

    grown = frozenset({"model", "scale", "shift"})
    traceable = False  # for torch.compile
    model: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        path: str,
        *,
        answers: Answers = "logits",
        output: str | None = None,
        input_name: str | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape, self.outputs = tuple(input_shape), outputs
        self.answers, self.output, self.input_name, self.raw = answers, output, input_name, raw
        self.register_buffer("model", _read(path) if path else torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        if path and not self.model.is_meta:
            self._output(self._session())

    def place(self, samples: SampleSet) -> None:
        """Take note of the normalisation of a set, which `raw` undoes; InputError where it cannot be undone."""
        if not self.raw:
            return
        if samples.columns is not None:
            columns = samples.columns.columns
            if other := next((each.name for each in columns if each.width > 1), None):
                raise InputError(
                    f"raw: found column '{other}', which becomes several numbers; expected columns of numbers. Drop it,"
                    " or export the model for the numbers that limbeck makes"
                )
            self.scale = torch.tensor([each.std for each in columns], dtype=torch.float64)
            self.shift = torch.tensor([each.mean for each in columns], dtype=torch.float64)
        elif samples.mean is not None and samples.std is not None:
            self.scale, self.shift = samples.std.cpu().double(), samples.mean.cpu().double()

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the answer to a batch as logits, or as numbers to predict, where the batch is."""
        batch = next(iter((*inputs, *named.values())))
        if not len(self.model):  # of a run that is read: its weights follow
            return torch.zeros(len(batch), self.outputs, device=batch.device)
        session = self._session()
        given = self._given(session, inputs, named)
        answer = torch.cat(
            [self._ask(session, part, len(next(iter(part.values())))) for part in _parts(session, given)]
        )[: len(batch)]
        return self._as_logits(answer).to(batch.device, torch.float32)

    def _session(self) -> Any:
        with _OPENING:
            if self not in _SESSIONS:
                _SESSIONS[self] = _opened(self.model.cpu().numpy().tobytes())
            return _SESSIONS[self]

    def _given(self, session: Any, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs by the names and in the types of the file; ModelError where they do not fit."""
        wanted = {each.name: each for each in session.get_inputs()}
        if named:
            given = {name: value for name, value in named.items() if name in wanted}
        else:
            name = self.input_name or next(iter(wanted))
            raw = inputs[0].double() * self.scale.to(inputs[0].device) + self.shift.to(inputs[0].device)
            given = {name: raw if self.raw else inputs[0]}
            if name not in wanted:
                raise ModelError(f"input_name: there is no input '{name}'; {one_of(name, list(wanted))}")
        if missing := [name for name in wanted if name not in given]:
            has = ", ".join(named) or "one tensor"
            raise ModelError(f"input '{missing[0]}' of the ONNX file is not given; expected {has}. Export it without")
        typed = {}
        for name, value in given.items():
            kind = wanted[name].type
            if kind not in _TYPES:
                raise ModelError(f"input '{name}' of the ONNX file is {kind}; expected numbers. Export it otherwise")
            typed[name] = value.detach().to("cpu", _TYPES[kind]).contiguous()
        return typed

    def _ask(self, session: Any, given: Mapping[str, Tensor], rows: int) -> Tensor:
        """Return the answer to a batch (rows, ...) float64."""
        import numpy as np

        name = self._output(session)
        try:
            [found] = session.run([name], {key: value.numpy() for key, value in given.items()})
        except Exception as error:
            if lacks_memory(error):
                raise
            shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in given.items())
            raise ModelError(
                f"the ONNX file cannot take {shapes} ({type(error).__name__}: {one_line(error)[:200]}); export it with"
                " a batch of any size, or name input: {size: ...}"
            ) from None
        if isinstance(found, list):  # a map of each class's probability a row, as converters of scikit-learn write it
            found = [[row[key] for key in sorted(row)] for row in found]
        array = np.asarray(found)
        if array.dtype.kind not in "fiu" or not array.ndim or len(array) != rows:
            raise ModelError(
                f"output '{name}' of the ONNX file is {array.dtype} {array.shape} for {rows} samples; expected a row of"
                " numbers for each. Name another output"
            )
        answer = torch.from_numpy(array.astype("float64"))
        if not bool(torch.isfinite(answer).all()):
            raise ModelError(f"output '{name}' of the ONNX file is not finite for some samples; check their inputs")
        return answer

    def _output(self, session: Any) -> str:
        """Return the name of the output that is read; ModelError where that is open."""
        names = [each.name for each in session.get_outputs()]
        if self.output is not None:
            if self.output not in names:
                raise ModelError(f"output: there is no output '{self.output}'; {one_of(self.output, names)}")
            return self.output
        alike = [name for name in names if self.answers in name or name in self.answers]
        found = names if len(names) == 1 else alike
        if len(found) != 1:
            raise ModelError(f"output: the ONNX file has {', '.join(names)}; expected the name of one. Add output")
        return str(found[0])

    def _as_logits(self, answer: Tensor) -> Tensor:
        if self.answers == "numbers":
            return answer.reshape(len(answer), -1)
        like = bool((answer >= 0).all()) and bool(((answer.sum(1) - 1).abs() < _SLACK).all()) and answer.ndim > 1
        if self.answers == "logits":
            if like and answer.shape[1] > 1 and len(answer) > 1:
                raise ModelError(
                    "answers: found logits, but each row of the ONNX file's answers is at least 0 and adds up to 1;"
                    " expected probabilities. Set answers: probabilities"
                )
            return answer
        single = answer.reshape(len(answer), -1) if self.outputs == 1 else answer
        if self.outputs == 1 and single.shape[1] == 1:
            return torch.logit(single, eps=_FLOOR)
        if not like:
            raise ModelError(
                f"answers: found {shown([round(float(each), 4) for each in answer.flatten()[:4]])} as probabilities of"
                " the ONNX file; expected rows that are at least 0 and add up to 1. Set answers: logits"
            )
        logs = answer.clamp_min(_FLOOR).log()
        return logs[:, 1:] - logs[:, :1] if self.outputs == 1 else logs

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Take a file of any size."""
        _SESSIONS.pop(self, None)
        for name in self.grown:
            if (found := state_dict.get(f"{prefix}{name}")) is not None:
                if name == "model" and (found.dtype != torch.uint8 or found.ndim != 1):
                    raise CheckpointError("checkpoint: found no ONNX file in it; train the student again")
                setattr(self, name, torch.empty_like(found))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _read(path: str) -> Tensor:
    """Return the content of a file (bytes,) uint8; DataError where it cannot be read."""
    place = Path(path)
    try:
        check_fits(path, 2 * place.stat().st_size)
        content = torch.frombuffer(bytearray(place.read_bytes()), dtype=torch.uint8)
    except (OSError, ValueError) as error:
        raise DataError(f"path: '{path}' cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return content.to(torch.get_default_device())


def _opened(content: bytes) -> Any:
    """Return a session of ONNX Runtime on the CPU; ModelError where the content is no ONNX file."""
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("path: needs the library onnxruntime; pip install 'limbeck[export]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            f"path: is no ONNX file that ONNX Runtime can read ({one_line(error)[:200]}); expected one file with its"
            " weights in it. Export it again"
        ) from None


def _parts(session: Any, given: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return a batch in parts of the size that a file is fixed to, the last one filled up; whole where it takes any."""
    sizes = {each.shape[0] for each in session.get_inputs() if each.shape and isinstance(each.shape[0], int)}
    if len(sizes) != 1 or (size := sizes.pop()) < 1:
        return [dict(given)]
    rows = len(next(iter(given.values())))
    places = torch.arange(-(-rows // size) * size).clamp_max(rows - 1)
    return [{name: value[part] for name, value in given.items()} for part in places.split(size)]
