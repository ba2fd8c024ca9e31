"""limbeck demo: the main job on scikit-learn's digits, in under a minute."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import say
from limbeck.cli.streams import copied

__all__ = ["demo"]


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(help="parent of the new run folder")] = Path("runs"),
    page: Annotated[bool, typer.Option("--report/--no-report", help="write report.html at the end")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Distill a network on scikit-learn's digits: teacher, student alone, student distilled (under a minute)."""
    from limbeck.cli.distill import outcome_table, run
    from limbeck.cli.report import reported
    from limbeck.config import load_recipe
    from limbeck.recipes import find
    from limbeck.runs import RunFolder

    recipe = load_recipe(find("digits-kd").recipe)
    folder = RunFolder.create(runs, "demo", recipe.to_yaml(), sys.argv)
    outcome = run(recipe, folder, quiet=quiet)
    with copied():
        outcome_table(recipe, outcome)
    made = reported(folder) if page else ""
    following = "limbeck recipes cp digits-kd my.yaml, edit it, limbeck distill my.yaml"
    say(f"run folder: {folder.path} · next: {following}{made}")
