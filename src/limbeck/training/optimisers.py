"""Optimisers, learning-rate schedules, the max-norm constraint and weight averaging."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from limbeck import schedules
from limbeck.errors import ModelError
from limbeck.training.settings import Training

__all__ = ["WeightAverage", "constrain_norms", "learning_rate", "optimiser"]


def optimiser(parameters: Iterable[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Build the optimiser; weight decay applies to every parameter.  Raises ModelError when there is none to train."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ModelError(
            "student: no parameter requires a gradient, so nothing can learn; a teacher's modules are frozen, "
            "give the student modules of its own"
        )
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
        )
    return torch.optim.SGD(
        trainable,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )


def learning_rate(settings: Training, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the optimiser step."""
    total = settings.epochs * steps_per_epoch
    rising = round(settings.warmup * steps_per_epoch)
    factor: schedules.Schedule = 1.0
    if settings.schedule == "cosine":
        fall = schedules.cosine(1.0, 0.0, steps=max(1, total - rising))
        factor = lambda step: fall(max(0, step - rising))  # noqa: E731
    elif settings.schedule == "step":
        values = [settings.decay**i for i in range(len(settings.milestones) + 1)]
        factor = schedules.piecewise(values, boundaries=[round(m * steps_per_epoch) for m in settings.milestones])
    elif settings.schedule == "one_cycle":
        factor = schedules.one_cycle(steps=total)
    rate = schedules.warmup(factor, steps=rising)
    return lambda step: settings.learning_rate * rate(step)


@torch.no_grad()
def constrain_norms(model: nn.Module, max_norm: float) -> None:
    """Scale down, in place, the weights into each unit whose norm exceeds `max_norm` (Hinton et al. 2012)."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim >= 2:
            norms = torch.linalg.vector_norm(parameter.flatten(1), dim=1)
            scale = (max_norm / norms.clamp_min(1e-12)).clamp_max(1.0)
            parameter.mul_(scale.reshape(-1, *[1] * (parameter.ndim - 1)))


class WeightAverage:
    """An exponential moving average of a model's floating-point state; other buffers are copied.

    The average starts as the weights themselves; early on, the decay is held down to (1 + n)/(10 + n) after n updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor.detach(), 1.0 - decay)
            else:
                self.state[name].copy_(tensor)

    def swap(self, model: nn.Module) -> dict[str, Tensor]:
        """Put the average into the model and return the model's own weights, to be put back."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.state)
        return own
