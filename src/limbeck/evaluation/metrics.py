"""Metrics of a model on a set, whatever its task."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data import Loader, SampleSet
from limbeck.devices import has_float64
from limbeck.errors import InputError
from limbeck.evaluation.figures import Metrics, figures_of
from limbeck.networks import check_network, evaluating
from limbeck.outputs import run_model
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["Metrics", "evaluate", "measure", "predict"]


@torch.no_grad()
@checked
def predict(
    model: nn.Module, samples: SampleSet, *, batch_size: int = 1000, device: torch.device | str | None = None
) -> Tensor:
    """Return the logits (n, K) of a model on the unaugmented samples, in their order, in eval mode.

    Of other tasks they are (n, 2), (n, C, 2), (n, H, W, K), or numbers (n, D); see `limbeck.tasks`.
    The mode of each of the model's modules is put back afterwards.  device: by default where the model is.
    """
    return torch.cat([logits for logits, _ in _answers(model, samples, batch_size, device)])


@checked
def measure(logits: Tensor, labels: Tensor, task: Task = CLASSIFICATION) -> Metrics:
    """Measure logits (n, K) against labels (n,); unlabelled samples do not count.

    task: what the labels are; of another than classification, both are shaped as `predict` and the set have them.

    >>> measure(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])).errors
    1
    """
    _check(logits, labels, task)
    return figures_of(task).measure(logits, labels.to(logits.device))


@torch.no_grad()
@checked
def evaluate(
    model: nn.Module, samples: SampleSet, *, batch_size: int = 1000, device: torch.device | str | None = None
) -> Metrics:
    """Measure a model on the labelled samples of a set, as the set's task is measured (see `Metrics`).

    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.zeros(20, dtype=torch.int64), classes=4)
    >>> evaluate(nn.Linear(3, 4), samples).examples
    20
    """
    return figures_of(samples.task).measure_batches(
        _checked(_answers(model, samples, batch_size, device), samples.task)
    )


def _check(logits: Tensor, labels: Tensor, task: Task) -> None:
    if not logits.is_floating_point():
        raise InputError(f"logits: found {logits.dtype}, expected floating-point numbers")
    shape = task.label_shape(logits)
    checks.shapes_match("labels", labels.shape, "the model's answers, without their classes", shape)


def _checked(batches: Iterable[tuple[Tensor, Tensor]], task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    for logits, labels in batches:
        _check(logits, labels, task)
        yield logits, labels


def _answers(
    model: nn.Module, samples: SampleSet, batch_size: int, device: torch.device | str | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a model's logits and the labels, batch by batch."""
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    check_network("model", model)
    with evaluating(model):
        samples = samples.to(device)
        for batch in Loader(samples, batch_size, seed=0, shuffle=False).epoch(0):
            batch = batch.to(device)
            labels = samples.labels[:0] if batch.labels is None else batch.labels
            logits = run_model(model, batch.inputs, task=batch.task).logits
            if not has_float64(logits.device):  # what is measured of them is measured in float64
                logits, labels = logits.cpu(), labels.cpu()
            yield logits, labels
