"""From a recipe to the sets and the student that a scheme works with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from limbeck import plans
from limbeck.config import ModelSpec, Recipe
from limbeck.data import SampleSet
from limbeck.distiller import Distiller, check_answer
from limbeck.errors import DataError, InputError, LimbeckError, ModelError, RecipeError
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.randomness import derive_seed
from limbeck.tasks import CLASSIFICATION
from limbeck.teachers import ModelTeacher
from limbeck.training import Training
from limbeck.training.engine import check_precision

__all__ = ["Parts", "build_student", "initial_weights", "prepare", "seeded_build", "vet"]

_TRIED = 8  # samples that each model answers before anything is trained


@dataclass(frozen=True)
class Parts:
    """The sets of a run.

    train, held_out: the training data without and as the validation part; held_out is None when refitting.
    transfer: what the student sees of `train`, for distillation.  alone: the same with labels, for the student alone.
    test: for the final figures alone.
    """

    train: SampleSet
    held_out: SampleSet | None
    transfer: SampleSet
    alone: SampleSet
    test: SampleSet


def prepare(recipe: Recipe, *, refit: bool = False) -> Parts:
    """Load and split a recipe's data.

    refit: use all training data, without a validation part, once every choice is made.
    """
    splits = recipe.load_data()
    train, held_out = splits.train, None
    if not refit:
        size = len(splits.train)
        count = recipe.validation if isinstance(recipe.validation, int) else round(recipe.validation * size)
        if not 0 < count < size:
            raise RecipeError(
                f"validation: found {recipe.validation!r}, which is {count} of {size} training samples;"
                " expected some to be held out and some left"
            )
        train, held_out = splits.train.split(count, seed=0)
    try:
        transfer = recipe.transfer.apply(train, seed=0)
    except (DataError, InputError) as error:
        raise DataError(f"data.transfer: {error}") from None
    alone = transfer
    if not recipe.transfer.labels:
        alone = train.subset(_positions(train, transfer))
        if "teacher" not in recipe.objective().reads():
            raise RecipeError("data.transfer.labels: is false, but the method needs labels; name one with soft targets")
    return Parts(train, held_out, transfer, alone, splits.test)


def vet(recipe: Recipe) -> Parts:
    """Return a recipe's sets after each of its models has answered some of them under its objective.

    What cannot run is refused here, before anything is trained or written.
    """
    parts = prepare(recipe)
    teacher = seeded_build(recipe.teacher.model, parts.train, 0, "teacher")
    if recipe.teacher.model.checkpoint is None:
        objective = recipe.teacher.method.build()
        _try("teacher", teacher, None, objective, parts.train, recipe.teacher.training, "teacher.training")
    for candidate in recipe.candidates():
        _settle(candidate.objective(), parts.transfer)
        student = build_student(candidate, parts, recipe.seeds[0])
        view = "clean" if recipe.teacher.view == "clean" else None
        asked = ModelTeacher(teacher, view=view) if "teacher" in candidate.objective().reads() else None
        _try("student", student, asked, candidate.objective(), parts.transfer, candidate.training, "training")
        if not candidate.scheme.any_task and parts.train.task != CLASSIFICATION:
            raise RecipeError(
                f"scheme.name: '{plans.name_of(candidate.scheme)}' is for one label of several classes, and the labels "
                f"are {parts.train.task.labels} (task {parts.train.task.name}); use offline"
            )
        if not candidate.scheme.any_task and parts.train.task != CLASSIFICATION:
            raise RecipeError(
                f"scheme.name: '{plans.name_of(candidate.scheme)}' is for one label of several classes, and the labels "
                f"are {parts.train.task.labels} (task {parts.train.task.name}); use offline"
            )
        if complaint := candidate.scheme.check(candidate, parts):
            raise RecipeError(f"scheme.{complaint}")
    return parts


def build_student(recipe: Recipe, parts: Parts, seed: int) -> nn.Module:
    """Build the student with the initial weights of a seed, the same for the student alone and the distilled one."""
    return seeded_build(recipe.student, parts.train, seed, "student")


@contextmanager
def initial_weights(seed: int, role: str) -> Iterator[None]:
    """Draw what is drawn inside the scope, initial weights above all, as a function of (seed, role)."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, role))
        yield


def seeded_build(spec: ModelSpec, samples: SampleSet, seed: int, role: str) -> nn.Module:
    """Build a model with initial weights that are a function of (seed, role), and try it on two samples."""
    with initial_weights(seed, role):
        model = spec.build(samples.input_shape, samples.task.outputs(samples.classes))
    batch = samples.batch(torch.arange(min(2, len(samples))), augment=None, seed=0, view=0)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _answering(role, samples):
            logits = run_model(model, batch.inputs, task=samples.task).logits
    finally:
        model.train(training)
    check_answer(role, logits, samples.classes, samples.task)
    return model


def _settle(objective: Objective, samples: SampleSet) -> None:
    """Require that the method can do with what the labels of its set mean."""
    try:
        objective.settle(samples.legend)
    except InputError as error:
        raise RecipeError(f"method: {error}") from None


def _try(
    role: str,
    model: nn.Module,
    teacher: ModelTeacher | None,
    objective: Objective,
    samples: SampleSet,
    training: Training,
    where: str,
) -> None:
    """Compute the loss of a small augmented batch once, on a model that nothing else uses."""
    positions = torch.arange(min(_TRIED, len(samples)))
    gathered = samples.gather(positions)
    try:
        check_precision(training.precision)
        batch = samples.assemble(gathered, positions, training.augment, seed=0, view=1, clean_view=True)
    except LimbeckError as error:
        raise type(error)(f"{where}.{error}") from None
    distiller = Distiller(model, teacher, objective)
    with torch.random.fork_rng(), _answering(role, samples):
        distiller.build(batch, legend=samples.legend)
        distiller(batch)


@contextmanager
def _answering(role: str, samples: SampleSet) -> Iterator[None]:
    """Name the model whose answer fails in the scope."""
    try:
        yield
    except LimbeckError as error:
        whose = "" if str(error).startswith("teacher") else f"{role}: "  # a student's first loss asks its teacher too
        raise ModelError(f"{whose}{error}") from None
    except Exception as error:
        shape = tuple(samples.input_shape)
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"{role}: cannot take inputs of shape {shape} ({type(error).__name__}: {line}); change the model's keys"
        ) from error


def _positions(root: SampleSet, part: SampleSet) -> torch.Tensor:
    place = torch.full((int(root.index.max()) + 1,), -1, dtype=torch.int64)
    place[root.index] = torch.arange(len(root))
    return place[part.index]
