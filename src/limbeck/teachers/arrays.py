"""A black box as teacher: what it said, in arrays made elsewhere."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.data import SampleSet, Splits
from limbeck.data.content import raw_bytes
from limbeck.data.npz import read_arrays
from limbeck.errors import DataError, InputError, one_line, one_of
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs, Tap
from limbeck.teacher import refuse_taps
from limbeck.teachers.rows import Rows

__all__ = ["ArrayTeacher", "read_of_splits"]

_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a sample may add up: what half precision leaves of a thousand of them."""

_FORMS = ({"labels"}, {"probabilities"}, {"top_ids", "top_probabilities"})
_BESIDE = {"index", "source"}


@dataclass(frozen=True)
class _Labels:
    """labels: (n,), each the one class that is possible."""

    labels: Tensor
    classes: int

    def log_probs(self, labels: Tensor) -> Tensor:
        rows = torch.full((len(labels), self.classes), -torch.inf, device=labels.device)
        return rows.scatter_(1, labels[:, None], 0.0)


@dataclass(frozen=True)
class _Probabilities:
    """log: (n, K), -inf where a class is impossible."""

    log: Tensor

    def log_probs(self, log: Tensor) -> Tensor:
        return log


@dataclass(frozen=True)
class _TopProbabilities:
    """ids, log: (n, k).  log_rest: (n, 1), of each other class."""

    ids: Tensor
    log: Tensor
    log_rest: Tensor
    classes: int

    def log_probs(self, ids: Tensor, log: Tensor, log_rest: Tensor) -> Tensor:
        return log_rest.repeat(1, self.classes).scatter_(1, ids, log)


class ArrayTeacher:
    """Hard labels, probabilities or top-k probabilities that another model gave to the samples of a set.

    Create it with `of_labels`, `of_probabilities`, `of_top_k` or `read`.  The outputs' logits are the logarithms of the
    probabilities, -inf where a class is impossible.  A target at temperature T is therefore ∝ p^(1/T), as from the
    unknown logits.

    Args:
        answers: what was answered, made by one of the functions above.
        samples: the set that was answered.
        index: (n,) int64, the position of each row's sample in the set's root; without it the rows are all samples of
            the set in their order.
        clean: whether the answers may be used for augmented views as well.

    Raises:
        InputError: if the answers do not fit the samples.

    Example:
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> teacher = ArrayTeacher.of_probabilities(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), samples)
        >>> teacher(samples.batch(torch.tensor([1]), augment=None, seed=0, view=0)).logits.exp()
        tensor([[0.2000, 0.8000]])
    """

    @checked
    def __init__(
        self,
        answers: "_Labels | _Probabilities | _TopProbabilities",
        samples: SampleSet,
        index: Tensor | None,
        *,
        clean: bool,
    ) -> None:
        self.answers = answers
        self._tables = [value for value in vars(answers).values() if isinstance(value, Tensor)]
        self.rows = Rows(_index(len(self._tables[0]), samples, index), source=samples.source, clean=clean)

    @classmethod
    @checked
    def of_labels(
        cls, labels: Tensor, samples: SampleSet, *, index: Tensor | None = None, clean: bool = False
    ) -> "ArrayTeacher":
        """Take the one class that a teacher named for each sample: (n,) whole numbers.

        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.zeros(3, 2), classes=4)
        >>> teacher = ArrayTeacher.of_labels(torch.tensor([1, 0, 3]), samples)
        >>> teacher(samples.batch(torch.tensor([2]), augment=None, seed=0, view=0)).logits
        tensor([[-inf, -inf, -inf, 0.]])
        """
        _require(labels, "labels", 1, whole=True)
        _in_range(labels, "labels", samples.classes)
        return cls(_Labels(labels.long(), samples.classes), samples, index, clean=clean)

    @classmethod
    @checked
    def of_probabilities(
        cls,
        probabilities: Tensor,
        samples: SampleSet,
        *,
        index: Tensor | None = None,
        clean: bool = False,
        renormalise: bool = False,
    ) -> "ArrayTeacher":
        """Take the probabilities of all classes: (n, K) floating point, each row adding up to 1 (to a thousandth).

        renormalise: divide each row by its sum instead of refusing one that does not.

        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.zeros(2, 2), classes=2)
        >>> teacher = ArrayTeacher.of_probabilities(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), samples)
        >>> teacher(samples.batch(torch.arange(2), augment=None, seed=0, view=0)).logits
        tensor([[-0.6931, -0.6931],
                [ 0.0000,    -inf]])
        """
        _require(probabilities, "probabilities", 2, whole=False)
        if probabilities.shape[1] != samples.classes:
            raise InputError(
                f"probabilities: found {probabilities.shape[1]} classes, '{samples.name}' has {samples.classes};"
                " expected one column a class"
            )
        sums = probabilities.double().sum(1, keepdim=True)
        wrong = (sums <= 0) if renormalise else ((sums - 1).abs() > _TOLERANCE)
        if bool(wrong.any()):
            row = int(wrong.squeeze(1).nonzero()[0])
            raise InputError(
                f"probabilities: row {row} sums to {float(sums[row]):.6g}, expected 1"
                + ("" if renormalise else " (renormalise divides each row by its sum)")
            )
        log = (probabilities.double() / sums).log().to(compute_dtype(probabilities[:0]).dtype)
        return cls(_Probabilities(log), samples, index, clean=clean)

    @classmethod
    @checked
    def of_top_k(
        cls,
        ids: Tensor,
        probabilities: Tensor,
        samples: SampleSet,
        *,
        index: Tensor | None = None,
        clean: bool = False,
    ) -> "ArrayTeacher":
        """Take the k largest probabilities; what is missing to 1 is spread evenly over the other classes.

        ids: (n, k) whole numbers, each class once a row.  probabilities: (n, k) floating point.

        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.zeros(1, 2), classes=4)
        >>> teacher = ArrayTeacher.of_top_k(torch.tensor([[2, 0]]), torch.tensor([[0.6, 0.2]]), samples)
        >>> teacher(samples.batch(torch.arange(1), augment=None, seed=0, view=0)).logits.exp()
        tensor([[0.2000, 0.1000, 0.6000, 0.1000]])
        """
        _require(ids, "top_ids", 2, whole=True)
        _require(probabilities, "top_probabilities", 2, whole=False)
        if ids.shape != probabilities.shape:
            raise InputError(
                f"top_ids {tuple(ids.shape)}, top_probabilities {tuple(probabilities.shape)}: expected the same shape"
            )
        _in_range(ids, "top_ids", samples.classes)
        ordered = ids.sort(1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            row = int((ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero()[0])
            raise InputError(f"top_ids: row {row} names a class more than once, expected each class once")
        sums, others = probabilities.double().sum(1, keepdim=True), samples.classes - ids.shape[1]
        wrong = (sums > 1 + _TOLERANCE) | ((sums < 1 - _TOLERANCE) & (others == 0))
        if bool(wrong.any()):
            row = int(wrong.squeeze(1).nonzero()[0])
            allowed = "at most 1" if others else "1, for they are of all classes"
            raise InputError(f"top_probabilities: row {row} sums to {float(sums[row]):.6g}, expected {allowed}")
        rest = (1 - sums).clamp_min(0)
        total = sums + (rest if others else 0)
        dtype = compute_dtype(probabilities[:0]).dtype
        log = (probabilities.double() / total).log().to(dtype)
        log_rest = (rest / total / max(others, 1)).log().to(dtype)
        return cls(_TopProbabilities(ids.long(), log, log_rest, samples.classes), samples, index, clean=clean)

    @classmethod
    @checked
    def read(
        cls, path: str | Path, samples: SampleSet, *, clean: bool = False, renormalise: bool = False
    ) -> "ArrayTeacher":
        """Read the answers from an .npz or .safetensors file; nothing is ever unpickled.

        The file holds `labels`, or `probabilities`, or `top_ids` and `top_probabilities`, and, if it has them, `index`
        and `source` (the set's identity as text, in an .npz; another set is then refused).
        Raises DataError naming the file, the array and what is wrong.
        """
        return cls.of_arrays(path, _read(Path(path).expanduser()), samples, clean=clean, renormalise=renormalise)

    @classmethod
    def of_arrays(
        cls,
        path: str | Path,
        arrays: Mapping[str, Any],
        samples: SampleSet,
        *,
        clean: bool = False,
        renormalise: bool = False,
    ) -> "ArrayTeacher":
        """Take what `read` found in a file."""
        arrays = dict(arrays)
        source = arrays.pop("source", None)
        if source is not None and source != samples.source:
            raise DataError(f"{path}: has answers to another set than '{samples.name}'; store answers for this set")
        index = arrays.pop("index", None)
        try:
            if set(arrays) not in _FORMS:
                raise InputError(_wrong_arrays(arrays))
            if "probabilities" in arrays:
                table = arrays["probabilities"]
                return cls.of_probabilities(table, samples, index=index, clean=clean, renormalise=renormalise)
            if renormalise:
                raise InputError("renormalise: found for a file without probabilities of all classes; leave it out")
            if "labels" in arrays:
                return cls.of_labels(arrays["labels"], samples, index=index, clean=clean)
            return cls.of_top_k(arrays["top_ids"], arrays["top_probabilities"], samples, index=index, clean=clean)
        except InputError as error:
            raise DataError(f"{path}: {error}") from None

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the logarithms of the probabilities of a batch's samples."""
        refuse_taps(taps, "array teacher", "probabilities", "use a network as the teacher")
        return Outputs(self.answers.log_probs(*self.rows.look_up(batch, self._tables)))

    def to(self, device: torch.device | str) -> "ArrayTeacher":
        """Place the arrays on a device."""
        self._tables = [table.to(device) for table in self._tables]
        self.rows.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 over the arrays and what they belong to."""
        digest = hashlib.sha256(f"{type(self.answers).__name__} {self.rows.source} {self.rows.clean}".encode())
        for tensor in (self.rows.index, *self._tables):
            digest.update(f" {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(raw_bytes(tensor))
        return digest.hexdigest()


def read_of_splits(path: str | Path, splits: Splits, renormalise: bool) -> tuple[ArrayTeacher, ArrayTeacher]:
    """Return the answers of a file to the training and to the test part of a set.

    Of a set that was split they are in the same arrays: a row for each sample of the whole in its order, or `index`.
    Of one with a test part of its own, those to that part are in arrays whose names begin with `test_`.
    Raises DataError naming the file, the array and what is wrong.
    """
    arrays = _read(Path(path).expanduser())
    train, test = splits.train, splits.test
    own = {name: value for name, value in arrays.items() if not name.startswith("test_")}
    other = {name.removeprefix("test_"): value for name, value in arrays.items() if name.startswith("test_")}
    if train.source == test.source:
        if other:
            raise DataError(
                f"{path}: it has the array 'test_{next(iter(other))}', but '{splits.name}' is one set that is split; "
                "put all answers into the same arrays"
            )
        size = len(train) + len(test)
        rows = next((len(value) for name, value in own.items() if name not in _BESIDE and value.ndim), None)
        if "index" not in own and rows is not None:
            if rows != size:
                raise DataError(
                    f"{path}: {rows} answers for the {size} samples of '{splits.name}', expected one each, in their "
                    "order; or give index, the position of each answer's sample"
                )
            own["index"] = torch.arange(size)
        both = ArrayTeacher.of_arrays(path, own, train, clean=True, renormalise=renormalise)
        return both, both
    if not other:
        raise DataError(f"{path}: found no answers to the test set; add arrays such as test_probabilities")
    keys = {"clean": True, "renormalise": renormalise}
    try:
        second = ArrayTeacher.of_arrays(path, other, test, **keys)
    except DataError as error:
        raise DataError(str(error).replace(f"{path}: ", f"{path}: among the arrays test_*, ", 1)) from None
    return ArrayTeacher.of_arrays(path, own, train, **keys), second


def _index(count: int, samples: SampleSet, index: Tensor | None) -> Tensor:
    """Return the position of each row's sample in the root of a set, checked."""
    if index is None:
        if count != len(samples):
            raise InputError(
                f"answers: found {count} rows for the {len(samples)} samples of '{samples.name}', expected one each, in"
                " their order; or give index, the position of each row's sample"
            )
        return samples.index.cpu()
    _require(index, "index", 1, whole=True)
    index = index.long().cpu()
    if len(index) != count:
        raise InputError(f"index: found {len(index)} positions for {count} rows, expected one each")
    if bool((index < 0).any()):
        raise InputError(f"index: found {int(index.min())}, expected positions from 0")
    if len(index.unique()) != len(index):
        raise InputError("index: found a position more than once, expected each sample once")
    return index


def _require(tensor: Tensor, name: str, axes: int, *, whole: bool) -> None:
    """Require a tensor of a number of axes, of whole numbers or of finite ones that are 0 or above."""
    kind = "whole numbers" if whole else "floating point"
    numbers = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    if tensor.ndim != axes or len(tensor) == 0 or (numbers if whole else not tensor.is_floating_point()):
        shape = "(n,)" if axes == 1 else "(n, k)"
        raise InputError(f"{name}: found {tensor.dtype} {tuple(tensor.shape)}, expected {kind} {shape}")
    if not whole:
        wrong = ~(torch.isfinite(tensor) & (tensor >= 0))
        if bool(wrong.any()):
            row = int(wrong.any(1).nonzero()[0])
            value = float(tensor[row][wrong[row]][0])
            raise InputError(f"{name}: row {row} holds {value:g}, expected finite numbers, 0 or above")


def _in_range(tensor: Tensor, name: str, classes: int) -> None:
    if int(tensor.min()) < 0 or int(tensor.max()) >= classes:
        raise InputError(f"{name}: found {int(tensor.min())} to {int(tensor.max())}, expected 0 to {classes - 1}")


def _wrong_arrays(arrays: Mapping[str, Tensor]) -> str:
    known = _BESIDE.union(*_FORMS)
    for name in arrays:
        if name not in known:
            return f"unknown array '{name}'; {one_of(name, known)}"
    found = ", ".join(sorted(arrays)) or "none"
    return f"found the arrays {found}, expected labels, or probabilities, or top_ids and top_probabilities"


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays of a file as tensors, and `source` as text where it has it."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix != ".npz":
        raise DataError(f"{path}: found a file of type '{path.suffix}', expected .npz or .safetensors")
    content: dict[str, Any] = {}
    for name, array in read_arrays(str(path)).items():
        if name == "source":
            content[name] = str(array)
        elif array.dtype.kind not in "uif":
            raise DataError(f"{path}: array '{name}' is {array.dtype}, expected numbers")
        else:
            content[name] = torch.from_numpy(array.astype("int64") if array.dtype.kind in "ui" else array)
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = "there is no such file" if not path.exists() else one_line(error)
        raise DataError(f"{path}: cannot be read ({reason}); write it with safetensors.torch.save_file") from None
