"""Checkpoints: safetensors and JSON with checksums, written aside and then renamed: none is ever half-written."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import CheckpointError, one_line
from limbeck.networks import as_shard, is_shard
from limbeck.records import as_json, sealed, unsealed

__all__ = [
    "digest",
    "load_tensors",
    "mend",
    "newest",
    "optimizer_tensors",
    "read",
    "read_json",
    "read_sealed",
    "remove",
    "remove_after",
    "restore_optimizer",
    "save_tensors",
    "steps",
    "sync",
    "write",
    "write_json",
    "write_sealed",
    "write_text",
]

_KEEP = 2
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_OPTIMIZER = "optimizer."


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step and delete all but the newest two."""
    final = folder / f"step-{step:09d}"
    aside = folder / f".step-{step:09d}.tmp"
    for abandoned in folder.glob(".step-*.tmp"):
        shutil.rmtree(abandoned, ignore_errors=True)
    folder.mkdir(exist_ok=True)  # not those above: a run that is gone is not begun anew in the middle
    aside.mkdir()
    save_tensors(tensors, aside / _TENSORS)
    sync(aside / _TENSORS)
    content = {"tensors_sha256": digest(aside / _TENSORS), "state": state}
    body = json.dumps(content)
    (aside / _STATE).write_text(json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}))
    sync(aside / _STATE)
    if final.exists():
        shutil.rmtree(final)
    aside.replace(final)
    sync(folder)
    for old in _steps(folder)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, if there is one."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def steps(folder: Path) -> list[int]:
    """Return the steps of the complete checkpoints in a folder, in their order."""
    return [_step(path) for path in _steps(folder)]


def read(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the state of a checkpoint, after comparing their checksums."""
    try:
        outer = json.loads((checkpoint / _STATE).read_text())
        body = outer["body"]
        damaged = hashlib.sha256(body.encode()).hexdigest() != outer["sha256"]
        content = json.loads(body)
        damaged = damaged or digest(checkpoint / _TENSORS) != content["tensors_sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: '{checkpoint}' is damaged ({error}); {mend(checkpoint)}") from None
    if damaged:
        raise CheckpointError(f"checkpoint: '{checkpoint}' is damaged (wrong checksum); {mend(checkpoint)}")
    if not isinstance(content.get("state"), dict):
        raise CheckpointError(f"checkpoint: '{checkpoint}' is damaged (it has no state); {mend(checkpoint)}")
    return load_tensors(checkpoint / _TENSORS), content["state"]


def write_text(path: Path, text: str) -> None:
    """Write a text file: aside, then renamed."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file: aside, then renamed; what is not finite is null."""
    write_text(path, as_json(content) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; CheckpointError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); delete it to start again") from None


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of itself, as the key "sha256": aside, then renamed."""
    write_json(path, sealed(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without its checksum; CheckpointError when it is damaged or has none."""
    try:
        return unsealed(read_json(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged ({one_line(error)}); delete it to start again") from None


def remove(folder: Path) -> None:
    """Delete the checkpoints of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """Split an optimizer's state into named tensors and what JSON can hold."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{number}.{name}"] = value
            else:
                rest[f"{number}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "rest": rest}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Any) -> None:
    """Put back what `optimizer_tensors` split."""
    entries: dict[int, dict[str, Any]] = {}
    named = {name.removeprefix(_OPTIMIZER): each for name, each in tensors.items() if name.startswith(_OPTIMIZER)}
    for key, value in {**named, **state["rest"]}.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    known = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for own, kept in zip(json.loads(json.dumps(known)), state["groups"], strict=True):
        if any(kept[key] != own[key] for key in own.keys() & kept.keys() - {"lr"}):
            raise ValueError("the optimizer's settings are not those of the training")
    for number, entry in entries.items():
        sizes = [value.shape for value in entry.values() if isinstance(value, Tensor) and value.dim() > 0]
        if any(size != parameters[number].shape for size in sizes):
            raise ValueError("the optimizer's state is not of the model's shapes")
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.dim() > 0 and is_shard(parameters[number]):
                entry[name] = as_shard(value, parameters[number])
            elif isinstance(value, Tensor) and value.dim() > 0:  # laid out in memory as its parameter is
                entry[name] = torch.empty_like(parameters[number], dtype=value.dtype, device=value.device).copy_(value)
    optimizer.load_state_dict({"state": entries, "param_groups": state["groups"]})


def _steps(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())
    return sorted(path for path in found if (path / _STATE).is_file())


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def mend(checkpoint: Path) -> str:
    """Return what to do about a checkpoint that cannot be resumed."""
    older = [path for path in _steps(checkpoint.parent) if path.name < checkpoint.name]
    return f"delete it to go on from '{older[-1].name}'" if older else "delete it to start again"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; CheckpointError where it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint: '{path}' is not a readable safetensors file ({error}); write it again"
        ) from None


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; OSError when that fails, a full disk included, of which safetensors has an error of its own."""
    path.touch()
    readers = path.stat().st_mode  # as for any new file; what safetensors writes its owner alone can read
    try:
        more = {"metadata": dict(metadata)} if metadata else {}
        save_file({name: _own(tensor) for name, tensor in tensors.items()}, path, **more)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    path.chmod(readers)


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def remove_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for path in _steps(folder):
        if _step(path) > step:
            shutil.rmtree(path, ignore_errors=True)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder reach the disk."""
    if os.name == "nt":  # where a folder cannot be opened, nor a file synchronised that is open for reading alone
        if path.is_dir():
            return
        flags = os.O_RDWR
    else:
        flags = os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
