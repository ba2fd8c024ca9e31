"""A network as teacher."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError, one_of
from limbeck.outputs import Outputs, Tap, canonical_path, run_model

__all__ = ["ModelTeacher", "state_digest"]


class ModelTeacher:
    """A frozen network in eval mode.

    transform: applied to the inputs before the model sees them (another size, another normalisation).
    view: name in `batch.views` to read instead of `batch.inputs`.
    taps: features to read, as for `limbeck.capture`.
    last_linear: path of the layer that `class_vectors` reads, where it is not the one that is found.

    The model is frozen in place: its parameters stop requiring gradients and it is put in eval mode.

    >>> teacher = ModelTeacher(nn.Sequential(nn.Linear(3, 4), nn.Dropout()))
    >>> teacher(Batch.of(torch.ones(2, 3))).logits.requires_grad
    False
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        transform: Callable[[Any], Any] | None = None,
        view: str | None = None,
        taps: Mapping[str, str | Tap] | None = None,
        last_linear: str | None = None,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.transform = transform
        self.view = view
        self.taps = dict(taps or {})
        self.last_linear = last_linear

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the model's outputs, with the features of its own taps and of `taps`."""
        inputs = batch.inputs
        if self.view is not None:
            if batch.mix is not None:
                raise InputError(
                    f"teacher view: mixed samples have no view '{self.view}'; let the teacher see what the student sees"
                    " (view: same), or leave mixup and cutmix out"
                )
            if self.view not in batch.views:
                views = one_of(self.view, batch.views) if batch.views else "it has none"
                raise InputError(f"teacher view: the batch has no view '{self.view}'; {views}")
            inputs = batch.views[self.view]
        if self.transform is not None:
            inputs = self.transform(inputs)
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            return run_model(self.model, inputs, {**self.taps, **(taps or {})}, task=batch.task).detach()
        finally:  # a part shared with the student trains on
            for module in training:
                module.training = True

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the weights of the last linear layer, one row a class: (K, d).

        The layer is the one named by `last_linear`, else the last, in the order in which the model holds its modules,
        that has `classes` outputs (any number without it).  A 1×1 convolution is linear, and so is a module with a
        tensor `class_vectors` of its own.  Raises ModelError where there is none.
        """
        layers = {canonical_path(path): _rows_of(module) for path, module in self.model.named_modules()}
        linear = {path: rows for path, rows in layers.items() if rows is not None}
        if self.last_linear is None:
            found = [rows for rows in linear.values() if classes in (None, len(rows))]
            if not found:
                outputs = "" if classes is None else f" with {classes} outputs"
                raise ModelError(
                    f"teacher: it has no linear layer{outputs}, whose rows are the vectors of the classes; name one"
                    " (last_linear), or use a target that reads none"
                )
            return found[-1].detach()
        path = canonical_path(self.last_linear)
        if path not in linear:
            what = f"'{path}' is no linear layer" if path in layers else f"it has no layer '{path}'"
            choice = one_of(path, filter(None, linear)) if any(linear) else "it has no linear layer at all"
            raise ModelError(f"teacher, last_linear: {what}; {choice}")
        if classes not in (None, len(linear[path])):
            raise ModelError(
                f"teacher, last_linear: '{path}' has {len(linear[path])} outputs, expected {classes}, one a class"
            )
        return linear[path].detach()

    def to(self, device: torch.device | str) -> "ModelTeacher":
        """Place the model on a device."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model's state and architecture, the transform, the view and the taps."""
        states = [state_digest(part) for part in (self.model, self.transform) if isinstance(part, nn.Module)]
        described = repr((states, self.model, self.transform, self.view, self.taps))
        if self.last_linear is not None:
            described += f" {self.last_linear}"
        described = re.sub(r" at 0x[0-9a-fA-F]+", "", described)  # addresses differ from process to process
        return hashlib.sha256(described.encode()).hexdigest()


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


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of a model's state.

    >>> layer = nn.Linear(2, 2)
    >>> before = state_digest(layer)
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1.0)
    >>> state_digest(layer) == before
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
