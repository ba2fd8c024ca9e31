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

    Attributes:
        epsilon: the largest change of each input value, in units of what the model sees.
        accuracy: in [0, 1].
        still: share of the samples with gradient exactly 0, which the attack leaves unchanged.  If it is large, the
            accuracy is no evidence of robustness.

    Example:
        >>> Robustness(epsilon=0.1, accuracy=0.5, still=0.0).accuracy
        0.5
    """

    epsilon: float
    accuracy: float
    still: float


@checked
def value_range(samples: SampleSet) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each channel of a set's inputs, as a model sees them.

    For images of whole numbers (uint8) they are what black and white become.  For others they are the extremes of the
    root set, whatever part of it `samples` is; of `samples` alone if the root is not in memory.

    Args:
        samples: the set.

    Returns:
        Two tensors (C, 1, ...) that broadcast against an input.

    Example:
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        >>> low, high = value_range(TensorSet.of(images, torch.tensor([0, 1]), mean=[0.5], std=[0.25]))
        >>> low.flatten(), high.flatten()
        (tensor([-2.]), tensor([2.]))
    """
    if samples.kept_dtype == torch.uint8:
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
    """Attack inputs: return x + ε·sign(∇_x H(y, softmax(z(x)/T))).

    Args:
        model: the network.
        inputs: x, (n, ...) floating point.
        labels: y, (n,) int64.
        epsilon: ε, 0 or above, in units of the inputs.
        temperature: T > 0.  It keeps the gradient of a network with very large logits from underflowing to 0.
        bounds: the least and the greatest value that an input can have, as `value_range` returns them; an input outside
            is not moved further out.  None for no bounds.

    Returns:
        The attacked inputs (n, ...), and (n,) bool, True where the gradient is 0.

    Raises:
        ModelError: if the gradient is NaN or infinite.
        InputError: if a value is out of range.

    Example:
        >>> moved, still = fgsm(nn.Linear(2, 3), torch.tensor([[0.0, 1.0]]), torch.tensor([1]), 0.1)
        >>> moved.shape, still
        (torch.Size([1, 2]), tensor([False]))

    Reference:
        Goodfellow, Shlens & Szegedy (2015), "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572.
    """
    checks.non_negative("epsilon", epsilon)
    checks.positive("temperature", temperature)
    if not inputs.is_floating_point():
        raise InputError(
            f"inputs: found {inputs.dtype}, expected floating-point numbers, because the attack changes them slightly"
        )
    with evaluating(model):
        asked = inputs.detach().clone().requires_grad_()
        loss = cross_entropy(run_model(model, asked).logits / temperature, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, asked)
    if not bool(gradient.isfinite().all()):
        raise ModelError(
            "fgsm: the gradient with respect to the inputs is NaN or infinite; look at the model or its data"
        )
    moved = inputs + epsilon * gradient.sign()
    if bounds is not None:
        for name, bound in zip(("least", "greatest"), bounds, strict=True):
            if bound.dim() > inputs.dim() or any(
                size not in (1, own) for size, own in zip(reversed(bound.shape), reversed(inputs.shape), strict=False)
            ):
                raise InputError(
                    f"bounds: the {name} values have shape {tuple(bound.shape)}, which does not broadcast to inputs "
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

    The attack on a sample does not depend on the other samples.

    Args:
        model: the network.
        samples: the set.
        epsilons: ε, in units of what the model sees.
        attacked: the model whose gradient makes the attack; by default the model itself.
        temperature: T > 0, by which its logits are divided for the attack.
        bounds: of what the model sees; by default the `value_range` of the set.  If there is a training set, pass its
            range.

    Returns:
        One entry for each ε.

    Raises:
        ModelError: if the gradient is NaN or infinite.
        DataError: if no sample has a label.

    Example:
        >>> samples = TensorSet.of(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
        >>> [found] = robustness(nn.Linear(3, 2), samples, [0.1])
        >>> found.epsilon
        0.1

    Reference:
        Goodfellow, Shlens & Szegedy (2015), arXiv:1412.6572.
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
                raise DataError(
                    "robustness: found inputs that are not floating point, expected inputs that the attack can"
                    " change slightly"
                )
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
