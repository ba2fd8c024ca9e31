"""Metrics of a model on a set, whatever its task."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.carry import Carry, state_axis
from limbeck.data import SampleSet
from limbeck.data.foreign import samples_of
from limbeck.data.loader import Batches, part_of
from limbeck.data.sources import Source, one_pass
from limbeck.devices import has_float64
from limbeck.errors import InputError
from limbeck.evaluation.figures import Metrics, figures_of
from limbeck.networks import at_once, check_network, evaluating, is_sharded
from limbeck.outputs import run_model
from limbeck.ranks import all_rows, all_there, own_rank, same_in_all, world_size
from limbeck.tasks import CLASSIFICATION, TOKENS, UNLABELLED, Task

__all__ = ["Metrics", "answers", "evaluate", "evaluate_together", "measure", "predict"]

_AT_ONCE = 1000  # samples that a model is asked about together
_OF_TOKENS = (
    "samples: found texts with a label for each token, whose logits are too many to be held; ask for their figures"
    " (evaluate), or for one batch (run_model)"
)


@torch.no_grad()
@checked
def predict(
    model: nn.Module, samples: Any, *, batch_size: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Return the logits of a model on unaugmented samples, in their order, in eval mode.

    Args:
        model: the network; the mode of each of its modules is restored afterwards.
        samples: a `SampleSet`, or data in another form that `limbeck.fit` accepts, labelled or not.
        batch_size: samples in a batch, 1000 by default, fewer for a network that enlarges its inputs; a `DataLoader`
            has its own.
        device: by default that of the model.

    Returns:
        (n, K); of other tasks than classification (n, 2), (n, C, 2), (n, H, W, K), or numbers (n, D), see
        `limbeck.tasks`.

    Raises:
        InputError: if a `DataLoader` shuffles, so that the order of the samples is unknown afterwards.

    Example:
        >>> predict(nn.Linear(3, 4), torch.zeros(20, 3)).shape
        torch.Size([20, 4])
    """
    if isinstance(samples, SampleSet) and samples.has_long_answers:
        raise InputError(_OF_TOKENS)
    if isinstance(getattr(samples, "sampler", None), RandomSampler):
        raise InputError(
            "samples: found a DataLoader that shuffles, expected an order that is known afterwards; give shuffle=False,"
            " or its dataset"
        )
    found: list[Tensor] = []
    source = samples_of("samples", samples)
    for logits, _ in answers(model, source, batch_size, device):
        if source.task is TOKENS:
            raise InputError(_OF_TOKENS)
        found.append(logits)
    return torch.cat(found)


@checked
def measure(logits: Tensor, labels: Tensor, task: Task = CLASSIFICATION) -> Metrics:
    """Measure logits against labels.

    Args:
        logits: (n, K); of other tasks than classification, as `predict` returns them.
        labels: (n,) int64; of other tasks, as the set has them.  Unlabelled samples are not counted.
        task: what the labels are.

    Returns:
        The figures.

    Raises:
        InputError: if shapes or labels are wrong.
        DataError: if no sample has a label.

    Example:
        >>> measure(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])).errors
        1
    """
    _check(logits, labels, task)
    return figures_of(task).measure(logits, labels.to(logits.device))


@torch.no_grad()
@checked
def evaluate(
    model: nn.Module, samples: Any, *, batch_size: int | None = None, device: torch.device | str | None = None
) -> Metrics:
    """Measure a model on the labelled samples of a set.

    Args:
        model: the network; it answers in eval mode, and the mode of each of its modules is restored afterwards.
        samples: a `SampleSet`, or data in another form that `limbeck.fit` accepts.
        batch_size: samples in a batch, 1000 by default, fewer for a network that enlarges its inputs; a `DataLoader`
            has its own.
        device: by default that of the model.

    Returns:
        The figures of the set's task.

    Raises:
        InputError: if the data has another form.
        DataError: if no sample has a label, or samples have a wrong shape or type.

    Example:
        >>> evaluate(nn.Linear(3, 4), (torch.randn(20, 3), torch.zeros(20, dtype=torch.int64))).examples
        20
    """
    given, samples = samples, samples_of("samples", samples)
    if isinstance(samples, Source) and samples is not given:
        samples.warn_of_absent()
    batches = answers(model, samples, batch_size, device)
    first = [*islice(batches, 1)]  # the task of another library's data is that of what is read of it
    figures = figures_of(samples.task)
    found = figures.measure_batches(_checked(chain(first, batches), samples.task))
    return figures.of_set(found, samples) if isinstance(samples, SampleSet) else found


def _check(logits: Tensor, labels: Tensor, task: Task) -> None:
    if not logits.is_floating_point():
        raise InputError(f"logits: found {logits.dtype}, expected floating-point numbers")
    shape = task.label_shape(logits, labels)
    checks.shapes_match("labels", labels.shape, "the model's answers, without their classes", shape)


def _checked(batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    for logits, labels in batches:
        _check(logits, labels, task)
        yield logits, labels


def evaluate_together(model: nn.Module, samples: SampleSet | Source) -> Metrics:
    """Measure a model as `evaluate` does, each of the processes that train together answering a part of the batches.

    Every process must call it, and each gets the figures of the whole set.  They are those of one process bit for bit,
    since whole batches are divided; those of a stream to rounding, since its lanes are.  The buffers of the network are
    the first process's: batch statistics of the others are of their own part of the data.

    Args:
        model: as for `evaluate`.
        samples: as for `evaluate`.  Data without an identity are answered whole by each process.

    Returns:
        The figures of the whole set.

    Raises:
        ModelError: if the model cannot be called, or answers NaN.

    Example:
        >>> import limbeck as lb
        >>> data, model = lb.data.digits(), lb.models.mlp((1, 8, 8), 10)
        >>> evaluate_together(model, data.test).errors == evaluate(model, data.test).errors
        True
    """
    world = world_size()
    if world == 1 or not isinstance(samples, SampleSet):
        return evaluate(model, samples)
    figures = figures_of(samples.task)
    with torch.no_grad(), all_there():
        same_in_all(model, parameters=False)
        loader = one_pass(samples.to(_device(model)), at_once(model, _AT_ONCE))
        batches, counts, more = _part_of(loader, samples.lanes, own_rank(), world)
        found = _checked(_answered(model, batches, _device(model)), samples.task)
        columns = zip(*(figures.part(logits, labels) for logits, labels in found), strict=True)
        own = [torch.cat(column) for column in columns]
        if is_sharded(model):  # each process has a part of the weights, so that all of them answer equally often
            deque(_answered(model, islice(loader.epoch(0), more), _device(model)), maxlen=0)
        parts = tuple(all_rows(rows if counts else rows[:0]) for rows in own)
    return figures.of_set(figures.total([parts]), samples)


def _part_of(loader: Batches, lanes: int | None, rank: int, world: int) -> tuple[Iterator[Batch], bool, int]:
    """Return the batches that a process answers, and whether they count; without any it answers one that does not.

    They are a run of whole batches; of a stream some lanes of each, whose states the process carries.  The last number
    is how many more some other process answers.
    """
    if lanes is not None:
        return loader.epoch(0, rank=rank, world=world), rank < lanes, 0
    own, counts = part_of(torch.arange(loader.steps), rank, world)
    most = -(-loader.steps // world)
    return islice(loader.epoch(0, start=int(own[0])), len(own)), counts, most - len(own)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def answers(
    model: nn.Module, data: Any, batch_size: int | None = None, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a model's logits and the labels, batch by batch, as `predict` puts the former together."""
    device = _device(model) if device is None else device
    samples = samples_of("samples", data)
    if isinstance(samples, Source):
        batch_size = samples.batch_size(batch_size, _AT_ONCE)
    check_network("model", model)
    samples = samples.to(device)
    loader = one_pass(samples, at_once(model, _AT_ONCE) if batch_size is None else batch_size)
    yield from _answered(model, loader.epoch(0), device)


def _answered(
    model: nn.Module, batches: Iterable[Batch], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    carry, axis = Carry(), state_axis(model)
    with evaluating(model):
        for batch in batches:
            batch = batch.to(device)
            labels = torch.full_like(batch.index, UNLABELLED) if batch.labels is None else batch.labels
            answer = run_model(model, batch.inputs, task=batch.task, state=carry.state("model", batch, axis))
            carry.keep("model", batch, answer.state, axis)
            logits = answer.logits
            if not has_float64(logits.device):  # what is measured of them is measured in float64
                logits, labels = logits.cpu(), labels.cpu()
            yield logits, labels
