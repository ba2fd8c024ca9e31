"""What a model takes and answers: a set without its samples, enough to use the model where the data is not."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.arguments import as_tensor, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.data.cells import code, is_blank
from limbeck.data.columns import Columns
from limbeck.data.content import check_inputs, normalisation
from limbeck.data.names import listed
from limbeck.data.pictures import opened, picture
from limbeck.data.pooling import Pooling
from limbeck.data.sets import SampleSet, TensorSet
from limbeck.data.text_inputs import blank_texts, read_texts, text_samples
from limbeck.data.vocabulary import named_inputs
from limbeck.errors import DataError, InputError
from limbeck.tasks import task_named
from limbeck.tokenizers import Tokenizer

__all__ = ["Description"]

_CHANNELS = {1: "grey", 3: "colour"}


@checked_fields
@dataclass(frozen=True)
class Description:
    """What a model takes and answers, without data.

    Attributes:
        name: of the set that the model was trained on.
        task: the name of the task, as recipes give it.
        classes: the number of classes, or of numbers to predict.
        class_names: their names; empty if the set has none.
        groups: the group number of each class, or None.
        group_names: the names of the groups.
        input_shape: the shape of one sample.
        dtype: "uint8" (pixels, divided by 255), "float32" or "int64" (token ids).
        mean: one number for each channel, subtracted from the scaled inputs; None without normalisation.
        std: one number for each channel, by which they are then divided; None without normalisation.
        columns: for a table, how each column becomes numbers; otherwise None.
        pooling: for images that are averaged over squares first, what they are before; otherwise None.
        vocabulary: the names that whole-number inputs are the numbers of, such as those of users; otherwise empty.
        form: of texts, how they become inputs (`SampleSet.form`); otherwise empty.
        max_length: of texts, the most tokens of a sample; otherwise 0.
        tokenizer: of texts, by which they become tokens; otherwise None.

    Example:
        >>> from limbeck import data
        >>> Description.of(data.digits().train).input_shape
        (1, 8, 8)
    """

    name: str
    task: str
    classes: int
    class_names: tuple[str, ...]
    groups: tuple[int, ...] | None
    group_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    dtype: Literal["uint8", "float32", "int64"]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    columns: Columns | None
    pooling: Pooling | None = None
    vocabulary: tuple[str, ...] = ()
    form: str = ""
    max_length: int = 0
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        if not self.input_shape or min(self.input_shape) < 1:
            raise InputError(f"input_shape: found {self.input_shape}; expected 1 or above each")
        if self.class_names and len(self.class_names) != self.classes:
            raise InputError(f"class_names: found {len(self.class_names)}; expected {self.classes}, one for each class")

    @classmethod
    def of(cls, samples: SampleSet) -> "Description":
        """Describe a set.

        >>> from limbeck.data import bundled
        >>> Description.of(bundled("wine").train).input_shape
        (13,)
        """
        mean, std = (None if each is None else tuple(each.flatten().tolist()) for each in (samples.mean, samples.std))
        return cls(
            name=samples.name,
            task=samples.task.name,
            classes=samples.classes,
            class_names=samples.class_names,
            groups=samples.groups,
            group_names=samples.group_names,
            input_shape=samples.input_shape,
            dtype="int64" if samples.form else str(samples.kept_dtype).removeprefix("torch."),  # type: ignore[arg-type]
            mean=mean,
            std=std,
            columns=samples.columns,
            pooling=samples.pooling,
            vocabulary=samples.vocabulary,
            form=samples.form,
            max_length=samples.max_length,
            tokenizer=samples.tokenizer,
        )

    @property
    def raw(self) -> tuple[tuple[int, ...], str]:
        """The shape and type of a sample as the data set has it, which `read` takes."""
        before = self if self.pooling is None else self.pooling
        return before.input_shape, before.dtype

    def samples(self, inputs: Any) -> SampleSet:
        """Return inputs as a set without labels, whose batches are scaled and normalised as in training.

        Args:
            inputs: (n, *input_shape) of the type that samples are kept in, or texts, as `read` gives them.
        """
        if self.form:
            return text_samples(self.blank(), inputs)
        dtype = getattr(torch, self.dtype)
        scale = normalisation(self.name, dtype, self.input_shape, self.mean, self.std)
        return TensorSet(
            name=self.name,
            classes=self.classes,
            class_names=self.class_names,
            source="",
            index=torch.arange(len(inputs)),
            labels=torch.full((len(inputs),), UNLABELLED),
            input_shape=self.input_shape,
            mean=None if scale is None else scale[0],
            std=None if scale is None else scale[1],
            groups=self.groups,
            group_names=self.group_names,
            task=task_named(self.task),
            columns=self.columns,
            pooling=self.pooling,
            vocabulary=self.vocabulary,
            inputs=inputs,
        )

    def blank(self) -> SampleSet:
        """Return a set of two blank samples, by which a network can be built as it was for the set."""
        if self.form and self.tokenizer is not None:
            return blank_texts(
                self.form,
                self.tokenizer,
                self.max_length,
                name=self.name,
                classes=self.classes,
                class_names=self.class_names,
                source="",
                input_shape=self.input_shape,
                groups=self.groups,
                group_names=self.group_names,
                task=task_named(self.task),
            )
        return self.samples(torch.zeros(2, *self.input_shape, dtype=getattr(torch, self.dtype)))

    def read(self, inputs: Any) -> tuple[Any, tuple[str, ...]]:
        """Return raw inputs as samples are kept, and notes on what may have been meant otherwise.

        Args:
            inputs: as the data set had them.  Of a table: a data frame, a mapping of columns, a list of rows by the
                columns' names, or, where all columns are numbers, an array (n, columns) in their order.  Of images: an
                array of samples of the shape that `raw` names, or images of PIL or paths of image files, one or a list
                of them; these are resized.  Of users: their names, or rows with a column `user` and, if need be, one
                of items that are left out, `known`.  Of texts: a text or a list of them, pairs as a list of two texts
                each, or rows with the columns `text` and `pair`.  Of anything else: an array (n, *input_shape).

        Returns:
            The samples (n, *input_shape), pooled where the set's are, or the texts; and one line for each note.

        Raises:
            DataError: a column is missing, or shape, type or numbers are others than the data set's.
        """
        if self.form:
            return read_texts(inputs, self.form), ()
        if self.vocabulary:
            return named_inputs(inputs, self.vocabulary), ()
        several = inputs if isinstance(inputs, list | tuple) and inputs else [inputs]
        pictures = all(map(_is_picture, several))
        if self.columns is not None:
            if pictures:
                raise DataError(f"inputs: found images; expected rows by the columns' names: '{self.name}' is a table")
            return self._rows(inputs, self.columns)
        if isinstance(several[0], Mapping) or hasattr(inputs, "columns"):
            shape = ", ".join(map(str, self.raw[0]))
            raise DataError(
                f"inputs: found rows by columns' names; expected an array (n, {shape}): '{self.name}' is no table"
            )
        found = self._pictures(several) if pictures else self._array(as_tensor("inputs", inputs))
        return (found if self.pooling is None else self.pooling.apply(found)), ()

    def _array(self, inputs: Tensor) -> Tensor:
        shape, dtype = self.raw
        if inputs.is_meta or inputs.layout != torch.strided:
            check_inputs("inputs", inputs)
        inputs = inputs.detach().cpu()
        if inputs.dim() == len(shape) == 3 and shape[0] == 1:
            inputs = inputs.unsqueeze(1)  # grey images without an axis of channels
        expected = f"(n, {', '.join(map(str, shape))})"
        if tuple(inputs.shape[1:]) != shape or not inputs.dim():
            raise DataError(f"inputs: found shape {tuple(inputs.shape)}; expected {expected}{_mend(inputs, shape)}")
        if not len(inputs):
            raise DataError(f"inputs: found no samples; expected {expected}, at least one")
        if inputs.is_complex():
            raise DataError(f"inputs: found {inputs.dtype}; expected real numbers")
        whole = not (inputs.is_floating_point() or inputs.dtype == torch.bool)
        if dtype == "uint8":
            if not whole or inputs.min() < 0 or inputs.max() > 255:
                raise DataError(
                    f"inputs: found {inputs.dtype} from {inputs.min():g} to {inputs.max():g}; expected pixels as the "
                    "data set has them, whole numbers from 0 to 255 (uint8). Give the pixels unscaled"
                )
            return inputs.to(torch.uint8)
        if dtype == "int64":
            if not whole:
                raise DataError(f"inputs: found {inputs.dtype}; expected token ids, whole numbers (int64)")
            return inputs.to(torch.int64)
        inputs = inputs.to(torch.float32)
        check_inputs("inputs", inputs)
        return inputs

    def _pictures(self, images: Sequence[Any]) -> Tensor:
        shape, dtype = self.raw
        if dtype != "uint8" or len(shape) != 3 or shape[0] not in _CHANNELS:
            raise DataError(
                f"inputs: found images; expected arrays of shape (n, {', '.join(map(str, shape))}) in {dtype}, for "
                f"'{self.name}' is not a set of image files"
            )
        size, grey = (shape[1], shape[2]), shape[0] == 1
        read = [
            picture(Path(each), size, grey)[0] if isinstance(each, str | Path) else opened(each, size, grey)
            for each in images
        ]
        return torch.stack(read)

    def _rows(self, inputs: Any, columns: Columns) -> tuple[Tensor, tuple[str, ...]]:
        rows = _by_name(inputs, [column.name for column in columns.columns])
        if rows is None:
            rows = self._unnamed(as_tensor("inputs", inputs), columns)
        if not rows:
            raise DataError("inputs: found no rows; expected at least one")
        _require_columns([column.name for column in columns.columns], rows[0])
        return columns.inputs(rows), tuple(_unknown(rows, columns))

    def _unnamed(self, inputs: Tensor, columns: Columns) -> list[Mapping[str, Any]]:
        names = [column.name for column in columns.columns]
        if nominal := [column.name for column in columns.columns if column.categories or column.date]:
            raise DataError(
                f"inputs: found an array; expected rows with column names, because {listed(nominal)} "
                f"{'is' if len(nominal) == 1 else 'are'} nominal or dates. Give a data frame, or a list of mappings"
            )
        if inputs.dim() != 2 or inputs.shape[1] != len(names):
            raise DataError(
                f"inputs: found shape {tuple(inputs.shape)}; expected (n, {len(names)}), the columns {listed(names)}"
            )
        return [dict(zip(names, row, strict=True)) for row in inputs.tolist()]


def _mend(inputs: Tensor, shape: tuple[int, ...]) -> str:
    """Return what to do about inputs of another shape; nothing where that is not known."""
    if tuple(inputs.shape) == shape:
        return ". Give one sample as inputs[None]"
    if inputs.dim() == 4 and len(shape) == 3 and inputs.shape[-1] == shape[0]:
        return ". Channels come first: inputs.permute(0, 3, 1, 2), with NumPy inputs.transpose(0, 3, 1, 2)"
    return ""


def _is_picture(value: Any) -> bool:
    """Whether a value is the path of an image, or an image of PIL."""
    pillow = sys.modules.get("PIL.Image")
    return isinstance(value, str | Path) or (pillow is not None and isinstance(value, pillow.Image))


def _by_name(inputs: Any, names: Sequence[str]) -> list[Mapping[str, Any]] | None:
    """Return rows by the names of their columns; None for what names none."""
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(row, Mapping) for row in inputs):
        return list(inputs)
    if not isinstance(inputs, Mapping) and not hasattr(inputs, "columns"):
        return None
    _require_columns(names, inputs)
    cells = {name: _plain(inputs[name]) for name in names}
    for name, column in cells.items():
        if not isinstance(column, list | tuple):
            raise DataError(f"inputs: found {shown(column)} as column '{name}'; expected a list, one value a row")
    lengths = {name: len(column) for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"inputs: found columns of different lengths ({shown(lengths)}); expected one value a row each")
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _require_columns(names: Sequence[str], inputs: Any) -> None:
    """Require a row, a mapping of columns or a data frame to have the columns of a table."""
    for name in names:
        if name not in inputs:
            there = list(map(str, inputs.columns if hasattr(inputs, "columns") else inputs))
            raise DataError(
                f"inputs: found no column '{name}'; expected it, as in the table that the model was trained "
                f"on. There are: {listed(there) or 'none'}"
            )


def _plain(column: Any) -> Any:
    """Return a column of a data frame, or an array, as a list."""
    for name in ("tolist", "to_list"):
        if hasattr(column, name):
            return getattr(column, name)()
    return column


def _unknown(rows: Sequence[Mapping[str, Any]], columns: Columns) -> list[str]:
    """Return a line on each nominal column with categories that the training part did not have."""
    notes = []
    for column in columns.columns:
        if not column.categories:
            continue
        texts = (code(row[column.name]) for row in rows if not is_blank(row[column.name]))
        others = Counter(text for text in texts if text not in column.categories)
        if others:
            count = sum(others.values())
            notes.append(
                f"column '{column.name}': {count:,} of {len(rows):,} rows have a category that the training data did "
                f"not have ({listed(others)}); all its categories are 0 there, as in training"
            )
    return notes
