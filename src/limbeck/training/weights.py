"""A model's weights as a safetensors file: each tied tensor once, under names that no wrapper has changed."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.errors import CheckpointError, ModelError, one_of
from limbeck.networks import ALIASES, alias_metadata, canonical_path, distinct, tied
from limbeck.training.checkpoints import digest, load_tensors, save_tensors, sync, write_sealed

__all__ = [
    "RESULT",
    "STUDENT",
    "check_savable",
    "load_result",
    "load_weights",
    "save_result",
    "save_weights",
    "with_aliases",
]

RESULT, STUDENT = "result.json", "student.safetensors"
"""The files of a training that has ended: what came out, and the weights."""
_TERMS = ("objective.", "distiller.objective.")  # what a distiller's own state holds beside its student


@checked
def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state as safetensors, to a temporary file that is then renamed.

    A tensor with several names (a tied embedding) is written once; the file's metadata lists its other names.

    Args:
        model: the network.
        path: of the file.

    Raises:
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save_weights(nn.Linear(3, 4), file)
        >>> file.exists()
        True
    """
    check_savable(model)
    aside = path.with_name(f".{path.name}.aside")  # a folder: safetensors too writes to a file of another name first
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors, aliases = distinct(model)
    save_tensors(tensors, aside / path.name, alias_metadata(aliases))
    sync(aside / path.name)
    (aside / path.name).replace(path)
    aside.rmdir()


def check_savable(model: nn.Module, role: str = "model") -> None:
    """Require weights that a file of limbeck holds: ModelError for complex or sparse ones, and what is no tensor."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{role}: '{name}' is {type(value).__name__}, but a file of weights contains only tensors; keep it in a"
                " buffer (register_buffer), or train without a folder"
            )
        if value.layout != torch.strided or value.is_quantized:
            kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
            raise ModelError(
                f"{role}: '{name}' is {kind}, but a file of weights contains only dense numbers; keep it dense"
                " (to_dense, dequantize), leave it out of the state (persistent=False), or train without a folder"
            )
        if value.is_complex():
            raise ModelError(
                f"{role}: '{name}' is {str(value.dtype).removeprefix('torch.')}, and a file of weights holds no"
                " complex numbers; keep real and imaginary part (torch.view_as_real), or train without a folder"
            )


@checked
def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's weights from a safetensors file.

    Names may differ by what DDP, FSDP and torch.compile insert, on either side, and a file may omit all but one name of
    a tied tensor, as the Transformers library does.  The state of a whole `Distiller` fills its student.

    Args:
        model: is filled in place, and stays unchanged if there is an error.
        path: of the file.

    Raises:
        CheckpointError: if the file is missing, damaged, a pickle, of another architecture, or contains NaN.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save_weights(nn.Linear(3, 4), file)
        >>> load_weights(nn.Linear(3, 4), file)
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: there is no file '{path}'; expected a .safetensors file")
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"checkpoint: '{path}' is not a .safetensors file; convert it with safetensors.torch.save_file"
            " (a pickle can run code, so limbeck does not open one)"
        )
    own, grown = model.state_dict(), _grown(model)
    loaded = _under_own_names(with_aliases(load_tensors(path), _written_aliases(path)), own)
    loaded = _filled(model, loaded, path)
    for name in own:
        if name not in loaded:
            raise CheckpointError(
                f"checkpoint: '{path}' is of another architecture: it has no '{name}'; {one_of(name, loaded)}"
            )
        if own[name].shape != loaded[name].shape and not (name in grown and own[name].dim() == loaded[name].dim()):
            raise CheckpointError(
                f"checkpoint: '{path}' is of another architecture: '{name}' is {tuple(loaded[name].shape)} there,"
                f" {tuple(own[name].shape)} in the model; change the model's keys"
            )
        if own[name].is_floating_point() != loaded[name].is_floating_point() or loaded[name].is_complex():
            raise CheckpointError(
                f"checkpoint: '{path}' does not fit: '{name}' is {loaded[name].dtype} there, {own[name].dtype} in the"
                " model; save it in the model's type"
            )
    extra = sorted(set(loaded) - set(own))
    if extra:
        raise CheckpointError(
            f"checkpoint: '{path}' is of another architecture: the model has no '{extra[0]}'; {one_of(extra[0], own)}"
        )
    _require_numbers(model, loaded, path)
    model.load_state_dict(loaded)


def save_result(model: nn.Module, folder: Path, content: Mapping[str, Any]) -> None:
    """Write a model's weights into a folder, and then what they are the result of, with the weights' digest."""
    save_weights(model, folder / STUDENT)
    write_sealed(folder / RESULT, {**content, "weights_sha256": digest(folder / STUDENT)})


def load_result(model: nn.Module, folder: Path, content: Mapping[str, Any]) -> None:
    """Fill a model with the weights of a folder; CheckpointError where they are not those of its result, `content`."""
    weights = folder / STUDENT
    if weights.is_file() and digest(weights) != content.get("weights_sha256"):
        raise CheckpointError(f"'{weights}' is damaged (wrong checksum); delete '{RESULT}' to train again")
    load_weights(model, weights)


def _require_numbers(model: nn.Module, loaded: Mapping[str, Tensor], path: Path) -> None:
    """Require weights that are numbers; of a buffer an infinity is one too, as in the mask of an attention."""
    learnt = dict(model.named_parameters(remove_duplicate=False))
    for name in model.state_dict():
        if not (tensor := loaded[name]).is_floating_point():
            continue
        kind = "NaN" if bool(tensor.isnan().any()) else "an infinity"
        if kind == "NaN" or (name in learnt and bool(tensor.isinf().any())):
            raise CheckpointError(
                f"checkpoint: '{path}': found {kind} in '{name}'; expected finite numbers. Make the file anew: what "
                "wrote it had diverged or was cut short"
            )


def with_aliases(tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors with those that are known by further names under these too."""
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items() if kept in tensors}}


def _written_aliases(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get(ALIASES, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        aliases = None
    if not isinstance(aliases, dict) or not all(isinstance(kept, str) for kept in aliases.values()):
        raise CheckpointError(f"checkpoint: '{path}' is damaged (its list of tied names); write it again")
    return aliases


def _under_own_names(loaded: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors by the model's names for them, where these differ by wrappers alone."""
    names, files = _canonical(own), _canonical(loaded)
    if not names.keys() & files.keys():  # the state of a distiller, whose student is asked for
        for prefix in ("distiller.student.", "student."):
            student = {name.removeprefix(prefix): raw for name, raw in files.items() if name.startswith(prefix)}
            if names.keys() & student.keys() and len(student) + sum(map(_of_terms, files)) == len(files):
                files = student
    return {names.get(name, raw): loaded[raw] for name, raw in files.items() if name in names or not _of_terms(name)}


def _of_terms(name: str) -> bool:
    return name.startswith(_TERMS)


def _canonical(names: Iterable[str]) -> dict[str, str]:
    """Return names by what they are without wrappers; as they are where two would be one."""
    raw = list(names)
    found = {canonical_path(name): name for name in raw}
    return found if len(found) == len(raw) else {name: name for name in raw}


def _filled(model: nn.Module, loaded: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a file's tensors with the names of tied ones that it leaves out; CheckpointError where ties disagree."""
    filled = dict(loaded)
    for names in tied(model.state_dict()):
        there = [name for name in names if name in loaded]
        for name in there[1:]:
            if not _same(loaded[name], loaded[there[0]]):
                raise CheckpointError(
                    f"checkpoint: '{path}' does not fit: '{there[0]}' and '{name}' differ there and are one tensor in"
                    " the model; untie them in the model, or save the file from a tied one"
                )
        filled |= {name: loaded[there[0]] for name in names if there and name not in loaded}
    return filled


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one != one)).all())


def _grown(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors whose sizes are the file's to say, as modules declare them under `grown`."""
    parts = ((f"{path}." if path else "", getattr(part, "grown", ())) for path, part in model.named_modules())
    return frozenset(path + name for path, names in parts for name in names)
