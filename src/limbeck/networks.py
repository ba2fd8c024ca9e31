"""Networks as they are handed over: the mode of each of their modules, and what no network may be that is asked."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from limbeck.errors import ModelError

__all__ = [
    "ALIASES",
    "RECORDS",
    "TOGETHER",
    "as_shard",
    "at_once",
    "canonical_path",
    "check_network",
    "distinct",
    "evaluating",
    "file_metadata",
    "fill",
    "freeze",
    "frozen_by",
    "is_lazy",
    "is_shard",
    "is_sharded",
    "is_unsized",
    "networks_of",
    "own_part",
    "restore_modes",
    "start_training",
    "tensors_of",
    "tied",
]

ALIASES = "alias"
"""The key of a safetensors file's metadata that lists the further names of tied tensors."""

TOGETHER = "limbeck"
"""The key of a safetensors file's metadata that has both, `ALIASES` and `RECORDS`, by their keys."""

RECORDS = "compressed_by"
"""The attribute of a network, and the key of its file's metadata, that lists what made it smaller, in order."""

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEEPEST, _MOST = 4, 1000  # how far networks are looked for inside of a teacher


@contextmanager
def restore_modes(*networks: nn.Module) -> Iterator[None]:
    """Put every module back, when the scope ends, into the mode it had, and every parameter's `requires_grad`.

    >>> network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with restore_modes(network):
    ...     _ = network.eval()
    >>> [module.training for module in network]
    [True, False]
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    every = [weights for network in networks for weights in network.parameters() if not is_unsized(weights)]
    wanted = [(weights, weights.requires_grad) for weights in every]
    roots = [(network, network.training) for network in networks]
    try:
        yield
    finally:
        for network, training in roots:
            if network.training != training:
                _switch(network, training)
        for module, training in modes:
            module.training = training
        for weights, learns in wanted:
            if weights.requires_grad != learns:
                weights.requires_grad_(learns)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for the scope, and each of its modules back into its own mode afterwards."""
    with restore_modes(network):
        _switch(network, False)
        yield


def start_training(network: nn.Module) -> None:
    """Put a network into train mode.

    A module that stands in eval mode inside a network in train mode was frozen by hand, and stays in eval mode.

    >>> network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval())
    >>> start_training(network)
    >>> [module.training for module in network]
    [True, False]
    """
    frozen = [module for module in network.modules() if not module.training] if network.training else []
    _switch(network, True)
    for module in frozen:
        module.training = False


def _switch(network: nn.Module, training: bool) -> None:
    try:
        network.train(training)
    except NotImplementedError:  # an exported program, which is what it was exported as in either mode
        for module in network.modules():
            module.training = training


def networks_of(owner: Any) -> list[nn.Module]:
    """Return the networks that an object holds in its attributes, in lists and mappings of them, and so on inside.

    >>> class Teacher:
    ...     def __init__(self):
    ...         self.members = [nn.Linear(3, 4), nn.ReLU()]
    >>> networks_of(Teacher())
    [Linear(in_features=3, out_features=4, bias=True), ReLU()]
    """
    return [each for each in _inside(owner) if isinstance(each, nn.Module)]


def at_once(owner: Any, most: int) -> int:
    """Return about how many samples to ask a network, or the networks inside an object, at a time.

    It is `most`, and fewer where a part enlarges its inputs by its attribute `enlarges`, so that memory stays the same.
    """
    networks = [owner] if isinstance(owner, nn.Module) else networks_of(owner)
    enlarged = max((getattr(part, "enlarges", 1.0) for each in networks for part in each.modules()), default=1.0)
    return max(1, int(most / max(1.0, enlarged)))


def is_lazy(network: nn.Module) -> bool:
    """Return whether a network has layers that learn their sizes from the first batch, and have not seen one."""
    return any(is_unsized(tensor) for tensor in (*network.parameters(), *network.buffers()))


def is_unsized(tensor: Tensor) -> bool:
    """Return whether a tensor has no size yet."""
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def is_sharded(network: nn.Module, *, inside: bool = True) -> bool:
    """Return whether parameters of a network are divided among processes (`fully_shard`), so that all call it together.

    inside: whether those of its parts count.

    >>> is_sharded(nn.Linear(3, 4))
    False
    """
    return any(hasattr(module, "set_reshard_after_forward") for module in (network.modules() if inside else [network]))


def is_shard(tensor: Any) -> bool:
    """Return whether a tensor is divided among processes, of which each has a part (a `DTensor`)."""
    return hasattr(tensor, "device_mesh")


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a divided tensor that this process has; a whole tensor as it is."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def as_shard(tensor: Tensor, own: Any) -> Tensor:
    """Return the own part of a whole tensor, divided as another is; the tensor itself where that is whole."""
    if not is_shard(own) or is_shard(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state, a tied one once, without other values (`get_extra_state`).

    >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> network[1].weight = network[0].weight
    >>> list(tensors_of(network))
    ['0.weight']
    """
    state = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    return {names[0]: state[names[0]] for names in tied(state)}


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what `tensors_of` gives, whole or divided as the network is; a network's other state stays as it is."""
    own = network.state_dict()
    network.load_state_dict({**own, **{name: as_shard(tensor, own.get(name)) for name, tensor in tensors.items()}})


def freeze(network: nn.Module) -> list[nn.Parameter]:
    """Put a network into eval mode and stop its gradients; return the parameters that required one until then.

    Those of a lazy layer are left until they have a size.
    """
    learning = [weights for weights in network.parameters() if weights.requires_grad and not is_unsized(weights)]
    for weights in learning:
        weights.requires_grad_(False)
    _switch(network, False)
    return learning


def frozen_by(owner: Any) -> list[nn.Parameter]:
    """Return the parameters that an object, or one inside of it, has frozen and noted under `froze`."""
    return [weights for each in _inside(owner) for weights in getattr(each, "froze", ())]


def _inside(owner: Any) -> list[Any]:
    found: dict[int, Any] = {}
    _gather(owner, found, _DEEPEST)
    return list(found.values())


def _gather(value: Any, found: dict[int, Any], deepest: int) -> None:
    if isinstance(value, nn.Module):
        found[id(value)] = value
    elif deepest:
        inner: Any = ()
        if isinstance(value, Mapping):
            inner = value.values()
        elif isinstance(value, list | tuple):
            inner = value
        elif not isinstance(value, type) and (attributes := getattr(value, "__dict__", None)):
            found[id(value)] = value
            inner = attributes.values()
        for each in list(islice(inner, _MOST)):
            _gather(each, found, deepest - 1)


def check_network(role: str, network: nn.Module) -> None:
    """Require a network whose answer to a sample can be asked for: of that sample alone, by weights that are there.

    >>> check_network("teacher", nn.BatchNorm1d(4, track_running_stats=False))
    Traceback (most recent call last):
    limbeck.errors.ModelError: teacher: BatchNorm keeps no running statistics, so that in eval mode too its answer...
    """
    for path, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            layer = f"BatchNorm '{path}'" if path else "BatchNorm"
            raise ModelError(
                f"{role}: {layer} keeps no running statistics, so that in eval mode too its answer to a sample depends "
                "on the rest of the batch; set track_running_stats=True"
            )
    for kind, tensors in (("parameter", network.named_parameters()), ("buffer", network.named_buffers())):
        for path, tensor in tensors:
            if tensor.is_meta:
                raise ModelError(
                    f"{role}: the {kind} '{path}' is on the meta device and holds no numbers; build the network on a "
                    "real device, or fill it with to_empty(device=...) and its weights"
                )


def canonical_path(path: str) -> str:
    """Return a module path without the names that DDP, FSDP, compile and checkpoint wrappers insert.

    >>> canonical_path("module._orig_mod.layer1.0")
    'layer1.0'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def distinct(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a model's state with each tensor once, and the further names of tied ones as {name: name that is kept}.

    Of several names the first is kept that the model does not list among its `_tied_weights_keys`, so that the
    Transformers library finds the name it looks for.

    >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    >>> model[1].weight = model[0].weight
    >>> tensors, aliases = distinct(model)
    >>> list(tensors), aliases
    (['0.weight'], {'1.weight': '0.weight'})
    """
    state = model.state_dict()
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for names in tied(state):
        first = names[0]
        if len(names) > 1:
            first = next((name for name in names if not _left_out(model, name)), first)
        kept[first] = state[first]
        aliases |= {name: first for name in names if name != first}
    return {name: kept[name] for name in state if name in kept}, aliases


def file_metadata(model: nn.Module, aliases: Mapping[str, str]) -> dict[str, str]:
    """Return what the safetensors file of a model says besides its tensors.

    It is the further names of tied tensors, and the list of transforms that gave the model its structure.  All is in
    one entry, since safetensors writes several in an order that differs from file to file.
    """
    records = getattr(model, RECORDS, None)
    found = ({ALIASES: dict(aliases)} if aliases else {}) | ({RECORDS: records} if records else {})
    if len(found) > 1:
        return {TOGETHER: json.dumps(found, sort_keys=True)}
    return {name: json.dumps(each, sort_keys=True) for name, each in found.items()}


def tied(state: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Yield the names of a state in their order, those of one and the same tensor together."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        alone = is_unsized(tensor) or tensor.numel() == 0 or tensor.is_meta
        own = own_part(tensor).untyped_storage() if not alone and is_shard(tensor) else tensor
        key = name if alone else (own.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        groups.setdefault(key, []).append(name)
    return groups.values()


def _left_out(model: nn.Module, name: str) -> bool:
    """Return whether the Transformers library leaves this name of a tied tensor out of its files."""
    found = (getattr(part, "_tied_weights_keys", None) or () for part in model.modules())
    return any(re.search(key, canonical_path(name)) for keys in found for key in keys)
