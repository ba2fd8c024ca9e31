"""What a scheme may ask for: the contract between a scheme and what carries out its recipe.

A scheme sees a recipe through these protocols alone.  `Builder` is for questions and untrained networks, before
anything runs; `Context` is for one seed that is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.objective import Objective
from limbeck.peers import Peer
from limbeck.teacher import Teacher
from limbeck.training import Result, Training

__all__ = ["Builder", "Context", "Sets"]


class Sets(Protocol):
    """The sets of a recipe, as a scheme reads them."""

    @property
    def train(self) -> SampleSet:
        """The labelled training data without the held-out part."""

    @property
    def held_out(self) -> SampleSet | None:
        """The part that choices are made on; None in a refit."""

    @property
    def transfer(self) -> SampleSet:
        """What a distilled student learns from."""

    @property
    def alone(self) -> SampleSet:
        """The labelled part of that, which the student alone learns from."""

    @property
    def general(self) -> SampleSet | None:
        """The unlabelled set that the scheme's key `general` names; None where it names none."""


class Builder(Protocol):
    """Builds the networks of one seed, and answers what a scheme asks of its recipe before anything is trained."""

    @property
    def seed(self) -> int:
        """The seed of the students."""

    @property
    def parts(self) -> Sets:
        """The sets."""

    @property
    def training(self) -> Training:
        """How the student is trained."""

    @property
    def method_name(self) -> str:
        """The name of the recipe's method."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the method reads a teacher."""

    @property
    def transfer_has_labels(self) -> bool:
        """Whether the student may read the labels of the transfer set."""

    @property
    def teachers(self) -> int:
        """How many models the recipe's teacher is the mean of."""

    @property
    def teacher_source(self) -> Literal["trained", "file", "estimator", "arrays", "onnx", "stored"]:
        """Where the recipe's teacher, or the first of several, comes from."""

    @property
    def teacher_is_pretrained(self) -> bool:
        """Whether the recipe's teacher is one network that has weights of its own before it is trained."""

    @property
    def teacher_training(self) -> Training:
        """How the recipe's teacher is trained, or the first of several."""

    @property
    def inspected(self) -> Objective:
        """The recipe's method, to be asked what it reads; it is never trained."""

    def objective(self) -> Objective:
        """Build the recipe's method anew, to train with it."""

    def student(self) -> nn.Module:
        """Build the student, with the initial weights that the student alone has as well."""

    def student_as(self, role: str) -> nn.Module:
        """Build the student with the initial weights of another role."""

    def model(self, number: int, role: str) -> nn.Module:
        """Build one of the networks that the scheme's key `models` names."""

    def teacher_network(self) -> nn.Module:
        """Build the network that the teacher, or the first of several, is; its weights are not the teacher's."""

    def grafted(self, student: nn.Module) -> nn.Module:
        """Return the student with what the recipe gives it of the teacher (`graft`, `copy_blocks`); itself without."""

    def teacher_parameters(self) -> int | None:
        """Return how many parameters the teacher has; None where it is the mean of several models."""

    def drawing(self, role: str) -> AbstractContextManager[None]:
        """Return a scope in which weights are drawn as a function of (seed, role)."""


class Context(Builder, Protocol):
    """One seed of a recipe, while its scheme is carried out."""

    @property
    def say(self) -> Callable[[str], None]:
        """Prints a line for the user."""

    @property
    def cache(self) -> Path | None:
        """Where what can be made again is kept; None for `limbeck.own.cache_folder()`."""

    @property
    def held_out(self) -> SampleSet:
        """The held-out part; ValueError in a refit, which recalls what was decided."""

    @property
    def teacher_model(self) -> nn.Module:
        """The recipe's trained teacher, as a network."""

    @property
    def teachers_along(self) -> Mapping[int, nn.Module]:
        """The teacher as it was after each of the epochs that the scheme's `along` names."""

    def teacher(self, objective: Objective | None = None) -> Teacher:
        """Return the recipe's teacher of the transfer set.

        objective: what reads it, by default all of the recipe's method; where it reads answers alone, they are stored.
        """

    def teach(self, model: nn.Module, *, name: str = "teacher") -> Teacher:
        """Make a trained network a teacher of the transfer set; its answers count as compute."""

    def judge(self, model: nn.Module) -> Teacher:
        """Make a trained network a teacher that answers for the held-out part."""

    def fit(
        self,
        unit: str,
        distiller: Distiller,
        samples: SampleSet,
        *,
        training: Training | None = None,
        seed: int | None = None,
        extra: float = 0.0,
        held_out: SampleSet | None = None,
    ) -> Result:
        """Train a unit, a training with a folder of its own; a finished one is read, an interrupted one resumed."""

    def fit_together(
        self, peers: Mapping[str, Peer], *, update: Literal["simultaneous", "sequential"], every: int
    ) -> dict[str, Result]:
        """Train peers step by step together, each a unit."""

    def planned(self, unit: str, training: Training) -> Training:
        """Return a unit's training, with the number of epochs that was chosen for it before."""

    def choose(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what is decided on the held-out part at the first seed; other seeds and a refit keep to it."""

    def note(self, name: str, value: Any) -> Any:
        """Record a plain value that came out on the held-out part, and return it."""

    def recall(self, name: str) -> Any:
        """Return what was noted or chosen before."""

    def keep(self, role: str, model: nn.Module) -> nn.Module:
        """Save the weights of a role that no unit is named after."""

    def copy(self, unit: str, role: str) -> None:
        """Let a role be a unit that is trained already."""

    def charge(self, *roles: str) -> None:
        """Say that roles cost nothing besides what was trained so far."""

    def require(self, units: Sequence[str]) -> None:
        """Refuse to go on where the weights of finished units are gone."""

    def place(self, unit: str) -> Path:
        """Return the folder of a unit."""

    def forward_flops(self, model: nn.Module) -> int:
        """Return the FLOPs of a network's answer to one sample."""

    def count_answers(self, name: str, model: nn.Module, samples: SampleSet) -> None:
        """Count that a network answered each sample of a set once."""
