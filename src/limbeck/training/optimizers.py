"""Optimizers, learning-rate schedules, the max-norm constraint and weight averaging."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from limbeck import schedules
from limbeck.arguments import checked
from limbeck.errors import ModelError
from limbeck.networks import fill, tensors_of
from limbeck.training.settings import Training

__all__ = [
    "WeightAverage",
    "check_complete",
    "constrain_norms",
    "constrained_weights",
    "learning_rate",
    "make_dense",
    "make_optimizer",
]


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Build the optimizer of a model's parameters.

    Weight decay applies to all of them, except those that a module names in its attribute `without_decay`, names of
    parameters of its own.  Raises ModelError when there is none to train.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise ModelError("student: found no parameters, so nothing can be trained; add layers, or evaluate it instead")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ModelError(
            "student: no parameter requires a gradient, so nothing can be trained; a teacher's modules are frozen, "
            "give the student its own modules"
        )
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trainable)
    exempt = {id(getattr(module, name)) for module in model.modules() for name in getattr(module, "without_decay", ())}
    decayed = [each for each in trainable if id(each) not in exempt]
    others = [each for each in trainable if id(each) in exempt]
    groups: Any = [{"params": decayed}, {"params": others, "weight_decay": 0.0}] if others else decayed
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
        )
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )
    if fused and settings.momentum:  # the fused step fails where only some parameters have had a gradient before
        for parameter in trainable:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def make_dense(optimizer: torch.optim.Optimizer) -> None:
    """Make sparse gradients dense, of `nn.Embedding(sparse=True)` for example: the optimizers here take no others."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()


def check_complete(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Require that the optimizer has every parameter that learns: none may come after the first batch."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise ModelError(
                f"{name.partition('.')[0]}: its parameter '{name.partition('.')[2]}' came during the training, or was"
                " put in another's place, so that nothing trains it; make all parameters before the first batch"
            )


def learning_rate(settings: Training, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the optimizer step."""
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
@checked
def constrain_norms(model: nn.Module, max_norm: float) -> None:
    """Scale down, in place, the weights into each unit whose norm exceeds a limit.

    A unit is a row of a matrix, or an output channel of a convolution, transposed ones included.

    Args:
        model: the network.
        max_norm: the largest norm; above 0.

    Raises:
        ModelError: if a layer computes its weight from other parameters.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(layer.weight, 3.0)
        >>> constrain_norms(layer, 1.0)
        >>> layer.weight.detach().norm()
        tensor(1.)

    Reference:
        Hinton et al. (2012), "Improving neural networks by preventing co-adaptation of feature detectors",
        arXiv:1207.0580.
    """
    for parameter, groups in constrained_weights(model):
        rows = _by_unit(parameter, groups)
        scale = (max_norm / torch.linalg.vector_norm(rows.flatten(2), dim=2).clamp_min(1e-12)).clamp_max(1.0)
        rows.mul_(scale.reshape(*scale.shape, *[1] * (rows.ndim - 2)))


def _by_unit(parameter: Tensor, groups: int) -> Tensor:
    """Return a view (groups, units, ...) of a weight, whose last axes are what leads into a unit."""
    if not groups:
        return parameter[None]
    rows: Tensor = parameter.unflatten(0, (groups, -1)).transpose(1, 2)  # a transposed convolution: (in, out / groups)
    return rows


def constrained_weights(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Return the weights that a norm constrains, with the groups of a transposed convolution, 0 of other layers."""
    found: dict[nn.Parameter, int] = {}
    for path, module in model.named_modules():
        computed = parametrize.is_parametrized(module) or any(
            name.endswith(("_orig", "_v")) and hasattr(module, name[: name.rindex("_")])
            for name, _ in module.named_parameters(recurse=False)
        )
        if computed and any(weights.requires_grad and weights.ndim >= 2 for weights in module.parameters()):
            raise ModelError(
                f"max_norm: layer '{path}' computes its weight from other parameters (weight_norm, spectral_norm, "
                "pruning or another parametrisation), whose norms are not the weight's; leave max_norm out"
            )
        groups = module.groups if isinstance(module, _ConvTransposeNd) else 0
        for weights in module.parameters(recurse=False):
            if weights.requires_grad and weights.ndim >= 2 and found.setdefault(weights, groups) != groups:
                raise ModelError(f"max_norm: the weight of '{path}' is another layer's too, with other units; untie it")
    return list(found.items())


class WeightAverage:
    """An exponential moving average of a model's floating-point state; other buffers are copied.

    The average starts at the weights; after n updates the decay is at most (1 + n)/(10 + n).

    Args:
        model: the network to average.
        decay: in [0, 1).

    Example:
        >>> from torch import nn
        >>> average = WeightAverage(nn.Linear(3, 4), 0.99)
    """

    @checked
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in tensors_of(model).items():
            if tensor.is_floating_point() or tensor.is_complex():
                self.state[name].lerp_(tensor.detach(), 1.0 - decay)
            else:
                self.state[name].copy_(tensor)

    def swap(self, model: nn.Module) -> dict[str, Tensor]:
        """Put the average into the model and return the model's own weights, to be put back."""
        own = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
        fill(model, self.state)
        return own
