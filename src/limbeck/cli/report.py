"""limbeck report: the page of one or several finished runs."""

import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import Data, Trust, say, show
from limbeck.cli.streams import copied
from limbeck.errors import LimbeckError, command

if TYPE_CHECKING:
    from limbeck.runs import RunFolder

__all__ = ["report", "reported"]


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="run folders, folders of runs, or globs of them")],
    out: Annotated[
        Path | None, typer.Option(help="the page; by default report.html in the run's folder (several: here)")
    ] = None,
    figures: Annotated[bool, typer.Option(help="also write the figures as SVG into each run's folder")] = True,
    trust: Trust = False,
    data: Data = None,
) -> None:
    """Write one self-contained HTML page about finished runs, and print its path."""
    from limbeck.report import build
    from limbeck.results.comparison import find_runs

    folders, passed = find_runs(runs)
    for line in passed:
        say(line)
    written = build(folders, out, files=figures, trust=trust, data=data)
    with copied():
        show(str(written))


def reported(folder: "RunFolder") -> str:
    """Write the page of a run that has just ended, and return what the last line says of it.

    Whatever goes wrong here is told and logged: the run itself has ended well.
    """
    from limbeck.report import build

    try:
        return f" · report: {build([folder.path], files=False, trust=True)}"
    except Exception as error:  # noqa: BLE001 - the outcome is safe, and a page can be made again
        with suppress(LimbeckError):
            folder.log(f"no report:\n{traceback.format_exc()}")
        reason = str(error) if isinstance(error, LimbeckError) else f"{type(error).__name__}: {error}"
        say(f"no report: {' '.join(reason.split())}; make it with: {command('limbeck', 'report', folder.path)}")
        return ""
