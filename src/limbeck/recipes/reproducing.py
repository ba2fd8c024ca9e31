"""Running a paper's table, row by row and seed by seed."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError, RunError, one_of
from limbeck.own import require_own
from limbeck.recipes.packaged import find, names
from limbeck.recipes.reproduction import Lab, Reproduction, merge
from limbeck.runs import cache_folder
from limbeck.training import Observer
from limbeck.training.checkpoints import read_json, write_json
from limbeck.training.progress import ignore

__all__ = ["expected", "record", "reproduce", "reproducible", "reproduction"]


def reproducible() -> list[str]:
    """Return the packaged recipes that are a paper's table."""
    here = Path(__file__).parent
    return [name for name in names() if (here / f"{name.replace('-', '_')}.py").is_file()]


def reproduction(name: str) -> Reproduction:
    """Return a paper's table; RecipeError with the nearest name when there is none."""
    if name not in reproducible():
        raise RecipeError(f"reproduce: there is no paper '{name}'; {one_of(name, reproducible())}")
    module: Any = importlib.import_module(f"limbeck.recipes.{name.replace('-', '_')}")
    found: Reproduction = module.REPRODUCTION
    return found


def reproduce(
    paper: Reproduction,
    *,
    budget: str = "reduced",
    folder: Path | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[int, dict[str, float]]]:
    """Run the units of a paper's table and return their figures by row and seed.

    folder: of the data.  only: names of rows, all by default.  seeds: the budget's by default.  Units that were run
    before, on this machine and at this budget, are read.
    """
    known = [row.name for row in paper.rows]
    for name in only:
        if name not in known:
            raise RecipeError(f"--only: there is no row '{name}'; {one_of(name, known)}")
    for seed in seeds:
        if seed < 0:
            raise RecipeError(f"--seed: found {seed}, expected a whole number from 0 on")
    sizes = paper.budgets[budget]
    sets = paper.load(folder, sizes)
    root = cache_folder() / "reproductions" / paper.name / budget
    require_own(root, cache_folder())
    lab = Lab(paper.name, root, sizes, sets, watch, say)
    found: dict[str, dict[int, dict[str, float]]] = {}
    for row in paper.rows:
        if only and row.name not in only:
            continue
        for seed in seeds or paper.seeds[budget]:
            figures = lab.unit(row, seed)
            found.setdefault(row.name, {})[seed] = figures
            say(f"{row.name}, seed {seed}: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))
    return found


def expected(name: str) -> dict[str, Any]:
    """Return the recorded results beside a packaged recipe; empty when there are none yet."""
    path = find(name).folder / "expected.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def record(paper: Reproduction, budget: str, found: dict[str, dict[int, dict[str, float]]], *, command: str) -> Path:
    """Merge results into expected.json beside the packaged recipe and return its path."""
    path = find(paper.name).folder / "expected.json"
    try:
        write_json(path, merge(expected(paper.name), paper, budget, found, command=command))
    except OSError as error:
        raise RunError(f"--record: cannot write '{path}' ({error.strerror}); run from a checkout") from None
    return path
