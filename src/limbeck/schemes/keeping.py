"""Evaluations kept in their run folders: written once, never overwritten, read back by whoever compares."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import RunError
from limbeck.runs import RunFolder, exclusive

__all__ = ["FORMAT", "held", "keep", "kept"]

FORMAT = 1
"""Of evaluation.json; raised whenever its keys change their meaning."""

_NEEDED = ("name", "test", "parameters", "summary", "advantage", "models", "cost")


def keep(content: Mapping[str, Any], folder: Path) -> Path:
    """Write an evaluation into its run folder and return where it lies; nothing is overwritten.

    content: as `RunAssessment.as_dict` gives it.
    An evaluation that is there already and says the same, but for what was measured by the clock, is left as it is;
    one that says something else gets a neighbour with a number.
    """
    number = 1
    with held(folder):
        while True:
            path = folder / ("evaluation.json" if number == 1 else f"evaluation-{number}.json")
            if not path.exists():
                break
            if _timeless(_read(path), content) == _timeless(content, content):
                return path
            number += 1
        RunFolder(folder).write_json(path.name, content)
    return path


def kept(folder: Path) -> Mapping[str, Any] | None:
    """Return the newest evaluation of a run, None where there is none; RunError when it is damaged or of old."""
    numbered = {1: folder / "evaluation.json"}
    for path in folder.glob("evaluation-*.json"):
        number = path.stem.removeprefix("evaluation-")
        if number.isdecimal():
            numbered[int(number)] = path
    files = [path for _, path in sorted(numbered.items()) if path.is_file()]
    if not files:
        return None
    content, mend = _read(files[-1]), f"delete it and run limbeck evaluate {folder}"
    if "format" not in content:
        raise RunError(f"'{files[-1]}' is damaged; {mend}")
    if content["format"] != FORMAT:
        raise RunError(f"'{files[-1]}' has format {content['format']!r}, expected {FORMAT}; {mend}")
    for key in _NEEDED:
        if key not in content:
            raise RunError(f"'{files[-1]}' is damaged (it has no '{key}'); {mend}")
    return content


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder to write in it, after whoever holds it now."""
    with exclusive(folder / ".lock", wait=True, busy=""):
        try:
            yield
        except OSError as error:
            raise RunError(f"evaluate: cannot write in '{folder}' ({error.strerror}); mend that and repeat") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _timeless(content: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the clock; without the cost where the other has none."""
    costs = content.get("cost") or {}
    kept = {role: {k: v for k, v in each.items() if k not in ("timings", "memory")} for role, each in costs.items()}
    return {**content, "cost": kept if other.get("cost") else {}}
