"""Evaluations kept in their run folders: written once, never overwritten, read back for comparison."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from limbeck.errors import RunError, command, one_line
from limbeck.experiment.sealing import seal_of
from limbeck.locks import exclusive
from limbeck.records import as_json, sealed, unsealed
from limbeck.runs import RunFolder
from limbeck.tasks import TASKS

__all__ = ["FORMAT", "bound", "held", "keep", "newest", "read_bound", "required_bound"]

FORMAT = 2
"""Of evaluation.json; raised whenever its keys change their meaning."""

_OUTCOME = "outcome_sha256"
_NEEDED = ("name", "test", "parameters", "summary", "advantage", "models", "cost", "failures")


def keep(content: Mapping[str, Any], folder: Path) -> Path:
    """Write an evaluation into its run folder and return where it lies; nothing is overwritten.

    content: as `RunAssessment.as_dict` gives it.
    An evaluation that is there already and says the same, but for what was measured by the clock, is left as it is;
    one that says something else gets a neighbour with a number.
    """
    number, content = 1, bound(content, folder)
    with held(folder):
        while True:
            path = folder / ("evaluation.json" if number == 1 else f"evaluation-{number}.json")
            if not path.exists():
                break
            if _timeless(read_bound(path), content) == _timeless(content, content):
                return path
            number += 1
        RunFolder(folder, command("limbeck", "evaluate", folder)).write_json(path.name, sealed(content))
    return path


def newest(folder: Path) -> Mapping[str, Any] | None:
    """Return the newest evaluation of a run, None where there is none; RunError when it is damaged or of old."""
    numbered = {1: folder / "evaluation.json"}
    for path in folder.glob("evaluation-*.json"):
        number = path.stem.removeprefix("evaluation-")
        if number.isdecimal():
            numbered[int(number)] = path
    files = [path for _, path in sorted(numbered.items()) if path.is_file()]
    if not files:
        return None
    mend = f"delete it and run {command('limbeck', 'evaluate', folder)}"
    content = required_bound(files[-1], folder, mend)
    if "format" not in content:
        raise RunError(f"'{files[-1]}' is damaged; {mend}")
    if content["format"] != FORMAT:
        raise RunError(f"'{files[-1]}' has format {content['format']!r}, expected {FORMAT}; {mend}")
    for key in _NEEDED:
        if key not in content:
            raise RunError(f"'{files[-1]}' is damaged (it has no '{key}'); {mend}")
    try:
        checked = _Evaluation.model_validate(content)
        for model in checked.models:
            if not all(0 <= position < checked.test.examples for position in model.test_errors or []):
                raise ValueError("models.test_errors: there are not so many test examples")
    except ValueError as error:
        raise RunError(f"'{files[-1]}' is damaged ({one_line(error)}); {mend}") from None
    return content


class _Interval(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    mean: float
    half_width: float | None
    n: int


class _Test(BaseModel):
    model_config = ConfigDict(strict=True)
    examples: int = Field(ge=1, le=10**8)
    digest: str
    task: str = Field(pattern=f"^({'|'.join(TASKS)})$")


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)
    role: str
    seed: int
    test_errors: list[int] | None = None


class _Roles(BaseModel):
    model_config = ConfigDict(strict=True)
    teacher: dict[str, _Interval]
    alone: dict[str, _Interval]
    distilled: dict[str, _Interval]


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True)
    teacher: int = Field(ge=0, lt=2**63)
    student: int = Field(ge=0, lt=2**63)


class _Evaluation(BaseModel):
    """What readers of an evaluation take for granted."""

    model_config = ConfigDict(strict=True)
    test: _Test
    parameters: _Parameters
    summary: _Roles
    models: list[_Model] = Field(min_length=1, max_length=10_000)
    cost: dict[str, dict[str, Any]]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder to write in it; wait for its present holder."""
    if not folder.is_dir():  # the lock must not make it again
        raise RunError(f"'{folder}' is no run folder; name one below runs/")
    with exclusive(folder / ".lock", wait=True, busy=f"run folder: '{folder}' is in use by another process"):
        try:
            yield
        except OSError as error:
            raise RunError(f"run folder: cannot write in '{folder}' ({error.strerror}); mend that and repeat") from None


def bound(content: Any, folder: Path) -> dict[str, Any]:
    """Return what was measured of a run as JSON has it, with the seal of the outcome that it was measured of."""
    plain: dict[str, Any] = json.loads(as_json(content))
    return {**plain, _OUTCOME: seal_of(folder)}


def read_bound(path: Path) -> dict[str, Any]:
    """Return what a file of measurements holds; nothing where it is damaged."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def required_bound(path: Path, folder: Path, mend: str) -> dict[str, Any]:
    """Return what was measured of a run as it is now; RunError with the mend where it is damaged or of another."""
    try:
        content = unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); {mend}") from None
    if content.pop(_OUTCOME, None) != seal_of(folder):
        raise RunError(f"'{path}': found what was measured of another outcome; expected that of this run; {mend}")
    return content


def _timeless(content: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the clock; without the cost where the other has none."""
    costs = content.get("cost") or {}
    if not isinstance(costs, Mapping) or not all(isinstance(each, Mapping) for each in costs.values()):
        return {**content}
    kept = {role: {k: v for k, v in each.items() if k not in ("timings", "memory")} for role, each in costs.items()}
    return {**content, "cost": kept if other.get("cost") else {}}
