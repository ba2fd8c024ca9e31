"""limbeck tune: temperature, weights and the rest, chosen on the held-out part."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from limbeck.cli import app
from limbeck.cli.course import Course
from limbeck.cli.distill import folder_of, resolve
from limbeck.cli.ending import recorded
from limbeck.cli.showing import say, show, show_json, table, telling, watching
from limbeck.cli.streams import copied
from limbeck.errors import command

__all__ = ["tune"]


@app.command()
def tune(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="override settings, as key.path=value")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="what to choose: key.path=LOW:HIGH, =LOW:HIGH:log or =[a, b]; can be repeated"),
    ] = None,
    trials: Annotated[int, typer.Option(help="trials of the study in all")] = 30,
    metric: Annotated[str, typer.Option(help="of the held-out part: errors or nll")] = "errors",
    seeds: Annotated[int, typer.Option(help="the number of the recipe's seeds for each setting")] = 1,
    together: Annotated[
        int,
        typer.Option(help="settings to train together on the same batches; faster with a live teacher"),
    ] = 1,
    runs: Annotated[Path, typer.Option(help="parent of new run folders")] = Path("runs"),
    study: Annotated[Path | None, typer.Option(help="resume the study in this folder, or join it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Choose settings on the held-out part; several processes can share one study, and a stopped one can be resumed."""
    from limbeck.config import load_recipe
    from limbeck.experiment.agenda import agenda_of_trials
    from limbeck.experiment.vetting import vet
    from limbeck.tune import check_study, read_space, usual_space
    from limbeck.tune import tune as choose

    loaded = load_recipe(resolve(recipe), overrides or [])
    allowed = read_space(space) if space else usual_space(loaded)
    check_study(loaded, allowed, trials=trials, metric=metric, seeds=seeds, together=together)
    parts = vet(loaded.with_values({"search": {}}))
    overall = None
    if study is None and not quiet:  # how many trials are left of a study that others run as well is not known
        overall = Course(agenda_of_trials(loaded, parts, trials=trials, seeds=seeds), began=time.monotonic())
    folder = folder_of(loaded, runs, study)
    chosen: Literal["errors", "nll"] = metric  # type: ignore[assignment]
    folder.again = command("limbeck", *sys.argv[1:], *([] if study else ["--study", folder.path]))
    with recorded(folder), watching(quiet=quiet, overall=overall) as watch:
        tuned = choose(
            loaded,
            allowed,
            folder,
            trials=trials,
            metric=chosen,
            seeds=seeds,
            together=together,
            parts=parts,
            watch=watch,
            say=telling(folder, quiet=quiet),
        )
    finished = sum(trial.state != "running" for trial in tuned.trials)
    kept = folder.path / f"tuned-{finished}.yaml"
    with folder.writing(kept.name):
        kept.write_text(tuned.recipe.to_yaml(), encoding="utf-8")
    if as_json:
        show_json({"run": str(folder.path), "recipe": str(kept), **tuned.as_dict()})
    else:
        shown = sorted((t for t in tuned.trials if t.figures), key=lambda t: (t.figures[metric], t.number))[:10]
        names = list(allowed)
        rows = [
            [
                str(t.number),
                *(_value(t.values[name]) for name in names),
                f"{t.figures['errors']:g}",
                f"{t.figures['nll']:.4f}",
            ]
            for t in shown
        ]
        title = f"{loaded.name}: the best of {finished} trials on the held-out part"
        with copied():
            show(table(title, ["trial", *names, "errors", "nll"], rows))
    measure, go_on = command("limbeck", "distill", kept), command("--study", folder.path, "--trials", 2 * trials)
    say(f"the best recipe: {kept} · measure it: {measure} · go on: {go_on}")


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
