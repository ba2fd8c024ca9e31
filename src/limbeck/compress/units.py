"""Whole units left out: rows of matrices, channels of convolutions or heads of attentions; smaller layers are built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.pruning import unit_mask
from limbeck.compress.selection import check_globs, matches, owners, select_layers
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.compress.weights import computed_complaint
from limbeck.errors import InputError, ModelError, one_of

__all__ = ["CARD", "Units"]

CARD = Card(
    name="units",
    summary="whole rows, channels or heads of the smallest norm left out; smaller layers are built",
    authors="Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf",
    year=2017,
    title="Pruning Filters for Efficient ConvNets",
    source="https://arxiv.org/abs/1608.08710",
    formula="the ⌊s·n⌋ units of the smallest ‖W_i‖₂ leave, with the inputs of the next layer that they were",
)

_SAME_UNITS = (nn.Identity, nn.modules.dropout._DropoutNd)  # noqa: SLF001 - the base of all dropouts
_OF_MAPS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)
_FUNCTIONS = {torch.relu, nn.functional.relu, nn.functional.gelu, nn.functional.silu}
_OVER_PLACES = (((-2, -1),), ((-1, -2),), ((2, 3),), ([-2, -1],), ([2, 3],), (1,))
"""Arguments of a mean over the places of a map, and of a flattening that keeps the samples apart."""


@checked_fields
@dataclass(frozen=True)
class Units(Transform):
    """Leave out whole units and build the smaller layers.

    A unit is a row of a linear layer or an output channel of a convolution whose outputs reach, through activations,
    pooling and norms, other layers of these kinds alone; or a head of an attention.  What is added to other outputs, as
    at the end of a residual block, stays.  Unlike weights that are 0, what is left out takes no time.

    Attributes:
        sparsity: the share of units of each layer that leaves, in [0, 1).
        of: "rows" (of convolutions the channels) or "heads" (of the package's attentions, and modules that have
            `heads` and `query`, `key`, `value` like them).
        followers: {path: path of the layer that reads its outputs}, for networks whose layers cannot be followed.
        select: paths or patterns of layers.
        skip: those that stay as they are.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> smaller, log = Units(sparsity=0.5, select=("0",)).apply(model)
        >>> smaller[0], smaller[2]
        (Linear(in_features=8, out_features=8, bias=True), Linear(in_features=8, out_features=4, bias=True))

    Reference:
        Li et al. (2017), "Pruning Filters for Efficient ConvNets", arXiv:1608.08710; Michel et al. (2019), "Are Sixteen
        Heads Really Better than One?", arXiv:1905.10650, for heads.
    """

    sparsity: float = 0.5
    of: Literal["rows", "heads"] = "rows"
    followers: Mapping[str, str] = field(default_factory=dict)
    select: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity: found {self.sparsity!r}, expected a number in [0, 1)")
        checks.choice("of", self.of, ("rows", "heads"))
        if self.followers and self.of == "heads":
            raise InputError("followers: found some beside of: heads, whose layers are known; leave them out")
        check_globs(self.select, self.skip)

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Leave out the units of the smallest norm."""
        edits, changed, kept = (self._heads if self.of == "heads" else self._rows)(model)
        for path, axis, places in edits:
            _cut(model.get_submodule(path), axis, places)
        plan = [[path, axis, len(places)] for path, axis, places in edits]
        return model, Log(changed, kept, {"edits": plan})

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Build layers of the planned sizes."""
        for path, axis, size in plan["edits"]:
            _cut(model.get_submodule(path), axis, torch.arange(size))
        return model

    def _rows(self, model: nn.Module) -> tuple[list["_Edit"], dict[str, str], dict[str, str]]:
        reached = _followed(model, self.followers)
        paths = {id(module): path for path, module in model.named_modules()}

        def complaint(module: nn.Module) -> str | None:
            return _complaint(model, module) or reached.get(paths[id(module)], _Reach("it is not followed")).why

        chosen = select_layers(model, self.select, self.skip, kind=self.kind, complaint=complaint)
        edits: list[_Edit] = []
        changed: dict[str, str] = {}
        for path, module in chosen.layers.items():
            weight: Tensor = module.weight  # type: ignore[assignment]
            mask = unit_mask(weight, self.sparsity)
            stay = mask.nonzero().flatten()
            edits.append((path, "rows", stay))
            reach = reached[path]
            edits += [(norm, "rows", stay) for norm in reach.norms]
            for follower in reach.layers:
                inputs = model.get_submodule(follower).weight.shape[1]  # type: ignore[index]
                block = int(inputs) // len(mask)  # places of a map that was flattened
                if block > 1 and isinstance(module, nn.Linear):
                    raise ModelError(f"units: '{follower}' reads tokens of '{path}' side by side; skip '{path}'")
                edits.append((follower, "columns", mask.repeat_interleave(block).nonzero().flatten()))
                changed.setdefault(follower, "reads fewer inputs")
            changed[path] = f"{type(module).__name__} {tuple(weight.shape)}: {len(stay)} of {len(mask)} units stay"
        return edits, changed, {path: why for path, why in chosen.kept.items() if path not in changed}

    def _heads(self, model: nn.Module) -> tuple[list["_Edit"], dict[str, str], dict[str, str]]:
        edits: list[_Edit] = []
        changed: dict[str, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            parts = _attention(module)
            if parts is None or not matches(path, self.select) or matches(path, self.skip):
                continue
            inner, outer, copies = parts
            heads = int(module.heads)
            rows = [module.get_submodule(name).weight.detach() for name in inner]
            parts_of = [row.reshape(copies, heads, -1).transpose(0, 1).reshape(heads, -1) for row in rows]
            mask = unit_mask(torch.cat(parts_of, 1), self.sparsity)
            width = len(rows[0]) // copies
            stay = mask.repeat_interleave(width // heads)
            edits += [(f"{path}.{name}", "rows", stay.repeat(copies).nonzero().flatten()) for name in inner]
            edits += [
                (f"{path}.{outer}", "columns", stay.nonzero().flatten()),
                (path, "heads", mask.nonzero().flatten()),
            ]
            changed[path] = f"{type(module).__name__}: {int(mask.sum())} of {heads} heads stay"
        if not changed:
            raise InputError(f"select: found {list(self.select)}, which leaves no attention with heads; expected some")
        kept = {
            path: "units leaves it as it is"
            for path, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
            and not any(path == own or path.startswith(f"{own}.") for own in changed)
        }
        return edits, changed, kept


_Edit = tuple[str, str, Tensor]


@dataclass(frozen=True)
class _Reach:
    """Where a layer's outputs go: why they cannot be followed, or the norms on their way and the layers at its end."""

    why: str | None = None
    norms: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def _complaint(model: nn.Module, module: nn.Module) -> str | None:
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"units does not change a {type(module).__name__}"
    if complaint := computed_complaint(module, "units"):
        return complaint
    if getattr(module, "groups", 1) != 1:
        return "units does not change a grouped convolution"
    if len(owners(model, module.weight)) > 1:
        return "its weight is another layer's too"
    return None


def _followed(model: nn.Module, followers: Mapping[str, str]) -> dict[str, _Reach]:
    """Return where the outputs of linear layers and convolutions go."""
    if followers:
        paths = [path for path, _ in model.named_modules() if path]
        for path in (*followers, *followers.values()):
            if path not in paths:
                raise InputError(f"followers: there is no layer '{path}'; {one_of(path, paths)}")
        return {path: _Reach(layers=(follower,)) for path, follower in followers.items()}
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # noqa: BLE001 - whatever a network's own code raises for values that are no numbers
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"units: the layers cannot be followed ({line[:200]}); name which layer reads which: followers: "
            "{'fc1': 'fc2'}"
        ) from None
    modules = dict(model.named_modules())
    found: dict[str, _Reach] = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if node.target in found:
                found[node.target] = _Reach("it is called twice")
            else:
                found[node.target] = _reach(node, modules)
    return found


def _reach(node: fx.Node, modules: Mapping[str, nn.Module]) -> _Reach:
    norms: list[str] = []
    layers: list[str] = []
    for user in node.users:
        module = modules[str(user.target)] if user.op == "call_module" else None
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if getattr(module, "groups", 1) != 1 or hasattr(module, "parametrizations"):
                return _Reach(f"'{user.target}' reads it, which is grouped, masked, quantised or shared")
            layers.append(str(user.target))
            continue
        if isinstance(module, _BatchNorm):
            norms.append(str(user.target))
        elif user.op == "output":
            return _Reach("its outputs are the answer")
        elif not _keeps_units(user, module):
            what = type(module).__name__ if module is not None else getattr(user.target, "__name__", str(user.target))
            return _Reach(f"its outputs go into {what}, which is not followed")
        inner = _reach(user, modules)
        if inner.why:
            return inner
        norms += inner.norms
        layers += inner.layers
    return _Reach(norms=tuple(dict.fromkeys(norms)), layers=tuple(dict.fromkeys(layers)))


def _keeps_units(user: fx.Node, module: nn.Module | None) -> bool:
    """Return whether an operation gives each unit of its input apart."""
    if module is not None:
        activation = type(module).__module__ == nn.ReLU.__module__ and not isinstance(
            module, nn.Softmax | nn.GLU | nn.MultiheadAttention | nn.PReLU | nn.LogSoftmax | nn.Softmin | nn.Softmax2d
        )
        return activation or isinstance(module, (*_SAME_UNITS, *_OF_MAPS))
    if user.target in ("mean", "flatten", torch.flatten):
        flat = user.target != "mean"
        return user.args[1:] in _OVER_PLACES and (user.args[1:] == (1,)) == flat and not user.kwargs
    return (user.op == "call_function" and user.target in _FUNCTIONS) or user.target in ("relu", "contiguous")


def _attention(module: nn.Module) -> tuple[list[str], str, int] | None:
    """Return the names of an attention's inner layers and of the one after it, and how many copies are stacked."""
    if not isinstance(getattr(module, "heads", None), int):
        return None
    names = dict(module.named_children())
    if {"query", "key", "value", "output"} <= names.keys() and isinstance(
        getattr(names["output"], "dense", None), nn.Linear
    ):
        return ["query", "key", "value"], "output.dense", 1
    if {"qkv", "proj"} <= names.keys():
        return ["qkv"], "proj", 3
    return None


def _cut(module: nn.Module, axis: str, places: Tensor) -> None:
    """Leave some rows or columns of a layer, in place."""
    if axis == "heads":
        module.heads = len(places)  # type: ignore[assignment]
        return
    dim = 0 if axis == "rows" else 1
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, name, None)
        if not isinstance(tensor, Tensor) or (axis == "columns" and name != "weight"):
            continue
        cut = tensor.detach().index_select(dim, places.to(tensor.device)).clone()
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(cut, tensor.requires_grad))
        else:
            module.register_buffer(name, cut)
    size = len(places)
    if isinstance(module, nn.Linear):
        setattr(module, "out_features" if dim == 0 else "in_features", size)
    elif isinstance(module, _BatchNorm):
        module.num_features = size
    else:
        setattr(module, "out_channels" if dim == 0 else "in_channels", size)
