"""What every scheme says of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.schemes.context import Builder, Context
from limbeck.teacher import Teacher
from limbeck.training import Training

__all__ = ["Planned", "Scheme"]


@dataclass(frozen=True)
class Planned:
    """Trainings of one kind that a scheme has before it, for an estimate of its work.

    label: what a table calls them.  distiller, samples: one of them, as it would begin.
    training: of each; None for the recipe's.  count: how many in each seed; where it is `once`, in the first alone.
    compared: what is trained to compare with; the distilled student owes nothing to it.
    between: what is done besides, once in every `period` steps.
    """

    label: str
    distiller: Distiller
    samples: SampleSet
    training: Training | None = None
    count: int = 1
    once: bool = False
    compared: bool = False
    between: Callable[[], None] | None = None
    period: int = 1


class Scheme(ABC):
    """Who teaches whom, and when.  A subclass is a frozen dataclass, whose fields are the keys of `scheme` in a recipe.

    A field called `models` (tuple[dict[str, Any], ...]) names networks as a recipe does; `builder.model(i, role)`
    builds them.

    uses_teacher: whether the student learns from the recipe's teacher; where it does not, that teacher is trained for
        reference alone, and its training is not counted as a cost of the scheme.
    needs_held_out: whether something besides the number of epochs is chosen on the held-out part; when refitting, the
        scheme is then first run with such a part, and what it noted there is recalled.
    single: whether `distiller` makes the one training that it consists of; such ones can share their batches.
    any_task: whether it can do with labels of any task; a scheme that reads a model's answers itself, as an ensemble of
        students does, takes them for logits of classes.
    takes_graft: whether its distilled student may have a part of the teacher grafted onto it (`student.graft`).
    takes_copy: whether its distilled student may begin with blocks of the teacher (`student.copy_blocks`).
    """

    uses_teacher: ClassVar[bool] = True
    needs_held_out: ClassVar[bool] = False
    single: ClassVar[bool] = False
    any_task: ClassVar[bool] = False
    takes_graft: ClassVar[bool] = False
    takes_copy: ClassVar[bool] = False

    @property
    def along(self) -> Sequence[int]:
        """The epochs of the teacher's training after which its weights are kept, for `Context.teachers_along`."""
        return ()

    def settled(self, teacher: Mapping[str, Any] | None, student: Mapping[str, Any]) -> Self:
        """Return the scheme with what it takes from the recipe's networks written out.

        teacher, student: their keys; None where the teacher is no single network.  InputError for what does not fit.
        """
        return self

    def roles(self) -> Mapping[str, str]:
        """Return the models that the scheme ends with beside the distilled student: role -> label, in their order.

        A role is small letters, digits and underscores, a letter first.
        """
        return {}

    def check(self, builder: Builder) -> str | None:
        """Return the line that says why the scheme cannot run a recipe, before anything is trained; None if it can."""
        return None

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the network of a role before any training; its trained weights are loaded into it later."""
        return builder.student()

    def means(self, role: str) -> Sequence[str]:
        """Return the roles whose average answer a role is, an ensemble; none for a network of its own."""
        return ()

    def part_of(self, role: str) -> str | None:
        """Return the role whose network a role is a part of, an exit say; None for a network of its own."""
        return None

    def part(self, role: str, model: nn.Module) -> nn.Module:
        """Return the part of a network that a role is; asked only where `part_of` names that network."""
        raise TypeError(f"{type(self).__name__} has no part '{role}'")

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of a seed, the distilled student's last; what is known only later is left out.

        teacher: the recipe's, untrained.
        """
        return [self.planned_as("distilled", "student distilled", builder, teacher)]

    def planned_as(self, role: str, label: str, builder: Builder, teacher: Teacher, **more: Any) -> Planned:
        """Return trainings of the network of a role by the recipe's method on its transfer set."""
        distiller = Distiller(self.build(role, builder), teacher, builder.objective())
        return Planned(label, distiller, builder.parts.transfer, **more)

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return further figures of a seed's models (by role) on the test set, as plain values; no choice is made."""
        return {}

    def notes(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the figures of all seeds come to, in a few lines."""
        return []

    def distiller(self, context: Context) -> Distiller:
        """Return what is trained on the transfer set, all that a `single` scheme does; asked only of such a one."""
        raise TypeError(f"{type(self).__name__} is more than one training")

    @abstractmethod
    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train one seed, each training by `context.fit` as a unit of its own, and return the models by role.

        "distilled" is the student that the scheme ends with; the others are those of `roles`.  The last unit of a role
        bears the role's name; a network that no unit wrote is kept by `context.keep`.
        """
