"""Calibration: samples of the training data, and what layers of a network receive when it answers them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.data import SampleSet
from limbeck.errors import InputError, ModelError
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.randomness import permutation
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["Statistics", "second_moment"]

See = Callable[[str, nn.Module, Tensor], None]


@checked_fields
@dataclass(frozen=True)
class Statistics:
    """Batches of training data that a transform is calibrated on.

    Attributes:
        batches: without augmentation, in a fixed order.
        task: what their labels are.

    Raises:
        InputError: if there is no batch.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.randn(20, 3), torch.arange(20) % 4)
        >>> Statistics.of(samples, 8).index.shape
        torch.Size([8])
    """

    batches: Sequence[Batch]
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        if not self.batches:
            raise InputError("batches: found none, expected at least one batch of training data")

    @classmethod
    @checked
    def of(cls, samples: SampleSet, count: int = 256, *, batch_size: int = 64, seed: int = 0) -> "Statistics":
        """Draw samples of a training set: a function of (set, count, seed).

        A stream of tokens is not drawn from: its first chunks are taken, for all of its lanes.

        samples: of the training data.  count: how many samples; all, where there are fewer.
        """
        checks.at_least("count", count, 1)
        checks.at_least("batch_size", batch_size, 1)
        lanes = getattr(samples, "lanes", None)
        if lanes is not None:
            positions = torch.arange(min(len(samples), -(-count // lanes) * lanes))
            batch_size = lanes
        else:
            positions = permutation(seed, "calibration", 0, len(samples))[:count].sort().values
        here = positions.to(samples.index.device).split(batch_size)
        batches = tuple(samples.batch(part, augment=None, seed=0, view=0) for part in here)
        return cls(batches, samples.task)

    @property
    def index(self) -> Tensor:
        """The positions of the samples in their root set, (n,) int64."""
        return torch.cat([batch.index.cpu() for batch in self.batches])

    def visit(self, model: nn.Module, paths: Sequence[str], see: See) -> None:
        """Let a network answer all batches, and call `see(path, module, input)` for each call of some of its layers.

        paths: of modules.  The input is the layer's first argument, without the places of padding where the batch says
        which these are; a layer that is called several times is seen each time.  The network runs in eval mode.
        """
        device = next((each.device for each in model.state_dict().values()), torch.device("cpu"))
        with evaluating(model), torch.no_grad():
            for batch in self.batches:
                batch = batch.to(device)
                with _watched(model, paths, batch, see):
                    run_model(model, batch.inputs, task=self.task)

    def kept(self, model: nn.Module, paths: Sequence[str]) -> dict[str, list[Tensor]]:
        """Return the inputs of some layers, all of them: for small sets; `visit` keeps nothing."""
        found: dict[str, list[Tensor]] = {path: [] for path in paths}
        self.visit(model, paths, lambda path, _, given: found[path].append(given.detach().clone()))
        return found


@contextmanager
def _watched(model: nn.Module, paths: Sequence[str], batch: Batch, see: See) -> Iterator[None]:
    modules = dict(model.named_modules(remove_duplicate=False))
    padding = getattr(batch, "padding", None)
    handles = []

    def reader(path: str) -> Callable[..., None]:
        def read(module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
            given = inputs[0] if inputs else next(iter(keywords.values()), None)
            if not isinstance(given, Tensor):
                raise ModelError(
                    f"statistics: '{path}' is called with {type(given).__name__}, expected a tensor first; skip it"
                )
            if padding is not None and given.shape[:2] == padding.shape and given.dim() in (2, 3):
                given = given[padding]
            see(path, module, given)

        return read

    try:
        for path in paths:
            handle = modules[path].register_forward_pre_hook(reader(path), with_kwargs=True)
            handles.append(handle)
        yield
    finally:
        for handle in handles:
            handle.remove()


@checked
def second_moment(rows: Tensor) -> Tensor:
    """Return the sum of x·xᵀ over inputs x.

    Args:
        rows: (..., n) floating point.

    Returns:
        (n, n) float64; divided by the number of rows it is E[x·xᵀ].

    Raises:
        InputError: if there are no numbers.

    Example:
        >>> second_moment(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[1., 2.],
                [2., 5.]], dtype=torch.float64)
    """
    if not rows.is_floating_point() or rows.dim() == 0:
        raise InputError(f"rows: found {rows.dtype} {tuple(rows.shape)}, expected floating point (..., n)")
    flat = rows.reshape(-1, rows.shape[-1]).double()
    return flat.T @ flat
