"""Named tensors from files of weights: safetensors, sharded folders, and what `torch.save` writes.

A file of `torch.save` is read by torch's own reader for weights alone (`weights_only=True`), which builds tensors and
plain containers and runs nothing that the file names.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.checks import shown
from limbeck.errors import CheckpointError, lacks_memory, one_line, one_of
from limbeck.networks import ALIASES, RECORDS, TOGETHER
from limbeck.training.checkpoints import load_tensors

__all__ = ["listed", "read_weights", "transforms_of", "with_aliases"]

_SAFETENSORS, _INDEX = ".safetensors", ".index.json"
_OF_TORCH = (".pt", ".pth", ".ckpt", ".bin")
_SUFFIXES = (_SAFETENSORS, *_OF_TORCH)
_NAMED = 3  # of what is listed in an error line


def read_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file or folder of weights by their names there.

    path: a .safetensors, .pt, .pth, .ckpt or .bin file, or a folder that holds one, or one in shards with their index.
    key: the part of it that is read: an entry, or what the names of its tensors begin with; with dots, parts of parts.
    Raises CheckpointError with one line where the file is missing or damaged, or holds anything else than weights.
    """
    if path.is_dir():
        path = _of_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint: there is no file '{path}'; expected a .safetensors file, or one of: {', '.join(_OF_TORCH)}"
        )
    found = _in_shards(path) if path.name.endswith(_INDEX) else _read(path)
    for part in () if key is None else key.split("."):
        found = _part(found, part, path)
    return _tensors(found, path)


def listed(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more


def with_aliases(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors with those that are known by further names under these too."""
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items() if kept in tensors}}


def transforms_of(path: Path) -> list[dict[str, Any]]:
    """Return what made the model of a file of weights smaller, in order, for `limbeck.compress.rebuilt`.

    None did for a file of another format, and for one that is not there.  CheckpointError where the list is damaged.
    """
    if path.is_dir():
        path = _of_folder(path)
    if path.suffix != _SAFETENSORS or not path.is_file():
        return []
    found = _metadata(path, RECORDS, "[]")
    if found is None:  # which `read_weights` says of the file itself
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CheckpointError(f"checkpoint: '{path}' is damaged (its list of transforms); write it again")
    return found


def _read(path: Path) -> Mapping[Any, Any]:
    if path.suffix == _SAFETENSORS:
        return with_aliases(load_tensors(path), _aliases(path))
    if path.suffix not in _OF_TORCH:
        raise CheckpointError(
            f"checkpoint: '{path}' is no file of weights; expected a name that ends in one of: {', '.join(_SUFFIXES)}"
        )
    found = _unpickled(path)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"checkpoint: '{path}' holds {type(found).__name__}, expected tensors by name;"
            " save them with torch.save(model.state_dict(), FILE)"
        )
    return found


def _unpickled(path: Path) -> Any:
    """Read what `torch.save` wrote, weights alone; a file in today's format is mapped and not copied."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on other protocols of pickle
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        what = "is damaged, or holds more than weights"
        if names:
            what = f"holds an object of {names[0]}, which could run code and is not opened"
        raise CheckpointError(
            f"checkpoint: '{path}' {what}; where you trust the file, write its weights alone:"
            " torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # of a damaged file nearly anything
        if lacks_memory(error):
            raise
        raise CheckpointError(
            f"checkpoint: '{path}' is not a readable file of torch.save ({type(error).__name__}: {one_line(error)});"
            " write it again"
        ) from None


def _of_folder(folder: Path) -> Path:
    """Return the file of weights in a folder, or the index of its shards."""
    kinds: list[Callable[[str], bool]] = [
        lambda name: name.endswith(f"{_SAFETENSORS}{_INDEX}"),
        lambda name: name.endswith(_SAFETENSORS),
        lambda name: name.endswith(_INDEX),
        lambda name: name.endswith(_OF_TORCH),
    ]
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for kind in kinds:
        fitting = [name for name in names if kind(name)]
        if len(fitting) > 1:
            raise CheckpointError(f"checkpoint: '{folder}' holds {listed(fitting)}; expected one. Name the file itself")
        if fitting:
            return folder / fitting[0]
    raise CheckpointError(
        f"checkpoint: '{folder}' holds no file of weights; expected one that ends in {', '.join(_SUFFIXES)}, or the"
        f" shards with their index (model{_SAFETENSORS}{_INDEX})"
    )


def _in_shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors that an index finds in the files beside it."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        named = isinstance(files, dict) and all(isinstance(file, str) for file in files.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        named = False
    if not named:
        raise CheckpointError(f"checkpoint: '{index}' is damaged (it has no weight_map); write it again")
    shards = sorted(set(files.values()))
    for shard in shards:
        if Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"checkpoint: '{index}' names {shown(shard)}; expected files beside it")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"checkpoint: '{index.parent}' has {len(shards) - len(missing)} of {len(shards)} shards; it lacks"
            f" {listed(missing)}. Copy the whole folder"
        )
    found: dict[str, Tensor] = {}
    for shard in shards:
        found |= _tensors(_read(index.parent / shard), index.parent / shard)
    absent = [name for name in files if name not in found]
    if absent:
        raise CheckpointError(f"checkpoint: '{index}' lists {listed(absent)}, which no shard has; write it again")
    return found


def _part(found: Mapping[Any, Any], key: str, path: Path) -> Mapping[Any, Any]:
    """Return the entry of a name, or what begins with it."""
    if isinstance(found.get(key), Mapping):
        entry: Mapping[Any, Any] = found[key]
        return entry
    under = {name.removeprefix(f"{key}."): each for name, each in found.items() if str(name).startswith(f"{key}.")}
    if under:
        return under
    parts = _parts(found)
    raise CheckpointError(
        f"key: '{path}' has no part '{key}'; {one_of(key, parts) if parts else 'it has no parts, leave key out'}"
    )


def _tensors(found: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    others = [name for name, each in found.items() if not (isinstance(name, str) and isinstance(each, Tensor))]
    if not others and found:
        return dict(found)
    entries = [str(name) for name, each in found.items() if isinstance(each, Mapping)]
    if entries:
        raise CheckpointError(
            f"checkpoint: '{path}' holds several entries; name the one with the weights as key:"
            f" {', '.join(sorted(entries))}"
        )
    what = f"'{others[0]}' is {type(found[others[0]]).__name__}" if others else "it is empty"
    raise CheckpointError(f"checkpoint: '{path}' holds no weights alone ({what}); expected tensors by name")


def _parts(found: Mapping[Any, Any]) -> list[str]:
    """Return what a key may name: the entries, and what names begin with."""
    entries = {str(name) for name, each in found.items() if isinstance(each, Mapping)}
    return sorted(entries | {str(name).partition(".")[0] for name in found if "." in str(name)})


def _aliases(path: Path) -> dict[str, str]:
    aliases = _metadata(path, ALIASES, "{}")
    if not isinstance(aliases, dict) or not all(isinstance(kept, str) for kept in aliases.values()):
        raise CheckpointError(f"checkpoint: '{path}' is damaged (its list of tied names); write it again")
    return aliases


def _metadata(path: Path, key: str, absent: str) -> Any:
    """Return an entry of a safetensors file's metadata, which is JSON; None where that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
        if TOGETHER in entries:
            return json.loads(entries[TOGETHER]).get(key, json.loads(absent))
        return json.loads(entries.get(key, absent))
    except (SafetensorError, OSError, ValueError, RecursionError, AttributeError):
        return None
