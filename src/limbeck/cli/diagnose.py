"""limbeck diagnose: why a distillation helps or fails, and what to do."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.course import duration
from limbeck.cli.distill import resolve
from limbeck.cli.showing import Data, Trust, figure, say, show, show_json, table, watching
from limbeck.cli.streams import copied
from limbeck.errors import command

if TYPE_CHECKING:
    from limbeck.diagnosis import Diagnosis

__all__ = ["diagnose"]


@app.command()
def diagnose(
    what: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help="a recipe, or the folder of a finished run")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="override settings of a recipe, as key.path=value")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="students of each kind; by default the recipe's seeds, 3 to 5")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="one seed, no search, and no attribution to parts")] = False,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="choose learning rate and T for each kind of student")
    ] = True,
    hints: Annotated[
        bool, typer.Option("--hints/--no-hints", help="train students with hints too: do features add to the logits?")
    ] = True,
    runs: Annotated[Path, typer.Option(help="parent of the new diagnosis folder")] = Path("runs"),
    page: Annotated[bool, typer.Option("--report/--no-report", help="write the report at the end")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    trust: Trust = False,
    data: Data = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Find what is wrong with a teacher, its student or their data, which part of distillation helps, and what to do.

    Everything is measured on held-out training data; the test set is not read.  Trainings are kept, so that a diagnosis
    that was interrupted goes on, and a repeated one reads.
    """
    from limbeck.config import load_recipe
    from limbeck.diagnosis import diagnose as run
    from limbeck.diagnosis.recipes import seeds_of, subject_of_recipe, subject_of_run
    from limbeck.errors import InputError, Interrupted
    from limbeck.own import cache_folder
    from limbeck.records import plain_values
    from limbeck.report import build_diagnosed
    from limbeck.results.diagnoses import keep
    from limbeck.results.finished import FinishedRun
    from limbeck.results.trust import trust_recipe
    from limbeck.runs import RunFolder

    tell = (lambda line: None) if quiet else say
    try:
        with watching(quiet=quiet) as watch:
            if what.is_dir():
                if overrides:
                    raise InputError("diagnose: a run cannot be changed; give its recipe.yaml to change settings")
                finished = FinishedRun.read(what, trust=trust, data=data)
                recipe, folder = finished.recipe, finished.folder
                subject = subject_of_run(finished, watch=watch, say=tell)
            else:
                recipe = load_recipe(resolve(what), overrides or [])
                if data is not None:
                    recipe = recipe.with_data_in(data)
                if not trust:
                    trust_recipe(recipe, resolve(what))
                subject = subject_of_recipe(recipe, watch=watch, say=tell)
                folder = RunFolder.create(runs, recipe.name, recipe.to_yaml(), sys.argv).path
            found = run(
                subject,
                seeds=seeds_of(recipe, seeds),
                quick=quick,
                search=search,
                hints=hints,
                root=cache_folder(),
                watch=watch,
                say=tell,
            )
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on", signal.SIGINT) from None
    path = keep(found, folder, again=command("limbeck", *sys.argv[1:]))
    if as_json:
        show_json({"run": str(folder), "file": str(path), **plain_values(found)})
    else:
        with copied():
            show_diagnosis(found)
    made = f" · page: {build_diagnosed(folder, files=False)}" if page else ""
    reused = f", {found.reused} of them the run's own" if found.reused else ""
    say(f"{found.trainings} trainings{reused}, {duration(found.seconds)} · written to {path}{made}")


def show_diagnosis(found: "Diagnosis") -> None:
    """Print what was found, what each part of distillation does, and what to do."""
    settings = found.settings
    show(
        f"{found.name}: {settings['train']:,} samples to learn from, {settings['held_out']:,} held out that everything"
        f" is measured on, {settings['classes']} classes",
    )
    for line in settings["about"]:
        show(line)
    if not found.findings:
        show("No problem was found with this teacher and this student.")
    for finding in found.findings:
        show(f"Found: {finding.said}\n  {finding.evidence}")
    if found.attribution is not None:
        _attribution(found)
    show(table("the gradient and the geometry", ["what", "value"], _mechanics(found)))
    rows = [[each.question, each.said, each.evidence, each.confidence] for each in found.advice]
    advice = table("what to do", ["question", "advice", "evidence", "how sure"], rows)
    for column in advice.columns[1:]:
        column.justify = "left"
    show(advice)


def _attribution(found: "Diagnosis") -> None:
    from limbeck.diagnosis.attribution import ARMS

    attribution = found.attribution
    if attribution is None:
        return
    rows = [
        [f"{name}  {ARMS[name]}", str(found.chosen[name]), figure(value)]
        for name, value in attribution.accuracies.items()
    ]
    searched = "chosen on held-out data" if found.settings["search"] else "as the recipe has it"
    columns = ["the student learns from", searched, f"accuracy on held-out data, {attribution.seeds} seeds"]
    show(table("students by target", columns, rows))
    for each in attribution.effects:
        show(f"  {each.verdict()}")
    for name, reason in attribution.left_out.items():
        show(f"  {name} is left out: {reason}")


def _mechanics(found: "Diagnosis") -> list[list[str]]:
    rows = []
    for each in found.rescaling:
        values = [("Pearson", each.pearson), ("Spearman", each.spearman)]
        said = ", ".join(f"{name} {value:+.3f}" for name, value in values if value is not None)
        rows.append([f"rescaling of the gradient against the teacher's confidence, {each.when}", said])
    for name, value in found.nearness.items():
        rows.append([f"wrong classes in the teacher's order, {name}", figure(value, "{:+.3f}")])
    fits = [
        [
            f"agreement with the teacher, {fit.name}, {fit.epochs} epochs",
            f"{fit.train.agreement:.1%} in training, {fit.held_out.agreement:.1%} held out",
        ]
        for fit in found.capacity.fits
    ]
    return rows + fits
