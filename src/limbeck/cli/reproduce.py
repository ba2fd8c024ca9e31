"""limbeck reproduce: a paper's table beside ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.showing import say, show, show_json, table, watching

if TYPE_CHECKING:
    from limbeck.recipes.reproduction import Reproduction

__all__ = ["reproduce"]

_MISSED = 3


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="a packaged recipe that is a paper's table, such as hinton2015-mnist")],
    folder: Annotated[
        Path | None, typer.Option("--data", help="folder of the data; else LIMBECK_DATA, else a download")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="the paper's budget; the default is a few minutes")] = False,
    only: Annotated[list[str] | None, typer.Option(help="run only this row (may be repeated)")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="run only this seed (may be repeated)")] = None,
    record: Annotated[bool, typer.Option("--record", help="merge the results into the packaged expected.json")] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="run nothing: print the recorded results as Markdown")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Run a paper's table and print it beside the paper's; every (row, seed) is kept, so the table can grow."""
    from limbeck.recipes import reproducing
    from limbeck.recipes.reproduction import merge
    from limbeck.recipes.tables import markdown

    found = reproducing.reproduction(paper)
    budget = "full" if full else "reduced"
    if recorded:
        print(markdown(found, reproducing.expected(paper), budget), end="")
        return
    with watching(quiet=quiet) as watch:
        results = reproducing.reproduce(
            found,
            budget=budget,
            folder=folder,
            only=only or [],
            seeds=seed or [],
            watch=watch,
            say=(lambda line: None) if quiet else say,
        )
    command = f"limbeck reproduce {paper}{' --full' if full else ''} --data DIR"
    merged = merge({}, found, budget, results, command=command)
    if record:
        say(f"recorded in {reproducing.record(found, budget, results, command=command)}")
    if as_json:
        show_json(merged)
    else:
        rows = comparison(found, merged, budget)
        show(table(f"{found.title} ({budget} budget)", ["row", "figure", "paper", "ours", "seeds"], rows))
    missed = misses(found, merged, budget) if full else []
    for line in missed:
        say(f"missed: {line}")
    if missed:
        raise typer.Exit(_MISSED)


def comparison(paper: "Reproduction", results: dict[str, Any], budget: str) -> list[list[str]]:
    """Return the table's rows: the paper's value beside ours, mean ± standard deviation over seeds."""
    rows = []
    for row in paper.rows:
        ours = results["rows"].get(row.name, {}).get(budget)
        if ours is None:
            continue
        for number, figure in enumerate(row.figures):
            found = ours["ours"][figure.name]
            value = f"{found['mean']:.4g}" + ("" if found["sd"] is None else f" ± {found['sd']:.2g}")
            title = row.title if number == 0 else ""
            said = "" if figure.paper is None else f"{figure.paper:g}"
            rows.append([title, figure.name, said, value, str(len(ours["seeds"])) if number == 0 else ""])
    return rows


def misses(paper: "Reproduction", results: dict[str, Any], budget: str) -> list[str]:
    """Return a line for each aim that the results miss."""
    lines = []
    for row in paper.rows:
        ours = results["rows"].get(row.name, {}).get(budget)
        for figure in row.figures if ours is not None else ():
            mean = ours["ours"][figure.name]["mean"]
            if (figure.aim == "at most" and mean > figure.bound) or (figure.aim == "at least" and mean < figure.bound):
                lines.append(f"{row.title}, {figure.name}: {mean:g}, the aim is {figure.aim} {figure.bound:g}")
    return lines
