"""A network's parameters divided among processes (FSDP2), and made whole again.

What is divided is a copy of the network that has its parameters and nothing else in common with it; the network itself
is empty meanwhile.  So there is no wrapper that would have to be taken off again.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.blocks import blocks_of
from limbeck.errors import ModelError, one_line
from limbeck.identity import known_from_files, read_from_files
from limbeck.networks import canonical_path, is_shard
from limbeck.outputs import Outputs
from limbeck.ranks import is_first

__all__ = ["Divided", "units_of", "whole"]


def units_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules of which each is gathered by itself: blocks, and never the whole network.

    They are a transformer's blocks; else the parts of each outermost `nn.Sequential`, and modules of one class, with
    parts of their own, in an `nn.ModuleList`.  A module that shares a parameter with what is outside of it is none.

    >>> from limbeck.models import transformer
    >>> [type(each).__name__ for each in units_of(transformer((8,), 2, vocabulary=20, layers=2, width=8, heads=2))]
    ['Layer', 'Layer']
    >>> len(units_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    2
    """
    owners: dict[int, int] = {}
    for module in network.modules():
        for each in module.parameters(recurse=False):
            owners[id(each)] = owners.get(id(each), 0) + 1

    def closed(unit: nn.Module) -> bool:
        inside: dict[int, int] = {}
        for module in unit.modules():
            for each in module.parameters(recurse=False):
                inside[id(each)] = inside.get(id(each), 0) + 1
        return bool(inside) and all(owners[key] == count for key, count in inside.items())

    return [unit for unit in _candidates(network) if closed(unit)]


def _candidates(network: nn.Module) -> list[nn.Module]:
    try:
        paths = {block.path for block in blocks_of(network).blocks}
    except ModelError:
        return _parts(network)
    return [module for path, module in network.named_modules() if canonical_path(path) in paths]


def _parts(module: nn.Module) -> list[nn.Module]:
    children = list(module.children())
    if isinstance(module, nn.Sequential):
        return children
    alike = len(children) > 1 and len({type(each) for each in children}) == 1
    if isinstance(module, nn.ModuleList) and alike and any(children[0].children()):
        return children if not isinstance(children[0], nn.ModuleList | nn.ModuleDict) else []
    return [part for child in children for part in _parts(child)]


class Divided:
    """A network whose parameters are divided among processes, in a copy of it, while it is empty itself.

    Every process makes one of its own.  copy: to be called in its place, by all processes together.

    Args:
        network: the network.
        mesh: of the processes, and where its copy is.
        role: its name in error lines.
        device: where its parameters are to be when they are whole again; None for where they are.

    Raises:
        ModelError: if it cannot be copied, or FSDP refuses it.
    """

    def __init__(self, network: nn.Module, mesh: Any, role: str, device: torch.device | None = None) -> None:
        from torch.distributed.fsdp import fully_shard

        self.network = network
        parameters = list(network.parameters())
        self._places = [each.device if device is None else device for each in parameters]
        self._known = [known_from_files(each) for each in parameters]
        memo: dict[int, Any] = {id(each): each for each in parameters}
        try:
            self.copy: nn.Module = copy.deepcopy(network, memo)
            for unit in (*units_of(self.copy), self.copy):
                unit.register_forward_hook(_own_storage)
                fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
            raise ModelError(f"fsdp: the {role} cannot be divided ({one_line(error)}); leave fsdp out") from None
        for each in parameters:  # once nothing can be refused any more
            each.data = each.data.new_empty(0)

    def fill(self) -> None:
        """Give the network whole parameters again; every process must call it."""
        found = dict(self.copy.named_parameters(remove_duplicate=False))
        for (name, own), place, known in zip(self.network.named_parameters(), self._places, self._known, strict=True):
            own.data = found[name].detach().full_tensor().to(place)  # type: ignore[attr-defined]
            if known is not None and not own.requires_grad:
                read_from_files(own, known)

    def hand_over(self) -> None:
        """Give the network the buffers and the extra state that its copy has come to."""
        for own, module in zip(self.network.modules(), self.copy.modules(), strict=True):
            own._buffers.update(module._buffers)  # noqa: SLF001 - `register_buffer` refuses names that are there
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                own.set_extra_state(module.get_extra_state())


def _own_storage(_: nn.Module, __: Any, output: Any) -> Any:
    """Return a unit's output with storage of its own: of a view that is changed in place FSDP would lose its hook."""
    if isinstance(output, Tensor):
        return output.clone() if output._base is not None and output.requires_grad else output  # noqa: SLF001
    if isinstance(output, Outputs):
        return replace(output, logits=_own_storage(_, __, output.logits), state=_own_storage(_, __, output.state))
    if type(output) in (tuple, list):
        return type(output)(_own_storage(_, __, each) for each in output)
    return output


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which those that are divided are whole, on the CPU of the first process; others have none.

    Every process must call it, with tensors of the same names.

    >>> list(whole({"weight": torch.ones(2)}))
    ['weight']
    """
    found = {}
    for name, tensor in tensors.items():
        if not is_shard(tensor):
            found[name] = tensor
            continue
        gathered = tensor.detach().full_tensor()  # type: ignore[attr-defined]
        if is_first():
            found[name] = gathered.cpu()
    return found
