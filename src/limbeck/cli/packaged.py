"""limbeck recipes: list, show and copy the packaged recipes."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import recipes, showing
from limbeck.cli.showing import say, show_json
from limbeck.errors import command

__all__ = ["copy", "ls", "show"]


@recipes.callback()
def listed(context: typer.Context) -> None:
    """List the packaged recipes where no command says otherwise."""
    if context.invoked_subcommand is None:
        ls()


@recipes.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """List the packaged recipes with one line each."""
    from limbeck.recipes import find, names

    found = [find(name) for name in names()]
    if as_json:
        show_json([{"name": recipe.name, "summary": recipe.summary} for recipe in found])
        return
    width = max(len(recipe.name) for recipe in found)
    for recipe in found:
        showing.show(f"{recipe.name:<{width}}  {recipe.summary}")


@recipes.command("show")
def show(name: Annotated[str, typer.Argument(help="a packaged recipe")]) -> None:
    """Print a recipe and its card."""
    from limbeck.recipes import find

    recipe = find(name)
    print(recipe.recipe.read_text(encoding="utf-8"))
    print(recipe.card)


@recipes.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="a packaged recipe")],
    target: Annotated[Path, typer.Argument(help="a file, or a folder")] = Path(),
) -> None:
    """Copy a recipe to a file (or into a folder) to edit it; an existing file is never overwritten."""
    from limbeck.errors import RunError
    from limbeck.recipes import find

    recipe = find(name)
    place = target / f"{name}.yaml" if target.is_dir() else target
    if place.exists():
        raise RunError(f"recipes cp: '{place}' exists already; name another file or delete it")
    aside = place.with_name(f".limbeck-{os.getpid()}.tmp")
    try:
        shutil.copyfile(recipe.recipe, aside)
        aside.replace(place)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise RunError(f"recipes cp: cannot write '{place}' ({error.strerror}); name another file") from None
    say(f"copied to {place} · next: edit it, then {command('limbeck', 'check', place)}")
