"""Robustness to small changes of the inputs that are made to mislead: the fast gradient sign method."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.data import Loader, SampleSet
from limbeck.errors import DataError
from limbeck.losses import cross_entropy
from limbeck.networks import evaluating
from limbeck.outputs import run_model

__all__ = ["Robustness", "fgsm", "robustness"]

_BATCH = 1000


@dataclass(frozen=True)
class Robustness:
    """Accuracy on attacked inputs.

    epsilon: of each value, how far it was moved at most.  still: share of the samples whose gradient is exactly 0, so
    that the attack found no direction; where it is large, the accuracy says nothing of robustness.
    """

    epsilon: float
    accuracy: float
    still: float

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)


def fgsm(
    model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return x + ε·sign(∇_x H(y, softmax(z(x)/T))) and for each sample whether its gradient is 0 (Goodfellow 2015).

    inputs: (n, ...) floating point.  labels: (n,).  temperature: that the logits are divided by before the gradient is
    taken: of a network with very large logits the gradient underflows to 0 without it.
    The result is held within the least and the greatest value of `inputs`.

    >>> moved, still = fgsm(nn.Linear(2, 3), torch.tensor([[0.0, 1.0]]), torch.tensor([1]), 0.1)
    >>> moved.shape, still
    (torch.Size([1, 2]), tensor([False]))
    """
    checks.non_negative("epsilon", epsilon)
    checks.positive("temperature", temperature)
    with evaluating(model):
        asked = inputs.detach().clone().requires_grad_()
        loss = cross_entropy(run_model(model, asked).logits / temperature, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, asked)
    moved = inputs + epsilon * gradient.sign()
    still = (gradient == 0).flatten(1).all(1)
    return moved.clamp(inputs.min(), inputs.max()), still


def robustness(
    model: nn.Module,
    samples: SampleSet,
    epsilons: Sequence[float],
    *,
    attacked: nn.Module | None = None,
    temperature: float = 1.0,
) -> list[Robustness]:
    """Attack a model on the labelled samples of a set, and return its accuracy at each ε.

    attacked: the model that the changes are made against; by default the model itself.
    temperature: that its logits are divided by for the attack.  ε is in units of what the model sees.
    """
    positions = (samples.labels != UNLABELLED).nonzero().squeeze(1)
    if len(positions) == 0:
        raise DataError("robustness: the set has no labels, expected at least one labelled sample")
    known = samples.subset(positions)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    found = []
    for epsilon in epsilons:
        right = still = 0
        for batch in Loader(known.to(device), _BATCH, seed=0, shuffle=False).epoch(0):
            if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point() or batch.labels is None:
                raise DataError("robustness: the inputs are not numbers that can be moved a little")
            moved, kept = fgsm(attacked or model, batch.inputs, batch.labels, epsilon, temperature=temperature)
            with evaluating(model), torch.no_grad():
                right += int((run_model(model, moved).logits.argmax(-1) == batch.labels).sum())
            still += int(kept.sum())
        found.append(Robustness(epsilon, right / len(known), still / len(known)))
    return found
