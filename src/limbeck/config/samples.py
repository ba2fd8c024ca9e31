"""The data as a recipe names it: a kind with its keys, or a function of the user's own."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from limbeck import data
from limbeck.config.networks import check_factory, path_of
from limbeck.config.sections import Section, of_kind, read
from limbeck.data import Selection, Transfer
from limbeck.errors import DataError
from limbeck.identity import Factory

__all__ = ["PLACES", "made_by", "placed", "read_data"]

PLACES = ("folder", "path")
"""The keys of `data` that name files."""

_USED = {each.name: each.default for each in fields(Selection)}


def read_data(keys: dict[str, Any], base: Path) -> tuple[Section, Selection, Transfer, dict[str, Any]]:
    """Return where the data comes from, what of it is used, what of that is transferred, and the resolved keys."""
    transfer, transfer_keys = read(Transfer, _transfer(keys.pop("transfer", {}), base), "data.transfer")
    keys = placed(keys, base, "data")
    selection, selected = read(Selection, {key: keys.pop(key) for key in _USED if key in keys}, "data")
    kind, source = of_kind(keys, data.kinds(), "data")
    changed = {key: selected[key] for key, usual in _USED.items() if getattr(selection, key) != usual}
    return source, selection, transfer, {"kind": kind, **source.values, **changed, "transfer": transfer_keys}


def _transfer(keys: Any, base: Path) -> Any:
    """Return the keys of the transfer set with the files that its synthesis names in the recipe's folder."""
    made = keys.get("synthetic") if isinstance(keys, Mapping) else None
    if not isinstance(made, Mapping):
        return keys
    named = [key for key in ("vectors", "masked") if isinstance(made.get(key), str) and made[key]]
    places = {key: str((base / path_of(made[key], f"data.transfer.synthetic.{key}")).absolute()) for key in named}
    return {**keys, "synthetic": {**made, **places}}


def placed(keys: Any, base: Path, where: str) -> Any:
    """Return the keys of data with the files and folders that they name in the recipe's folder."""
    if not isinstance(keys, Mapping):
        return keys
    found = dict(keys)
    if "factory" in found:
        found = {"kind": "factory", "folder": "", "arguments": {}, **found}
        check_factory(where, found["factory"], found["folder"], found["arguments"])
    for key in PLACES:
        if isinstance(found.get(key), str):
            found[key] = str((base / path_of(found[key], f"{where}.{key}")).absolute())
    tokenizer = found.get("tokenizer")
    if isinstance(tokenizer, Mapping) and isinstance(tokenizer.get("folder"), str):
        folder = (base / path_of(tokenizer["folder"], f"{where}.tokenizer.folder")).absolute()
        found["tokenizer"] = {**tokenizer, "folder": str(folder)}
    return found


def made_by(section: Section, where: str) -> Factory | None:
    """Return the function of the user's own that data is read by; None for a kind.  where: the data's place."""
    if section.function is not data.from_factory:
        return None
    return Factory(where, section.values["factory"], Path(section.values["folder"]), DataError)
