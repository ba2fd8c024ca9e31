"""Rows of token ids as other libraries hold them: padded to batches, with a label for each row or for each token."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.errors import DataError, InputError

__all__ = ["check_no_copies", "is_ragged", "next_tokens", "of_tokens", "padded_rows", "token_labels"]

IDS, MASK = "input_ids", "attention_mask"
_FEW = 8  # so few labels of a masked model may all be its input ids: it leaves one in ten as it is


def of_tokens(inputs: Any, label: Any) -> bool:
    """Return whether a row's label, or a batch's, is one for each of its tokens: it has the shape of the input ids.

    >>> of_tokens({"input_ids": torch.tensor([5, 7])}, [0, 1]), of_tokens({"input_ids": torch.tensor([5, 7])}, 1)
    (True, False)
    """
    ids = inputs.get(IDS) if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or label is None:
        return False
    shape = getattr(label, "shape", None)
    if shape is None and isinstance(label, list | tuple):
        return ids.dim() == 1 and len(label) == len(ids)
    return shape is not None and ids.dim() > 0 and tuple(shape) == tuple(ids.shape)


def token_labels(where: str, label: Any) -> Tensor:
    """Return labels of tokens as int64; DataError for what is none."""
    try:
        found = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where}: labels: found {shown(label)}, expected a whole number for each token, {UNLABELLED} for none;"
            " number the classes from 0"
        ) from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DataError(
            f"{where}: labels are {str(found.dtype).removeprefix('torch.')}, expected a whole number for each token,"
            f" {UNLABELLED} for none; number the classes from 0"
        )
    return found.to(torch.int64)


def is_ragged(samples: Sequence[Any]) -> bool:
    """Return whether samples are rows of token ids of unlike lengths, which are padded."""
    rows = [each.get(IDS) if isinstance(each, Mapping) else None for each in samples]
    whole = all(isinstance(row, Tensor) and row.dim() == 1 for row in rows)
    return whole and len({len(row) for row in rows if row is not None}) > 1


def padded_rows(samples: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return rows of tokens with the columns that have one number a token padded on the right to the longest row.

    They are padded with 0; where there is no attention mask, one is made of the rows' lengths.

    >>> rows = padded_rows([{"input_ids": torch.tensor([5, 7])}, {"input_ids": torch.tensor([4])}])
    >>> rows[1]["input_ids"], rows[1]["attention_mask"]
    (tensor([4, 0]), tensor([1, 0]))
    """
    longest = max(len(each[IDS]) for each in samples)
    rows = []
    for each in samples:
        count = len(each[IDS])
        columns = each if MASK in each else {**each, MASK: torch.ones(count, dtype=torch.int64)}
        rows.append(
            {
                name: functional.pad(column, (0, longest - count)) if column.shape == (count,) else column
                for name, column in columns.items()
            }
        )
    return rows


def check_no_copies(name: str, inputs: Any, labels: Tensor) -> None:
    """Refuse labels of tokens that are the input ids: a model that is taught them copies its input."""
    ids = inputs.get(IDS) if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return
    labelled = labels != UNLABELLED
    count = int(labelled.sum())
    if (count >= _FEW or count == labels.numel() > 1) and torch.equal(ids[labelled], labels[labelled]):
        raise DataError(
            f"{name}: labels: found the input ids themselves, which teaches a model to copy its input; expected the"
            f" next token of each. Move them with limbeck.data.next_tokens({name})"
        )


@checked
def next_tokens(data: Any) -> Any:
    """Return rows of tokens with the next token as the label of each, as limbeck has labels of language models.

    Labels by the convention of the Transformers library are the input ids, and are moved by one place; rows without
    labels get those of their input ids.  The last token has none, nor has one whose next is padding.

    Args:
        data: a map-style dataset, or a `DataLoader` of batches, whose rows are mappings with `input_ids`.

    Returns:
        The same rows, as a dataset or a loader.

    Raises:
        InputError: if it is neither.

    Example:
        >>> rows = [{"input_ids": [5, 7, 9], "labels": [-100, 7, 9]}, {"input_ids": [5, 7]}]
        >>> [row["labels"] for row in next_tokens(rows)]
        [[7, 9, -100], [7, -100]]
    """
    if not hasattr(data, "__iter__") and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise InputError(f"data: found {type(data).__name__}, expected a dataset or a DataLoader of rows of tokens")
    if isinstance(data, str | bytes | Mapping | Tensor):
        raise InputError(f"data: found {type(data).__name__}, expected a dataset or a DataLoader of rows of tokens")
    return _Rows(data) if hasattr(data, "__getitem__") else _Batches(data)


def _moved(row: Any) -> Any:
    if not isinstance(row, Mapping) or IDS not in row:
        raise DataError("data: found a row without a column 'input_ids'; expected token ids, as a tokenizer gives them")
    labels = row["labels"] if "labels" in row else row.get("label", row[IDS])
    ids = torch.as_tensor(row[IDS])
    found = torch.as_tensor(labels)
    if found.shape != ids.shape:
        raise DataError(
            f"data: labels have shape {tuple(found.shape)} beside input_ids {tuple(ids.shape)}; expected one for each"
            " token"
        )
    moved = functional.pad(found[..., 1:], (0, 1), value=UNLABELLED)
    if MASK in row:
        mask = torch.as_tensor(row[MASK]).bool()
        if mask.shape == ids.shape:
            moved = moved.masked_fill(~(mask & functional.pad(mask[..., 1:], (0, 1), value=False)), UNLABELLED)
    rest = {name: each for name, each in row.items() if name not in ("label", "labels")}
    return {**rest, "labels": moved if isinstance(row[IDS], Tensor) else moved.tolist()}


class _Rows:
    """A dataset whose labels are moved."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int) -> Any:
        return _moved(self.data[position])


class _Batches:
    """A loader whose labels are moved; it has the other's batch size, sampler and so on."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return map(_moved, iter(self.data))

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return getattr(self.data, name)
