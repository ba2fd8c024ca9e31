"""Metrics of a model on a set, whatever its task."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from limbeck import checks
from limbeck.arguments import checked
from limbeck.carry import Carry, state_axis
from limbeck.data import SampleSet
from limbeck.data.foreign import samples_of
from limbeck.data.sources import Source, one_pass
from limbeck.devices import has_float64
from limbeck.errors import InputError
from limbeck.evaluation.figures import Metrics, figures_of
from limbeck.networks import at_once, check_network, evaluating
from limbeck.outputs import run_model
from limbeck.tasks import CLASSIFICATION, TOKENS, UNLABELLED, Task

__all__ = ["Metrics", "answers", "evaluate", "measure", "predict"]

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


@torch.no_grad()
def answers(
    model: nn.Module, data: Any, batch_size: int | None = None, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a model's logits and the labels, batch by batch, as `predict` puts the former together."""
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    samples = samples_of("samples", data)
    if isinstance(samples, Source):
        batch_size = samples.batch_size(batch_size, _AT_ONCE)
    check_network("model", model)
    carry, axis = Carry(), state_axis(model)
    with evaluating(model):
        samples = samples.to(device)
        for batch in one_pass(samples, at_once(model, _AT_ONCE) if batch_size is None else batch_size).epoch(0):
            batch = batch.to(device)
            labels = torch.full_like(batch.index, UNLABELLED) if batch.labels is None else batch.labels
            answer = run_model(model, batch.inputs, task=batch.task, state=carry.state("model", batch, axis))
            carry.keep("model", batch, answer.state, axis)
            logits = answer.logits
            if not has_float64(logits.device):  # what is measured of them is measured in float64
                logits, labels = logits.cpu(), labels.cpu()
            yield logits, labels
