"""Optimizers, learning-rate schedules and the max-norm constraint."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from limbeck import schedules
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError, one_of
from limbeck.networks import canonical_path, is_shard
from limbeck.training.settings import Training

__all__ = [
    "check_complete",
    "constrain_norms",
    "constrained_weights",
    "learning_rate",
    "make_dense",
    "make_optimizer",
    "set_rate",
    "share_of_length",
]

_FACTOR = "factor"
"""The key of a group of parameters whose learning rate is multiplied."""
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Build the optimizer of a model's parameters.

    Weight decay applies to all of them, except those of `settings.no_decay` and those that a module names in its
    attribute `without_decay`, names of parameters of its own.  Raises ModelError when there is none to train, and
    InputError when a path of `settings.rates` matches none.
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
    divided = any(is_shard(parameter) for parameter in trainable)  # of which torch has no fused SGD
    groups: Any = _groups(model, trainable, settings)
    if settings.optimizer in ("adam", "adamw"):
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        return kind(
            groups,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=fused or None,
        )
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=(fused and not divided) or None,
        foreach=divided or None,
    )
    if fused and settings.momentum:  # the fused step fails where only some parameters have had a gradient before
        for parameter in trainable:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _groups(model: nn.Module, trainable: Sequence[nn.Parameter], settings: Training) -> list[dict[str, Any]]:
    """Return the groups of parameters that differ in weight decay or in the factor of their learning rate."""
    exempt, factors = _without_decay(model, settings.no_decay), _factors(model, settings.rates or {})
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for parameter in trainable:
        kind = (id(parameter) in exempt, factors.get(id(parameter), 1.0))
        group = groups.setdefault(kind, {"params": []})
        group["params"].append(parameter)
        if kind[0]:
            group["weight_decay"] = 0.0
        if kind[1] != 1.0:
            group[_FACTOR] = kind[1]
    return [groups[kind] for kind in sorted(groups)]


def _without_decay(model: nn.Module, no_decay: Sequence[str]) -> set[int]:
    """Return the parameters, by identity, that weight decay leaves alone."""
    exempt = {id(getattr(module, name)) for module in model.modules() for name in getattr(module, "without_decay", ())}
    for module in model.modules():
        norm = "norm" in no_decay and (isinstance(module, _NORMS) or type(module).__name__.endswith("Norm"))
        for name, parameter in module.named_parameters(recurse=False):
            if norm or ("bias" in no_decay and _is_bias(name)):
                exempt.add(id(parameter))
    return exempt


def _is_bias(name: str) -> bool:
    return name.startswith("bias") or name.endswith("bias")  # of recurrent layers, bias_hh_l0


def _factors(model: nn.Module, rates: Mapping[str, float]) -> dict[int, float]:
    """Return the factor of each parameter's learning rate, by identity, where a path matches."""
    named = {
        canonical_path(name).removeprefix("student."): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    factors: dict[int, float] = {}
    for pattern, factor in rates.items():
        found = [parameter for name, parameter in named.items() if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(f"rates: no parameter of the student matches '{pattern}'; {one_of(pattern, named)}")
        for parameter in found:
            factors.setdefault(id(parameter), factor)
    return factors


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step: of each group times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)


def share_of_length(samples: object, batch: Batch) -> float:
    """Return how long a batch's sequences are, as a share of the `length` of its set.

    Raises InputError where the set has no length.
    """
    length = getattr(samples, "length", None)
    if not length:
        raise InputError(
            "rate_by_length: found a set without sequences of a `length`; leave it out, or use data of kind"
            " token_stream"
        )
    inputs = batch.inputs["input_ids"] if isinstance(batch.inputs, Mapping) else batch.inputs
    return float(inputs.shape[1] / length)


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
    rising = round(settings.warmup * steps_per_epoch) or round(settings.warmup_share * total)
    factor: schedules.Schedule = 1.0
    if settings.schedule in ("cosine", "linear"):
        kind = schedules.cosine if settings.schedule == "cosine" else schedules.linear
        fall = kind(1.0, 0.0, steps=max(1, total - rising))
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
