"""Rows of tables as files hold them: CSV, JSON lines, Parquet, and what the library `datasets` saves."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.data.arrow_rows import arrow_columns, is_arrow
from limbeck.data.cells import is_number
from limbeck.data.content import check_fits
from limbeck.data.names import listed
from limbeck.data.text_files import JSON_ENDINGS, objects_of
from limbeck.errors import DataError, InputError

__all__ = ["read_rows"]


def read_rows(
    path: str, delimiter: str, doubts: list[str], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Return the names of a table's columns and its rows of cells as text, each as long as the first.

    path: a CSV file, JSON lines (.jsonl, .ndjson, .json), Parquet (.parquet), or a folder that the library `datasets`
    saved.  A file whose name ends in .gz is unpacked as it is read.  doubts: where notes go.
    columns: the names, where the first line of a CSV file has none.
    """
    if is_arrow(Path(path)):
        return _of_columns(arrow_columns(Path(path)))
    if path.removesuffix(".gz").lower().endswith(JSON_ENDINGS):
        return _of_objects(path)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(f"delimiter: found {delimiter!r}, expected one character, such as ',' or ';'")
    empty = 0
    try:
        check_fits(path, 10 * Path(path).stat().st_size)
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in (columns or next(reader, []))]
            first = "columns names" if columns else "the first has"
            rows = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}: line {reader.line_num} has {len(row)} cells, {first} {len(header)}")
                if any(map(str.strip, row)):
                    rows.append(row)
                else:
                    empty += len(row) > 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: is not a CSV file in UTF-8 ({' '.join(str(error).split())}); save it as 'CSV UTF-8'"
        ) from None
    if not rows:
        raise DataError(f"{path}: has no rows below the header line")
    if empty:
        doubts.append(f"{empty:,} rows have no value in any column and are left out")
    while header and not header[-1] and not any(row[-1].strip() for row in rows):  # as spreadsheets leave them
        header.pop()
        rows = [row[:-1] for row in rows]
    counts = Counter(header)
    for name in header:
        if not name or counts[name] > 1:
            mend = "" if name else "; name the column, or leave out the numbers of rows (pandas: index=False)"
            raise DataError(
                f"{path}: its first line names {name!r} {counts[name]} times, expected different names{mend}"
            )
    if len(header) > 1 and not columns and all(map(is_number, header)) and not _counts_up(header):
        raise DataError(f"{path}: its first line has numbers ({listed(header)}), expected the columns' names; add them")
    return header, rows


def _counts_up(header: Sequence[str]) -> bool:
    """Return whether a header of numbers is one that programs write: the columns' places, from 0 or from 1."""
    return any(list(header) == [str(place + first) for place in range(len(header))] for first in (0, 1))


def _of_columns(found: dict[str, list[str]]) -> tuple[list[str], list[list[str]]]:
    return list(found), [list(row) for row in zip(*found.values(), strict=True)]


def _of_objects(path: str) -> tuple[list[str], list[list[str]]]:
    """Return the columns that any object has, in the order in which they come, and a row for each object."""
    objects = [each for _, each in objects_of(path)]
    header = list(dict.fromkeys(name for each in objects for name in each))
    return header, [[_cell(path, name, each.get(name)) for name in header] for each in objects]


def _cell(path: str, name: str, value: Any) -> str:
    if isinstance(value, list | dict):
        raise DataError(
            f"{path}: column '{name}' holds {json.dumps(value)[:40]}; expected texts and numbers. Flatten it, or leave"
            " it out of the file"
        )
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
