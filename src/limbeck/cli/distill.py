"""limbeck distill: teacher, student alone and what the recipe's scheme trains, and the table of them."""

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.course import Course, duration
from limbeck.cli.ending import recorded
from limbeck.cli.showing import figure, over_seeds, say, show, show_json, table, telling, watching
from limbeck.cli.streams import copied
from limbeck.errors import command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from limbeck.config import Recipe
    from limbeck.evaluation import Interval
    from limbeck.experiment.check import Rehearsal
    from limbeck.experiment.outcome import Outcome
    from limbeck.experiment.parts import Parts
    from limbeck.profiling import Profile
    from limbeck.results.compression import StageFigures
    from limbeck.runs import RunFolder

__all__ = ["distill", "outcome_table", "profile_table", "run"]

_MISSED = 3


@app.command()
def distill(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="override settings, as key.path=value")] = None,
    runs: Annotated[Path, typer.Option(help="parent of new run folders")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="resume the run in this folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    page: Annotated[bool, typer.Option("--report/--no-report", help="write report.html at the end")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="tell where the time of training steps goes")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="predict the time first, and say at the end how far that was off")
    ] = False,
) -> None:
    """Train the teacher (or reuse it), the student alone and the student distilled; print them side by side."""
    from limbeck.cli.report import reported
    from limbeck.config import load_recipe
    from limbeck.errors import RunError
    from limbeck.experiment.plan import predicted_and_real
    from limbeck.experiment.vetting import vet
    from limbeck.profiling import Profile
    from limbeck.ranks import is_first
    from limbeck.runs import group_of, made_by

    loaded = load_recipe(resolve(recipe), overrides or [])
    parts = vet(loaded)
    rehearsal = _rehearsed(loaded, resume) if plan else None
    folder = folder_of(loaded, runs, resume)
    if resume is not None:
        if (verb := made_by(resume)) in ("tune", "diagnose"):
            raise RunError(
                f"resume: '{resume}' was made by limbeck {verb} and is not a run; start a run without --resume"
            )
        if (group := group_of(resume)) is not None:
            raise RunError(f"resume: '{resume}' is a run of group {group} alone; resume it with limbeck codistill")
    with Profile() if profile or plan else nullcontext() as profiled:
        outcome = run(loaded, folder, parts=parts, quiet=quiet or not is_first())
    if not is_first():
        if misses(loaded, outcome):
            raise typer.Exit(_MISSED)
        return
    measured = profiled if profile else None
    found = {}
    if rehearsal is not None and profiled is not None:
        seconds = {model.role: model.seconds for model in rehearsal.models}
        found = {"plan": predicted_and_real(rehearsal.teacher, seconds, profiled)}
        folder.write_json("plan.json", found["plan"])
    if measured is not None and measured.steps:
        folder.write_json("profile.json", measured.as_dict())
    if as_json:
        timed = {} if measured is None else {"profile": measured.as_dict()}
        show_json({"run": str(folder.path), **outcome.as_dict(), **timed, **found})
    else:
        with copied():
            outcome_table(loaded, outcome)
        if measured is not None:
            show(profile_table(measured) if measured.steps else "Profile: every training was finished before.")
        if found:
            show(*_plan_lines(found["plan"]))
    missed = misses(loaded, outcome)
    for line in missed:
        say(f"missed: {line}")
    made = reported(folder) if page else ""
    repeat = command("limbeck", "distill", folder.path / "recipe.yaml")
    say(f"run folder: {folder.path} · repeat it: {repeat}{made}")
    if missed:
        raise typer.Exit(_MISSED)


def _rehearsed(recipe: "Recipe", resume: Path | None) -> "Rehearsal":
    """Predict what a run takes; RunError for one whose time is not that of a whole run in one process."""
    from limbeck.errors import RunError
    from limbeck.experiment.check import rehearse
    from limbeck.ranks import world_size

    if resume is not None or world_size() > 1:
        found = "--resume" if resume is not None else f"{world_size()} processes"
        raise RunError(f"--plan: found {found}; expected a new run in one process. Leave --plan out")
    return rehearse(recipe)


def _plan_lines(plan: "Mapping[str, Any]") -> list[str]:
    """Return what was predicted and what it took, a line for the teacher and one for all trainings."""
    lines = []
    for name, told in plan.items():
        label = f"teacher ({told['way']})" if "way" in told else name
        predicted, real = (
            each["seconds"] if isinstance(each, dict) else each for each in (told["predicted"], told["real"])
        )
        error = "" if told["error"] is None else f" ({100 * told['error']:+.0f} %)"
        lines.append(f"{label}: predicted {predicted:.2f} s, took {real:.2f} s{error}")
    return lines


def resolve(recipe: Path) -> Path:
    """Return the file of a recipe that is named by path or by a packaged name."""
    from limbeck.cli.packaged import file_of

    packaged = not recipe.exists() and not recipe.suffix and len(recipe.parts) == 1
    return file_of(str(recipe)) if packaged else recipe


def folder_of(recipe: "Recipe", runs: Path, kept: Path | None) -> "RunFolder":
    """Return a new folder for a recipe, which the first of several processes makes; or the one that is resumed."""
    from limbeck.config import load_recipe
    from limbeck.ranks import first_does
    from limbeck.runs import RunFolder

    text = recipe.to_yaml()
    if kept is not None:
        return RunFolder.open(kept, text, lambda file: load_recipe(file).with_data_of(recipe).to_yaml())
    return RunFolder(Path(first_does(lambda: str(RunFolder.create(runs, recipe.name, text, sys.argv).path))))


def run(recipe: "Recipe", folder: "RunFolder", *, parts: "Parts | None" = None, quiet: bool = False) -> "Outcome":
    """Run a recipe in a folder, with progress, a log and the outcome as outcome.json."""
    from limbeck.experiment.agenda import agenda
    from limbeck.experiment.run import distill
    from limbeck.experiment.sealing import keep_outcome
    from limbeck.experiment.vetting import vet

    began = time.monotonic()
    parts = vet(recipe) if parts is None else parts
    overall = None if quiet else Course(agenda(recipe, parts), began=began)
    with folder.locked():
        folder.log("started")
        with recorded(folder), watching(quiet=quiet, overall=overall) as watch:
            outcome = distill(recipe, folder, parts=parts, watch=watch, say=telling(folder, quiet=quiet))
        keep_outcome(folder, outcome)
        folder.log(f"done in {duration(time.monotonic() - began)}")
    return outcome


def outcome_table(recipe: "Recipe", outcome: "Outcome") -> None:
    """Print what failed, the models side by side, and what the distillation came to."""
    from limbeck.evaluation import figures_of
    from limbeck.results.compression import stages_of

    examples = outcome.seeds[0].teacher.examples
    seeds = len(outcome.seeds)
    figures = figures_of(outcome.task)
    more = list(outcome.seeds[0].teacher.more)
    written = {each.name: each.pattern for each in figures.more}
    patterns = [written[name] or "{:.4f}" for name in more]
    rows = []
    for role, found in outcome.roles.items():
        errors, accuracy, *others = outcome.errors(role), outcome.accuracy(role), *outcome.more(role, more)
        if role == "teacher" and recipe.teacher.seed is not None:
            errors, accuracy, *others = (type(each)(each.mean, None, 1) for each in (errors, accuracy, *others))
        compute = "" if found.relative is None else f"{found.relative:.2f}"
        row = [found.label, f"{found.parameters:,}", compute, figure(errors, figures.pattern), figure(accuracy)]
        rows.append([*row, *map(figure, others, patterns)])
    stands = outcome.standing()
    show(*(f"{failure}." for failure in stands.failures))
    title = f"{recipe.name}: {examples:,} {figures.unit}, {over_seeds(seeds)}"
    columns = ["model", "parameters", "compute", f"test {figures.errors}", figures.accuracy]
    show(table(title, [*columns, *(name.replace("_", " ") for name in more)], rows))
    show("Compute: FLOPs of all trainings that led to a model, as a multiple of the student alone's.")
    if stages := stages_of(outcome):
        show(_stage_table(stages, stages_of(outcome, beside=True), figures.errors, figures.pattern))
    for note in outcome.notes:
        show(note)
    show(f"{stands.said}.")
    if stands.share is not None:
        show(f"Share of the gap closed, (alone - distilled)/(alone - teacher): {figure(stands.share)}")


def profile_table(profile: "Profile") -> "Table":
    """Return where the time of the steps of each training went: percent of a step, by part."""
    from limbeck.profiling import PARTS

    rows = [
        [label, f"{row['steps']:,}", f"{row['ms_a_step']:.2f}", *(f"{row['percent'][name]:.1f}" for name in PARTS)]
        for label, row in profile.as_dict().items()
    ]
    columns = ["training", "steps", "ms a step", *(f"{name} %" for name in PARTS)]
    return table("Time of the training steps made in this call", columns, rows)


def _both(typing: "Mapping[str, Interval]", rate: str) -> str:
    """Return a rate of a keyboard for all words, and for those that can be offered."""
    return " / ".join(figure(typing.get(name), "{:.1f}") for name in (rate, f"known_{rate}"))


def _stage_table(
    stages: "Sequence[StageFigures]", beside: "Sequence[StageFigures]", errors: str, pattern: str
) -> "Table":
    """Return what each network of a compression costs and answers, below those that it is compared with."""
    typing = stages[0].typing is not None
    rows = []
    for each in [*beside, *stages]:
        lower, median, upper = (f"{1000 * seconds:.{2 if typing else 3}f}" for seconds in each.latency)
        row = [each.label, f"{each.parameters:,}", f"{each.bytes / 1024:,.1f}"]
        row.append(f"{stages[0].bytes / each.bytes:.2f}")
        if not typing:
            row += [f"{each.ideal_bytes / 1024:,.1f}", f"{each.flops / 1e6:,.3g}"]
        row.append(f"{median} ({lower} to {upper})")
        if each.typing is not None:
            row += [_both(each.typing, rate) for rate in ("keystroke_savings", "word_prediction_rate")]
        rows.append([*row, figure(each.errors, pattern)])
    columns = ["compression", "parameters", "KiB on disk", "times smaller"]
    columns += ["ms a word", "KS %", "WPR %"] if typing else ["KiB, ideal code", "MFLOPs", "ms at batch 1"]
    title = "Stages; milliseconds are the median and the quartiles"
    if typing:
        title += "; KS and WPR of all words / of those that can be offered"
    return table(title, [*columns, f"test {errors}"], rows)


def misses(recipe: "Recipe", outcome: "Outcome") -> list[str]:
    """Return a line for each of the recipe's expectations that the outcome does not meet."""
    lines = []
    for role in ("teacher", "distilled"):
        most, found = recipe.expect[f"{role}_errors"], outcome.errors(role).mean
        if most is not None and found > most:
            lines.append(f"{role}_errors is {found:{'.1f' if found >= 1 else '.4g'}}, expected at most {most:g}")
    least, gap = recipe.expect["gap_closed"], outcome.gap_closed()
    if least is not None and (gap is None or gap.mean < least):
        lines.append(f"gap_closed is {'undefined' if gap is None else f'{gap.mean:.3f}'}, expected at least {least:g}")
    return lines
