"""A network's folder for others: `model.safetensors`, `config.json`, and the tokenizer where it has one."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.compress import settled
from limbeck.models.layers import merged
from limbeck.networks import distinct, file_metadata
from limbeck.records import sealed
from limbeck.training.checkpoints import sync, write_json
from limbeck.training.weights import check_savable

__all__ = ["CONFIG", "WEIGHTS", "stored", "write_folder"]

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def stored(model: nn.Module) -> bytes:
    """Return the content of a network's file of weights.

    Each tensor is written once, under one name; further names of tied ones, and what gave the network its structure,
    stand in the metadata.  Adapters and masks are folded into the weights, and rounded weights are whole numbers with
    their scales.

    >>> len(stored(nn.Linear(3, 4))) > 64
    True
    """
    from safetensors.torch import save

    check_savable(model)
    small = settled(merged(model))
    tensors, aliases = distinct(small)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(plain, {**file_metadata(small, aliases), "format": "pt"})


def write_folder(
    folder: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    *,
    files: Mapping[str, bytes] | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a network's folder: beside its final name, and renamed once `check` accepts it.

    config: plain values, written to config.json with the digests of all files and a checksum.
    files: further files by name.  check: is given the folder before it has its final name, and raises to refuse it.
    An error leaves nothing behind.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        written = {WEIGHTS: stored(model), **(files or {})}
        for name, content in written.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(content)
            sync(aside / name)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
        write_json(aside / CONFIG, sealed({**config, "files": digests}))
        check(aside)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
