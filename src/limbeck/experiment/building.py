"""Networks as a recipe builds them: teachers, students, and what a scheme asks for, with weights by seed and role."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from limbeck.config import ModelSpec, Recipe
from limbeck.data import SampleSet
from limbeck.distiller import check_answer
from limbeck.errors import LimbeckError, ModelError, lacks_memory
from limbeck.evaluation import parameters
from limbeck.experiment.parts import Parts
from limbeck.networks import check_network, evaluating
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.randomness import derive_seed
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher, copy_blocks, graft
from limbeck.teachers.answers import answers_of
from limbeck.teachers.estimators import Fitted
from limbeck.training import Training

__all__ = [
    "SeedBuilder",
    "answering",
    "as_teacher",
    "assembled",
    "build_student",
    "build_teacher",
    "check_weights",
    "estimator_of",
    "initial_weights",
    "read_answers",
    "seeded_build",
    "teacher_networks",
]


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
    def teacher_source(self) -> Literal["trained", "file", "estimator", "arrays", "onnx", "stored"]:
        """Where the recipe's teacher, or the first of several, comes from."""
        first = self.recipe.teacher.members[0]
        if first.estimator:
            return "estimator"
        if first.arrays:
            return "arrays"
        if first.onnx:
            return "onnx"
        if first.stored:
            return "stored"
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
    return assembled(recipe, [parts.serving(model) for model in teacher_networks(recipe, parts, seed)])


def teacher_networks(recipe: Recipe, parts: Parts, seed: int) -> list[nn.Module]:
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
    with evaluating(model), torch.no_grad(), answering(role, samples):
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


@contextmanager
def answering(role: str, samples: SampleSet) -> Iterator[None]:
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
