"""Running a paper's table: each row at a seed is an ordinary recipe, of which its figures ask for some roles."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.config import Recipe
from limbeck.data import Splits
from limbeck.errors import RecipeError, command
from limbeck.experiment.run import Experiment, Trained
from limbeck.experiment.vetting import vet
from limbeck.locks import exclusive
from limbeck.own import cache_folder, require_own
from limbeck.papers.measures import RowView
from limbeck.papers.table import Row, Table
from limbeck.runs import RunFolder
from limbeck.training import Observer
from limbeck.training.checkpoints import read_sealed, write_sealed
from limbeck.training.progress import ignore

__all__ = ["reproduce"]

_FORMAT = 1
"""Of the figures that are kept; raised whenever a measure computes another value."""

_FOLDERS = {
    "ptb": "ptb",
    "mnist": "mnist",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10",
    "cifar100": "cifar-100",
}
_PLACES, _SAYING = ("folder", "path"), ("name", "summary", "expect", "licences", "trackers")
"""Keys of `data` and of a recipe that decide nothing."""


def reproduce(
    table: Table,
    *,
    budget: str = "reduced",
    folder: Path | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    watch: Observer = ignore,
    begin: Callable[[int, int], None] = lambda number, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[int, dict[str, float]]]:
    """Run the rows of a table and return their figures by row and seed.

    folder: of the data, or the one that holds it.  only: names of rows, all by default.  seeds: the budget's by
    default.  What was run before, on this machine and at this budget, is read; what was interrupted is resumed.
    begin: told the number of each row at a seed, from 1, and how many there are.
    """
    rows = [table.row(name) for name in only] or table.rows
    for seed in seeds:
        if seed < 0:
            raise RecipeError(f"--seed: found {seed}, expected a whole number from 0 on")
    root = cache_folder() / "papers" / table.name / budget
    run = _Run(table, budget, root, folder, watch, say)
    for row in rows:
        run.check(row)
    require_own(root, cache_folder())
    found: dict[str, dict[int, dict[str, float]]] = {}
    wanted = [(row, seed) for row in rows for seed in seeds or table.seeds[budget]]
    for number, (row, seed) in enumerate(wanted, start=1):
        begin(number, len(wanted))
        figures = run.figures(row, seed)
        found.setdefault(row.name, {})[seed] = figures
        say(f"{row.name}, seed {seed}: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))
    return found


@dataclass
class _Run:
    """A table at a budget.  Rows with the same recipe are one experiment, whose trainings lie in one folder."""

    table: Table
    budget: str
    root: Path
    folder: Path | None
    watch: Observer
    say: Callable[[str], None]
    _recipes: dict[str, Recipe] = field(default_factory=dict)
    _data: dict[str, Splits] = field(default_factory=dict)
    _experiments: dict[str, Experiment] = field(default_factory=dict)
    _views: dict[tuple[str, int], RowView] = field(default_factory=dict)

    def check(self, row: Row) -> None:
        """Read a row's recipe and data; what is wrong with them is told before anything is written."""
        self._splits(self._recipe(row))

    def figures(self, row: Row, seed: int) -> dict[str, float]:
        """Return a row's figures at a seed, measured or read."""
        recipe = self._recipe(row)
        what = {"format": _FORMAT, "table": self.table.text, "recipe": self._address(recipe), "seed": seed}
        path = self.root / "figures" / f"{row.name}-{seed}-{_digest(what)}.json"
        if path.is_file():
            kept: dict[str, float] = read_sealed(path)
            return kept
        view = self.view(row, seed)
        figures = {figure.name: view.of(figure) for figure in row.figures}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, figures)
        return figures

    def view(self, row: Row, seed: int) -> RowView:
        """Return a row at a seed."""
        if (row.name, seed) not in self._views:
            self._views[row.name, seed] = RowView(self.table, row, seed, self._experiment(row), self)
        return self._views[row.name, seed]

    def trained(self, row: Row, role: str, seed: int) -> Trained:
        """Return what the training of a role gives, made or read; another process that makes it is waited for."""
        experiment = self._experiment(row)
        place = experiment.folder.path
        with exclusive(place.with_suffix(".lock"), wait=True, busy=f"{row.name}: another process runs it in '{place}'"):
            return experiment.trained(role, seed)

    def _experiment(self, row: Row) -> Experiment:
        recipe = self._recipe(row)
        address = self._address(recipe)
        if address not in self._experiments:
            place = self.root / "runs" / address
            place.mkdir(parents=True, exist_ok=True)
            (place / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            again = command("limbeck", "reproduce", self.table.name, "--budget", self.budget)
            parts = vet(recipe, splits=self._splits(recipe))
            self._experiments[address] = Experiment(
                recipe, RunFolder(place, again), parts=parts, watch=self.watch, say=self.say
            )
        return self._experiments[address]

    def _recipe(self, row: Row) -> Recipe:
        if row.name not in self._recipes:
            recipe = self.table.recipe(row, self.budget)
            key = next((key for key in _PLACES if key in recipe.data.values), None)
            if self.folder is not None and key is not None:
                kind, own = recipe.keys["data"]["kind"], recipe.data.values[key]
                names: tuple[Path | str, ...] = (_FOLDERS.get(kind, ""),)
                if key == "path":  # a file or folder of the table's may lie in one of several sets
                    parts = Path(own).parts
                    names = (Path(*parts[-2:]), parts[-1])
                within = [self.folder / name for name in names]
                place = next((each for each in within if each.exists()), self.folder)
                recipe = recipe.with_values({f"data.{key}": str(place.absolute())})
            self._recipes[row.name] = recipe
        return self._recipes[row.name]

    def _splits(self, recipe: Recipe) -> Splits:
        """Return a recipe's data, read once for all rows that have the same."""
        own = {key: value for key, value in recipe.keys["data"].items() if key != "transfer"}
        address = _digest(own)
        if address not in self._data:
            self._data[address] = recipe.load_data()
        return self._data[address]

    def _address(self, recipe: Recipe) -> str:
        """Return the address of a recipe's trainings: a digest of it, wherever its data lies, and of the data."""
        keys = {key: value for key, value in recipe.keys.items() if key not in _SAYING}
        keys["data"] = {key: value for key, value in recipe.keys["data"].items() if key not in _PLACES}
        splits = self._splits(recipe)
        return _digest({"recipe": keys, "train": splits.train.digest(), "test": splits.test.digest()})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
