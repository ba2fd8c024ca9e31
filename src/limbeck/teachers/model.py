"""A network as teacher."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.carry import state_axis
from limbeck.errors import InputError, ModelError, one_of
from limbeck.identity import content_digest, known_from_files, read_from_files, weights_digest
from limbeck.losses.jacobian import vector_jacobian
from limbeck.losses.reduction import compute_dtype
from limbeck.networks import check_network, freeze, is_lazy
from limbeck.outputs import Outputs, Tap, last_linear, run_model
from limbeck.teachers.class_vectors import class_vectors, weights_of
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
        self._without: str | None = None

    @property
    def state_axis(self) -> int:
        """The batch axis of the model's recurrent state."""
        return state_axis(self.model)

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None, state: Any = None) -> Outputs:
        """Return the model's outputs, with the features of its own taps and of `taps`.

        state: recurrent state to continue with; None to begin anew.
        """
        taps, last = {**self.taps, **(taps or {})}, self._without
        with self._answering():
            answer = run_model(
                self.model, self._seen(batch), taps, task=batch.task, role="teacher", state=state, last=last
            )
        answer = _at_least_float32(answer.detach())
        if self._lazy:
            self.froze += freeze(self.model) if self.frozen else []
            self._lazy = is_lazy(self.model)
        return answer

    def last_layer(self, batch: Batch) -> str:
        """Return the path of the linear layer whose output is the answer; ModelError where the last step is another."""
        with self._answering():
            return last_linear(self.model, self._seen(batch), task=batch.task, role="teacher")

    @contextmanager
    def without(self, layer: str) -> Iterator[None]:
        """Answer with the `head` of its last layer, of this path, in place of logits inside the scope."""
        self._without = layer
        try:
            yield
        finally:
            self._without = None

    def _seen(self, batch: Batch) -> Any:
        """Return what the model is called with for a batch."""
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
        return inputs if self.transform is None else self.transform(inputs)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Put the model into eval mode for the scope; a part shared with the student trains on afterwards."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @torch.enable_grad()
    def vjp(self, batch: Batch, cotangents: Tensor, at: str | Tap | None = None) -> Tensor:
        """Return vector-Jacobian products of the logits: Σ_k c_k · ∂v_k/∂x for each sample, without a graph.

        Args:
            batch: of N samples.  Its view is the student's: gradients are compared at the same inputs.
            cotangents: (V, N, K), V of them for each sample.
            at: a feature to differentiate by, in place of the inputs.

        Returns:
            (V, N, ...), shaped as the inputs or the feature.

        Raises:
            InputError: if the inputs are not one tensor of floating-point numbers, or the teacher has another view.
            ModelError: if the logits do not depend on what they are differentiated by.
        """
        inputs = batch.inputs
        if at is None:
            if self.view is not None and batch.augmented:
                raise InputError(
                    f"teacher view: found '{self.view}', expected same: a term compares gradients at the same inputs"
                )
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError(
                    "teacher: a term differentiates it by its inputs, expected one tensor of floating-point numbers;"
                    " token ids and mappings have no gradient, so use another method"
                )
            inputs = inputs.detach().requires_grad_()
            views = batch.views if self.view is None else {**batch.views, self.view: inputs}
            batch = replace(batch, inputs=inputs, views=views)
        taps = {} if at is None else {"at": at}
        with self._answering():
            seen = self._seen(batch)
            if at is not None and isinstance(seen, Tensor) and seen.is_floating_point():
                seen = seen.detach().requires_grad_()  # so that features of a frozen network have a gradient
            answer = run_model(self.model, seen, taps, task=batch.task, role="teacher")
        by = inputs if at is None else answer.features["at"]
        if not answer.logits.requires_grad or not by.requires_grad:
            raise ModelError(
                "teacher: its logits have no gradient by what a term differentiates; remove no_grad from it"
            )
        logits = compute_dtype(answer.logits)
        return vector_jacobian(logits, by, cotangents.to(logits.device), differentiable=False).detach()

    def weights(self, paths: Mapping[str, str], classes: int | None = None) -> dict[str, Tensor]:
        """Return parameters by the names that `paths` gives to their paths, cut off (see `Term.reads_weights`)."""
        found = weights_of(self.model, paths, classes, self.last_linear)
        return {name: weights.detach() for name, weights in found.items()}

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the rows of the last linear layer, the one named by `last_linear` or the one that is found: (K, d).

        Raises ModelError where there is none, or none with `classes` outputs.
        """
        return class_vectors(self.model, classes, self.last_linear)

    def to(self, device: torch.device | str) -> "ModelTeacher":
        """Place the model on a device."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        known = [(tensor, digest) for tensor in tensors if (digest := known_from_files(tensor)) is not None]
        self.model.to(device)
        for tensor, digest in known:
            read_from_files(tensor, digest)
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
