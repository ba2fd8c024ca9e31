"""limbeck compress: a finished student made smaller and retrained with its teacher."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import app
from limbeck.cli.showing import Data, Trust, say, show_json
from limbeck.cli.streams import copied
from limbeck.errors import InputError, RecipeError, command

__all__ = ["compress"]

_SIXTEEN = ("fp16", "bf16")  # which need no retraining
_NONE = "none"  # the layers that --skip leaves as they are


@app.command()
def compress(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    rank: Annotated[
        str | None, typer.Option(help="low rank: of each matrix the share of its full rank (0.25), or the rank (16)")
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="low rank: the share of the squared singular values kept")
    ] = None,
    weight: Annotated[
        str, typer.Option(help="low rank: what weighs the error: none, input, or frequency (of tokens)")
    ] = "none",
    prune: Annotated[float | None, typer.Option(help="the share of the weights that is left out, such as 0.8")] = None,
    units: Annotated[
        float | None, typer.Option(help="the share of whole rows and channels that is left out, such as 0.5")
    ] = None,
    codes: Annotated[int | None, typer.Option(help="bits of a layer's shared values, such as 6")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8, int4, fp16 or bf16")] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="a stage as a recipe writes it, '{transform: {kind: low_rank, rank: 8}, retrain: {epochs: 2}}'"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="of each retraining; a tenth of the run's by default")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="of each retraining; a tenth of the run's by default")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="of each retraining: original (the default), before (the student as it was), or none (labels alone)"
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="paths or patterns of layers that stay as they are; none changes all")
    ] = None,
    role: Annotated[str, typer.Option(help="which student of the run")] = "distilled",
    runs: Annotated[Path, typer.Option(help="parent of the new run folder")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    page: Annotated[bool, typer.Option("--report/--no-report", help="write report.html at the end")] = True,
    trust: Trust = False,
    data: Data = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Make the student of a finished run smaller, stage by stage, and retrain it with its teacher after each.

    The order of stages is low rank, pruning, whole units, shared values, fewer bits, and then those of --stage.  The
    new run is like any other: resume, evaluate, report and compress it again.
    """
    from limbeck.cli.distill import outcome_table
    from limbeck.cli.distill import run as carry_out
    from limbeck.cli.report import reported
    from limbeck.experiment.vetting import vet
    from limbeck.results.compression import compressed_recipe, keep_what_was_trained
    from limbeck.results.finished import FinishedRun
    from limbeck.runs import RunFolder

    retrained = any(each is not None for each in (rank, energy, prune, units, codes)) or (
        quantize is not None and quantize not in _SIXTEEN
    )
    _require_use(
        retrained=retrained,
        transformed=retrained or quantize is not None,
        epochs=epochs,
        given={"--epochs": epochs, "--learning-rate": learning_rate, "--teacher": teacher, "--skip": skip},
    )
    finished = FinishedRun.read(run, trust=trust, data=data)
    planned = max(1, round(finished.recipe.training.epochs / 10)) if epochs is None else epochs
    retrain = {"epochs": planned, "teacher": "original" if teacher is None else teacher}
    retrain |= {} if learning_rate is None else {"learning_rate": learning_rate}
    left = {} if skip is None else {"skip": [] if skip == [_NONE] else skip}
    stages: list[Mapping[str, Any]] = []
    if rank is not None or energy is not None:
        size: dict[str, Any] = {} if rank is None else {"rank": _rank(rank)}
        size |= {} if energy is None else {"energy": energy}
        stages.append({"transform": {"kind": "low_rank", **size, "weight": weight, **left}, "retrain": retrain})
    elif weight != "none":
        raise InputError(f"--weight: found {weight} without --rank or --energy; add one of them")
    if prune is not None:
        stages.append({"transform": {"kind": "prune", "sparsity": prune, **left}, "retrain": retrain})
    if units is not None:
        stages.append({"transform": {"kind": "units", "sparsity": units, **left}, "retrain": retrain})
    if codes is not None:
        stages.append({"transform": {"kind": "codes", "bits": codes, **left}, "retrain": retrain})
    if quantize is not None:
        after = {"epochs": 0} if quantize in _SIXTEEN else retrain
        stages.append({"transform": {"kind": "quantize", "to": quantize, **left}, "retrain": after})
    stages += [_stage(text) for text in stage or []]
    if not stages:
        raise InputError(
            "compress: found no stage; name one at least, such as --rank 0.25, --prune 0.8, --quantize int8"
        )
    recipe = compressed_recipe(finished, stages, role=role)
    parts = vet(recipe)
    folder = RunFolder.create(runs, recipe.name, recipe.to_yaml(), sys.argv)
    try:
        keep_what_was_trained(finished, recipe, folder.path)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    outcome = carry_out(recipe, folder, parts=parts, quiet=quiet)
    if as_json:
        show_json({"run": str(folder.path), **outcome.as_dict()})
    else:
        with copied():
            outcome_table(recipe, outcome)
    made = reported(folder) if page else ""
    following = command("limbeck", "export", folder.path, "--to", "safetensors")
    say(f"run folder: {folder.path} · next: {following}{made}")


def _require_use(*, retrained: bool, transformed: bool, epochs: int | None, given: Mapping[str, Any]) -> None:
    """Refuse options that no stage of this command would use.

    retrained: whether an option names a stage with a retraining.  transformed: whether one names any stage.
    """
    named = [name for name, value in given.items() if value is not None]
    for name in named:
        if not transformed:
            raise InputError(
                f"{name}: found without a stage that it is for; add one such as --prune 0.8, or write it into --stage"
            )
        if name != "--skip" and not retrained:
            raise InputError(
                f"{name}: found with --quantize {' or '.join(_SIXTEEN)} alone, which retrains nothing; leave it out, or"
                " add a stage such as --prune 0.8"
            )
        if epochs == 0 and name in ("--learning-rate", "--teacher"):
            raise InputError(f"{name}: found with --epochs 0, which retrains nothing; leave one of them out")


def _rank(text: str) -> int | float:
    """Return a rank, which is a whole number, or a share of the full one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"--rank: found '{text}', expected a whole number such as 16, or a share such as 0.25")


def _stage(text: str) -> Mapping[str, Any]:
    """Return the keys of a stage that is written as in a recipe."""
    from limbeck.config import apply_overrides

    try:
        found = apply_overrides({}, [f"stage={text}"])["stage"]
    except RecipeError as error:
        raise InputError(f"--stage: {str(error).partition(': ')[2]}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"--stage: found '{text}', expected keys such as {{transform: {{kind: low_rank, rank: 8}}}}")
    return found
