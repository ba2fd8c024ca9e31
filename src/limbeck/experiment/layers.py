"""The layers of a recipe's student and teacher: their paths, what they give, and which of them can be paired."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import pooling

from limbeck.batch import Batch
from limbeck.config import Recipe
from limbeck.data import SampleSet
from limbeck.experiment.building import as_teacher, build_student, build_teacher
from limbeck.experiment.parts import prepare
from limbeck.networks import canonical_path, evaluating
from limbeck.outputs import run_model
from limbeck.teachers.restricted import RestrictedModel

__all__ = ["Layer", "NetworkLayers", "Proposal", "RecipeLayers", "layers_of", "propose", "read_layers"]

_SAMPLES = 3
_MOST_PAIRS = 4
_STAGE = re.compile(r"stage\d+")
_KINDS = {2: "vectors", 3: "tokens", 4: "maps"}


@dataclass(frozen=True)
class Layer:
    """A module of a network, as it answered a batch.

    path: as `layers` of a method names it.  module: its class.  shape: of what it gives for one sample; None where it
    gives no tensor with a row for each sample, or is not called.  mark: "stage" or "pooled vector"; empty for others.
    preactivation: the place of what the ReLU after it reads, where the network says so.
    """

    path: str
    module: str
    shape: tuple[int, ...] | None
    mark: str = ""
    preactivation: str = ""

    @property
    def kind(self) -> str:
        """What it gives: vectors, tokens or maps; empty for anything else."""
        return "" if self.shape is None else _KINDS.get(len(self.shape) + 1, "")


@dataclass(frozen=True)
class NetworkLayers:
    """The layers of a network in the order of its modules.

    name: the network's, as a recipe calls it.  pooled: the place of the vector that the last linear layer reads.
    """

    name: str
    layers: tuple[Layer, ...]
    pooled: str | None = None

    @property
    def stages(self) -> tuple[Layer, ...]:
        """The outputs of its stages."""
        return tuple(layer for layer in self.layers if layer.mark == "stage")


@dataclass(frozen=True)
class Proposal:
    """Pairs of layers that a method can compare.

    layers: as a recipe writes them, {student's path: teacher's path} or a list of paths alike in both.
    kind: what they give: maps, tokens or vectors.  by: what they have in common.
    """

    layers: list[str] | dict[str, str]
    kind: str
    by: str


@dataclass(frozen=True)
class RecipeLayers:
    """The layers of a recipe's networks, and pairs of them.

    teacher: None where the recipe has no teacher with layers; `note` says why.
    """

    student: NetworkLayers
    teacher: NetworkLayers | None
    proposals: tuple[Proposal, ...]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def read_layers(recipe: Recipe) -> RecipeLayers:
    """Build a recipe's student and teacher, without training them, and list their layers for a few of its samples.

    The recipe's method is not built, so that layers which it names may be wrong.
    """
    parts = prepare(recipe)
    batch = _batch(parts.train)
    student = build_student(recipe, parts, recipe.seeds[0])
    own = layers_of(
        student, lambda: run_model(student, batch.inputs, task=batch.task).logits, str(_name(recipe.student.keys()))
    )
    members = recipe.teacher.members
    if not recipe.scheme.uses_teacher:
        return RecipeLayers(own, None, propose(own, own), "none: the scheme's networks teach each other")
    if not members[0].network:
        what = "an estimator" if members[0].estimator else "an ONNX file" if members[0].onnx else "answers in a file"
        return RecipeLayers(own, None, (), f"has no layers: it is {what}")
    if not recipe.teacher.single:
        return RecipeLayers(own, None, (), f"has no layers: it is the mean of {len(members)} networks")
    network = build_teacher(recipe, parts, recipe.seeds[0])
    teacher, name = as_teacher(recipe, network), str(_name(members[0].model.keys()))
    other = layers_of(network, lambda: teacher(batch).logits, name)
    return RecipeLayers(own, other, propose(own, other))


def _name(keys: Mapping[str, Any]) -> Any:
    return keys.get("kind", keys.get("factory"))


def _batch(samples: SampleSet) -> Batch:
    return samples.batch(torch.arange(min(_SAMPLES, len(samples))), augment=None, seed=0, view=0)


def layers_of(model: nn.Module, ask: Callable[[], Tensor], name: str = "") -> NetworkLayers:
    """List the layers of a network.

    ask: calls the network for a batch and returns its logits.  name: the network's.

    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> [(layer.path, layer.shape) for layer in layers_of(model, lambda: model(torch.zeros(2, 3))).layers]
    [('0', (8,)), ('1', (8,)), ('2', (4,))]
    """
    with evaluating(model), torch.no_grad(), _listening(model) as calls:
        logits = ask()
    given = {path: (module, value) for path, module, value in calls}  # the last call counts
    shapes = {
        path: tuple(value.shape[1:])
        for path, (_, value) in given.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == len(logits)
    }
    inside = _inside(model)
    declared = getattr(inside, "preactivations", {})
    stages, pooled = set(_stages(inside, given, shapes)), _pooled(model, given, shapes, logits)
    layers = []
    for path, module in _modules(model).items():
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            continue
        mark = "stage" if path in stages else "pooled vector" if path == pooled else ""
        layers.append(Layer(path, type(module).__name__, shapes.get(path), mark, declared.get(path, "")))
    return NetworkLayers(name, tuple(layers), pooled)


_Given = Mapping[str, tuple[nn.Module, Any]]
_Shapes = Mapping[str, tuple[int, ...]]


def _inside(model: nn.Module) -> nn.Module:
    """Return the network inside of wrappers, which are in no path."""
    children = list(model.named_children())
    while len(children) == 1 and not canonical_path(children[0][0]):
        model = children[0][1]
        children = list(model.named_children())
    return model


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return a network's modules by their canonical paths; a wrapper comes before what it wraps."""
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if canonical_path(path):
            found.setdefault(canonical_path(path), module)
    return found


@contextmanager
def _listening(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Any]]]:
    """Note what each module gives, in the order in which they end, while the scope is open."""
    calls: list[tuple[str, nn.Module, Any]] = []

    def note(path: str) -> Callable[..., None]:
        def heard(module: nn.Module, _: Any, output: Any) -> None:
            calls.append((path, module, output[0] if isinstance(output, tuple) and output else output))

        return heard

    handles = [module.register_forward_hook(note(path)) for path, module in _modules(model).items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _stages(model: nn.Module, given: _Given, shapes: _Shapes) -> Sequence[str]:
    """Return the paths of a network's stages, in order.

    They are called so; or they are blocks side by side, alike, that give tokens; or the last to give maps of each size.
    """
    named = [path for path, _ in model.named_children() if _STAGE.fullmatch(path) and path in shapes]
    if named:
        return named
    blocks: dict[tuple[str, type], list[str]] = {}
    sizes: dict[tuple[int, ...], str] = {}
    for path, (module, _) in given.items():
        shape, (parent, _, own) = shapes.get(path, ()), path.rpartition(".")
        if len(shape) == 2 and own.isdigit():
            blocks.setdefault((parent, type(module)), []).append(path)
        elif len(shape) == 3 and type(module).__module__ != pooling.__name__:
            sizes[shape[1:]] = path
    most = max(blocks.values(), key=len, default=[])
    return most if len(most) > 1 else [*sizes.values()]


def _pooled(model: nn.Module, given: _Given, shapes: _Shapes, logits: Tensor) -> str | None:
    """Return the place of the vectors that the linear layer which gives the logits reads; None if there is none."""
    for path, (module, value) in given.items():
        if isinstance(module, nn.Linear) and isinstance(value, Tensor) and value.dim() == 2:
            answer = value[:, model.chosen] if isinstance(model, RestrictedModel) else value
            if answer.shape == logits.shape and torch.equal(answer.to(logits), logits):
                return "pool" if len(shapes.get("pool", ())) == 1 else f"{path}@input"
    return None


def propose(student: NetworkLayers, teacher: NetworkLayers) -> tuple[Proposal, ...]:
    """Return pairs of layers to compare: the stages, where both have them, and what the last linear layers read."""
    found = []
    own, other = student.stages, teacher.stages
    kinds = {layer.kind for layer in (*own, *other)}
    if own and other and len(kinds) == 1:
        pairs, by = _paired(own, other)
        found.append(_proposal(pairs, kinds.pop(), by))
    if student.pooled and teacher.pooled:
        found.append(_proposal([(student.pooled, teacher.pooled)], "vectors", "what the last linear layer reads"))
    return tuple(found)


def _paired(own: Sequence[Layer], other: Sequence[Layer]) -> tuple[list[tuple[str, str]], str]:
    """Pair stages by their names, else by the size of their maps, else by their relative depth."""
    names = [layer.path for layer in own]
    if names == [layer.path for layer in other] and len(names) <= _MOST_PAIRS:
        return [(name, name) for name in names], "name"
    sizes = {layer.shape[1:]: layer.path for layer in own if layer.shape is not None and layer.kind == "maps"}
    alike = {
        sizes[layer.shape[1:]]: layer.path
        for layer in other
        if layer.shape is not None and layer.kind == "maps" and layer.shape[1:] in sizes
    }
    if len(alike) > 1:
        return [*alike.items()], "size"
    count = min(len(own), len(other), _MOST_PAIRS)
    places = [[math.ceil((place + 1) * len(each) / count) - 1 for place in range(count)] for each in (own, other)]
    return [(own[first].path, other[second].path) for first, second in zip(*places, strict=True)], "relative depth"


def _proposal(pairs: Sequence[tuple[str, str]], kind: str, by: str) -> Proposal:
    alike = all(first == second for first, second in pairs)
    return Proposal([first for first, _ in pairs] if alike else dict(pairs), kind, by)
