"""How near the layers that a run compares came to each other: the student before training, alone and distilled."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import SampleSet
from limbeck.data.selection import evenly
from limbeck.errors import LimbeckError
from limbeck.evaluation import (
    Interval,
    MinibatchCKA,
    attention_map,
    has_attention_map,
    sparsity_difference,
    t_interval,
)
from limbeck.experiment.building import SeedBuilder, as_teacher
from limbeck.features import FeatureTerm
from limbeck.layers import Layers
from limbeck.networks import evaluating
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.results.finished import FinishedRun

__all__ = ["INITIAL", "LayerMaps", "LayerSimilarity", "attention_maps", "compare_layers", "compared_layers"]

INITIAL = "initial"
"""The role of the distilled student before its training."""

_MEASURED = 500  # examples
_AT_ONCE = 100  # examples whose features are held at a time
_FEWEST = 4  # examples that CKA can be estimated of


@dataclass(frozen=True)
class LayerSimilarity:
    """How similar a layer of the student is to the teacher's layer that it is compared with.

    student, teacher: their places.  student_shape, teacher_shape: of one example's features.
    cka: linear CKA, debiased (see `MinibatchCKA`), over the seeds by role: "initial" (the student before training),
    "alone" and "distilled".
    sparsity: the share of units whose activity differs from the teacher's, by role; empty where the shapes differ.
    examples: that were measured.
    """

    student: str
    teacher: str
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    cka: Mapping[str, Interval]
    sparsity: Mapping[str, Interval]
    examples: int


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Attention maps (n, H, W) of examples in two layers that are compared, by role, the teacher's among them."""

    student: str
    teacher: str
    maps: Mapping[str, Tensor]


@dataclass(eq=False)
class _Sums:
    """What is added up over the batches, for a pair of layers and a student."""

    cka: MinibatchCKA = field(default_factory=MinibatchCKA)
    differing: float = 0.0
    examples: int = 0
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def add(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
        self.cka.add(student, teacher, mask)
        self.shapes = tuple(student.shape[1:]), tuple(teacher.shape[1:])
        share = sparsity_difference(student, teacher) if student.shape == teacher.shape else math.nan
        self.differing += len(student) * share
        self.examples += len(student)


def compared_layers(objective: Objective) -> Layers | None:
    """Return the pairs of layers that an objective compares, each once; None where it compares none."""
    terms = [term for term in objective.modules() if isinstance(term, FeatureTerm)]
    pairs = tuple(dict.fromkeys(pair for term in terms for pair in term.layers.pairs))
    return Layers(pairs) if pairs else None


def compare_layers(run: FinishedRun, samples: SampleSet, device: torch.device) -> tuple[LayerSimilarity, ...]:
    """Measure the layers that a run compares, on up to 500 samples spread evenly; nothing where it compares none.

    samples: of the test set; nothing is chosen by them.
    Raises LimbeckError where a model cannot be read, or has no such layer.
    """
    layers = _layers(run)
    if layers is None or len(samples) < _FEWEST:
        return ()
    chosen = evenly(len(samples), _MEASURED)
    parts = chosen.tensor_split(math.ceil(len(chosen) / _AT_ONCE))
    found: dict[tuple[str, str], dict[str, list[_Sums]]] = {pair: {} for pair in layers.pairs}
    for seed in run.seeds:
        of_seed: dict[tuple[tuple[str, str], str], _Sums] = {}
        for batch, features in _features(run, layers, seed, samples, parts, device):
            teacher = features.pop("teacher")
            for role, student in features.items():
                for own, other in layers.pairs:
                    sums = of_seed.setdefault(((own, other), role), _Sums())
                    sums.add(*_real(student[own], teacher[other], batch))
        for (pair, role), sums in of_seed.items():
            found[pair].setdefault(role, []).append(sums)
    return tuple(_similarity(pair, by_role, len(chosen)) for pair, by_role in found.items())


def _real(student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return features of a batch and its mask; of padded texts the real tokens, one a row, without a mask."""
    padding = batch.padding
    if padding is None or student.dim() != 3 or teacher.dim() != 3:
        return student, teacher, batch.mask if batch.mask is None or batch.mask.dim() == 1 else None
    return student[padding], teacher[padding], None


def _similarity(pair: tuple[str, str], found: Mapping[str, Sequence[_Sums]], examples: int) -> LayerSimilarity:
    cka = {role: [each.cka.value for each in every] for role, every in found.items()}
    sparsity = {role: [each.differing / each.examples for each in every] for role, every in found.items()}
    student_shape, teacher_shape = next(iter(found.values()))[0].shapes
    cka_over_seeds, sparsity_over_seeds = (
        {role: t_interval(values) for role, values in figures.items() if all(map(math.isfinite, values))}
        for figures in (cka, sparsity)
    )
    return LayerSimilarity(*pair, student_shape, teacher_shape, cka_over_seeds, sparsity_over_seeds, examples)


def attention_maps(run: FinishedRun, samples: SampleSet, device: torch.device) -> tuple[LayerMaps, ...]:
    """Return the attention maps of a few samples at the first seed, in the compared layers that have such maps."""
    layers = _layers(run)
    if layers is None:
        return ()
    [(_, features)] = _features(run, layers, run.seeds[0], samples, [torch.arange(len(samples))], device)
    found = []
    for own, other in layers.pairs:
        places = {role: each[other if role == "teacher" else own] for role, each in features.items()}
        if all(has_attention_map(each.shape) for each in places.values()):
            found.append(LayerMaps(own, other, {role: attention_map(each).cpu() for role, each in places.items()}))
    return tuple(found)


def _layers(run: FinishedRun) -> Layers | None:
    return compared_layers(run.recipe.inspected) if run.recipe.scheme.uses_teacher else None


@torch.no_grad()
def _features(
    run: FinishedRun, layers: Layers, seed: int, samples: SampleSet, parts: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[Batch, dict[str, Mapping[str, Tensor]]]]:
    """Yield batches at these positions, and the layers' features by role, the teacher's first, and by place."""
    taps, recipe = layers.taps(), run.recipe.without_checkpoints()
    teacher = as_teacher(recipe, run.teacher(seed)).to(device)
    students = {role: run.student(role, seed) for role in ("alone", "distilled")}
    initial = _initial(run, seed)
    students = students if initial is None else {INITIAL: initial, **students}
    for model in students.values():
        model.to(device)
    for positions in parts:
        batch = samples.batch(positions, augment=None, seed=0, view=0, clean_view=True).to(device)
        features: dict[str, Mapping[str, Tensor]] = {"teacher": teacher(batch, taps["teacher"]).features}
        for role, model in students.items():
            with evaluating(model):
                features[role] = run_model(model, batch.inputs, taps["student"], task=batch.task, role=role).features
        yield batch, features


def _initial(run: FinishedRun, seed: int) -> nn.Module | None:
    """Return the distilled student as it began; None where it began with the weights of a file that is gone."""
    try:
        return run.recipe.scheme.build("distilled", SeedBuilder(run.recipe, run.signature.parts(), seed))
    except LimbeckError:
        return None
