"""Networks for images of the timm library, with its weights or without."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError, lacks_memory, one_line
from limbeck.models.layers import check_images

__all__ = ["architecture_of", "timm"]


@checked
def timm(
    input_shape: int | Sequence[int],
    classes: int,
    name: str = "",
    folder: str = "",
    pretrained: bool = True,
    new_head: bool = False,
    drop_rate: float = 0.0,
) -> nn.Module:
    """Build a network of the timm library, which is installed apart (`pip install timm`).

    Its weights are downloaded once, or read from a folder; nothing in the folder is run.  A network that was trained on
    images of another size and normalisation is given them with `input`, beside `model`.

    Args:
        input_shape: (C, H, W).
        classes: K.
        name: of the network, such as resnet50.a1_in1k, or hf-hub:NAME of a model on the Hugging Face Hub.
        folder: in place of a name, with config.json and model.safetensors, as timm saves them.
        pretrained: load the library's weights; false for fresh ones.
        new_head: draw a last layer for the classes of the data, in place of the one that was trained.
        drop_rate: chance of dropout before the last layer.

    Returns:
        A network from images (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if timm is not installed, has no such network or cannot load its weights, or the network answers for
            other classes.
        InputError: if a value is out of range.

    Example:
        >>> timm((3, 32, 32), 10)
        Traceback (most recent call last):
        limbeck.errors.ModelError: name: found '' and folder: ''; expected one of them. Give the name of a network
    """
    channels = check_images("timm", (input_shape,) if isinstance(input_shape, int) else input_shape, 0)
    checks.at_least("classes", classes, 1)
    checks.unit_interval("drop_rate", drop_rate)
    if not name and not folder:
        raise ModelError(
            f"name: found {name!r} and folder: {folder!r}; expected one of them. Give the name of a network"
        )
    library = _library()
    place, own = Path(folder), name
    if folder and (place / "config.json").is_file():
        own = own or architecture_of(place)
    options: dict[str, Any] = {"in_chans": channels, "drop_rate": drop_rate}
    if folder:
        options["num_classes"] = _classes_of(place)
    elif not pretrained:
        options["num_classes"] = classes
    sized = torch.get_default_device().type == "meta"  # of shapes alone
    model = _created(library, own, pretrained=pretrained and not folder and not sized, **options)
    if folder and not sized:
        _load(model, place)
    found = getattr(model, "num_classes", classes)
    if found != classes and not new_head:
        raise ModelError(
            f"classes: '{own}' answers for {found} classes, the data has {classes}; expected as many. Set new_head:"
            " true and train it, or use data with these classes"
        )
    if new_head and (pretrained or folder):
        model.reset_classifier(classes)
        model.drawn_anew = ("the classifier",)  # which `training: none` refuses
    network: nn.Module = model
    return network


def architecture_of(folder: Path) -> str:
    """Return the network's name that a folder of timm has; ModelError where it has none."""
    return str(_configuration(folder)["architecture"])


def _classes_of(folder: Path) -> int:
    found = _configuration(folder).get("num_classes")
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ModelError(f"folder: '{folder}/config.json' has no num_classes; expected what timm saves")
    return found


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"folder: '{path}' cannot be read ({one_line(error)}); expected what timm saves") from None
    if not isinstance(found, dict) or not isinstance(found.get("architecture"), str):
        raise ModelError(f"folder: '{path}' has no architecture; expected what timm saves")
    return found


def _library() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"kind: timm needs the library timm ({one_line(error)}); pip install timm") from None


def _created(library: Any, name: str, **options: Any) -> Any:
    try:
        model = library.create_model(name, **options)
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            f"name: timm cannot make '{name}' ({type(error).__name__}: {one_line(error)[:200]}); check the name and the"
            " network, or give folder:"
        ) from None
    if not isinstance(model, nn.Module):
        raise InputError(f"name: timm made a {type(model).__name__} of '{name}', expected a network")
    return model


def _load(model: nn.Module, folder: Path) -> None:
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            f"folder: '{path}' does not fit the network ({one_line(error)[:200]}); expected what timm saves"
        ) from None
