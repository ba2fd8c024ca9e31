"""From a recipe to the sets and the student that a scheme works with."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from limbeck import schemes
from limbeck.batch import UNLABELLED
from limbeck.config import ModelSpec, Recipe
from limbeck.data import HeldOut, Loader, SampleSet, Splits
from limbeck.data.names import ambiguous
from limbeck.distiller import Distiller, check_answer
from limbeck.errors import DataError, InputError, LimbeckError, ModelError, RecipeError, lacks_memory
from limbeck.evaluation import parameters
from limbeck.experiment.tokenizers import check_tokenizers
from limbeck.networks import check_network, evaluating
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.randomness import derive_seed
from limbeck.tasks import TOKENS, Need
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher, RestrictedModel, copy_blocks, graft
from limbeck.teachers.answers import answers_of
from limbeck.teachers.estimators import Fitted
from limbeck.training import Training
from limbeck.training.batch_norm import check_batches
from limbeck.training.engine import check_precision

__all__ = [
    "Parts",
    "SeedBuilder",
    "as_teacher",
    "assembled",
    "build_student",
    "build_teacher",
    "check_weights",
    "estimator_of",
    "initial_weights",
    "prepare",
    "read_answers",
    "seeded_build",
    "vet",
]

_TRIED = 8  # samples that each model answers before anything is trained


@dataclass(frozen=True)
class Parts:
    """The sets of a run.

    train, held_out: the training data without and as the validation part; held_out is None when refitting.  Where the
        transfer set is labelled in part, `train` is that part.
    transfer: what the student sees of `train`, for distillation.  alone: the same with labels, for the student alone.
    test: for the final figures alone.
    whole: the data as it was read, of which all of these are parts.
    taught: where the students serve some of the classes, the sets of all of them, which the teacher learns from.
    teacher_part: what of `train` the teacher learns from; None for all of it.
    general: other samples without labels, which the scheme's key `general` names; None where it names none.
    """

    train: SampleSet
    held_out: SampleSet | None
    transfer: SampleSet
    alone: SampleSet
    test: SampleSet
    taught: "Parts | None" = None
    whole: Splits | None = None
    teacher_part: SampleSet | None = None
    general: SampleSet | None = None

    @property
    def of_teacher(self) -> "Parts":
        """The sets that the teacher learns from."""
        parts = self if self.taught is None else self.taught
        return parts if parts.teacher_part is None else replace(parts, train=parts.teacher_part)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the data as it was read."""
        whole = self.of_teacher.whole
        return () if whole is None else tuple(f"data: {note}" for note in whole.notes)

    def serving(self, model: nn.Module) -> nn.Module:
        """Return a network that learnt from the teacher's sets as one that answers the students' classes."""
        if self.taught is None:
            return model
        return RestrictedModel(
            model, self.taught.train.class_numbers(self.train.class_names), self.taught.train.classes
        )


def prepare(recipe: Recipe, *, refit: bool = False, splits: Splits | None = None) -> Parts:
    """Load and split a recipe's data.

    refit: use all training data, without a validation part, once every choice is made.
    splits: the recipe's data, if it was loaded already.
    """
    splits = recipe.load_data() if splits is None else splits
    train, held_out = splits.train, None
    if splits.validation is not None:
        held_out = _published(recipe, splits.validation)
    elif not refit:
        try:
            train, held_out = recipe.validation.split(splits.train)
        except InputError as error:
            raise RecipeError(f"validation: {error}") from None
    try:
        train = recipe.selection.noisy(train)
    except InputError as error:
        raise RecipeError(f"data.{error}") from None
    try:
        transfer = recipe.transfer.apply(train, seed=0)
    except (DataError, InputError) as error:
        raise DataError(f"data.transfer: {error}") from None
    alone = transfer
    if recipe.transfer.labelled < 1:  # nobody knows the other labels, the teacher included
        train = alone = transfer.subset((transfer.labels != UNLABELLED).nonzero().squeeze(1))
    if not recipe.transfer.labels:
        alone = train.subset(_positions(train, transfer))
        if "teacher" not in recipe.inspected.reads():
            raise RecipeError(
                "data.transfer.labels: found false, but the method needs labels; use one with soft targets"
            )
    if recipe.transfer.synthetic is not None:
        transfer = _extended(recipe, transfer)
    taught_on = None
    if recipe.teacher.data is not None:
        try:
            taught_on = recipe.teacher.data.of(train, seed=0)
        except (DataError, InputError) as error:
            raise DataError(f"teacher.data.{error}") from None
    general = _general(recipe, train)
    parts = Parts(train, held_out, transfer, alone, splits.test, whole=splits, teacher_part=taught_on, general=general)
    return parts if recipe.classes is None else _restricted(parts, recipe.classes, labels=recipe.transfer.labels)


def _published(recipe: Recipe, validation: SampleSet) -> SampleSet:
    """Return the part of the data for choices; RecipeError if the recipe asks for another one as well."""
    for key, found, usual in (("validation", recipe.validation, HeldOut(0.1)), ("refit", recipe.refit, False)):
        if found != usual:
            raise RecipeError(
                f"{key}: found beside data with a validation part of its own ({len(validation):,} samples); leave out"
                " one of them"
            )
    return validation


def _extended(recipe: Recipe, transfer: SampleSet) -> SampleSet:
    """Return the transfer set with the samples that are made of it, which only a teacher can label."""
    if "teacher" not in recipe.inspected.reads():
        raise RecipeError(
            "data.transfer.synthetic: makes samples that only a teacher labels, but the method reads none; name one "
            "with soft targets"
        )
    if any(member.arrays for member in recipe.teacher.members):
        raise RecipeError(
            "data.transfer.synthetic: makes samples that teacher.arrays has no answers to; name a teacher that can be "
            "asked, or leave one of them out"
        )
    if recipe.classes is not None:
        raise RecipeError(
            "data.transfer.synthetic: makes samples of unknown class, but classes keeps only some classes; leave one "
            "of them out"
        )
    try:
        return recipe.transfer.extend(transfer, seed=0)
    except (DataError, InputError) as error:
        raise DataError(f"data.transfer.synthetic: {error}") from None


def _general(recipe: Recipe, train: SampleSet) -> SampleSet | None:
    """Return the samples that the scheme's key `general` names, without labels and with the classes of the data."""
    if recipe.general is None:
        return None
    where = "scheme.general.data"
    try:
        samples: SampleSet = recipe.general.build().train
    except (DataError, InputError) as error:
        raise DataError(f"{where}.{error}") from None
    ours, theirs = train.tokenizer, samples.tokenizer
    if (ours is None) != (theirs is None) or train.task.has_classes != samples.task.has_classes:
        raise DataError(f"{where}: found samples of another kind than the data's; expected texts beside texts")
    if ours is not None and theirs is not None:
        ours.require_same(theirs, what=where, whose="the data")
    most = getattr(recipe.scheme, "general", {}).get("first")
    samples = samples if most is None else samples.subset(torch.arange(min(most, len(samples))))
    labels = train.task.no_labels(samples.name, len(samples))
    return replace(samples, labels=labels, classes=train.classes, class_names=train.class_names, task=train.task)


def _restricted(parts: Parts, classes: Sequence[int | str], *, labels: bool) -> Parts:
    """Return the sets of students that serve some of the classes: their samples, labels being places among them."""

    def part(samples: SampleSet) -> SampleSet:
        renamed = samples.relabelled(classes)
        return renamed.subset(torch.where(renamed.labels != UNLABELLED)[0])

    if complaint := ambiguous(classes, parts.train.class_names):
        raise RecipeError(f"classes: {complaint}")
    try:
        alone = part(parts.alone)
        return Parts(
            train=part(parts.train),
            held_out=None if parts.held_out is None else part(parts.held_out),
            transfer=part(parts.transfer) if labels else alone.without_labels(),
            alone=alone,
            test=part(parts.test),
            taught=parts,
            general=parts.general,
        )
    except InputError as error:
        raise RecipeError(str(error)) from None
    except DataError as error:
        raise DataError(f"classes: {error}") from None


def vet(recipe: Recipe, *, splits: Splits | None = None) -> Parts:
    """Return a recipe's sets after each of its models has answered some of them under its objective.

    What cannot run is refused here, before anything is trained or written.  splits: as for `prepare`.
    """
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
    members = list(zip(recipe.teacher.members, _networks(recipe, parts, 0), strict=True))
    for member, network in {id(member): (member, network) for member, network in members}.values():  # one of a kind
        if member.estimator and (complaint := estimator_of(network).complaint(taught)):
            raise RecipeError(f"{member.model.where}: {member.model.keys()['kind']} {complaint}")
        if member.arrays:
            read_answers(network, parts)
        if member.learns:
            _try("teacher", network, None, member.method.inspected, taught, member.training, "teacher.training")
    teacher = assembled(recipe, [parts.serving(network) for _, network in members])
    for candidate in recipe.candidates():
        _settle(candidate.inspected, parts.transfer)
        builder = SeedBuilder(candidate, parts, recipe.seeds[0])
        student = builder.grafted(builder.student())
        taught_by = as_teacher(recipe, teacher) if "teacher" in candidate.inspected.reads() else None
        _try("student", student, taught_by, candidate.inspected, parts.transfer, candidate.training, "training")
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


@dataclass(frozen=True)
class SeedBuilder:
    """Where the networks of a seed are built, with initial weights that are a function of (seed, role)."""

    recipe: Recipe
    parts: Parts
    seed: int

    @property
    def training(self) -> Training:
        """How the student is trained."""
        return self.recipe.training

    @property
    def method_name(self) -> str:
        """The name of the recipe's method."""
        return self.recipe.method.name

    @property
    def needs_teacher(self) -> bool:
        """Whether the method reads a teacher."""
        return "teacher" in self.recipe.inspected.reads()

    @property
    def transfer_has_labels(self) -> bool:
        """Whether the student may read the labels of the transfer set."""
        return self.recipe.transfer.labels

    @property
    def teachers(self) -> int:
        """How many models the recipe's teacher is the mean of."""
        return len(self.recipe.teacher.members)

    @property
    def teacher_source(self) -> Literal["trained", "file", "estimator", "arrays"]:
        """Where the recipe's teacher, or the first of several, comes from."""
        first = self.recipe.teacher.members[0]
        if first.estimator:
            return "estimator"
        if first.arrays:
            return "arrays"
        return "trained" if first.learns else "file"

    @property
    def teacher_is_pretrained(self) -> bool:
        """Whether the recipe's teacher is one network that has weights of its own before it is trained."""
        return self.recipe.teacher.network and self.recipe.teacher.members[0].model.is_pretrained

    @property
    def teacher_training(self) -> Training:
        """How the recipe's teacher is trained, or the first of several."""
        return self.recipe.teacher.training

    @property
    def inspected(self) -> Objective:
        """The recipe's method, to be asked what it reads; it is never trained."""
        return self.recipe.inspected

    def objective(self) -> Objective:
        """Build the recipe's method anew, to train with it."""
        return self.recipe.objective()

    def student(self) -> nn.Module:
        """Build the recipe's student, with the initial weights that the student alone has as well."""
        return build_student(self.recipe, self.parts, self.seed)

    def student_as(self, role: str) -> nn.Module:
        """Build the recipe's student with initial weights of its own."""
        return seeded_build(self.recipe.student, self.parts.train, self.seed, role)

    def model(self, number: int, role: str) -> nn.Module:
        """Build one of the networks that the scheme's key `models` names."""
        return seeded_build(self.recipe.networks[number], self.parts.train, self.seed, role)

    def drawing(self, role: str) -> AbstractContextManager[None]:
        """Return a scope in which weights are drawn as a function of (seed, role)."""
        return initial_weights(self.seed, role)

    def teacher_network(self) -> nn.Module:
        """Build the network that the teacher, or the first of several, is; its weights are not the teacher's."""
        network: nn.Module = self.recipe.teacher.model.build_for(self.parts.train)
        return network

    def grafted(self, student: nn.Module) -> nn.Module:
        """Return the student with what the recipe gives it of the teacher; itself where it gives it nothing."""
        if self.recipe.copy_blocks is not None:
            try:
                student = copy_blocks(student, self.lender(), self.recipe.copy_blocks)
            except ModelError as error:
                raise ModelError(f"student.copy_blocks: {error}") from None
        spec = self.recipe.graft
        if spec is None:
            return student
        teacher = self.lender()
        inputs = torch.zeros(2, *self.parts.train.input_shape)
        try:
            with self.drawing("graft"):
                return graft(student, teacher, inputs, layers=spec.layers, factor=spec.factor)
        except ModelError as error:
            raise ModelError(f"student.graft.{error}") from None

    def lender(self) -> nn.Module:
        """Return the network of which the student is given a part; before any training, one of the same shapes."""
        return self.teacher_network()

    def teacher_parameters(self) -> int | None:
        """Return the size of the recipe's teacher; None where it is no single network."""
        if not self.recipe.teacher.single:
            return None
        return parameters(build_teacher(self.recipe, self.parts, self.seed))


def build_student(recipe: Recipe, parts: Parts, seed: int) -> nn.Module:
    """Build the student with the initial weights of a seed, the same for the student alone and the distilled one."""
    return seeded_build(recipe.student, parts.train, seed, "student")


def build_teacher(recipe: Recipe, parts: Parts, seed: int) -> nn.Module:
    """Build the teacher of a seed before any training: a network, or the mean of several."""
    return assembled(recipe, [parts.serving(model) for model in _networks(recipe, parts, seed)])


def _networks(recipe: Recipe, parts: Parts, seed: int) -> list[nn.Module]:
    """Build each network of the teacher of a seed."""
    pairs = zip(recipe.teacher.members, recipe.teacher.seeds(seed), strict=True)
    return [seeded_build(member.model, parts.of_teacher.train, own, "teacher") for member, own in pairs]


def assembled(recipe: Recipe, members: Sequence[nn.Module]) -> nn.Module:
    """Return one network as it is, and of several the mean that the recipe names."""
    spec = recipe.teacher
    if spec.single:
        return members[0]
    return MeanOfModels(members, weights=spec.weights, mean=spec.mean, selects=spec.select is not None)


def estimator_of(model: nn.Module) -> Fitted:
    """Return the module of a member that scikit-learn fits."""
    if not isinstance(model, Fitted):
        raise TypeError(f"{type(model).__name__} is no estimator")
    return model


def read_answers(model: nn.Module, parts: Parts) -> None:
    """Let a member whose answers were made elsewhere read them."""
    if parts.of_teacher.whole is None:
        raise ValueError("answers are read for the data as a recipe has it")
    answers_of(model).read(parts.of_teacher.whole)


def as_teacher(recipe: Recipe, model: nn.Module) -> Teacher:
    """Return a network, or a mean of networks, as a teacher that sees what the recipe says."""
    view = None if recipe.teacher.view == "same" else recipe.teacher.view
    layer = recipe.teacher.last_linear
    if not isinstance(model, MeanOfModels):
        return ModelTeacher(model, view=view, last_linear=layer)
    members = [ModelTeacher(member, view=view, last_linear=layer) for member in model.members]
    return EnsembleTeacher(members, weights=model.weights, mean=model.mean)


@contextmanager
def initial_weights(seed: int, role: str) -> Iterator[None]:
    """Draw what is drawn inside the scope, initial weights above all, as a function of (seed, role)."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, role))
        yield


def seeded_build(spec: ModelSpec, samples: SampleSet, seed: int, role: str) -> nn.Module:
    """Build a model with initial weights that are a function of (seed, role), and try it on two samples."""
    with initial_weights(seed, role):
        model = spec.build_for(samples)
    batch = samples.batch(torch.arange(min(2, len(samples))), augment=None, seed=0, view=0)
    with evaluating(model), torch.no_grad(), _answering(role, samples):
        check_network(role, model)
        logits = run_model(model, batch.inputs, task=samples.task).logits
    check_answer(role, logits, samples.classes, samples.task)
    return model


def check_weights(model: nn.Module, spec: ModelSpec) -> None:
    """Require a network that teaches as it is to have no weights that were drawn at random; ModelError otherwise.

    Those that a folder of the Transformers library lacks may be in a checkpoint, which has all of them.
    """
    if spec.checkpoint is None and (drawn := getattr(model, "drawn_anew", ())):
        raise ModelError(
            f"{spec.where}: found no weights '{drawn[0]}' in '{spec.weights_from}', so that its head is random;"
            " expected a head that was trained. Give the teacher training, or a folder with such a head"
        )


def _settle(objective: Objective, samples: SampleSet) -> None:
    """Require that the method can do with what the labels of its set mean."""
    try:
        objective.settle(samples.legend)
    except InputError as error:
        raise RecipeError(f"method: {error}") from None


def _try(
    role: str,
    model: nn.Module,
    teacher: Teacher | None,
    objective: Objective,
    samples: SampleSet,
    training: Training,
    where: str,
) -> None:
    """Compute the loss of a small augmented batch once, on a model that nothing else uses."""
    first = len(samples) if samples.lanes is None else samples.lanes  # whose rows begin anew
    positions = torch.arange(min(_TRIED, first))
    gathered = samples.gather(samples.needed(positions, training.augment, seed=0, view=1))
    try:
        check_precision(training.precision)
        check_batches(model, samples, training)
        batch = samples.assemble(gathered, positions, training.augment, seed=0, view=1, clean_view=True)
    except LimbeckError as error:
        raise type(error)(f"{where}.{error}") from None
    distiller = Distiller(model, teacher, objective)
    with torch.random.fork_rng(), _answering(role, samples):
        distiller.build(batch, legend=samples.legend)
        distiller(batch, 0)


@contextmanager
def _answering(role: str, samples: SampleSet) -> Iterator[None]:
    """Name the model whose answer fails in the scope."""
    try:
        yield
    except Exception as error:
        raised = error.__cause__ if isinstance(error, ModelError) else error
        if lacks_memory(error):
            raise
        named = next((whose for whose in ("teacher", "student") if str(error).startswith(whose)), role)
        if raised is None or isinstance(raised, LimbeckError):
            raise ModelError(str(error) if str(error).startswith(named) else f"{role}: {error}") from None
        shape = tuple(samples.input_shape)
        line = (str(raised).splitlines() or [""])[0]
        raise ModelError(
            f"{named}: cannot take inputs of shape {shape} ({type(raised).__name__}: {line}); {_mend(samples)}"
        ) from raised


def _mend(samples: SampleSet) -> str:
    """Return what to do about a model that cannot take a set's samples."""
    if samples.form == "stream":
        return "its inputs are token ids; use a language model, such as lstm_lm"
    if samples.form:
        return "its inputs are texts; use a model with the keywords input_ids and attention_mask, such as transformer"
    if samples.kept_dtype == torch.int64:
        return "inputs are int64, which are token ids; save pixels as uint8 and other numbers as float32"
    return "change the model's keys"


def _positions(root: SampleSet, part: SampleSet) -> torch.Tensor:
    place = torch.full((int(root.index.max()) + 1,), -1, dtype=torch.int64)
    place[root.index] = torch.arange(len(root))
    return place[part.index]
