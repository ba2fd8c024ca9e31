"""Weights of a network by their paths, and by which vectors it tells the classes apart: its last linear layer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError, one_of
from limbeck.outputs import canonical_path
from limbeck.teachers.restricted import RestrictedModel

__all__ = ["class_vectors", "weights_of"]

_LAST = "last_linear"


def class_vectors(model: nn.Module, classes: int | None = None, layer: str | None = None) -> Tensor:
    """Return the weights of a network's last linear layer, one row a class: (K, d).

    layer: its path; without one it is the last, in the order in which the model holds its modules, that has `classes`
    outputs (any number without that).  A 1×1 convolution is linear, and so is a module with a tensor `class_vectors` of
    its own.  Raises ModelError where there is none.

    >>> class_vectors(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), classes=4).shape
    torch.Size([4, 8])
    """
    return _last_linear(model, classes, layer)[0].detach()


def weights_of(
    model: nn.Module,
    paths: Mapping[str, str],
    classes: int | None = None,
    layer: str | None = None,
    *,
    role: str = "teacher",
) -> dict[str, Tensor]:
    """Return parameters of a network, by the names that `paths` gives to their paths; they keep their gradient.

    "last_linear.weight" and "last_linear.bias" are those of the layer that `class_vectors` finds; a layer without a
    bias has one of zeros.  role: of the network, for error lines.  Raises ModelError for a path that it has not.

    >>> network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 4))
    >>> weights_of(network, {"rows": "last_linear.weight", "first": "0.weight"})["rows"].shape
    torch.Size([4, 8])
    """
    own = {canonical_path(name): weights for name, weights in model.named_parameters(remove_duplicate=False)}
    found = {}
    for name, path in paths.items():
        if path in (f"{_LAST}.weight", f"{_LAST}.bias"):
            weight, bias = _last_linear(model, classes, layer, role)
            found[name] = weight if path.endswith("weight") else weight.new_zeros(len(weight)) if bias is None else bias
        elif canonical_path(path) in own:
            found[name] = own[canonical_path(path)]
        else:
            raise ModelError(f"{role}: it has no parameter '{path}'; {one_of(path, own)}")
    return found


def _last_linear(
    model: nn.Module, classes: int | None, layer: str | None, role: str = "teacher"
) -> tuple[Tensor, Tensor | None]:
    """Return the rows and the bias of a network's last linear layer."""
    if isinstance(model, RestrictedModel):
        if classes not in (None, len(model.chosen)):
            raise ModelError(f"{role}: found answers for {len(model.chosen)} classes, expected {classes}")
        rows, bias = _last_linear(model.module, model.total, layer, role)
        return rows.index_select(0, model.chosen), None if bias is None else bias.index_select(0, model.chosen)
    modules = dict(model.named_modules())
    linear = {canonical_path(path): each for path, each in modules.items() if _rows_of(each) is not None}
    if layer is None:
        found = [each for each in linear.values() if classes in (None, len(_rows(each)))]
        if not found:
            outputs = "" if classes is None else f" with {classes} outputs"
            raise ModelError(
                f"{role}: it has no linear layer{outputs}, whose rows are the vectors of the classes; name one"
                " (last_linear), or use a target that reads none"
            )
        return _rows(found[-1]), getattr(found[-1], "bias", None)
    path = canonical_path(layer)
    if path not in linear:
        known = path in {canonical_path(each) for each in modules}
        what = f"'{path}' is no linear layer" if known else f"it has no layer '{path}'"
        choice = one_of(path, filter(None, linear)) if any(linear) else "it has no linear layer at all"
        raise ModelError(f"{role}, last_linear: {what}; {choice}")
    if classes not in (None, len(_rows(linear[path]))):
        raise ModelError(
            f"{role}, last_linear: '{path}' has {len(_rows(linear[path]))} outputs, expected {classes}, one a class"
        )
    return _rows(linear[path]), getattr(linear[path], "bias", None)


def _rows(module: nn.Module) -> Tensor:
    rows = _rows_of(module)
    return torch.empty(0, 0) if rows is None else rows


def _rows_of(module: nn.Module) -> Tensor | None:
    """Return the rows of the matrix that a module multiplies with, where it is linear; None where it is not."""
    own = getattr(module, "class_vectors", None)
    if isinstance(own, Tensor):
        return own
    if isinstance(module, nn.Linear):
        return module.weight
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1 and set(module.kernel_size) == {1}:
        return module.weight.flatten(1)
    return None
