"""A model's weights as a safetensors file: each tied tensor once, under names that no wrapper has changed."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.errors import CheckpointError, ModelError, nearest
from limbeck.networks import canonical_path, distinct, file_metadata, tied
from limbeck.training.checkpoints import digest, save_tensors, sync, write_sealed
from limbeck.training.weight_files import listed, read_weights

__all__ = [
    "RESULT",
    "STUDENT",
    "check_savable",
    "load_result",
    "load_weights",
    "save_result",
    "save_weights",
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
    save_tensors(tensors, aside / path.name, file_metadata(model, aliases))
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
def load_weights(model: nn.Module, path: Path, key: str | None = None) -> None:
    """Load a model's weights from a file or folder.

    Names may differ by what DDP, FSDP and torch.compile insert, on either side, and a file may omit all but one name of
    a tied tensor, as the Transformers library does.  The state of a whole `Distiller` fills its student.

    Args:
        model: is filled in place, and stays unchanged if there is an error.
        path: a .safetensors file; a file of `torch.save` (.pt, .pth, .ckpt, .bin), of which tensors alone are read
            (`weights_only=True`) and nothing is run; or a folder with one of these, or with shards and their index
            (`model.safetensors.index.json`).
        key: the part of the file that holds the weights: an entry (`state_dict`), or what their names begin with.  With
            dots, a part of a part (`state_dict.model`).  None for the whole file.

    Raises:
        CheckpointError: if the file is missing, damaged, of another architecture, or contains NaN or other objects than
            tensors.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save_weights(nn.Linear(3, 4), file)
        >>> load_weights(nn.Linear(3, 4), file)
    """
    own, grown = model.state_dict(), _grown(model)
    loaded = _under_own_names(read_weights(path, key), own)
    loaded = _filled(model, loaded, path)
    _require_fit(own, loaded, grown, path)
    _require_numbers(model, loaded, path)
    model.load_state_dict(loaded)


def _require_fit(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], grown: frozenset[str], path: Path) -> None:
    """Require a file to have a model's tensors, in their shapes, and no others; CheckpointError with all that differs.

    grown: those whose sizes are the file's to say.
    """
    missing, extra = [name for name in own if name not in loaded], sorted(set(loaded) - set(own))
    both = [name for name in own if name in loaded]
    differ = [
        name
        for name in both
        if own[name].shape != loaded[name].shape and not (name in grown and own[name].dim() == loaded[name].dim())
    ]
    found: list[tuple[str, str]] = []
    if missing:
        found.append((f"it has no {listed(missing)}", _part_to_name(missing, loaded) or _nearest(missing, loaded)))
    if extra:
        found.append((f"the model has no {listed(extra)}", _nearest(extra, own)))
    if differ:
        first, more = differ[0], f" and {len(differ) - 1:,} more differ" if len(differ) > 1 else ""
        shapes = f"'{first}' is {tuple(loaded[first].shape)} there, {tuple(own[first].shape)} in the model{more}"
        found.append((shapes, "change the model's keys"))
    if found:
        (what, mend), *others = found
        further = f" (further: {'; '.join(each for each, _ in others)})" if others else ""
        raise CheckpointError(f"checkpoint: '{path}' is of another architecture: {what}; {mend}{further}")
    for name in both:
        if own[name].is_floating_point() != loaded[name].is_floating_point() or loaded[name].is_complex():
            raise CheckpointError(
                f"checkpoint: '{path}' does not fit: '{name}' is {loaded[name].dtype} there, {own[name].dtype} in the"
                " model; save it in the model's type"
            )


def _part_to_name(missing: list[str], loaded: Mapping[str, Tensor]) -> str | None:
    """Return what to do about names that all lie in one part of the file."""
    outer = {name.partition(".")[0] for name in loaded}
    if len(outer) == 1 and all(f"{next(iter(outer))}.{name}" in loaded for name in missing):
        return f"name that part of the file: key: {next(iter(outer))}"
    return None


def _nearest(names: list[str], valid: Iterable[str]) -> str:
    close = nearest(names[0], valid)
    return f"did you mean '{close}'?" if close else "change the model's keys, or name its own file"


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
