"""Metrics of a model on a set."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from limbeck.batch import UNLABELLED
from limbeck.data import Loader, SampleSet
from limbeck.errors import DataError
from limbeck.losses import cross_entropy
from limbeck.outputs import run_model

__all__ = ["Metrics", "evaluate", "measure", "predict"]


@dataclass(frozen=True)
class Metrics:
    """examples, errors: counts of labelled samples; accuracy in [0, 1]; nll: mean negative log-likelihood in nats."""

    examples: int
    errors: int
    accuracy: float
    nll: float

    def as_dict(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


@torch.no_grad()
def predict(
    model: nn.Module, samples: SampleSet, *, batch_size: int = 1000, device: torch.device | str | None = None
) -> Tensor:
    """Return the logits (n, K) of a model on the unaugmented samples, in their order, in eval mode.

    The model's mode is put back afterwards.  device: by default where the model is.
    """
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        loader = Loader(samples.to(device), batch_size, seed=0, shuffle=False)
        return torch.cat([run_model(model, batch.to(device).inputs).logits for batch in loader.epoch(0)])
    finally:
        model.train(training)


def measure(logits: Tensor, labels: Tensor) -> Metrics:
    """Measure logits (n, K) against labels (n,); unlabelled samples do not count.

    >>> measure(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])).errors
    1
    """
    labels = labels.to(logits.device)
    known = labels != UNLABELLED
    examples = int(known.sum())
    if not examples:
        raise DataError("evaluation: the set has no labels, expected at least one labelled sample")
    errors = int(((logits.argmax(-1) != labels) & known).sum())
    nll = float(cross_entropy(logits.double(), labels, reduction="sum")) / examples
    return Metrics(examples, errors, 1.0 - errors / examples, nll)


def evaluate(
    model: nn.Module, samples: SampleSet, *, batch_size: int = 1000, device: torch.device | str | None = None
) -> Metrics:
    """Measure a model on the labelled samples of a set.

    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.zeros(20, dtype=torch.int64), classes=4)
    >>> evaluate(nn.Linear(3, 4), samples).examples
    20
    """
    return measure(predict(model, samples, batch_size=batch_size, device=device), samples.labels)
