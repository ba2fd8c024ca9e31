"""limbeck layers: list the layers of a recipe's networks and propose pairs of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.distill import resolve
from limbeck.cli.showing import Trust, say, show, show_json, table
from limbeck.errors import command

if TYPE_CHECKING:
    from rich.table import Table

    from limbeck.experiment.layers import Layer, NetworkLayers

__all__ = ["layers"]


@app.command()
def layers(
    recipe: Annotated[Path, typer.Argument(help="a recipe's file, or the name of a packaged one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="override settings, as key.path=value")] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="how many levels of modules are listed")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON, with the modules of all levels")] = False,
    trust: Trust = False,
) -> None:
    """List the layers of a recipe's student and teacher with their shapes, and propose pairs for `method.layers`."""
    from limbeck.config import load_recipe
    from limbeck.config.reading import written
    from limbeck.experiment.layers import read_layers
    from limbeck.results.trust import trust_recipe

    loaded = load_recipe(
        resolve(recipe), overrides or [], without=("method", "search")
    )  # of which layers may be missing
    if not trust:
        trust_recipe(loaded, resolve(recipe))
    found = read_layers(loaded)
    if as_json:
        show_json(found.as_dict())
        return
    show(_listed("student", found.student, depth))
    show(f"teacher   {found.note}" if found.teacher is None else _listed("teacher", found.teacher, depth))
    for each in found.proposals:
        show(f"{each.kind}, paired by {each.by}:", f"  {written({'layers': each.layers}, short=True).rstrip()}")
    if found.teacher is not None and not found.proposals:
        show("no pairs to propose: a method compares any two paths whose features have equally many axes")
    again = command("limbeck", "check", recipe, *(overrides or []))
    say(f"a method that compares layers takes these lines · next: put one into the recipe's method, then {again}")


def _listed(role: str, network: "NetworkLayers", depth: int) -> "Table":
    rows = [
        [_path(run), str(run[0].shape or ""), run[0].mark or run[0].module, run[0].preactivation]
        for run in _runs([layer for layer in network.layers if layer.path.count(".") < depth])
    ]
    return table(f"{role}: {network.name}", ["path", "gives", "module", "pre-activation"], rows)


def _path(run: "Sequence[Layer]") -> str:
    return run[0].path if len(run) == 1 else f"{run[0].path} to {run[-1].path}"


def _runs(layers: "Sequence[Layer]") -> "list[list[Layer]]":
    """Gather layers one after another that are alike but for the last part of their paths."""
    runs: list[list[Layer]] = []
    for layer in layers:
        if runs and _alike(runs[-1][-1], layer):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs


def _alike(first: "Layer", second: "Layer") -> bool:
    (parent, _, _), (other, _, own) = first.path.rpartition("."), second.path.rpartition(".")
    plain = not first.mark and not second.mark and not second.preactivation
    return plain and own.isdigit() and (parent, first.module, first.shape) == (other, second.module, second.shape)
