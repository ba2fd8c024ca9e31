"""Robustness to small changes of the inputs that are made to mislead: the fast gradient sign method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.data import Loader, SampleSet, TensorSet
from limbeck.errors import DataError, InputError, ModelError
from limbeck.losses import cross_entropy
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.tasks import CLASSIFICATION

__all__ = ["Robustness", "fgsm", "robustness", "value_range"]

_BATCH = 1000


@checked_fields
@dataclass(frozen=True)
class Robustness:
    """Accuracy on attacked inputs.

    epsilon: of each value, how far it was moved at most.  still: share of the samples whose gradient is exactly 0, so
    that the attack found no direction; where it is large, the accuracy says nothing of robustness.
    """

    epsilon: float
    accuracy: float
    still: float


@checked
def value_range(samples: SampleSet) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each channel of a set's inputs, as a model sees them.

    Both are shaped to broadcast against an input, (C, 1, ...).  Of images of whole numbers (uint8) they are what black
    and white become; of others, the values that the root set holds, whatever part of it `samples` is, or where it is
    not held in memory, those of `samples`.

    >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    >>> low, high = value_range(TensorSet.of(images, torch.tensor([0, 1]), mean=[0.5], std=[0.25]))
    >>> low.flatten(), high.flatten()
    (tensor([-2.]), tensor([2.]))
    """
    first = samples.gather(torch.zeros(1, dtype=torch.int64, device=samples.index.device))
    if first.dtype == torch.uint8:
        ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, *[1] * len(samples.input_shape))
        samples = replace(
            TensorSet.of(ends.expand(2, *samples.input_shape).contiguous()),
            mean=None if samples.mean is None else samples.mean.cpu(),
            std=None if samples.std is None else samples.std.cpu(),
        )
    elif isinstance(samples, TensorSet):
        every = torch.arange(len(samples.inputs), device=samples.index.device)
        samples = replace(
            samples, index=every, labels=torch.full_like(every, UNLABELLED), task=CLASSIFICATION, turn=None
        )
    over = [axis for axis in range(1 + len(samples.input_shape)) if axis != 1]
    lows, highs = [], []
    for batch in Loader(samples, _BATCH, seed=0, shuffle=False).epoch(0):
        lows.append(batch.inputs.amin(over, keepdim=True))
        highs.append(batch.inputs.amax(over, keepdim=True))
    return torch.cat(lows).amin(0), torch.cat(highs).amax(0)


@checked
def fgsm(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    temperature: float = 1.0,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x + ε·sign(∇_x H(y, softmax(z(x)/T))) and for each sample whether its gradient is 0 (Goodfellow 2015).

    inputs: (n, ...) floating point.  labels: (n,).  temperature: that the logits are divided by before the gradient is
    taken: of a network with very large logits the gradient underflows to 0 without it.
    bounds: the least and the greatest value that an input can have, as `value_range` gives them; where an input is
    beyond them already, it is not moved further.  Without bounds, nothing holds the result.
    Raises ModelError where the gradient is NaN or infinite.

    >>> moved, still = fgsm(nn.Linear(2, 3), torch.tensor([[0.0, 1.0]]), torch.tensor([1]), 0.1)
    >>> moved.shape, still
    (torch.Size([1, 2]), tensor([False]))
    """
    checks.non_negative("epsilon", epsilon)
    checks.positive("temperature", temperature)
    if not inputs.is_floating_point():
        raise InputError(f"inputs: found {inputs.dtype}, expected floating-point numbers, which can be moved a little")
    with evaluating(model):
        asked = inputs.detach().clone().requires_grad_()
        loss = cross_entropy(run_model(model, asked).logits / temperature, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, asked)
    if not bool(gradient.isfinite().all()):
        raise ModelError("fgsm: the gradient by the inputs is NaN or infinite; look at the model or its data")
    moved = inputs + epsilon * gradient.sign()
    if bounds is not None:
        for name, bound in zip(("least", "greatest"), bounds, strict=True):
            if bound.dim() > inputs.dim() or any(
                size not in (1, own) for size, own in zip(reversed(bound.shape), reversed(inputs.shape), strict=False)
            ):
                raise InputError(
                    f"bounds: the {name} values have shape {tuple(bound.shape)}, which does not spread over inputs "
                    f"{tuple(inputs.shape)}; give (C, 1, ...)"
                )
        moved = moved.clamp(torch.minimum(bounds[0], inputs), torch.maximum(bounds[1], inputs))
    return moved, (gradient == 0).flatten(1).all(1)


@checked
def robustness(
    model: nn.Module,
    samples: SampleSet,
    epsilons: Sequence[float],
    *,
    attacked: nn.Module | None = None,
    temperature: float = 1.0,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> list[Robustness]:
    """Attack a model on the labelled samples of a set, and return its accuracy at each ε.

    attacked: the model that the changes are made against; by default the model itself.
    temperature: that its logits are divided by for the attack.  ε is in units of what the model sees.
    bounds: of what the model sees, by default the `value_range` of the set; give that of the training set where there
    is one.  How a sample is attacked does not depend on the other samples of the set.
    """
    positions = (samples.labels != UNLABELLED).nonzero().squeeze(1)
    if len(positions) == 0:
        raise DataError("robustness: the set has no labels, expected at least one labelled sample")
    known = samples.subset(positions)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    bounds = value_range(samples) if bounds is None else bounds
    low, high = (each.to(device) for each in bounds)
    found = []
    for epsilon in epsilons:
        right = still = 0
        for batch in Loader(known.to(device), _BATCH, seed=0, shuffle=False).epoch(0):
            if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point() or batch.labels is None:
                raise DataError("robustness: the inputs are not numbers that can be moved a little")
            moved, kept = fgsm(
                attacked or model, batch.inputs, batch.labels, epsilon, temperature=temperature, bounds=(low, high)
            )
            with evaluating(model), torch.no_grad():
                logits = run_model(model, moved).logits
            checks.logits("logits", logits)
            right += int((logits.argmax(-1) == batch.labels).sum())
            still += int(kept.sum())
        found.append(Robustness(epsilon, right / len(known), still / len(known)))
    return found
