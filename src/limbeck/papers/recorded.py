"""Recorded results of a table: merged seed by seed, shown beside the paper's, and held against the aims."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from limbeck.errors import RunError
from limbeck.evaluation import t_interval
from limbeck.papers.table import FigureSpec, Row, Table
from limbeck.training.checkpoints import read_json, write_json

__all__ = ["FORMER", "comparison", "expected", "markdown", "merge", "misses", "record"]

FORMER = (
    "† recorded by the former runner, at commit a9e207e, whose teachers and searches began with other random numbers, "
    "and whose choices differ where the table's card says so; not run again since."
)
_ENOUGH = 5  # seeds for an interval


def expected(table: Table) -> dict[str, Any]:
    """Return the recorded results beside a table; empty where there are none yet."""
    path = table.folder / "expected.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def record(table: Table, budget: str, found: Mapping[str, Mapping[int, Mapping[str, float]]], *, command: str) -> Path:
    """Merge results into expected.json beside the table and return its path."""
    path = table.folder / "expected.json"
    try:
        write_json(path, merge(expected(table), table, budget, found, command=command))
    except OSError as error:
        raise RunError(f"--record: cannot write '{path}' ({error.strerror}); run from a checkout") from None
    return path


def merge(
    recorded: Mapping[str, Any],
    table: Table,
    budget: str,
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
    *,
    command: str,
) -> dict[str, Any]:
    """Return the recorded results with new ones added: seeds of the same recipe join, another recipe's replace them.

    found: by row and seed, the figures.  Results of the former runner (`former`) are replaced as well.
    """
    result = json.loads(json.dumps(recorded)) or {}
    rows = result.get("rows", {})
    for row in table.rows:
        if row.name not in found:
            continue
        entry = rows.setdefault(row.name, {})
        entry["title"] = row.title
        entry["paper"] = {figure.name: figure.paper for figure in row.figures}
        digest, ours = table.digest(row, budget), entry.get(budget, {})
        seeds = ours.get("seeds", {}) if ours.get("recipe") == digest and not ours.get("former") else {}
        seeds |= {str(seed): dict(figures) for seed, figures in found[row.name].items()}
        ordered = {seed: seeds[seed] for seed in sorted(seeds, key=int)}
        entry[budget] = {"recipe": digest, "command": command, "ours": _summary(row, ordered), "seeds": ordered}
    known = [row.name for row in table.rows if row.name in rows]
    return {"paper": table.title, "rows": {name: rows[name] for name in known}}


def _summary(row: Row, seeds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    summary = {}
    for figure in row.figures:
        values = [figures[figure.name] for figures in seeds.values()]
        spread = round(stdev(values), 4) if len(values) > 1 else None
        summary[figure.name] = {"mean": round(fmean(values), 4), "sd": spread}
    return summary


def markdown(table: Table, recorded: Mapping[str, Any], budget: str) -> str:
    """Return a Markdown table with the paper's value beside ours: mean, standard deviation, every seed.

    From five seeds on, the 95 % t-interval of the mean stands behind it in brackets.  Rows without a recorded result
    are named below the table, and rows of the former runner are marked.
    """
    lines = ["| row | figure | paper | ours | seeds |", "|---|---|---:|---:|---|"]
    missing, former = [], False
    for row in table.rows:
        ours = recorded.get("rows", {}).get(row.name, {}).get(budget)
        if ours is None:
            missing.append(f"`{row.name}`")
            continue
        former = former or bool(ours.get("former"))
        for place, figure in enumerate(row.figures):
            values = [figures[figure.name] for figures in ours["seeds"].values()]
            value = _written(ours["ours"][figure.name])
            if len(values) >= _ENOUGH:
                interval = t_interval(values)
                value += f" [{interval.low:.4g}, {interval.high:.4g}]"
            each = ", ".join(f"{number:.4g}" for number in values)
            title = f"{row.title}{' †' if ours.get('former') else ''}" if place == 0 else ""
            lines.append(f"| {title} | {figure.name} | {_paper(figure)} | {value} | {each} |")
    if missing:
        lines += ["", f"Not run yet at this budget: {', '.join(missing)}."]
    if former:
        lines += ["", FORMER]
    return "\n".join(lines) + "\n"


def comparison(table: Table, results: Mapping[str, Any], budget: str) -> list[list[str]]:
    """Return the rows of a table for the terminal: the paper's value beside ours, mean ± standard deviation."""
    rows = []
    for row in table.rows:
        ours = results["rows"].get(row.name, {}).get(budget)
        for number, figure in enumerate(row.figures if ours is not None else ()):
            title, seeds = (row.title, str(len(ours["seeds"]))) if number == 0 else ("", "")
            rows.append([title, figure.name, _paper(figure), _written(ours["ours"][figure.name]), seeds])
    return rows


def misses(table: Table, results: Mapping[str, Any], budget: str) -> list[str]:
    """Return a line for each aim that the results miss."""
    lines = []
    for row in table.rows:
        ours = results["rows"].get(row.name, {}).get(budget)
        for figure in row.figures if ours is not None else ():
            mean = ours["ours"][figure.name]["mean"]
            if figure.bound is not None and (mean > figure.bound if figure.aim == "at most" else mean < figure.bound):
                lines.append(f"{row.title}, {figure.name}: {mean:g}, the aim is {figure.aim} {figure.bound:g}")
    return lines


def _written(found: Mapping[str, float | None]) -> str:
    return f"{found['mean']:.4g}" + ("" if found["sd"] is None else f" ± {found['sd']:.2g}")


def _paper(figure: FigureSpec) -> str:
    return "" if figure.paper is None else f"{figure.paper:g}"
