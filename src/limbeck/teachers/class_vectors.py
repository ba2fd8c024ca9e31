"""By which vectors a network tells the classes apart: the rows of its last linear layer."""

from torch import Tensor, nn

from limbeck.errors import ModelError, one_of
from limbeck.outputs import canonical_path
from limbeck.teachers.restricted import RestrictedModel

__all__ = ["class_vectors"]


def class_vectors(model: nn.Module, classes: int | None = None, layer: str | None = None) -> Tensor:
    """Return the weights of a network's last linear layer, one row a class: (K, d).

    layer: its path; without one it is the last, in the order in which the model holds its modules, that has `classes`
    outputs (any number without that).  A 1×1 convolution is linear, and so is a module with a tensor `class_vectors` of
    its own.  Raises ModelError where there is none.

    >>> class_vectors(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), classes=4).shape
    torch.Size([4, 8])
    """
    if isinstance(model, RestrictedModel):
        if classes not in (None, len(model.chosen)):
            raise ModelError(f"teacher: found answers for {len(model.chosen)} classes, expected {classes}")
        return class_vectors(model.module, model.total, layer).index_select(0, model.chosen)
    modules = dict(model.named_modules())
    linear = {canonical_path(path): rows for path, each in modules.items() if (rows := _rows_of(each)) is not None}
    if layer is None:
        found = [rows for rows in linear.values() if classes in (None, len(rows))]
        if not found:
            outputs = "" if classes is None else f" with {classes} outputs"
            raise ModelError(
                f"teacher: it has no linear layer{outputs}, whose rows are the vectors of the classes; name one"
                " (last_linear), or use a target that reads none"
            )
        return found[-1].detach()
    path = canonical_path(layer)
    if path not in linear:
        known = path in {canonical_path(each) for each in modules}
        what = f"'{path}' is no linear layer" if known else f"it has no layer '{path}'"
        choice = one_of(path, filter(None, linear)) if any(linear) else "it has no linear layer at all"
        raise ModelError(f"teacher, last_linear: {what}; {choice}")
    if classes not in (None, len(linear[path])):
        raise ModelError(
            f"teacher, last_linear: '{path}' has {len(linear[path])} outputs, expected {classes}, one a class"
        )
    return linear[path].detach()


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
