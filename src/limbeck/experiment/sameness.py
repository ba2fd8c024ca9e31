"""A run that goes on is of the code and the data that it began with."""

from typing import Any

from limbeck import checks
from limbeck.config import Recipe
from limbeck.errors import RunError
from limbeck.experiment.parts import Parts
from limbeck.locks import exclusive
from limbeck.ranks import first_does
from limbeck.runs import RunFolder

__all__ = ["same_as_before"]


def same_as_before(recipe: Recipe, folder: RunFolder, parts: Parts) -> dict[str, dict[str, str]]:
    """Put the code of a run's factories and its data on record in the manifest, and return the code.

    Raises RunError where another code or other data are on record.

    The manifest's `code` is what `Recipe.code` gives: by the factory's key, the SHA-256 of each file by its module.
    Its `data` has the identity of the root set (`source`), what is drawn of it (`samples`) and the sizes.
    """
    code = recipe.code()
    data: dict[str, Any] = {
        "source": parts.train.source,
        "samples": parts.transfer.digest(),
        "train": len(parts.train),
        "test": len(parts.test),
    }

    def agree() -> None:
        busy = f"run folder: '{folder.path}' is in use by another process"
        with exclusive(folder.path / ".sameness.lock", wait=True, busy=busy):  # several processes may share a study
            _agree(folder, code, data)

    first_does(agree)
    return code


def _agree(folder: RunFolder, code: dict[str, dict[str, str]], data: dict[str, Any]) -> None:
    known = folder.noted("code")
    if known is not None and known != code:
        raise RunError(
            f"resume: '{folder.path}' is a run of other code: {_changed(known, code)} has changed; put it back, or"
            " start a new run"
        )
    before = folder.noted("data")
    if before is not None and any(before.get(key, value) != value for key, value in data.items()):
        raise RunError(
            f"resume: '{folder.path}' is a run on other data: what it holds has changed; put it back,"
            " or start a new run"
        )
    if known is None or before != data:
        folder.note(code=code, data=data)


def _changed(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> str:
    """Return where two records of code differ first."""
    for where in sorted(before.keys() | now.keys()):
        there, here = before.get(where, {}), now.get(where, {})
        for module in sorted(there.keys() | here.keys()):
            if there.get(module) != here.get(module):
                return f"module {checks.shown(module)} of {where}.factory"
    return "a factory"
