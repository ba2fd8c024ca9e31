"""Getting a recipe's teacher: from a checkpoint, from the cache, or by training it once for all who want the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.batch import UNLABELLED
from limbeck.config import MemberSpec, Recipe
from limbeck.config.stores import StoreSpec
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.evaluation import predict
from limbeck.experiment.building import as_teacher, assembled, check_weights, estimator_of, read_answers, seeded_build
from limbeck.experiment.cost import Compute, spent
from limbeck.experiment.imported import fill_from_stores, stored_answers
from limbeck.experiment.parts import Parts
from limbeck.experiment.stores import stored_on_disk
from limbeck.objective import Objective
from limbeck.own import cache_folder
from limbeck.profiling import timing
from limbeck.ranks import first_says
from limbeck.tasks import TOKENS
from limbeck.teacher import Teacher
from limbeck.teachers import MeanOfModels, store
from limbeck.teachers.mean import selected_weights
from limbeck.teachers.stored import feature_bytes, feature_limit
from limbeck.training import Job, Observer
from limbeck.training.progress import ignore
from limbeck.training.trained import fit_estimator_or_read, fit_or_read

__all__ = ["ANSWERS", "TrainedTeacher", "asked_once", "storable", "trained_teacher", "wrap_teacher"]

ANSWERS = "stored answers"
"""Under what a profile has the time in which a teacher is asked beforehand."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A trained teacher, and what its training took, in this run or before; nothing where it was read from a file.

    first: of the first network, where there are several.
    along: the network as it was after the epochs of its training that the recipe's scheme asks for.
    history: of that training, one entry an epoch.
    """

    model: nn.Module
    compute: Compute
    first: Compute = field(default_factory=Compute)
    along: Mapping[int, nn.Module] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


def trained_teacher(
    recipe: Recipe,
    parts: Parts,
    seed: int,
    *,
    watch: Observer = ignore,
    say: Callable[[str], None] = lambda line: None,
    cache: Path | None = None,
) -> TrainedTeacher:
    """Return the trained teacher of a recipe, and the compute of its training.

    A network whose weights are given, by a checkpoint or a factory, teaches as it is.  Otherwise the teacher is trained
    in the cache, or found there; see `limbeck.training.trained`.
    """
    cache = cache or cache_folder()
    members = []
    for number, (member, own) in enumerate(zip(recipe.teacher.members, recipe.teacher.seeds(seed), strict=True)):
        label = "teacher" if recipe.teacher.single else f"teacher {number + 1} of {len(recipe.teacher.members)}"
        members.append(_member(recipe, member, parts, own, cache, watch, say, label))
    if recipe.teacher.single:
        return members[0]
    model = assembled(recipe, [member.model for member in members])
    if recipe.teacher.select is not None and isinstance(model, MeanOfModels):
        model.weigh(first_says(_selected(model, parts, recipe.teacher.select)))
        say(f"teacher: weights {', '.join(f'{weight:g}' for weight in model.weights)}, selected on the held-out part")
    return TrainedTeacher(model, sum((member.compute for member in members), Compute()), members[0].compute)


def _member(
    recipe: Recipe,
    member: MemberSpec,
    parts: Parts,
    seed: int,
    cache: Path,
    watch: Observer,
    say: Callable[[str], None],
    label: str,
) -> TrainedTeacher:
    taught = parts.of_teacher
    model = seeded_build(member.model, taught.train, seed, "teacher")
    if member.arrays:
        read_answers(model, parts)
        say(f"{label}: its answers were read from {member.keys['arrays']['path']}")
        return TrainedTeacher(parts.serving(model), Compute())
    if member.stored:
        fill_from_stores(recipe, model, parts)
        say(f"{label}: its answers are read from {member.keys['stored']['path']}")
        return TrainedTeacher(model, Compute())
    if member.given:
        spec = member.model
        check_weights(model, spec)
        from_ = f"by {spec.factory}" if spec.weights_from is None else f"read from {spec.weights_from}"
        say(f"{label}: as given, {from_}")
        return TrainedTeacher(parts.serving(model), Compute())
    known: dict[str, Any] = {"seed": seed, "code": member.model.code(), "label": label}
    if member.estimator:
        estimator = estimator_of(model)
        fit_estimator_or_read(estimator, estimator.fit, taught.train, taught.held_out, root=cache, say=say, **known)
        return TrainedTeacher(parts.serving(estimator), Compute())
    objective = member.method.build()
    sets, distiller = (taught.train, taught.held_out), Distiller(model, None, objective)
    job = Job(distiller, *sets, training=member.training, along=recipe.scheme.along, **known)
    result = fit_or_read(job, root=cache, watch=watch, say=say)
    along = {epoch: parts.serving(student) for epoch, student in result.along.items()}
    compute = spent(model, None, objective, result, taught.train)
    return TrainedTeacher(parts.serving(model), compute, along=along, history=result.history)


def _selected(model: MeanOfModels, parts: Parts, rounds: int) -> list[float]:
    """Return the weights of members that are selected on the held-out part."""
    held_out = parts.held_out
    if held_out is None:
        raise ValueError("a refit has no held-out part to select members on")
    known = held_out.labels != UNLABELLED
    answers = [predict(member, held_out).cpu().softmax(1)[known.cpu()] for member in model.members]
    return selected_weights(answers, held_out.labels[known].cpu(), rounds=rounds)


def wrap_teacher(
    recipe: Recipe,
    model: nn.Module,
    parts: Parts,
    seed: int = 0,
    objective: Objective | None = None,
    *,
    own: bool = True,
) -> Teacher:
    """Make a model the teacher of a recipe's transfer set; its answers are computed once wherever that is exact.

    seed: of the student, whose random views a store on disk is of.  objective: what reads it, by default the recipe's.
    own: whether the model is the recipe's own teacher, and not another one that its scheme made.
    """
    if own and (known := stored_answers(recipe)) is not None:
        return known
    teacher = as_teacher(recipe, model)
    if isinstance(recipe.teacher.store, StoreSpec):
        with timing("build", ANSWERS):
            return stored_on_disk(recipe, teacher, parts, seed, objective, own=own)
    if asked_once(recipe, teacher, parts, objective):
        clean = recipe.teacher.view == "clean"
        with timing("build", ANSWERS):
            return store(teacher, parts.transfer, clean=clean, taps=(objective or recipe.inspected).taps("teacher"))
    return teacher


def asked_once(recipe: Recipe, teacher: Teacher, parts: Parts, objective: Objective | None = None) -> bool:
    """Whether a recipe's teacher is asked once about each sample: that is exact, and its answers can be stored."""
    if isinstance(recipe.teacher.store, StoreSpec) or recipe.teacher.members[0].stored:
        return True
    exact = recipe.teacher.view == "clean" or not recipe.training.augment.active
    return recipe.teacher.store and exact and storable(recipe, teacher, parts.transfer, objective)


def storable(recipe: Recipe, teacher: Teacher, samples: SampleSet, objective: Objective | None = None) -> bool:
    """Whether what an objective reads of its teacher can be stored: no network, and no features beyond memory.

    Neither are the logits of each token of a text, nor features of texts, whose lengths differ.
    objective: by default the recipe's.
    """
    objective = objective or recipe.inspected
    taps = objective.taps("teacher")
    if samples.task == TOKENS or (taps and samples.kept_dtype is None):
        return False
    return not objective.needs_network and (not taps or feature_bytes(teacher, samples, taps) <= feature_limit())
