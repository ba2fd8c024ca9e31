"""Where the students of a diagnosis are trained: none is run twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.diagnosis.subject import Answers, Subject
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import predict
from limbeck.objective import Objective
from limbeck.training import Observer, Result, Training
from limbeck.training.progress import ignore
from limbeck.training.together import SHARED
from limbeck.training.trained import Wanted, attempt_or_read, read_if_same

__all__ = ["Classroom", "Lesson", "Pupil"]

TOGETHER = 16  # students that are trained at a time: all of them are in memory
_EARLY = 1  # the epoch after which a student is looked at early in its training


@dataclass(frozen=True, eq=False)
class Pupil:
    """A trained student's answers.

    probe, held_out: logits on the subject's probe of the training data and on its held-out data.
    early: logits on the probe after the first epoch; None where they were not asked for.
    network: the student itself.  epochs: of its training.  reused: whether it is the diagnosed run's own.
    """

    probe: Tensor
    held_out: Tensor
    early: Tensor | None
    network: nn.Module
    epochs: int
    reused: bool = False

    @property
    def parameters(self) -> int:
        """How many parameters the student has."""
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True, eq=False)
class Lesson:
    """One training of a student.

    name: what its progress is called by.  training: by default the subject's.  times: so many times its epochs.
    larger: a network of the teacher's kind.  early: look at the student early in its training, too.
    """

    name: str
    objective: Objective
    seed: int
    training: Training | None = None
    times: int = 1
    larger: bool = False
    early: bool = False


@dataclass(frozen=True, eq=False)
class Classroom:
    """Trains students of a subject, those of a seed on the same batches in one process.

    root: the cache that trainings are kept in, see `limbeck.training.trained`; None keeps nothing.
    """

    subject: Subject
    answers: Answers
    root: Path | None = None
    watch: Observer = ignore

    def teach(self, name: str, objective: Objective, seed: int, **more: Any) -> Pupil:
        """Train a student from a seed, or read it; more: see `Lesson`."""
        return self.teach_all([Lesson(name, objective, seed, **more)])[0]

    def teach_all(self, lessons: Sequence[Lesson]) -> list[Pupil]:
        """Train a student for each lesson, or read it; each is what it would be if it were taught alone.

        No choice is made: all epochs are run, the last weights are kept, and the held-out data is looked at once.
        """
        pupils = []
        for outcome in self.attempt_all(lessons):
            if isinstance(outcome, NonFiniteLossError):
                raise outcome
            pupils.append(outcome)
        return pupils

    def attempt_all(self, lessons: Sequence[Lesson]) -> list[Pupil | NonFiniteLossError]:
        """Teach as `teach_all` does, and return for a student whose loss was not finite its error."""
        pupils: dict[str, Pupil | NonFiniteLossError] = {}
        waiting: dict[tuple[object, ...], dict[str, Wanted]] = {}
        wanted = [self._wanted(lesson) for lesson in lessons]
        for each in wanted:
            if not each.along and any(read_if_same(each, folder) for folder in self.subject.trained):
                pupils.setdefault(each.address, self._pupil(each))
            else:
                batches = (each.seed, *(getattr(each.training, key) for key in SHARED))
                waiting.setdefault(batches, {}).setdefault(each.address, each)
        for sharing in (list(each.values()) for each in waiting.values()):
            for first in range(0, len(sharing), TOGETHER):
                together = sharing[first : first + TOGETHER]
                outcomes = attempt_or_read(together, root=self.root, watch=self.watch)
                for each, outcome in zip(together, outcomes, strict=True):
                    pupils[each.address] = self._pupil(each, outcome) if isinstance(outcome, Result) else outcome
        return [pupils[each.address] for each in wanted]

    def _wanted(self, lesson: Lesson) -> Wanted:
        larger = lesson.larger and self.subject.larger is not None
        network = (self.subject.larger if larger and self.subject.larger else self.subject.student)(lesson.seed)
        teacher = self.answers.teacher if "teacher" in lesson.objective.reads() else None
        return Wanted(
            Distiller(network, teacher, lesson.objective),
            self.subject.train,
            None,
            _fixed(lesson.training or self.subject.training, lesson.times),
            lesson.seed,
            along=(_EARLY,) if lesson.early else (),
            code=self.subject.code,
            label=f"{lesson.name} (seed {lesson.seed})",
        )

    def _pupil(self, wanted: Wanted, result: Result | None = None) -> Pupil:
        """Ask a student; result: of its training, None where it is the diagnosed run's own."""
        network, probe = wanted.distiller.student, self.subject.train.subset(self.answers.probe)
        early = None if result is None else result.along.get(_EARLY)
        return Pupil(
            probe=predict(network, probe).float().cpu(),
            held_out=predict(network, self.subject.held_out).float().cpu(),
            early=None if early is None else predict(early, probe).float().cpu(),
            network=network,
            epochs=wanted.training.epochs,
            reused=result is None,
        )


def _fixed(training: Training, times: int) -> Training:
    """Return settings with so many times the epochs and nothing left to choose on held-out data."""
    return replace(
        training,
        epochs=times * training.epochs,
        milestones=tuple(times * milestone for milestone in training.milestones),
        patience=None,
        keep="last",
    )
