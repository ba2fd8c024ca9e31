"""Which layers two networks have, and which of them to compare: a proposal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from limbeck.networks import canonical_path

__all__ = ["NetworkLayer", "layers_of", "propose_pairs"]


@dataclass(frozen=True)
class NetworkLayer:
    """A module that gives a tensor.

    path: without what wrappers insert.  kind: its class.  shape: of its output, the batch axis included.
    parameters: it has, those of its parts included.  calls: how often a forward pass calls it.
    drops: whether it is dropout.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    calls: int = 1
    drops: bool = False


def layers_of(network: nn.Module, ask: Callable[[], object]) -> tuple[NetworkLayer, ...]:
    """Return the modules of a network that give a floating-point tensor, in the order in which they give it.

    ask: runs the network once.

    >>> network = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    >>> [(each.path, each.shape) for each in layers_of(network, lambda: network(torch.zeros(2, 3)))]
    [('0', (2, 5)), ('1', (2, 5))]
    """
    found: dict[str, NetworkLayer] = {}

    def reader(path: str) -> Callable[..., None]:
        def read(module: nn.Module, _: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple) and output else output
            if isinstance(value, Tensor) and value.is_floating_point():
                calls = found[path].calls + 1 if path in found else 1
                count = sum(weights.numel() for weights in module.parameters())
                drops = isinstance(module, nn.modules.dropout._DropoutNd)  # noqa: SLF001 - of all numbers of axes
                found[path] = NetworkLayer(path, type(module).__name__, tuple(value.shape), count, calls, drops)

        return read

    named = [(canonical_path(path), module) for path, module in network.named_modules() if path]
    handles = [module.register_forward_hook(reader(path)) for path, module in named if path]
    try:
        ask()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found.values())


def propose_pairs(student: Sequence[NetworkLayer], teacher: Sequence[NetworkLayer]) -> dict[str, str]:
    """Return layers to compare, {student's path: teacher's path}, in the order of the student's; perhaps none.

    Layers are the parts of a network, without those before its first weights and without its classifier.  Where both
    networks name their parts alike, parts of one name are a pair.  Else vectors are paired with vectors, tokens with
    tokens and maps with maps, as many as both have, in their order, by nearest size of the maps and relative depth.
    """
    own, other = _parts(student), _parts(teacher)
    if [each.path for each in own] == [each.path for each in other]:
        alike = zip(own, other, strict=True)
        return {one.path: two.path for one, two in alike if len(one.shape) == len(two.shape)}
    depths = ({each.path: (number + 1) / len(parts) for number, each in enumerate(parts)} for parts in (own, other))
    own_depth, other_depth = depths

    def cost(one: NetworkLayer, two: NetworkLayer) -> float:
        sizes = zip(_places(one), _places(two), strict=True)
        apart = sum(abs(math.log2(height / other_height)) for height, other_height in sizes)
        return apart + abs(own_depth[one.path] - other_depth[two.path])

    pairs: dict[str, str] = {}
    for axes in (2, 3, 4):
        sides = [[each for each in parts if len(each.shape) == axes] for parts in (own, other)]
        pairs |= {one.path: two.path for one, two in _aligned(sides[0], sides[1], cost)}
    return {each.path: pairs[each.path] for each in own if each.path in pairs}


def _places(layer: NetworkLayer) -> tuple[int, ...]:
    """Return the sizes of a layer without its examples and its channels."""
    if len(layer.shape) == 4:
        return layer.shape[2:]
    return layer.shape[1:2] if len(layer.shape) == 3 else ()


def _parts(layers: Sequence[NetworkLayer]) -> list[NetworkLayer]:
    """Return the layers that may be compared: the outermost parts of a network, from its first weights to its last."""
    parts = _outermost(layers, "")
    while len(parts) == 1 and (inner := _outermost(layers, f"{parts[0].path}.")):
        parts = inner
    weighted = [number for number, each in enumerate(parts) if each.parameters]
    parts = parts[weighted[0] : weighted[-1]] if weighted else []
    kept = [each for each in parts if each.calls == 1 and not each.drops and 2 <= len(each.shape) <= 4]
    leaves = {each.path for each in kept if not _outermost(layers, f"{each.path}.")}
    found: list[NetworkLayer] = []
    for each in kept:  # a linear layer, its normalisation and its ReLU are one
        goes_on = not each.parameters or "Norm" in each.kind
        if found and goes_on and {each.path, found[-1].path} <= leaves and found[-1].shape == each.shape:
            found.pop()
        found.append(each)
    return found


def _outermost(layers: Sequence[NetworkLayer], prefix: str) -> list[NetworkLayer]:
    """Return the layers below a path that lie in no other layer below it."""
    below = [each for each in layers if each.path.startswith(prefix)]
    paths = {each.path for each in below}

    def inside(path: str) -> bool:
        outer = path.removeprefix(prefix).split(".")[:-1]
        return any(prefix + ".".join(outer[: size + 1]) in paths for size in range(len(outer)))

    return [each for each in below if not inside(each.path)]


def _aligned(
    one: Sequence[NetworkLayer], two: Sequence[NetworkLayer], cost: Callable[[NetworkLayer, NetworkLayer], float]
) -> list[tuple[NetworkLayer, NetworkLayer]]:
    """Return the pairs of least cost, in the order of both, of as many layers as the shorter side has."""
    if len(one) > len(two):
        return [(b, a) for a, b in _aligned(two, one, lambda a, b: cost(b, a))]

    @cache
    def best(at: int, left: int) -> tuple[float, tuple[int, ...]]:
        """Return the least cost of pairing the layers from `at` on with those from `left` on, and their partners."""
        if at == len(one):
            return 0.0, ()
        last = len(two) - (len(one) - at)
        options = []
        for partner in range(left, last + 1):
            rest, partners = best(at + 1, partner + 1)
            options.append((cost(one[at], two[partner]) + rest, (partner, *partners)))
        return min(options)

    return [(one[at], two[partner]) for at, partner in enumerate(best(0, 0)[1])]
