"""limbeck check: build everything a recipe names, run one batch, say what it will cost."""

import json
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.distill import resolve
from limbeck.cli.showing import data_console, duration, say, table

__all__ = ["check"]


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings on top, as key.path=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Build everything, run one batch, print shapes, parameters, memory and a time estimate.  Nothing is trained."""
    from limbeck.config import load_recipe
    from limbeck.schemes.rehearsal import rehearse

    loaded = load_recipe(resolve(recipe), overrides or [])
    found = rehearse(loaded)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
        return
    console = data_console()
    console.print(f"data      {found.data}", markup=False)
    for note in found.notes:
        console.print(f"note      {note}", markup=False)
    console.print(f"method    {found.method}", markup=False)
    console.print(f"scheme    {found.scheme}", markup=False)
    rows = [
        [
            model.role,
            f"{model.parameters:,}",
            str(model.inputs),
            str(model.outputs),
            f"{model.bytes / 2**20:.1f} MiB",
            f"{1000 * model.seconds_a_step:.1f} ms",
            f"{model.steps:,} × {model.runs}",
            duration(model.seconds),
        ]
        for model in found.models
    ]
    columns = ["model", "parameters", "inputs", "logits", "training memory", "a step", "steps × runs", "time"]
    console.print(table(f"{loaded.name}: one batch ran", columns, rows))
    console.print("losses of the first batch: " + ", ".join(f"{k} {v:.4g}" for k, v in found.losses.items()))
    work = f"{found.trainings:,} trainings, about {duration(found.seconds)} in all on this machine"
    say(f"{work} · next: limbeck distill {recipe}")
