"""limbeck reproduce: a paper's table beside ours."""

import time
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.course import Rows
from limbeck.cli.showing import say, show, show_json, table, watching
from limbeck.errors import RecipeError, one_of

__all__ = ["reproduce"]

_MISSED = 3


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="a paper's table, such as hinton2015-mnist")],
    folder: Annotated[
        Path | None, typer.Option("--data", help="folder of the data; by default LIMBECK_DATA, or a download")
    ] = None,
    budget: Annotated[str, typer.Option(help="reduced (minutes) or full (as in the paper)")] = "reduced",
    only: Annotated[list[str] | None, typer.Option(help="run only this row (can be repeated)")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="run only this seed (can be repeated)")] = None,
    record: Annotated[bool, typer.Option("--record", help="merge the results into the packaged expected.json")] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="run nothing: print the recorded results as Markdown")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Run a paper's table and print it next to the published one; every (row, seed) is kept and can be added to."""
    from limbeck import papers

    check_budget(budget)
    found = papers.load_table(paper)
    if recorded:
        print(papers.markdown(found, papers.expected(found), budget), end="")
        return
    overall = Rows(began=time.monotonic())
    with watching(quiet=quiet, overall=overall) as watch:
        results = papers.reproduce(
            found,
            budget=budget,
            folder=folder,
            only=only or [],
            seeds=seed or [],
            watch=watch,
            begin=lambda number, total: overall.begin(number, total, time.monotonic()),
            say=(lambda line: None) if quiet else say,
        )
    command = f"limbeck reproduce {paper}{' --budget full' if budget == 'full' else ''} --data DIR"
    merged = papers.merge({}, found, budget, results, command=command)
    if record:
        say(f"recorded in {papers.record(found, budget, results, command=command)}")
    if as_json:
        show_json(merged)
    else:
        rows = papers.comparison(found, merged, budget)
        show(table(f"{found.title} ({budget} budget)", ["row", "figure", "paper", "ours", "seeds"], rows))
    missed = papers.misses(found, merged, budget) if budget == "full" else []
    for line in missed:
        say(f"missed: {line}")
    if missed:
        raise typer.Exit(_MISSED)


def check_budget(budget: str) -> None:
    """Require a budget that tables have."""
    from limbeck.papers.table import BUDGETS

    if budget not in BUDGETS:
        raise RecipeError(f"--budget: found '{budget}'; {one_of(budget, BUDGETS)}")
