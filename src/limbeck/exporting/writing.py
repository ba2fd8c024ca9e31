"""A network's folder for others: its file, and limbeck.json with what it is and the digests of all files."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.compress import settled
from limbeck.errors import UnwrittenError
from limbeck.models.layers import merged
from limbeck.networks import distinct, file_metadata
from limbeck.records import sealed
from limbeck.training.checkpoints import digest, sync, write_json
from limbeck.training.weights import check_savable

__all__ = ["CONFIG", "WEIGHTS", "stored", "write_folder"]

WEIGHTS, CONFIG = "model.safetensors", "limbeck.json"


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
    write: Callable[[Path], Mapping[str, Any]],
    *,
    check: Callable[[Path], Mapping[str, Any]] = lambda folder: {},
) -> None:
    """Write a network's folder: beside its final name, and renamed once `check` accepts it.

    write: writes files into a folder, and returns plain values for limbeck.json, which gets the digests of all files
    and a checksum too.  check: is given the folder before it has its final name, raises to refuse it, and returns
    further values for limbeck.json.  An error leaves nothing behind.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        config = dict(write(aside))
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        for path in files:
            sync(path)
        config["files"] = {path.relative_to(aside).as_posix(): digest(path) for path in files}
        write_json(aside / CONFIG, sealed(config))
        write_json(aside / CONFIG, sealed({**config, **check(aside)}))
        aside.replace(folder)
    except OSError as error:
        raise UnwrittenError(f"--out: '{folder}' cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
