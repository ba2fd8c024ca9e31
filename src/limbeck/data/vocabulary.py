"""Inputs that are names, such as those of users, as a model takes them: the numbers of the names."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.checks import shown
from limbeck.data.cells import code, is_blank
from limbeck.errors import DataError, nearest

__all__ = ["known_items", "named_inputs", "texts"]

_NAMED = "user"
_KNOWN = "known"


def texts(inputs: Any) -> list[str]:
    """Return names as text: of a list or array of names (n,) or (n, 1), or of the column `user` of rows.

    Rows may have a second column, `known`; another one alone stands for `user`.  DataError for anything else.

    >>> texts([{"user": "ann", "known": "3;4"}, {"user": 7.0}]), texts(["ann", "bob"])
    (['ann', '7'], ['ann', 'bob'])
    """
    rows = _rows(inputs)
    if rows is not None:
        names = [name for name in rows[0] if name != _KNOWN] if rows else []
        column = _NAMED if _NAMED in names or len(names) != 1 else names[0]
        values = [row.get(column) for row in rows]
        if any(value is None or is_blank(value) for value in values):
            raise DataError(f"inputs: found a row without '{column}'; expected the name of a user in each")
    else:
        values = inputs.tolist() if hasattr(inputs, "tolist") else inputs
        if not isinstance(values, list | tuple):
            values = [values]
        values = [value[0] if isinstance(value, list | tuple) and len(value) == 1 else value for value in values]
    if not values:
        raise DataError("inputs: found no rows; expected at least one")
    for value in values:
        if isinstance(value, list | tuple | Mapping):
            raise DataError(f"inputs: found {shown(value)}; expected the name of a user, one for each sample")
    return [code(value) for value in values]


def named_inputs(inputs: Any, vocabulary: Sequence[str]) -> Tensor:
    """Return the number of each name, (n, 1) int64; DataError for one that the vocabulary does not have."""
    numbers = {name: number for number, name in enumerate(vocabulary)}
    found = texts(inputs)
    for text in found:
        if text not in numbers:
            close = nearest(text, vocabulary)
            mend = f"did you mean '{close}'?" if close else "the model has no vector for others"
            known = f"one of the {len(vocabulary):,} of the training data"
            raise DataError(f"inputs: found user {shown(text)}; expected {known}; {mend}")
    return torch.tensor([[numbers[text]] for text in found])


def known_items(inputs: Any, class_names: Sequence[str]) -> list[list[int]]:
    """Return the numbers of the items that each row names in its column `known`, parted by semicolons.

    >>> known_items([{"user": "ann", "known": "b;c"}, {"user": "bob"}], ["a", "b", "c"])
    [[1, 2], []]
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    found = []
    for row in _rows(inputs) or []:
        texts = [] if is_blank(row.get(_KNOWN) or "") else [code(part) for part in str(row[_KNOWN]).split(";")]
        for text in texts:
            if text not in numbers:
                raise DataError(f"inputs: known: found item {shown(text)}; expected items of the training data")
        found.append([numbers[text] for text in texts])
    return found


def _rows(inputs: Any) -> list[Mapping[str, Any]] | None:
    """Return rows by the names of their columns; None for what names none."""
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(row, Mapping) for row in inputs):
        return list(inputs)
    if isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
        columns = {
            str(name): list(inputs[name]) for name in (inputs if isinstance(inputs, Mapping) else inputs.columns)
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return None
