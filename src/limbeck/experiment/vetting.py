"""A recipe tried before anything runs: each of its models answers some samples under its objective."""

import torch
from torch import nn

from limbeck import schemes
from limbeck.config import Recipe
from limbeck.data import Loader, SampleSet, Splits
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError, RecipeError
from limbeck.experiment.building import (
    SeedBuilder,
    answering,
    as_teacher,
    assembled,
    estimator_of,
    read_answers,
    teacher_networks,
)
from limbeck.experiment.imported import require_stored_answers, stored_answers
from limbeck.experiment.parts import Parts, prepare
from limbeck.experiment.stores import require_storable
from limbeck.experiment.teacher import asked_once
from limbeck.experiment.tokenizers import check_tokenizers
from limbeck.objective import Objective
from limbeck.tasks import TOKENS, Need
from limbeck.teacher import Teacher
from limbeck.training import Training
from limbeck.training.averaging import check_average
from limbeck.training.batch_norm import check_batches
from limbeck.training.class_weights import class_weighted
from limbeck.training.engine import check_precision
from limbeck.training.loop import in_lanes
from limbeck.training.optimizers import make_optimizer, share_of_length
from limbeck.training.sharding import check_built, check_launch, check_sharding

__all__ = ["vet"]

_TRIED = 8  # samples that each model answers before anything is trained


def vet(recipe: Recipe, *, splits: Splits | None = None, trains: bool = True) -> Parts:
    """Return a recipe's sets after each of its models has answered some of them under its objective.

    What cannot run is refused here, before anything is trained or written.  splits: as for `prepare`.
    trains: whether this launch is to train what the recipe says.
    """
    if trains:
        _require_launch(recipe)
    parts = prepare(recipe, splits=splits)
    if not recipe.teacher.single and parts.train.task is not TOKENS:
        parts.train.task.require(
            Need.ONE_OF_SEVERAL,
            what="teacher.members: the mean of several networks is for",
            mend="use one network as the teacher",
            error=RecipeError,
        )
    check_tokenizers(recipe, parts.train)
    taught = parts.of_teacher.train
    members = list(zip(recipe.teacher.members, teacher_networks(recipe, parts, 0), strict=True))
    for member, network in {id(member): (member, network) for member, network in members}.values():  # one of a kind
        if member.estimator and (complaint := estimator_of(network).complaint(taught)):
            raise RecipeError(f"{member.model.where}: {member.model.keys()['kind']} {complaint}")
        if member.arrays:
            read_answers(network, parts)
        if member.learns:
            validated = _validated(recipe, parts.of_teacher)
            objective, training = member.method.inspected, member.training
            _try("teacher", network, None, objective, taught, training, "teacher.training", validated=validated)
    teacher = assembled(recipe, [parts.serving(network) for _, network in members])
    for candidate in recipe.candidates():
        _settle(candidate.inspected, parts.transfer)
        require_storable(candidate, parts.transfer)
        builder = SeedBuilder(candidate, parts, recipe.seeds[0])
        student = builder.grafted(builder.student())
        require_stored_answers(candidate, parts)
        known = stored_answers(candidate) or as_teacher(recipe, teacher)
        taught_by = known if "teacher" in candidate.inspected.reads() else None
        _require_asked(candidate, taught_by, parts)
        validated, objective, training = _validated(candidate, parts), candidate.inspected, candidate.training
        _try("student", student, taught_by, objective, parts.transfer, training, "training", validated=validated)
        if candidate.scheme.single:
            batches = Loader(parts.transfer, candidate.training.batch_size, seed=0)
            candidate.inspected.require_active(candidate.training.epochs * batches.steps)
        if not candidate.scheme.any_task:
            parts.train.task.require(
                Need.ONE_OF_SEVERAL,
                what=f"scheme.name: '{schemes.name_of(candidate.scheme)}' is for",
                mend="use offline",
                error=RecipeError,
            )
        if complaint := candidate.scheme.check(builder):
            raise RecipeError(f"scheme.{complaint}")
    return parts


def _require_launch(recipe: Recipe) -> None:
    """Require several processes where a training divides a network among them."""
    members = [(member.training, "teacher.training") for member in recipe.teacher.members if member.learns]
    for training, where in (*members, *((each.training, "training") for each in recipe.candidates())):
        try:
            check_launch(training)
        except InputError as error:
            raise RecipeError(f"{where}.{error}") from None


def _require_asked(recipe: Recipe, teacher: Teacher | None, parts: Parts) -> None:
    """Require a teacher that is divided among processes to be asked for every batch; RecipeError otherwise."""
    if recipe.training.teacher_sharded and teacher is not None and asked_once(recipe, teacher, parts):
        raise RecipeError(
            f"training.fsdp: found '{recipe.training.fsdp}' with a teacher whose answers are computed once, before the"
            " training; expected one that is asked for every batch. Set teacher.store: false, or fsdp: student"
        )


def _settle(objective: Objective, samples: SampleSet) -> None:
    """Require that the method can do with what the labels of its set mean."""
    try:
        objective.settle(samples.legend)
    except InputError as error:
        raise RecipeError(f"method: {error}") from None


def _validated(recipe: Recipe, parts: Parts) -> bool:
    """Return whether every training of a recipe has a validation set."""
    return parts.held_out is not None and not recipe.refit


def _try(
    role: str,
    model: nn.Module,
    teacher: Teacher | None,
    objective: Objective,
    samples: SampleSet,
    training: Training,
    where: str,
    *,
    validated: bool,
) -> None:
    """Compute the loss of a small augmented batch once, on a model that nothing else uses.

    where: the training's place in the recipe.  validated: whether it has a validation set.
    """
    first = len(samples) if samples.lanes is None else samples.lanes  # whose rows begin anew
    positions = torch.arange(min(_TRIED, first))
    gathered = samples.gather(samples.needed(positions, training.augment, seed=0, view=1))
    try:
        check_precision(training.precision)
        check_average(training, validated=validated)
        training = in_lanes(samples, training, given=True)
        check_batches(model, samples, training)
        batch = samples.assemble(gathered, positions, training.augment, seed=0, view=1, clean_view=True)
        if training.rate_by_length:
            share_of_length(samples, batch)
    except LimbeckError as error:
        raise type(error)(f"{where}.{error}") from None
    distiller = Distiller(model, teacher, objective)
    with torch.random.fork_rng(), answering(role, samples):
        distiller.build(batch, legend=samples.legend)
        distiller(batch, 0)
    try:
        with class_weighted(objective, training, samples):
            pass
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
    try:
        check_sharding(distiller, training)
        check_built(distiller, training)
    except LimbeckError as error:
        raise type(error)(f"{where}.{error}") from None
    try:
        make_optimizer(distiller, training)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
