"""A network's folder for others: `model.safetensors`, `config.json`, and the tokenizer where it has one."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from limbeck.compress.settling import settled
from limbeck.errors import CheckpointError
from limbeck.networks import distinct, file_metadata
from limbeck.records import sealed
from limbeck.training.checkpoints import sync, write_json
from limbeck.training.weights import check_savable

__all__ = ["CONFIG", "HEADER", "WEIGHTS", "read_header", "stored", "write_folder"]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HEADER = "limbeck"
"""The key of the metadata of a file of weights that holds limbeck's header."""
_FORMAT = 1


def stored(model: nn.Module, header: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of a network's file of weights.

    Each tensor is written once, under one name; further names of tied ones, and what gave the network its structure,
    stand in the metadata.  Masks are folded into the weights, and rounded weights are whole numbers with their scales.
    header: plain values that are written beside them.

    >>> len(stored(nn.Linear(3, 4))) > 64
    True
    """
    from safetensors.torch import save

    check_savable(model)
    small = settled(model)
    tensors, aliases = distinct(small)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    own = {HEADER: json.dumps({"format": _FORMAT, **(header or {})}, sort_keys=True)}
    return save(plain, {**file_metadata(small, aliases), **own})


def read_header(path: Path) -> dict[str, Any]:
    """Return limbeck's header of a file of weights; CheckpointError where it has none, or one of another format."""
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})[HEADER])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise CheckpointError(
            f"checkpoint: '{path}' was not exported by this version of limbeck; export it again with limbeck export"
        )
    return found


def write_folder(
    folder: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    *,
    header: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a network's folder: beside its final name, and renamed once `check` accepts it.

    config: plain values, written to config.json with a checksum.  header: of the file of weights.
    files: further files by name.  check: is given the folder before it has its final name, and raises to refuse it.
    An error leaves nothing behind.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for name, content in {WEIGHTS: stored(model, header), **(files or {})}.items():
            (aside / name).write_bytes(content)
            sync(aside / name)
        write_json(aside / CONFIG, sealed(config))
        check(aside)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
