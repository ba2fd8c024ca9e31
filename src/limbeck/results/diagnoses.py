"""Diagnoses kept in run folders: written once, never overwritten, read back by the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.diagnosis.diagnosing import FORMAT, Diagnosis
from limbeck.errors import RunError, command, one_line
from limbeck.records import read_as, sealed
from limbeck.results.evaluations import bound, held, read_bound, required_bound
from limbeck.runs import RunFolder

__all__ = ["keep", "newest"]


def keep(found: Diagnosis, folder: Path, *, again: str | None = None) -> Path:
    """Write a diagnosis into its run folder and return where it lies; nothing is overwritten.

    One that is there already and says the same, but for the time it took, is left as it is; one that says something
    else gets a neighbour with a number.
    again: the command to repeat where it cannot be written; by default that for the run which the folder holds.
    """
    content = bound(found, folder)
    with held(folder):
        for path in _files(folder):
            if _timeless(read_bound(path)) == _timeless(content):
                return path
        number = max((_number(path) for path in _files(folder)), default=0) + 1
        path = folder / ("diagnosis.json" if number == 1 else f"diagnosis-{number}.json")
        RunFolder(folder, again or command("limbeck", "diagnose", folder)).write_json(path.name, sealed(content))
    return path


def newest(folder: Path) -> Diagnosis | None:
    """Return the newest diagnosis of a run, None where there is none; RunError when it is damaged or of old."""
    files = _files(folder)
    if not files:
        return None
    path, mend = files[-1], f"delete it and run {command('limbeck', 'diagnose', folder)}"
    content = required_bound(path, folder, mend)
    if content.get("format") != FORMAT:
        raise RunError(f"'{path}' has format {content.get('format')!r}, expected {FORMAT}; {mend}")
    try:
        return read_as(Diagnosis, content)
    except ValueError as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); {mend}") from None


def _files(folder: Path) -> list[Path]:
    """Return the diagnoses of a folder, the newest last."""
    return sorted((path for path in folder.glob("diagnosis*.json") if _number(path)), key=_number)


def _number(path: Path) -> int:
    """Return which diagnosis a file is, counted from 1; 0 for a file that is none."""
    if path.stem == "diagnosis":
        return 1
    number = path.stem.removeprefix("diagnosis-")
    return int(number) if number.isdecimal() and len(number) < 9 else 0


def _timeless(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "seconds"}
