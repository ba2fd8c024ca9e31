"""Whose code a run may bring in: that of the project which its reader works in, or none before it is trusted.

A recipe's `factory` imports and calls any function of any module.  In a recipe that somebody writes or chooses to run
that is their own affair; in the folder of a run that somebody else sent it runs code on the reader's machine.
"""

import os
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from limbeck.config import Recipe
from limbeck.errors import RunError
from limbeck.identity import Factory, is_library, is_local

__all__ = ["TRUSTED", "require_trust", "require_trusted_program", "trust_recipe"]

TRUSTED = "LIMBECK_TRUST"
"""The environment variable that lists folders, parted as in PATH, below which every run is trusted."""


def require_trust(recipe: Recipe, folder: Path) -> None:
    """Require that reading a run imports no code but that of the reader's own project; RunError otherwise.

    A factory belongs to the project if the file of its module lies below the current folder, is no installed package,
    and did not come with the run: it lies neither in the run's folder nor in the folder that holds it, nor in any
    folder between that and the current one.  The function itself has to come from such a file as well.  Runs below a
    folder that LIMBECK_TRUST names are trusted as they are.
    """
    if _is_trusted(folder):
        return
    for factory in recipe.factories:
        reason = _objection(_would_be_in(factory), folder)
        if reason is None:  # importing it is safe, and shows where the function that it names is from
            reason = _objection(factory.home(), folder)
        if reason is not None:
            raise RunError(
                f"'{folder}': found {factory.where}.factory: '{factory.name}', {reason}; expected code of your own "
                "project, below the current folder and apart from the run, since importing it runs it. Give --trust "
                f"(in Python trust=True) if you trust this run, or name a folder of trusted runs in {TRUSTED}"
            )


def trust_recipe(recipe: Recipe, path: Path) -> None:
    """Require the same of a recipe's file where it is that of a run; any other the user has chosen."""
    if (path.parent / "manifest.json").is_file():
        require_trust(recipe, path.parent)


def require_trusted_program(folder: Path) -> None:
    """Require that a folder with a program of torch is trusted, since reading one can run code; RunError otherwise."""
    if not _is_trusted(folder):
        raise RunError(
            f"'{folder}': found a program of torch-export, which can run code when it is read; expected one that you "
            f"trust. Give --trust (in Python trust=True), or name a folder of trusted ones in {TRUSTED}"
        )


def _is_trusted(folder: Path) -> bool:
    named = [Path(each).expanduser().resolve() for each in os.environ.get(TRUSTED, "").split(os.pathsep) if each]
    return any(folder.resolve().is_relative_to(place) for place in named)


def _objection(file: Path | None, folder: Path) -> str | None:
    """Return why a file is not of the reader's project; None if it is."""
    if file is None:
        return "whose file is not found"
    file, here, run = file.resolve(), Path.cwd().resolve(), folder.resolve()
    if is_library(file):
        return "which is installed and not yours"
    if not file.is_relative_to(here):
        return f"which lies in '{file.parent}'"
    between = [place for place in run.parents if place != here and place.is_relative_to(here)]
    if any(map(file.is_relative_to, (run, run.parent, *between))):
        return f"which lies beside the run, in '{file.parent}'"
    return None


def _would_be_in(factory: Factory) -> Path | None:
    """Return the file that a factory's outermost package would be imported from, without importing it."""
    first = factory.name.partition(":")[0].partition(".")[0]
    if first in sys.stdlib_module_names:
        return Path(sysconfig.get_path("stdlib")) / first
    places = [str(factory.folder.resolve())] if is_local(first, factory.folder.resolve()) else None
    found = PathFinder.find_spec(first, places)
    if found is None:
        return None
    named = found.origin or next(iter(found.submodule_search_locations or ()), None)
    return None if named is None else Path(named)
