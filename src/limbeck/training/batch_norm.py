"""BatchNorm needs two values of a channel to train: which batches would leave it one, found before training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.batch import Batch
from limbeck.data import SampleSet
from limbeck.data.sources import Source
from limbeck.errors import InputError
from limbeck.networks import restore_modes, start_training
from limbeck.outputs import run_model
from limbeck.training.settings import Training

__all__ = ["check_batches"]

_NEAR = 1000  # how far from the batch size asked for another is looked for


def check_batches(
    model: nn.Module, samples: SampleSet | Source, training: Training, world: int = 1, first: Batch | None = None
) -> None:
    """Refuse a training that would show a single value of a channel to a BatchNorm of the model.

    That happens where a batch, or a process's and accumulation step's part of it, is one sample, at a layer behind
    which nothing is left of the image.  Layers that stay in eval do not count.  InputError names a batch size that
    does.  world: how many processes share each batch.  first: a batch, of samples that are no `SampleSet`.
    """
    parts, size = training.accumulate * world, samples.size if isinstance(samples, Source) else len(samples)
    if not size or _smallest(training.batch_size, size, parts) > 1:
        return
    if isinstance(samples, SampleSet):
        first = samples.batch(torch.tensor([0]), augment=None, seed=0, view=0)
    layer = None if first is None else _starved(model, first)
    if layer is None:
        return
    near = (training.batch_size + step for way in range(1, _NEAR) for step in (way, -way))
    mend = next((f"; set it to {other}, say" for other in near if other > 1 and _smallest(other, size, parts) > 1), "")
    shared = f" shared by {parts}" if parts > 1 else ""
    raise InputError(
        f"batch_size: {training.batch_size} leaves a batch of one of {size:,} samples{shared}, and BatchNorm '{layer}' "
        f"needs more than one value of a channel{mend}"
    )


def _smallest(batch_size: int, size: int, parts: int) -> int:
    """Return the samples of the smallest part of a batch; a part that would have none gets one."""
    batches = {min(batch_size, size), size % batch_size} - {0}
    return max(1, min(batches, default=1) // parts)


def _starved(model: nn.Module, batch: Batch) -> str | None:
    """Return the path of a BatchNorm that sees one value of each channel of a sample while training."""
    starved: list[str] = []
    with restore_modes(model):
        start_training(model)
        learning = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
        learning = {path: module for path, module in learning.items() if module.training}
        if not learning:
            return None
        model.eval()
        hooks = [module.register_forward_pre_hook(_noting(path, starved)) for path, module in learning.items()]
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        inputs = batch.to(device).inputs
        twice = {name: _twice(each) for name, each in inputs.items()} if isinstance(inputs, Mapping) else _twice(inputs)
        try:
            with torch.no_grad():
                run_model(model, twice, task=batch.task)
        finally:
            for hook in hooks:
                hook.remove()
    return starved[0] if starved else None


def _twice(inputs: Tensor) -> Tensor:
    return torch.cat([inputs[:1], inputs[:1]])


def _noting(path: str, starved: list[str]) -> Any:
    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].dim() > 1 and inputs[0].numel() == 2 * inputs[0].shape[1]:
            starved.append(path)

    return note
