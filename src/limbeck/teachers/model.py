"""A network as teacher."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import InputError, one_of
from limbeck.outputs import Outputs, Tap, run_model

__all__ = ["ModelTeacher", "state_digest"]


class ModelTeacher:
    """A frozen network in eval mode.

    transform: applied to the inputs before the model sees them (another size, another normalisation).
    view: name in `batch.views` to read instead of `batch.inputs`.
    taps: features to read, as for `limbeck.capture`.

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
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.transform = transform
        self.view = view
        self.taps = dict(taps or {})

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the model's outputs, with the features of its own taps and of `taps`."""
        inputs = batch.inputs
        if self.view is not None:
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
            return run_model(self.model, inputs, {**self.taps, **(taps or {})}).detach()
        finally:  # a part shared with the student trains on
            for module in training:
                module.training = True

    def to(self, device: torch.device | str) -> "ModelTeacher":
        """Place the model on a device."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model's state and architecture, the transform, the view and the taps."""
        states = [state_digest(part) for part in (self.model, self.transform) if isinstance(part, nn.Module)]
        described = repr((states, self.model, self.transform, self.view, self.taps))
        described = re.sub(r" at 0x[0-9a-fA-F]+", "", described)  # addresses differ from process to process
        return hashlib.sha256(described.encode()).hexdigest()


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
