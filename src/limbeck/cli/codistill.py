"""limbeck codistill: one peer of a recipe in processes of its own, which meet the others' in a shared folder."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import app
from limbeck.cli.distill import folder_of, resolve
from limbeck.cli.ending import recorded
from limbeck.cli.showing import say, show, show_json, table, telling, watching
from limbeck.cli.streams import copied
from limbeck.errors import command

__all__ = ["codistill"]


@app.command()
def codistill(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="override settings, as key.path=value")] = None,
    group: Annotated[int, typer.Option(help="number of this peer in the recipe, from 1")] = ...,  # type: ignore[assignment]
    exchange: Annotated[Path, typer.Option(help="the folder that all groups share")] = ...,  # type: ignore[assignment]
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="wait for the others' weights at each exchange")
    ] = False,
    lost_after: Annotated[
        float, typer.Option(help="seconds without a message after which a group counts as lost")
    ] = 60.0,
    seed: Annotated[int | None, typer.Option(help="one of the recipe's seeds; the first by default")] = None,
    runs: Annotated[Path, typer.Option(help="parent of new run folders")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="resume the run in this folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Train one peer of a codistillation, as one of several groups that share only a folder.

    Start it once for each peer, with the same recipe and folder and another --group, on this machine or others.  A
    group of several processes: torchrun --nproc-per-node 2 --no-python limbeck codistill ...
    """
    from limbeck.config import load_recipe
    from limbeck.experiment.groups import GroupSettings, codistill, peers_of, seed_of
    from limbeck.experiment.vetting import vet
    from limbeck.ranks import is_first

    loaded = load_recipe(resolve(recipe), overrides or [])
    peers_of(loaded, group)
    seed = seed_of(loaded, seed)
    settings = GroupSettings(exchange, group, wait, lost_after)
    parts = vet(loaded)
    first = is_first()
    folder = folder_of(loaded, runs, resume)
    words = ["limbeck", "codistill", folder.path / "recipe.yaml", "--group", group, "--exchange", exchange]
    words += [*(["--wait"] if wait else []), "--lost-after", f"{lost_after:g}", "--seed", seed, "--resume", folder.path]
    folder.again = command(*words)
    quiet = quiet or not first
    with recorded(folder, log=first), watching(quiet=quiet) as watch:
        outcome = codistill(
            loaded,
            folder,
            settings,
            seed=seed,
            resumed=resume is not None,
            parts=parts,
            watch=watch,
            say=telling(folder, quiet=quiet),
        )
    if not first:
        return
    if as_json:
        show_json({"run": str(folder.path), **outcome.as_dict()})
    else:
        row = [f"group {group} of {outcome.groups}", f"{outcome.result.steps:,}", f"{outcome.test.errors}"]
        title = f"{loaded.name}, seed {outcome.seed}: {outcome.test.examples:,} test examples"
        shown = table(title, ["network", "steps", "test errors", "accuracy"], [[*row, f"{outcome.test.accuracy:.2%}"]])
        with copied():
            show(shown)
    say(f"run folder: {folder.path}")
