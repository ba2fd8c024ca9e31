"""A network as teacher."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError, one_of
from limbeck.identity import content_digest, weights_digest
from limbeck.losses.reduction import compute_dtype
from limbeck.networks import check_network, freeze, is_lazy
from limbeck.outputs import Outputs, Tap, run_model
from limbeck.teachers.class_vectors import class_vectors
from limbeck.teachers.mean import MeanOfModels

__all__ = ["ModelTeacher", "state_digest"]


class ModelTeacher:
    """A network that answers in eval mode and without gradient.

    Args:
        model: the network; inputs (N, ...), logits (N, K) or `Outputs`.
        transform: a function of the inputs, applied before the model (another size, another normalisation).
        view: name in `batch.views` to read instead of `batch.inputs`.  A sample that is not augmented is its "other"
            view.
        taps: features to read, as for `limbeck.capture`.
        last_linear: path of the layer that `class_vectors` reads, if the last linear layer is another.
        frozen: freeze the model in place: its parameters require no gradient and it is in eval mode.  With False its
            `requires_grad` flags and the modes of its modules stay unchanged.

    Raises:
        InputError: if an argument has the wrong type.
        ModelError: if a path names no module.

    Example:
        >>> teacher = ModelTeacher(nn.Sequential(nn.Linear(3, 4), nn.Dropout()))
        >>> teacher(Batch.of(torch.ones(2, 3))).logits.requires_grad
        False
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        transform: Callable[[Any], Any] | None = None,
        view: str | None = None,
        taps: Mapping[str, str | Tap] | None = None,
        last_linear: str | None = None,
        frozen: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"teacher: found {type(model).__name__}, expected a torch.nn.Module; a function hides the weights that"
                " decide its answers, so let a module hold them"
            )
        if isinstance(model, MeanOfModels):  # whose logits softened are not its members' softened answers
            raise InputError("teacher: found a mean of networks, expected one network; use limbeck.EnsembleTeacher")
        check_network("teacher", model)
        self.model = model
        self.frozen = frozen
        self.froze = freeze(model) if frozen else []
        self._lazy = is_lazy(model)
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
                    f"teacher view: mixed samples have no view '{self.view}'; give the teacher the student's view"
                    " (view: same), or leave mixup and cutmix out"
                )
            if self.view == "other" and not batch.augmented:
                inputs = batch.inputs
            elif self.view not in batch.views:
                views = one_of(self.view, batch.views) if batch.views else "it has none"
                raise InputError(f"teacher view: the batch has no view '{self.view}'; {views}")
            else:
                inputs = batch.views[self.view]
        if self.transform is not None:
            inputs = self.transform(inputs)
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            taps = {**self.taps, **(taps or {})}
            answer = _at_least_float32(run_model(self.model, inputs, taps, task=batch.task, role="teacher").detach())
        finally:  # a part shared with the student trains on
            for module in training:
                module.training = True
        if self._lazy:
            self.froze += freeze(self.model) if self.frozen else []
            self._lazy = is_lazy(self.model)
        return answer

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the rows of the last linear layer, the one named by `last_linear` or the one that is found: (K, d).

        Raises ModelError where there is none, or none with `classes` outputs.
        """
        return class_vectors(self.model, classes, self.last_linear)

    def to(self, device: torch.device | str) -> "ModelTeacher":
        """Place the model on a device."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the answers: model, transform, view, taps and last layer.

        The model is its architecture with its weights, the transform what it does and refers to.  Raises InputError
        where something inside of them cannot be read.
        """
        if self._lazy:
            raise ModelError("teacher: found lazy layers without weights; run it on a batch first")
        parts = {
            "model": self.model,
            "transform": self.transform,
            "view": self.view,
            "taps": self.taps,
            "last_linear": self.last_linear,
        }
        mend = "keep it out of what teaches, or train without a folder"
        return content_digest(parts, "teacher", mend)

    def weights_digest(self) -> str:
        """Return the SHA-256 of the weights alone, which no training may change."""
        parts = [part for part in (self.model, self.transform) if isinstance(part, nn.Module)]
        return " ".join(map(weights_digest, parts))


def _at_least_float32(outputs: Outputs) -> Outputs:
    heads = {name: compute_dtype(logits) for name, logits in outputs.heads.items()}
    return replace(outputs, logits=compute_dtype(outputs.logits), heads=heads)


@checked
def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and values of a model's state.

    Args:
        model: a network.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> len(state_digest(nn.Linear(3, 4)))
        64
    """
    return weights_digest(model)
