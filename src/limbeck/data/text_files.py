"""Text from files: lines, tables without a dialect of their own, and JSON lines, each fault with its file and line."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from limbeck.checks import shown
from limbeck.data.arrow_rows import arrow_columns, is_arrow
from limbeck.data.content import check_fits
from limbeck.errors import DataError, InputError, one_of

__all__ = ["JSON_ENDINGS", "Quoting", "decoded", "lines_of", "objects_of", "read_columns"]

Quoting = Literal["csv", "none"]

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
_UTF_8 = ("utf-8", "utf8", "UTF-8")


def decoded(path: str | Path, encoding: str = "utf-8") -> str:
    """Return the text of a file, unpacked if its name ends in .gz, without a byte order mark.

    Raises DataError for a file that is missing or not in that encoding, with the line; InputError for an unknown one.
    """
    path = Path(path)
    try:
        check_fits(str(path), 10 * path.stat().st_size)
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        mend = "save the file as UTF-8, or name its encoding (encoding: latin-1)"
        raise DataError(
            f"{path}: line {line} is not {encoding.upper()} (byte 0x{raw[error.start]:02x});"
            f" {mend if encoding in _UTF_8 else 'name its encoding'}"
        ) from None
    except LookupError:
        known = ("utf-8", "latin-1", "cp1252", "utf-16", "ascii")
        raise InputError(f"encoding: found {shown(encoding)}; {one_of(encoding, known)}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return text.removeprefix("\ufeff")


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text, parted by line feeds alone, without carriage returns at their ends.

    >>> lines_of("a\r\nb\u2028c\n\n")
    ['a', 'b\u2028c', '']
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def objects_of(path: str | Path, encoding: str = "utf-8") -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a file of JSON lines, or of one JSON list, each with its number: of the line, or from 1."""
    text = decoded(path, encoding)
    found: list[tuple[int, Any]] = []
    if text.lstrip().startswith("["):
        try:
            found = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no JSON ({error}); expected a list of objects") from None
    else:
        for number, line in enumerate(lines_of(text), 1):
            if line.strip():
                try:
                    found.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}: line {number} is no JSON ({error}); expected one object a line") from None
    for number, each in found:
        if not isinstance(each, dict):
            raise DataError(f'{path}: line {number}: found {shown(each)}; expected an object, such as {{"text": ...}}')
    if not found:
        raise DataError(f"{path}: is empty; expected at least one object")
    return found


def read_columns(
    path: str | Path,
    *,
    columns: Sequence[str] = (),
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    encoding: str = "utf-8",
    notes: list[str],
) -> tuple[dict[str, list[str]], list[int]]:
    """Return the columns of a file as text, and the line of each row.

    columns: the names, where the first line has none.  delimiter: by default a tab, in a .csv file a comma.
    quoting: whether quotation marks enclose cells ("csv") or are plain text ("none"); by default "csv" where commas
    part the cells.  With a space as delimiter and names for the columns, the last column is the rest of the line.
    Parquet files and folders of the library `datasets` need none of these.
    Lines without anything are left out; of JSON lines, what is no text is written as JSON.
    """
    path = Path(path)
    if is_arrow(path):
        found = arrow_columns(path)
        return found, list(range(1, len(next(iter(found.values()))) + 1))
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending in JSON_ENDINGS:
        return _of_objects(path, objects_of(path, encoding))
    sign = delimiter or ("," if ending == ".csv" else "\t")
    if len(sign) != 1 or sign in '"\r\n':
        raise InputError(f"delimiter: found {shown(sign)}, expected one character, such as ',' or a tab")
    text = decoded(path, encoding)
    if (quoting or ("csv" if sign == "," else "none")) == "csv":
        rows = _quoted(path, text, sign)
    else:
        most = len(columns) - 1 if sign == " " and columns else -1
        rows = [(number, line.split(sign, most)) for number, line in enumerate(lines_of(text), 1) if line.strip()]
        _look_at_quotes(path, rows, notes)
    header = [name.strip() for name in columns]
    if not header and rows:
        header = [name.strip() for name in rows.pop(0)[1]]
    if not rows:
        raise DataError(f"{path}: found no rows{'' if columns else ' below the header line'}; expected at least one")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: names a column twice ({shown(header)}); expected different names")
    for number, row in rows:
        if len(row) != len(header):
            first = "columns names" if columns else "the first line has"
            raise DataError(f"{path}: line {number} has {len(row)} cells, {first} {len(header)}; fix the line")
    return {name: [row[place] for _, row in rows] for place, name in enumerate(header)}, [line for line, _ in rows]


def _quoted(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num}: {error}; if quotation marks are plain text there, set quoting: none"
        ) from None


def _look_at_quotes(path: Path, rows: Sequence[tuple[int, list[str]]], notes: list[str]) -> None:
    """Note where quotation marks that are taken as plain text look as if a program had enclosed cells in them."""
    inner = [cell[1:-1] for _, row in rows for cell in row if len(cell) > 1 and cell[0] == cell[-1] == '"']
    doubled = sum(1 for cell in inner if '""' in cell and '"' not in cell.replace('""', ""))
    if doubled:
        notes.append(
            f"{path}: quotation marks are plain text, but {doubled:,} cells have them doubled, as CSV does; set"
            " quoting: csv if they enclose cells"
        )


def _of_objects(path: Path, objects: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[dict[str, list[str]], list[int]]:
    names = list(objects[0][1])
    for number, each in objects:
        missing = [name for name in names if name not in each]
        if missing:
            raise DataError(f"{path}: line {number} has no {shown(missing[0])}, which the first object has; add it")
    return {name: [_text(each[name]) for _, each in objects] for name in names}, [number for number, _ in objects]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
