"""Weights that a layer computes from what is trained: masked, rounded, shared; and as they are stored for use.

Each class here is a parametrisation of torch (`torch.nn.utils.parametrize`), so that it serves any layer with any
weight, and no optimizer, average or checkpoint has to know of it.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.compress.gradients import learned_steps, movement, straight_through
from limbeck.compress.quantisation import (
    Grid,
    activation_grid,
    dequantize,
    grouped,
    on_grid,
    pack,
    to_16bit,
    ungrouped,
    unpack,
    weight_scales,
)
from limbeck.compress.streams import Coded, write_codes
from limbeck.errors import ModelError

__all__ = [
    "Half",
    "InputGrid",
    "LearnedSteps",
    "Mask",
    "Movement",
    "Packed",
    "PackedHalf",
    "Place",
    "Rounded",
    "Shared",
    "computed_by",
    "computed_complaint",
    "fold",
    "is_rounded",
    "layers_of",
    "named",
    "places_of",
    "put",
    "quantize_input",
    "replace",
    "settle",
    "store_codes",
    "store_grid",
    "store_half",
    "weights_of_layer",
]

Place = tuple[str, str]
"""Where a weight stands: the path of its layer, and the layer's name for it."""


# -- computed while training -----------------------------------------------------------------------------------------


class Mask(nn.Module):
    """A weight of which some are exactly 0, whatever the optimizer does; their gradient is 0.

    mask: of the weight's shape, True for a weight that stays.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


class Movement(nn.Module):
    """A weight that is masked by learned scores, of which the lowest share `sparsity` is left out."""

    sparsity: Tensor
    without_decay = ("scores",)

    def __init__(self, like: Tensor, sparsity: float = 0.0) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(like))
        self.register_buffer("sparsity", torch.tensor(sparsity, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        return movement(weight, self.scores, float(self.sparsity))


class Rounded(nn.Module):
    """A weight on the symmetric grid of its largest magnitudes, with the straight-through gradient."""

    def __init__(self, bits: int, group: int) -> None:
        super().__init__()
        self.bits, self.group = bits, group

    def grid(self, weight: Tensor) -> Grid:
        highest = 2 ** (self.bits - 1) - 1
        scales = weight_scales(weight.detach(), self.bits, group=self.group)
        return on_grid(weight.detach(), scales, highest, highest, self.group)

    def forward(self, weight: Tensor) -> Tensor:
        highest = 2 ** (self.bits - 1) - 1
        scales = weight_scales(weight.detach(), self.bits, group=self.group)[..., None]
        rounded = straight_through(grouped(weight, self.group), scales, lowest=-highest, highest=highest)
        return ungrouped(rounded, weight)


class LearnedSteps(nn.Module):
    """A weight on a symmetric grid whose steps, one a row or group, are learned."""

    without_decay = ("steps",)

    def __init__(self, steps: Tensor, bits: int, group: int) -> None:
        super().__init__()
        self.steps = nn.Parameter(steps.clone())
        self.bits, self.group = bits, group

    def _steps(self) -> Tensor:
        return self.steps.abs().clamp_min(torch.finfo(self.steps.dtype).tiny)

    def grid(self, weight: Tensor) -> Grid:
        lowest, highest = 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1
        return on_grid(weight.detach(), self._steps().detach(), lowest, highest, self.group)

    def forward(self, weight: Tensor) -> Tensor:
        lowest, highest = 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1
        rounded = learned_steps(grouped(weight, self.group), self._steps()[..., None], lowest=lowest, highest=highest)
        return ungrouped(rounded, weight)


class Half(nn.Module):
    """A weight rounded to 16 bits, with the gradient of the identity."""

    def __init__(self, kind: Literal["fp16", "bf16"]) -> None:
        super().__init__()
        self.kind = kind

    def in_16bit(self, weight: Tensor) -> Tensor:
        return to_16bit(weight, self.kind)

    def forward(self, weight: Tensor) -> Tensor:
        rounded: Tensor = _Identity.apply(weight, self.in_16bit(weight).to(weight.dtype))  # type: ignore[no-untyped-call]
        return rounded


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, _weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class Shared(nn.Module):
    """A weight made of few values: the parameter is the table of centroids, whose gradients are sums over each code."""

    codes: Tensor
    mask: Tensor

    def __init__(self, codes: Tensor, mask: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("codes", codes.to(torch.uint8))
        self.register_buffer("mask", mask.clone())

    def forward(self, centroids: Tensor) -> Tensor:
        weight = centroids[self.codes.long()]
        return torch.where(self.mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


class InputGrid(nn.Module):
    """A layer's input rounded to an asymmetric grid: of each token or sample as it comes, or of a range that is known.

    dynamic: whether the range is that of each last axis (of each sample, for maps); else it is `low` to `high`, which
    follow the batches while the layer trains and `observing` is true.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, *, dynamic: bool, maps: bool, low: float = 0.0, high: float = 0.0) -> None:
        super().__init__()
        self.bits, self.dynamic, self.maps = bits, dynamic, maps
        self.observing = True
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, values: Tensor) -> Tensor:
        if self.dynamic:
            axes = tuple(range(1, values.dim())) if self.maps else (-1,)
            low, high = values.detach().amin(axes, keepdim=True), values.detach().amax(axes, keepdim=True)
        else:
            if self.training and self.observing:
                with torch.no_grad():
                    self.low.lerp_(values.amin().to(self.low), _FOLLOW)
                    self.high.lerp_(values.amax().to(self.high), _FOLLOW)
            low, high = self.low.clone(), self.high.clone()
        scale, zero = activation_grid(low, high, self.bits)
        return straight_through(values, scale, zero, lowest=0, highest=2**self.bits - 1)


_FOLLOW = 0.01
"""How far a range moves towards that of each batch."""


def quantize_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Round the first input of a layer by its own `input_grid`; a forward pre-hook."""
    if not inputs:
        raise ModelError("activations: found a layer that is called by keywords, expected its input first; skip it")
    return (layer.input_grid(inputs[0]), *inputs[1:])  # type: ignore[operator]


# -- as it is stored -------------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """A weight that is stored as codes of 8 or 4 bits with their scales, and computed when it is used."""

    scales: Tensor

    def __init__(self, shape: Sequence[int], scales: Tensor, bits: int, group: int) -> None:
        super().__init__()
        self.shape, self.bits, self.group = tuple(shape), bits, group
        self.register_buffer("scales", scales.clone())

    def forward(self, codes: Tensor) -> Tensor:
        if self.bits <= 4:
            codes = unpack(codes, torch.Size(self.shape).numel()).reshape(self.shape)
        return dequantize(Grid(codes, self.scales, self.group))


class PackedHalf(nn.Module):
    """A weight that is stored in 16 bits and used in the network's own type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, half: Tensor) -> Tensor:
        return half.to(self.dtype)


# -- putting them into a network -------------------------------------------------------------------------------------


def places_of(model: nn.Module, paths: Sequence[str], least: int = 2) -> list[list[Place]]:
    """Return the weights of layers, those of `least` axes or more, each with all places where the same tensor stands.

    Raises ModelError where a place of a tied weight is outside the layers.
    """
    found: dict[int, list[Place]] = {}
    for path, module in layers_of(model):
        if path in paths:
            found |= {id(tensor): [] for tensor in weights_of_layer(module, least).values() if id(tensor) not in found}
    for path, module in layers_of(model):
        for name, tensor in weights_of_layer(module, least).items():
            if id(tensor) in found:
                found[id(tensor)].append((path, name))
    for places in found.values():
        outside = [path for path, _ in places if path not in paths]
        if outside:
            inside = next(path for path, _ in places if path in paths)
            raise ModelError(
                f"layers: the weight of '{inside}' is that of '{outside[0]}' too, which is not selected; select both,"
                " or skip both"
            )
    return list(found.values())


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a network at each of their paths, without those that compute a weight."""
    for path, module in model.named_modules(remove_duplicate=False):
        if "parametrizations" not in path.split("."):
            yield path, module


def weights_of_layer(module: nn.Module, least: int = 2) -> dict[str, Tensor]:
    """Return a layer's own weights of `least` axes or more, as the tensors that are trained, by the layer's names."""
    own: dict[str, Tensor] = {
        name: each for name, each in module.named_parameters(recurse=False) if each.dim() >= least
    }
    for name, chain in getattr(module, "parametrizations", {}).items():
        if _is_own(chain):
            own[name] = chain.original
    return own


def _is_own(chain: nn.Module) -> bool:
    """Return whether a weight is computed by modules of this package alone, and not by a user's."""
    return all(type(each).__module__.startswith("limbeck.compress.") for each in chain.children())


def computed_by(module: nn.Module, name: str) -> list[nn.Module]:
    """Return what computes a layer's weight, in order; nothing where it is plain."""
    chains = getattr(module, "parametrizations", {})
    return list(chains[name]) if name in chains else []


def is_rounded(module: nn.Module, least: int = 2) -> bool:
    """Return whether some of a layer's weights of `least` axes or more are computed by more than masks."""
    names = weights_of_layer(module, least)
    return any(not isinstance(each, Mask | Movement) for name in names for each in computed_by(module, name))


def computed_complaint(module: nn.Module, kind: str) -> str | None:
    """Return why a transform that builds layers anew cannot do so; None where no weight is computed."""
    if hasattr(module, "parametrizations"):
        return f"its weight is masked, quantised or shared already; put {kind} before that"
    return None


def named(place: Place) -> str:
    """Return a place as the name of its weight."""
    return ".".join(filter(None, place))


def put(model: nn.Module, places: Sequence[Place], computation: nn.Module) -> None:
    """Let a weight be computed further, at all of its places by the same module."""
    for path, name in places:
        module = model.get_submodule(path)
        chains = getattr(module, "parametrizations", {})
        own = chains[name].original if name in chains else getattr(module, name)
        _set(module, name, own, [*computed_by(module, name), computation])


def fold(model: nn.Module, places: Sequence[Place]) -> nn.Parameter:
    """Replace a computed weight by what it is now, one plain parameter at all of its places."""
    path, name = places[0]
    with torch.no_grad():
        value = getattr(model.get_submodule(path), name).detach().clone()
    parameter = nn.Parameter(value)
    replace(model, places, parameter)
    return parameter


def replace(model: nn.Module, places: Sequence[Place], tensor: Tensor) -> None:
    """Put a parameter, or a buffer, in a weight's places."""
    for path, name in places:
        _set(model.get_submodule(path), name, tensor, [])


def _set(module: nn.Module, name: str, tensor: Tensor, computations: Sequence[nn.Module]) -> None:
    """Let a layer's weight be a tensor that is computed on by some modules.

    What torch changes when it registers or removes a parametrisation is the class of a layer, which copies of the layer
    have too; so all of them are registered anew, which makes a class of this layer's own.
    """
    present = getattr(module, "parametrizations", {})
    foreign = [other for other, chain in present.items() if not _is_own(chain)]
    if foreign:
        raise ModelError(
            f"layers: '{foreign[0]}' of a {type(module).__bases__[0].__name__} is computed by a parametrisation of its"
            " own; remove that (torch.nn.utils.parametrize.remove_parametrizations), or skip the layer"
        )
    chains = {other: (chain.original, list(chain)) for other, chain in present.items()}
    if chains:
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for other, (own, _) in chains.items():
            _register(module, other, own)
    if name in module._parameters or name in module._buffers:  # noqa: SLF001
        delattr(module, name)
    _register(module, name, tensor)
    for other, (_, chain) in {**chains, name: (tensor, list(computations))}.items():
        for computation in chain:
            parametrize.register_parametrization(module, other, computation, unsafe=True)
    if isinstance(module, nn.RNNBase):
        if parametrize.is_parametrized(module):
            type(module).__deepcopy__ = _copy_recurrent  # type: ignore[attr-defined]
        else:
            module._init_flat_weights()  # noqa: SLF001


def _copy_recurrent(module: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
    """Copy a recurrent layer without the weights of its last call, which it computes anew in each."""
    module._flat_weights = []  # noqa: SLF001
    copied = module.__new__(type(module))
    memo[id(module)] = copied
    copied.__dict__ = deepcopy(module.__dict__, memo)
    return copied


def _register(module: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def settle(model: nn.Module, places: Sequence[Place]) -> None:
    """Put a weight into the form in which it is stored: masks folded, grids packed, codes as streams."""
    path, name = places[0]
    chain = computed_by(model.get_submodule(path), name)
    last = chain[-1] if chain else None
    if last is None or isinstance(last, Coded | Packed | PackedHalf):
        return
    if isinstance(last, Shared):
        centroids = weights_of_layer(model.get_submodule(path), 1)[name]
        store_codes(model, places, write_codes(last.codes, last.mask, last.bits), tuple(last.codes.shape), centroids)
        return
    if isinstance(last, Mask | Movement):
        fold(model, places)
        return
    with torch.no_grad():
        weight = weights_of_layer(model.get_submodule(path))[name]
        for computation in chain[:-1]:
            weight = computation(weight)
        if isinstance(last, Half):
            store_half(model, places, last.in_16bit(weight), weight.dtype)
        elif isinstance(last, Rounded | LearnedSteps):
            store_grid(model, places, last.grid(weight), last.bits)
        else:
            raise ModelError(
                f"layers: the weight of '{path}' is computed by a {type(last).__name__}, which is not stored;"
                " remove that parametrisation"
            )


def store_half(model: nn.Module, places: Sequence[Place], half: Tensor, dtype: torch.dtype) -> None:
    """Put a weight of 16 bits, used in a type, in a weight's places."""
    replace(model, places, half)
    put(model, places, PackedHalf(dtype))


def store_codes(
    model: nn.Module, places: Sequence[Place], stream: Tensor, shape: tuple[int, ...], centroids: Tensor
) -> None:
    """Put a stream of codes with their centroids in a weight's places."""
    replace(model, places, stream)
    put(model, places, Coded(shape, centroids))


def store_grid(model: nn.Module, places: Sequence[Place], grid: Grid, bits: int) -> None:
    """Put codes with their scales in a weight's places."""
    replace(model, places, pack(grid.codes) if bits <= 4 else grid.codes.clone())
    put(model, places, Packed(grid.codes.shape, grid.scales, bits, grid.group))
