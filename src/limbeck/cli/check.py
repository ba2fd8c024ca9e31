"""limbeck check: build everything a recipe names, run one batch, say what it will cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.course import duration
from limbeck.cli.distill import resolve
from limbeck.cli.showing import Trust, say, show, show_json, table
from limbeck.errors import command

if TYPE_CHECKING:
    from rich.table import Table

    from limbeck.experiment.check import RehearsedModel
    from limbeck.experiment.plan import TeacherPlan

__all__ = ["check", "ways_table"]

_SHORT = 10
"""Seconds below which a time has decimals."""


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="override settings, as key.path=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    trust: Trust = False,
) -> None:
    """Build everything, run one batch, print shapes, parameters, memory and a time estimate.  Nothing is trained."""
    from limbeck.config import load_recipe
    from limbeck.experiment.check import rehearse
    from limbeck.results.trust import trust_recipe

    loaded = load_recipe(resolve(recipe), overrides or [])
    if not trust:
        trust_recipe(loaded, resolve(recipe))
    found = rehearse(loaded)
    if as_json:
        show_json(found.as_dict())
        return
    show(f"data      {found.data}")
    show(*(f"note      {note}" for note in found.notes))
    show(f"method    {found.method}")
    show(f"scheme    {found.scheme}")
    rows = [
        [
            model.role,
            f"{model.parameters:,}",
            str(model.inputs),
            str(model.outputs),
            f"{model.bytes / 2**20:.1f} MiB",
            *_work(model),
        ]
        for model in found.models
    ]
    columns = ["model", "parameters", "inputs", "logits", "training memory", "a step", "steps × runs", "time"]
    show(table(f"{loaded.name}: one batch ran", columns, rows))
    if found.layers:
        pairs = [
            [
                each.term,
                f"{each.student} {each.student_shape[1:]}",
                f"{each.teacher} {each.teacher_shape[1:]}",
                each.projection or "none",
            ]
            for each in found.layers
        ]
        show(table("layers that are compared", ["term", "student", "teacher", "learned projection"], pairs))
    if found.teacher is not None:
        show(ways_table(found.teacher))
        show(*(f"{way.name} is not possible: {way.refused}" for way in found.teacher.ways if way.refused))
        best = found.teacher.way(found.teacher.cheapest)
        show(f"The fastest exact teacher is {best.name}: {best.line}. This recipe has {found.teacher.chosen}.")
    show("losses of the first batch: " + ", ".join(f"{k} {v:.4g}" for k, v in found.losses.items()))
    work = f"{found.trainings:,} trainings, about {duration(found.seconds)} in all on this machine"
    say(f"{work} · next: {command('limbeck', 'distill', recipe, *(overrides or []))}")


def ways_table(plan: "TeacherPlan") -> "Table":
    """Return the ways to have the teacher's answers and what each takes."""
    rows = []
    for way in plan.ways:
        if way.refused:
            rows.append([way.name, "not possible", "", "", "", ""])
            continue
        disk = f"{way.disk / 2**20:,.1f} MiB" if way.disk else "none"
        seconds = [_span(each) if each else "none" for each in (way.build, way.reading)]
        rows.append([way.name, way.answers, *seconds, f"{way.memory / 2**20:,.1f} MiB", disk])
    return table("ways to have the teacher", ["teacher", "answers", "asked before", "in steps", "memory", "disk"], rows)


def _span(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < _SHORT else duration(seconds)


def _work(model: "RehearsedModel") -> list[str]:
    """Return what a model's trainings take, as the cells of its row."""
    if not model.runs:
        return ["none", "not trained", "none"]
    steps = f"{model.steps:,} × {model.runs}"
    return [f"{1000 * model.seconds_a_step:.1f} ms", steps, duration(model.seconds)]
