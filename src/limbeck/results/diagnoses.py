"""Diagnoses kept in run folders: written once, never overwritten, read back by the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck.errors import RunError, command, one_line
from limbeck.records import sealed
from limbeck.results.evaluations import bound, held, read_bound, required_bound
from limbeck.runs import RunFolder

__all__ = ["FORMAT", "keep", "newest"]

FORMAT = 1
"""Of diagnosis.json; raised whenever its keys change their meaning."""


def keep(content: Mapping[str, Any], folder: Path, *, again: str | None = None) -> Path:
    """Write a diagnosis into its run folder and return where it lies; nothing is overwritten.

    content: as `Diagnosis.as_dict` gives it.  One that is there already and says the same, but for the time it took, is
    left as it is; one that says something else gets a neighbour with a number.
    again: the command to repeat where it cannot be written; by default that for the run which the folder holds.
    """
    content = bound(content, folder)
    with held(folder):
        for path in _files(folder):
            if _timeless(read_bound(path)) == _timeless(content):
                return path
        number = max((_number(path) for path in _files(folder)), default=0) + 1
        path = folder / ("diagnosis.json" if number == 1 else f"diagnosis-{number}.json")
        RunFolder(folder, again or command("limbeck", "diagnose", folder)).write_json(path.name, sealed(content))
    return path


def newest(folder: Path) -> Mapping[str, Any] | None:
    """Return the newest diagnosis of a run, None where there is none; RunError when it is damaged or of old."""
    files = _files(folder)
    if not files:
        return None
    path, mend = files[-1], f"delete it and run {command('limbeck', 'diagnose', folder)}"
    content = required_bound(path, folder, mend)
    if content.get("format", FORMAT) != FORMAT:
        raise RunError(f"'{path}' has format {content['format']!r}, expected {FORMAT}; {mend}")
    try:
        _Diagnosis.model_validate(content)
    except ValueError as error:
        raise RunError(f"'{path}' is damaged ({one_line(error)}); {mend}") from None
    return content


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


_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_Text = Field(max_length=2000)
_Share = Field(ge=-1.0, le=1.0)


class _Finding(BaseModel):
    model_config = _STRICT
    cause: str = _Text
    said: str = _Text
    evidence: str = _Text


class _Advice(BaseModel):
    model_config = _STRICT
    question: str = _Text
    said: str = _Text
    evidence: str = _Text
    confidence: Literal["measured", "indicated", "rule of thumb"]


class _Interval(BaseModel):
    model_config = _STRICT
    mean: float
    half_width: float | None
    n: int


class _Estimate(BaseModel):
    model_config = _STRICT
    value: float
    low: float
    high: float


class _Effect(BaseModel):
    model_config = _STRICT
    name: str = _Text
    over_seeds: _Interval
    over_examples: _Estimate
    found: bool
    verdict: str = _Text


class _Attribution(BaseModel):
    model_config = _STRICT
    examples: int
    seeds: int
    accuracies: dict[str, _Interval] = Field(max_length=20)
    effects: list[_Effect] = Field(max_length=20)
    left_out: dict[str, str]


class _Fidelity(BaseModel):
    model_config = _STRICT
    agreement: float
    kl: float


class _Fit(BaseModel):
    model_config = _STRICT
    name: Literal["student", "longer", "larger"]
    epochs: int
    parameters: int
    train: _Fidelity
    held_out: _Fidelity
    accuracy: float


class _Capacity(BaseModel):
    model_config = _STRICT
    limit: Literal["teacher", "data", "optimisation", "capacity", "unlearnable"]
    reason: str = _Text
    fits: list[_Fit] = Field(max_length=3)


class _Rescaling(BaseModel):
    model_config = _STRICT
    when: Literal["early", "late"]
    quantiles: list[float | None]
    reversed: float
    pearson: float | None
    spearman: float | None
    curve: list[list[float | None]] = Field(max_length=100)


class _Confidence(BaseModel):
    model_config = _STRICT
    examples: int
    accuracy: float
    nll: float
    mean: float
    true_class: list[float]
    histogram: list[float] = Field(min_length=20, max_length=20)
    overconfidence: float
    ece: float
    temperature: float | None
    entropies: list[list[float]]


class _Blocks(BaseModel):
    model_config = _STRICT
    groups: list[int]
    within: float
    between: float
    score: float
    p_value: float


_Matrix = list[list[float | None]] | None


class _Teacher(BaseModel):
    model_config = _STRICT
    train: _Confidence
    held_out: _Confidence
    correlation_low: _Matrix
    correlation_high: _Matrix
    cosines: _Matrix
    given_blocks: _Blocks | None
    found_blocks: _Blocks | None
    stability_of_blocks: float | None
    order: list[int]


class _Setting(BaseModel):
    model_config = _STRICT
    learning_rate: float
    temperature: float | None


class _Diagnosis(BaseModel):
    """What readers of a diagnosis take for granted."""

    model_config = _STRICT
    name: str = _Text
    class_names: list[str] = Field(max_length=10**6)
    settings: dict[str, Any]
    findings: list[_Finding] = Field(max_length=20)
    advice: list[_Advice] = Field(max_length=20)
    attribution: _Attribution | None
    capacity: _Capacity
    rescaling: list[_Rescaling] = Field(max_length=2)
    nearness: dict[str, _Interval]
    chosen: dict[str, _Setting] = Field(default={}, max_length=20)
    reused: int = 0
    teacher: _Teacher
    trainings: int
    seconds: float
