"""limbeck compare: finished runs side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.evaluate import mcnemar_line
from limbeck.cli.showing import Data, Trust, figure, reading, say, show, show_json, table
from limbeck.errors import command

if TYPE_CHECKING:
    from limbeck.results.comparison import ComparedRun, Comparison

__all__ = ["compare"]

_BUDGET = "alone_budget"
_COLUMNS = (
    ("teacher", "teacher", "errors", "{:.1f}"),
    ("alone", "alone", "errors", "{:.1f}"),
    ("alone, equal compute", _BUDGET, "errors", "{:.1f}"),
    ("distilled", "distilled", "errors", "{:.1f}"),
    ("its top-1", "distilled", "accuracy", ""),
    ("its NLL", "distilled", "nll", "{:.4f}"),
    ("its ECE", "distilled", "ece", "{:.4f}"),
    ("its agreement", "distilled", "agreement", ""),
)
_LONGEST = 60

Grid = tuple[str, Sequence[str], list[list[str]]]


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="run folders, folders of runs, or globs of them")],
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="also write the comparison to this file")] = None,
    device: Annotated[str | None, typer.Option(help="device of models that are not evaluated yet")] = None,
    trust: Trust = False,
    data: Data = None,
) -> None:
    """Compare finished runs: figures with intervals, paired differences, and differences of the recipes."""
    from limbeck.errors import RunError
    from limbeck.records import write_aside
    from limbeck.report import render_comparison
    from limbeck.results.comparison import compare_runs, find_runs

    if page is not None and page.exists():
        raise RunError(f"compare: '{page}' exists already; name another file or delete it")
    folders, passed = find_runs(runs)
    for line in passed:
        say(line)
    found = compare_runs(folders, device=device, trust=trust, data=data, say=say)
    if page is not None:
        content = render_comparison(found, _grids(found), _lines(found), _failures(found))
        write_aside(page, content, what="compare")
    if as_json:
        show_json(found.as_dict())
    else:
        show(*_failures(found))
        for title, columns, rows in _grids(found):
            show(table(title, columns, rows))
        for line in _lines(found):
            show(line)
    written = "" if page is None else f"written to {page} · "
    report = command("limbeck", "report", *(run.folder for run in found.runs), *reading(trust, data))
    say(f"{written}next: {report}")


def _grids(found: "Comparison") -> list[Grid]:
    """Return the tables: title, columns, rows."""
    from limbeck.evaluation import figures_of

    shown = [column for column in _COLUMNS if any(run.figure(*column[1:3]) for run in found.runs)]
    kinds = {run.task.name: figures_of(run.task) for run in found.runs}
    figures = next(iter(kinds.values())) if len(kinds) == 1 else None
    right = "top-1" if figures is None or figures.accuracy == "accuracy" else figures.accuracy
    columns = ["run", "seeds", *(title.replace("top-1", right) for title, *_ in shown), "parameters"]
    rows = [
        [
            run.label,
            str(run.seeds),
            *(_cell(run, role, name, pattern) for _, role, name, pattern in shown),
            f"{run.evaluation.parameters['student']:,}",
        ]
        for run in found.runs
    ]
    errors = "errors, as each task counts them," if figures is None else figures.errors
    title = f"test {errors} of teacher, student alone and student distilled; {_over(found)}"
    grids: list[Grid] = [(title, columns, rows)]
    if found.differing:
        differing = [[key, *(_value(value) for value in values)] for key, values in found.differing.items()]
        grids.append(("what differs in the recipes", ["key", *(run.label for run in found.runs)], differing))
    return grids


def _over(found: "Comparison") -> str:
    """Say what stands behind the figures of runs that may have different numbers of seeds."""
    counts = {run.seeds for run in found.runs}
    said = ["mean ± 95 % t-interval over three seeds or more"] if max(counts) > 2 else []
    said += ["both values of two seeds"] if 2 in counts else []
    return ", ".join([*said, "the value of one seed"] if 1 in counts else said)


def _failures(found: "Comparison") -> list[str]:
    """Return a line for each model that failed: said before any difference from it."""
    return [f"{run.label}: {failure}." for run in found.runs for failure in run.evaluation.failures]


def _lines(found: "Comparison") -> list[str]:
    """Return what there is to say in words: the paired differences, and the models that none beats."""
    seeds = {run.label: run.seeds for run in found.runs}
    lines = []
    for pair in found.pairs:
        names = (f"the student of {pair.first}", f"the student of {pair.second}")
        several = seeds[pair.first] > 1 or seeds[pair.second] > 1
        lines.append(mcnemar_line(pair.test, pair.difference, names, seeds=several))
    if len({run.evaluation.test.digest for run in found.runs}) > 1:
        lines.append(
            "Runs with other test samples are not paired; their figures cannot be compared one with the other."
        )
    else:
        lines.append(f"No other model is both more accurate and smaller: {'; '.join(_front(found))}.")
    if not found.differing:
        lines.append("The recipes are the same.")
    return lines


def _front(found: "Comparison") -> list[str]:
    """Return the models that none beats, in words; a model that all runs share is named once."""
    alike: dict[tuple[str, float, float], list[str]] = {}
    for each in found.frontier:
        run, _, role = each.name.rpartition(": ")
        alike.setdefault((role, each.accuracy, each.cost), []).append(run)
    return [
        f"{role} of {'every run' if len(runs) == len(found.runs) else ' and '.join(runs)}"
        f" ({100 * accuracy:.1f} %, {cost:,.0f} parameters)"
        for (role, accuracy, cost), runs in alike.items()
    ]


def _cell(run: "ComparedRun", role: str, name: str, pattern: str) -> str:
    from limbeck.evaluation import figures_of

    value = run.figure(role, name)
    pattern = figures_of(run.task).pattern if name == "errors" else pattern
    return figure(value, pattern)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
