"""A rehearsal of a recipe: everything is built and one batch is run, nothing is trained or written."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import methods
from limbeck.config import Recipe
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Distiller, Teacher
from limbeck.objective import Loss, Objective
from limbeck.schemes.preparing import asked, build_student, build_teacher, seeded_build, vet
from limbeck.training import Training
from limbeck.training.engine import laid_out, placed
from limbeck.training.optimisers import optimiser

__all__ = ["Rehearsal", "RehearsedModel", "rehearse"]

_TIMED_STEPS = 5


@dataclass(frozen=True)
class RehearsedModel:
    """One training that the recipe will run.

    bytes: weights, gradients, optimiser state and saved activations of one step.  steps: of one run; runs: how many.
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

    @property
    def seconds(self) -> float:
        """The estimated time of all runs."""
        return self.seconds_a_step * self.steps * self.runs


@dataclass(frozen=True)
class Rehearsal:
    """What a recipe's rehearsal found."""

    data: str
    method: str
    models: tuple[RehearsedModel, ...]
    losses: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"seconds": sum(model.seconds for model in self.models)}


def rehearse(recipe: Recipe) -> Rehearsal:
    """Build a recipe's data, models and objective, and run a batch through each."""
    parts = vet(recipe)
    seeds, searched = len(recipe.seeds), len(recipe.candidates()) if recipe.search else 0
    refits = 2 if recipe.refit else 1
    models = []
    for member, count in recipe.teacher.kinds():
        if member.learns:
            runs = (seeds if recipe.teacher.seed is None else 1) * refits * count
            taught = parts.of_teacher.train
            network = seeded_build(member.model, taught, 0, "teacher")
            objective = member.method.build()
            models.append(_time("teacher", network, None, objective, taught, member.training, runs)[0])
    teacher = asked(recipe, build_teacher(recipe, parts, 0))
    losses: dict[str, float] = {}
    for role, model, objective, samples in (
        ("student alone", None, methods.hard(), parts.alone),
        ("student distilled", teacher, recipe.objective(), parts.transfer),
    ):
        student = build_student(recipe, parts, recipe.seeds[0])
        timed, losses = _time(role, student, model, objective, samples, recipe.training, seeds + searched)
        models.append(timed)
    held_out = 0 if parts.held_out is None else len(parts.held_out)
    kind = "classes" if parts.train.task.has_classes else "numbers to predict"
    data = (
        f"{parts.train.name}: {len(parts.train):,} to train on, {held_out:,} held out, {len(parts.test):,} to test on, "
        f"{parts.train.classes} {kind}, inputs {tuple(parts.train.input_shape)}"
    )
    if len(parts.transfer) != len(parts.train) or not recipe.transfer.labels:
        kind = "labelled" if recipe.transfer.labels else "unlabelled"
        data += f"; transfer set of {len(parts.transfer):,} {kind} samples"
    card = methods.card(recipe.method.function.__name__)
    return Rehearsal(data, f"{card.name}: {card.formula} ({card.authors} {card.year})", tuple(models), losses)


def _time(
    role: str,
    model: nn.Module,
    teacher: Teacher | None,
    objective: Objective,
    samples: SampleSet,
    training: Training,
    runs: int,
) -> tuple[RehearsedModel, dict[str, float]]:
    """Train a few steps on one batch, on copies that nothing else uses, and measure: in the precision asked for."""
    distiller = Distiller(model, teacher, objective)
    loader = Loader(samples, training.batch_size, seed=0, augment=training.augment, clean_view=True)
    batch = placed(next(loader.epoch(0)), torch.device("cpu"), training.memory_format)
    outputs = distiller.build(batch, classes=samples.classes, legend=samples.legend)["student"]
    optimizer = optimiser(distiller.parameters(), training)
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    def forward() -> Loss:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"):
            loss: Loss = distiller(batch)
        return loss

    with torch.random.fork_rng(), laid_out(distiller, training.memory_format):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = forward()
        losses = {"total": float(loss.total.detach()), **{name: part.mean for name, part in loss.parts.items()}}
        loss.total.backward()
        optimizer.step()
        began = time.perf_counter()
        for _ in range(_TIMED_STEPS):
            forward().total.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds = (time.perf_counter() - began) / _TIMED_STEPS
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    states = 2 if training.optimizer == "adamw" else 1
    return (
        RehearsedModel(
            role=role,
            parameters=sum(p.numel() for p in model.parameters()),
            inputs=tuple(batch.inputs.shape),
            outputs=tuple(outputs.logits.shape),
            bytes=weights * (2 + states) + saved,
            seconds_a_step=seconds,
            steps=loader.steps * training.epochs,
            runs=runs,
        ),
        losses,
    )
