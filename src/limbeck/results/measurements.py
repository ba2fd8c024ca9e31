"""What is measured of a finished run: written into its folder once, never overwritten, and bound to its outcome."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import RunError, command, one_line
from limbeck.experiment.sealing import seal_of
from limbeck.locks import exclusive
from limbeck.records import plain_values, read_as, sealed, unsealed
from limbeck.runs import RunFolder

__all__ = ["bound", "held", "newest_of", "write_once"]

T = TypeVar("T")
Content = Mapping[str, Any]

_OUTCOME = "outcome_sha256"


def write_once(
    found: Any, folder: Path, stem: str, *, again: str, timeless: Callable[[Content, Content], Content]
) -> Path:
    """Write a measurement into its run folder, as STEM.json or STEM-N.json, and return where it lies.

    A file that says the same already is left as it is; one that says something else gets a neighbour.
    again: the command to repeat where it cannot be written.
    timeless: returns what is compared of one content with another: without what the clock measured.
    """
    content = bound(found, folder)
    with held(folder):
        files = _files(folder, stem)
        for path in files.values():
            known = _read(path)
            if timeless(known, content) == timeless(content, content):
                return path
        number = max(files, default=0) + 1
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        RunFolder(folder, again).write_json(path.name, sealed(content))
    return path


def newest_of(kind: type[T], folder: Path, stem: str, verb: str) -> T | None:
    """Return the newest measurement of a run; None where there is none.

    kind: a dataclass whose `format` has as default the one that is read.  verb: that measures anew.
    Raises RunError where the file is damaged, of another outcome or of another format.
    """
    files = _files(folder, stem)
    if not files:
        return None
    path, mend = files[max(files)], f"delete it and run {command('limbeck', verb, folder)}"
    expected = getattr(kind, "format")  # noqa: B009 - a type variable has no attributes
    try:
        content = unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); {mend}") from None
    if content.pop(_OUTCOME, None) != seal_of(folder):
        raise RunError(f"'{path}': found measurements of another outcome; expected those of this run; {mend}")
    if content.get("format") != expected:
        raise RunError(f"'{path}': found format {content.get('format')!r}; expected {expected}; {mend}")
    try:
        return read_as(kind, content)
    except ValueError as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); {mend}") from None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder to write in it; wait for its present holder."""
    if not folder.is_dir():  # the lock must not make it again
        raise RunError(f"'{folder}' is not a run folder; name one below runs/")
    with exclusive(folder / ".lock", wait=True, busy=f"run folder: '{folder}' is in use by another process"):
        try:
            yield
        except OSError as error:
            raise RunError(
                f"run folder: cannot write in '{folder}' ({error.strerror}); fix that and run the command again"
            ) from None


def bound(found: Any, folder: Path) -> dict[str, Any]:
    """Return a measurement as JSON has it, with the seal of the outcome that it was measured of."""
    return {**plain_values(found), _OUTCOME: seal_of(folder)}


def _files(folder: Path, stem: str) -> dict[int, Path]:
    """Return the measurements of a folder by their numbers, counted from 1."""
    found = {1: folder / f"{stem}.json"} if (folder / f"{stem}.json").is_file() else {}
    for path in folder.glob(f"{stem}-*.json"):
        number = path.stem.removeprefix(f"{stem}-")
        if number.isdecimal() and len(number) < 9:
            found[int(number)] = path
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return what a file of measurements holds; nothing where it is damaged."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
