"""A paper's table as data: a base recipe, budgets, and rows, each some settings on top and the figures wanted of it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck.config import Recipe, read_yaml, replaced
from limbeck.config.sections import validate
from limbeck.errors import RecipeError, one_of

__all__ = ["BUDGETS", "Compared", "FigureSpec", "Part", "Row", "Table", "load_table", "read_table", "tables"]

BUDGETS = ("reduced", "full")
Part = Literal["test", "transfer", "validation"]

_HERE = Path(__file__).parent
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Settings = dict[str, Any]


class _ComparedKeys(BaseModel):
    model_config = _STRICT
    row: str | dict[str, str] | None = None
    role: str | None = None
    figure: str | None = None


class _FigureKeys(BaseModel):
    model_config = _STRICT
    measure: str | None = None
    figure: str | None = None
    role: str | None = None
    to: str = "teacher"
    part: Part = "test"
    among: list[int] | dict[str, list[int]] = Field(default_factory=list)
    of: int | None = None
    above: str | _ComparedKeys | None = None
    below: str | _ComparedKeys | None = None
    paper: float | dict[str, float] | None = None
    at_most: float | dict[str, float] | None = None
    at_least: float | dict[str, float] | None = None
    cases: list[str] | None = None


class _OverridesKeys(BaseModel):
    model_config = _STRICT
    set: _Settings = Field(default_factory=dict)
    budgets: dict[Literal["reduced", "full"], _Settings] = Field(default_factory=dict)


class _CaseKeys(_OverridesKeys):
    title: str


class _RowKeys(_OverridesKeys):
    title: str
    cases: list[str] | None = None
    by_case: dict[str, _OverridesKeys] = Field(default_factory=dict)
    role: str = "distilled"
    figures: dict[str, dict[str, Any] | None]


class _TableKeys(BaseModel):
    model_config = _STRICT
    title: str
    summary: str
    recipe: _Settings
    seeds: list[int] | dict[Literal["reduced", "full"], list[int]]
    budgets: dict[Literal["reduced", "full"], _Settings]
    cases: dict[str, _CaseKeys] = Field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: dict[str, _RowKeys]


@dataclass(frozen=True)
class Compared:
    """What a figure is compared with: the same figure of another row or role, or another figure."""

    row: str | None = None
    role: str | None = None
    figure: str | None = None


@dataclass(frozen=True)
class FigureSpec:
    """One number of a row.

    measure: what is measured (`limbeck.papers.measures`), unless it is another `figure` of the row.
    role: whose it is.  to: whom agreement and KL compare with.  part: of the data.
    among: samples of these classes, answered among them.  of: samples of this class alone.
    above, below: what is taken off the value, and what the value is taken off.
    paper: the paper's value.  aim: "at most" or "at least" the `bound`; None where the row only reports.
    """

    name: str
    measure: str | None
    figure: str | None
    role: str
    to: str
    part: Part
    among: tuple[int, ...]
    of: int | None
    above: Compared | None
    below: Compared | None
    paper: float | None
    aim: str | None
    bound: float | None


@dataclass(frozen=True)
class Row:
    """One row of a table.

    role: whose the figures are where they do not say.
    settings: by budget, the `key.path` settings on top of the table's recipe, in their order.
    """

    name: str
    title: str
    role: str
    figures: tuple[FigureSpec, ...]
    settings: Mapping[str, Sequence[tuple[str, Any]]]

    def figure(self, name: str) -> FigureSpec:
        """Return a figure by name; RecipeError with the nearest name where there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        known = [figure.name for figure in self.figures]
        raise RecipeError(f"rows.{self.name}: there is no figure '{name}'; {one_of(name, known)}")


@dataclass(frozen=True)
class Table:
    """A paper's table.

    base: the keys of its recipe at the full budget.  seeds: by budget; every choice is made at the first.
    text: of its file and of its own figures, which decide what is measured.
    """

    name: str
    title: str
    summary: str
    folder: Path
    base: Mapping[str, Any]
    rows: tuple[Row, ...]
    seeds: Mapping[str, tuple[int, ...]]
    text: str

    def row(self, name: str) -> Row:
        """Return a row by name; RecipeError with the nearest name where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise RecipeError(f"row: {self.name} has no row '{name}'; {one_of(name, [each.name for each in self.rows])}")

    def keys(self, row: Row, budget: str) -> dict[str, Any]:
        """Return the recipe of a row as it is written, without defaults."""
        keys: dict[str, Any] = {"name": f"{self.name}-{row.name}", "summary": f"{self.title}: {row.title}"}
        keys |= self.base
        for path, value in row.settings[budget]:
            keys = replaced(keys, path, value)
        return {**keys, "seeds": list(self.seeds[budget])}

    def recipe(self, row: Row, budget: str) -> Recipe:
        """Return the recipe of a row."""
        try:
            return Recipe.parse(self.keys(row, budget), self.folder)
        except RecipeError as error:
            raise RecipeError(f"{self.name}, row {row.name}: {error}") from None

    def digest(self, row: Row, budget: str) -> str:
        """Return what tells recorded results of a row from those of another recipe: a digest of its written keys."""
        own = {key: value for key, value in self.keys(row, budget).items() if key not in ("name", "summary", "seeds")}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]


def tables() -> list[str]:
    """Return the names of all tables.

    >>> "muller2019" in tables()
    True
    """
    return sorted(path.parent.name.replace("_", "-") for path in _HERE.glob("*/table.yaml"))


def load_table(name: str) -> Table:
    """Return a table by name; RecipeError with the nearest name where there is none."""
    if name not in tables():
        raise RecipeError(f"table: there is no paper '{name}'; {one_of(name, tables())}")
    return read_table(_HERE / name.replace("-", "_"))


def read_table(folder: Path) -> Table:
    """Return the table of a folder; RecipeError in one line for what is wrong in its file."""
    path = folder / "table.yaml"
    keys = validate(_TableKeys, read_yaml(path), "")
    seeds = keys["seeds"]
    by_budget = seeds if isinstance(seeds, dict) else dict.fromkeys(BUDGETS, seeds)
    for given, where in ((keys["budgets"], "budgets"), (by_budget, "seeds")):
        if set(given) != set(BUDGETS):
            raise RecipeError(f"{where}: found {', '.join(given)}; expected {' and '.join(BUDGETS)}")
    own = folder / "figures.py"
    table = Table(
        name=folder.name.replace("_", "-"),
        title=keys["title"],
        summary=keys["summary"],
        folder=folder,
        base=keys["recipe"],
        rows=tuple(_rows(keys)),
        seeds={budget: tuple(each) for budget, each in by_budget.items()},
        text=path.read_text(encoding="utf-8") + (own.read_text(encoding="utf-8") if own.is_file() else ""),
    )
    _check(table)
    return table


def _rows(keys: Mapping[str, Any]) -> list[Row]:
    """Return every row, once for each of its cases: those of no case, then case by case, in the order of the file."""
    cases: dict[str | None, Mapping[str, Any]] = {None: _CaseKeys(title="").model_dump(), **keys["cases"]}
    names = {name if case is None else f"{case}-{name}" for case in cases for name in keys["rows"]}
    found = []
    for case, shared in cases.items():
        for name, row in keys["rows"].items():
            where = f"rows.{name}"
            wanted = [*keys["cases"]] or [None] if row["cases"] is None else row["cases"] or [None]
            if case in wanted:
                figures = [
                    _figure(figure, {**keys["figures"].get(figure, {}), **(own or {})}, row["role"], case, names, where)
                    for figure, own in row["figures"].items()
                ]
                layers = [{"set": {}, "budgets": keys["budgets"]}, shared, row]
                if case in row["by_case"]:
                    layers.append(row["by_case"][case])
                settings = {
                    budget: [
                        setting
                        for layer in layers
                        for given in (layer["set"], layer["budgets"].get(budget, {}))
                        for setting in given.items()
                    ]
                    for budget in BUDGETS
                }
                kept = tuple(figure for figure in figures if figure is not None)
                title = row["title"] if case is None else f"{shared['title']}: {row['title']}"
                found.append(Row(name if case is None else f"{case}-{name}", title, row["role"], kept, settings))
    for name, row in keys["rows"].items():
        for key in ("cases", "by_case"):
            for case in row[key] or []:
                if case not in keys["cases"]:
                    raise RecipeError(f"rows.{name}.{key}: found '{case}'; {one_of(case, keys['cases'])}")
    return found


def _figure(
    name: str, keys: dict[str, Any], role: str, case: str | None, names: set[str], where: str
) -> FigureSpec | None:
    """Return a figure of a row in a case; None where the case has none."""
    place = f"{where}.figures.{name}"
    values = validate(_FigureKeys, keys, place)
    if values["cases"] is not None and case not in values["cases"]:
        return None

    def here(key: str) -> Any:
        value = values[key]
        return value.get(case) if isinstance(value, dict) else value

    def compared(key: str) -> Compared | None:
        value = values[key]
        if value is None:
            return None
        given = {"row": value} if isinstance(value, str) else value
        row = given["row"].get(case) if isinstance(given["row"], dict) else given["row"]
        if row is not None:
            row = f"{case}-{row}" if f"{case}-{row}" in names else row
            if row not in names:
                raise RecipeError(f"{place}.{key}: there is no row '{row}'; {one_of(row, names)}")
        return Compared(**{**given, "row": row})

    if (values["measure"] is None) == (values["figure"] is None):
        raise RecipeError(f"{place}: found neither or both of measure and figure, expected exactly one")
    most, least = here("at_most"), here("at_least")
    if most is not None and least is not None:
        raise RecipeError(f"{place}: found at_most together with at_least, expected one of them")
    return FigureSpec(
        name=name,
        measure=values["measure"],
        figure=values["figure"],
        role=values["role"] or role,
        to=values["to"],
        part=values["part"],
        among=tuple(here("among") or ()),
        of=values["of"],
        above=compared("above"),
        below=compared("below"),
        paper=here("paper"),
        aim="at most" if most is not None else "at least" if least is not None else None,
        bound=most if most is not None else least,
    )


def _check(table: Table) -> None:
    """Require that names can be told apart and that figures refer to what there is."""
    for what in ("name", "title"):
        values = [getattr(row, what) for row in table.rows]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise RecipeError(f"rows: found the {what} '{twice}' twice; give each row its own")
    for row in table.rows:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", row.name):
            raise RecipeError(f"rows.{row.name}: expected letters, digits, '.' and '-' as a name")
        for figure in row.figures:
            if figure.figure is not None:
                row.figure(figure.figure)
            for other in (figure.above, figure.below):
                if other is not None and (other.figure is not None or figure.figure is not None):
                    beside = row if other.row is None else table.row(other.row)
                    beside.figure(other.figure or str(figure.figure))
