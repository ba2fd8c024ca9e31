"""Rows of Arrow files: how Parquet, and what the library `datasets` saves, are opened, and their columns as text."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

from limbeck.data.content import check_fits
from limbeck.errors import DataError, InputError, one_line

__all__ = ["arrow", "arrow_columns", "is_arrow", "joined", "names_in", "reading", "saved_files"]


def is_arrow(path: Path) -> bool:
    """Return whether a path is a Parquet file, or a folder of the library `datasets`."""
    return path.suffix.lower() == ".parquet" or (path / "state.json").is_file()


def arrow_columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of a Parquet file, or of a folder of the library `datasets`, as text; empty cells are "".

    Numbers of classes whose names the file has become these names.  Raises DataError for a file that cannot be read,
    and for columns that hold neither texts nor numbers nor dates; InputError without pyarrow.
    """
    if path.is_dir():
        found = joined(saved_files(path))
    else:
        if not path.is_file():
            raise DataError(f"{path}: cannot be read (No such file or directory)")
        check_fits(str(path), 4 * path.stat().st_size)
        with reading(path):
            found = arrow("parquet").read_table(path)
    if not found.num_rows:
        raise DataError(f"{path}: has no rows; expected at least one")
    columns = {}
    for name in found.column_names:
        names, cells = names_in(found.schema.metadata, name), found.column(name).to_pylist()
        columns[name] = [
            _text(f"{path}: column '{name}', row {row + 1}", each, names) for row, each in enumerate(cells)
        ]
    return columns


def _text(where: str, value: Any, names: Sequence[str]) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise DataError(f"{where}: found {str(value)[:40]!r}; expected a text, a number or a date. Leave the column out")


def saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder that the library `datasets` saved; DataError where it is none."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [str(each["filename"]) for each in state["_data_files"]]
        chosen = state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{folder}: is no dataset of the library datasets; expected what save_to_disk writes") from None
    if chosen:
        raise DataError(f"{folder}: is a selection of other files; call flatten_indices before save_to_disk")
    if not files or any(Path(each).name != each for each in files):
        raise DataError(f"{folder}: state.json names files outside of the folder; expected those beside it")
    return tuple(folder / each for each in files)


def joined(paths: Sequence[Path]) -> Any:
    """Return the rows of Arrow files in their order, mapped into memory."""
    library, tables = arrow(), []
    for path in paths:
        with reading(path):
            tables.append(library.ipc.open_stream(library.memory_map(str(path))).read_all())
    for path, table in zip(paths, tables, strict=True):
        if not table.schema.equals(tables[0].schema):
            raise DataError(f"{path}: its columns are not those of {paths[0].name}; expected the same. Save it again")
    return library.concat_tables(tables)


def arrow(part: str | None = None) -> Any:
    """Return the library pyarrow, or a part of it; InputError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InputError("data: needs the library pyarrow; pip install 'limbeck[store]'") from None
    return pyarrow if part is None else getattr(pyarrow, part)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell of a file that pyarrow cannot read, in one line."""
    try:
        yield
    except (arrow().ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read by pyarrow ({one_line(error)}); write it again") from None


def names_in(metadata: Any, label: str) -> tuple[str, ...]:
    """Return the classes' names that the library `datasets` writes into a schema; empty where there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in names)
    except (TypeError, ValueError, KeyError, RecursionError):
        return ()
