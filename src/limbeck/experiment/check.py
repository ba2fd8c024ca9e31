"""A rehearsal of a recipe: everything is built and one batch is run, nothing is trained or written."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import methods, schemes
from limbeck.batch import UNLABELLED
from limbeck.card import Card
from limbeck.config import Recipe
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Distiller, require_gradient
from limbeck.evaluation import constant_accuracy, evaluate, parameters
from limbeck.experiment.agenda import repeats
from limbeck.experiment.building import SeedBuilder, as_teacher, build_teacher, check_weights, seeded_build
from limbeck.experiment.parts import Parts
from limbeck.experiment.plan import AskedOnce, TeacherPlan, plan_teacher
from limbeck.experiment.teacher import asked_once
from limbeck.experiment.vetting import vet
from limbeck.features import PairedLayers, paired_layers
from limbeck.networks import evaluating
from limbeck.objective import Loss
from limbeck.outputs import run_model
from limbeck.tasks import CLASSIFICATION
from limbeck.teacher import Teacher
from limbeck.training import Training
from limbeck.training.engine import laid_out, placed
from limbeck.training.memory import enough_memory
from limbeck.training.optimizers import make_optimizer

__all__ = ["Rehearsal", "RehearsedModel", "rehearse"]

_TIMED_STEPS, _SHARE = 5, 5
"""Steps that are timed after a first one, and the part of a training's steps that a rehearsal makes at most."""
_ANSWERED = 8  # samples that a given teacher answers
_SHORT = 0.5  # seconds for all of them, which nobody waits for
_NAMED = 2  # authors besides the first
_JUDGED, _FEWEST_JUDGED = 200, 30
"""Samples that a given teacher is judged by, and how few are too few."""


@dataclass(frozen=True)
class RehearsedModel:
    """One training that the recipe will run, or a teacher that is used as it is given, of which no steps are run.

    bytes: weights, gradients, optimizer state and saved activations of one step; of a given teacher the weights.
    steps: of one run; runs: how many.  asking: seconds in which the teacher answers each sample once, before each run.
    seconds: estimate for all runs.
    """

    role: str
    parameters: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    bytes: int
    seconds_a_step: float
    steps: int
    runs: int
    asking: float = 0.0

    @property
    def seconds(self) -> float:
        """The estimated time of all runs."""
        return (self.seconds_a_step * self.steps + self.asking) * self.runs


@dataclass(frozen=True)
class Rehearsal:
    """What a recipe's rehearsal found.

    notes: lines on what was left out of the data, or may have been meant otherwise.
    layers: of student and teacher, that the method compares.
    teacher: the ways to have its answers; None where the method reads none.
    """

    data: str
    method: str
    scheme: str
    models: tuple[RehearsedModel, ...]
    losses: dict[str, float]
    notes: tuple[str, ...] = ()
    layers: tuple[PairedLayers, ...] = ()
    teacher: TeacherPlan | None = None

    @property
    def trainings(self) -> int:
        """How many trainings there will be in all."""
        return sum(model.runs for model in self.models)

    @property
    def seconds(self) -> float:
        """The estimated time of all of them."""
        return sum(model.seconds for model in self.models)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"trainings": self.trainings, "seconds": self.seconds}


def rehearse(recipe: Recipe) -> Rehearsal:
    """Build a recipe's data, models and objective, and run a batch through each."""
    parts = vet(recipe, trains=False)
    builder = SeedBuilder(recipe, parts, recipe.seeds[0])
    seeds, (chosen, tried) = len(recipe.seeds), repeats(recipe)
    times = (seeds if recipe.teacher.seed is None else 1) + recipe.refit
    teachers = _teachers(recipe, parts, times)
    alone = Distiller(builder.student(), None, methods.hard())
    models = [*teachers, _time("student alone", alone, parts.alone, recipe.training, seeds + chosen)[0]]
    taught: list[RehearsedModel] = []
    owed, losses, layers, read = 0.0, dict[str, float](), dict[PairedLayers, None](), 0
    teacher: Teacher = as_teacher(recipe, build_teacher(recipe, parts, 0))
    ways = partial(plan_teacher, recipe, parts, teacher)
    if asked_once(recipe, teacher, parts):
        teacher = AskedOnce(teacher)
    for plan in recipe.scheme.planned(builder, teacher):
        runs = plan.count * ((1 if plan.once else seeds) + tried)
        timed, losses = _time(plan.label, plan.distiller, plan.samples, plan.training or recipe.training, runs)
        if plan.between is not None:
            timed = replace(timed, seconds_a_step=timed.seconds_a_step + _seconds(plan.between) / plan.period)
        if isinstance(plan.distiller.teacher, AskedOnce):
            timed = replace(timed, asking=plan.distiller.teacher.seconds_a_sample * len(plan.samples))
        layers |= dict.fromkeys(paired_layers(plan.distiller.objective))
        read += runs if plan.distiller.teacher is teacher else 0
        taught.append(timed)
        owed += 0.0 if plan.compared else timed.seconds
    if recipe.alone_budget is not None:
        seconds = owed / (seeds + tried)
        if recipe.alone_budget.teachers and recipe.scheme.uses_teacher:
            seconds += sum(model.seconds for model in teachers) / times
        models.append(_longer(models[-1], seconds, recipe.alone_budget.at_most, seeds))
    held_out = 0 if parts.held_out is None else len(parts.held_out)
    data = (
        f"{parts.train.name}: {len(parts.train):,} to train on, {held_out:,} held out, {len(parts.test):,} to test on, "
        f"{parts.train.classes} {parts.train.task.outputs_are[1]}, inputs {tuple(parts.train.input_shape)}"
    )
    if len(parts.transfer) != len(parts.train) or not recipe.transfer.labels:
        kind = "labelled" if recipe.transfer.labels else "unlabelled"
        data += f"; transfer set of {len(parts.transfer):,} {kind} samples"
        if recipe.transfer.synthetic is not None:
            data += f", of which {len(parts.transfer) - len(parts.alone):,} are made and unlabelled"
    return Rehearsal(
        data,
        "; ".join(map(_card, recipe.method.cards)),
        _card(schemes.card(schemes.name_of(recipe.scheme))),
        (*models, *taught),
        losses,
        (*parts.notes, *_transforms(recipe), *_apart(recipe, tuple(layers)), *_at_chance(recipe, parts)),
        tuple(layers),
        ways(read) if read else None,
    )


def _transforms(recipe: Recipe) -> list[str]:
    """Return a line on each teacher that sees the images in a size or normalisation of its own."""
    seen = [(member.model.where.rpartition(".")[0], member.model.sees) for member, _ in recipe.teacher.kinds()]
    return [f"{where}.input: the images are {sees}" for where, sees in seen if sees is not None]


def _apart(recipe: Recipe, layers: Sequence[PairedLayers]) -> list[str]:
    """Return a line where maps or tokens are compared of which student and teacher see different places."""
    view, placed = recipe.teacher.view, [each for each in layers if len(each.student_shape) > 2]
    if view == "same" or not placed or not recipe.training.augment.moves:
        return []
    return [
        f"layers: '{placed[0].student}' gives maps or tokens, and the teacher sees the {view} view while augment moves"
        " the student's, so their places differ; set teacher.view: same, or compare vectors, such as pool"
    ]


def _card(card: Card) -> str:
    first, *others = card.authors.split(", ")
    authors = f"{first} et al." if len(others) > _NAMED else card.authors
    return f"{card.name}: {card.formula} ({authors} {card.year})"


def _teachers(recipe: Recipe, parts: Parts, times: int) -> list[RehearsedModel]:
    """Time the recipe's teacher, or each kind of its members; one that is fitted or read at once is not timed."""
    found, taught = [], parts.of_teacher.train
    for member, count in recipe.teacher.kinds():
        if member.given:
            network = seeded_build(member.model, taught, 0, "teacher")
            check_weights(network, member.model)
            found.append(_as_given(network, taught))
        elif member.learns:
            distiller = Distiller(seeded_build(member.model, taught, 0, "teacher"), None, member.method.build())
            found.append(_time("teacher", distiller, taught, member.training, times * count)[0])
    return found


def _at_chance(recipe: Recipe, parts: Parts) -> list[str]:
    """Return a line on each teacher that is used as it is given and does no better than one answer for everything."""
    taught, found = parts.of_teacher, list[str]()
    samples = taught.train if taught.held_out is None else taught.held_out
    known = torch.where(samples.labels != UNLABELLED)[0] if samples.task == CLASSIFICATION else torch.zeros(0)
    if len(known) < _FEWEST_JUDGED:
        return []
    some = samples.subset(known[torch.linspace(0, len(known) - 1, min(_JUDGED, len(known))).long()])
    constant = constant_accuracy(some.labels, some.task)
    beyond = constant + 1.645 * (constant * (1.0 - constant) / len(some)) ** 0.5
    for member, _ in recipe.teacher.kinds():
        if not member.given:
            continue
        accuracy = evaluate(seeded_build(member.model, taught.train, 0, "teacher"), some).accuracy
        if accuracy <= beyond:
            found.append(
                f"{member.model.where}: the teacher is right for {accuracy:.0%} of {len(some)} labelled samples, and"
                f" one answer for all of them for {constant:.0%}; give it a training, or name one that knows this task"
            )
    return found


def _as_given(model: nn.Module, samples: SampleSet) -> RehearsedModel:
    """Run a batch through a network that teaches as it is."""
    batch = samples.batch(torch.arange(min(_ANSWERED, len(samples))), augment=None, seed=0, view=0)
    with evaluating(model), torch.no_grad():
        logits = run_model(model, batch.inputs, task=samples.task).logits
    return RehearsedModel(
        role="teacher, as given",
        parameters=parameters(model),
        inputs=_shape(batch.inputs),
        outputs=tuple(logits.shape),
        bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        seconds_a_step=0.0,
        steps=0,
        runs=0,
    )


def _shape(inputs: Any) -> tuple[int, ...]:
    """Return the shape of a batch's inputs; of several by name that of the first, such as the token ids."""
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return tuple(first.shape)


def _longer(alone: RehearsedModel, seconds: float, at_most: float, seeds: int) -> RehearsedModel:
    """Return the student alone, trained for so many seconds of work; a run will reckon in FLOPs instead."""
    times = min(at_most, seconds / (alone.seconds_a_step * alone.steps))
    return replace(alone, role="student alone, equal compute", steps=round(times * alone.steps), runs=seeds)


def _seconds(act: Callable[[], None]) -> float:
    """Return how long a call takes, once it has been made before."""
    act()
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _time(
    role: str, distiller: Distiller, samples: SampleSet, training: Training, runs: int
) -> tuple[RehearsedModel, dict[str, float]]:
    """Train a few steps on one batch, with networks that nothing else uses, in the precision asked for, and measure."""
    with enough_memory(role, distiller, training), distiller.in_chunks(training.chunked_head):
        return _measured(role, distiller, samples, training, runs)


def _measured(
    role: str, distiller: Distiller, samples: SampleSet, training: Training, runs: int
) -> tuple[RehearsedModel, dict[str, float]]:
    model = distiller.student
    loader = Loader(samples, training.batch_size, seed=0, augment=training.augment, clean_view=True)
    batch = placed(next(loader.epoch(0)), torch.device("cpu"), training.memory_format)
    distiller.objective.require_active(training.epochs * loader.steps)
    outputs = distiller.build(batch, classes=samples.classes, legend=samples.legend)["student"]
    optimizer = make_optimizer(distiller, training)
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    def forward() -> Loss:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
            loss: Loss = distiller(batch, 0)
        return loss

    with torch.random.fork_rng(), laid_out(distiller, training.memory_format):
        optimizer.zero_grad()  # what its first call imports is not of the step
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = forward()
        require_gradient(loss)
        losses = {"total": float(loss.total.detach()), **{name: part.mean for name, part in loss.parts.items()}}
        loss.total.backward()
        optimizer.step()
        seconds = time.perf_counter() - began
        timed = _TIMED_STEPS
        if timed * seconds > _SHORT:
            timed = max(0, min(timed, loader.steps * training.epochs * runs // _SHARE - 1))
        began = time.perf_counter()
        for _ in range(timed):
            forward().total.backward()
            optimizer.step()
            optimizer.zero_grad()
        if timed:
            seconds = (time.perf_counter() - began) / timed
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    states = 1 if training.optimizer == "sgd" else 2
    return (
        RehearsedModel(
            role=role,
            parameters=parameters(model),
            inputs=_shape(batch.inputs),
            outputs=tuple(outputs.logits.shape),
            bytes=weights * (2 + states) + saved,
            seconds_a_step=seconds,
            steps=loader.steps * training.epochs,
            runs=runs,
        ),
        losses,
    )
