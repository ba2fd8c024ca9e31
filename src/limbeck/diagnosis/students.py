"""Where the students of a diagnosis are trained: none is run twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.diagnosis.inputs import DiagnosisInput, TeacherAnswers
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import predict
from limbeck.objective import Objective
from limbeck.training import Job, Observer, Result, Training
from limbeck.training.progress import ignore
from limbeck.training.together import SHARED
from limbeck.training.trained import attempt_or_read, read_if_same

__all__ = ["StudentTrainer", "StudentTraining", "TrainedStudent"]

TOGETHER = 16  # students that are trained at a time: all of them are in memory
_EARLY = 1  # the epoch after which a student is looked at early in its training


@dataclass(frozen=True, eq=False)
class TrainedStudent:
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


@dataclass(frozen=True, eq=False)
class StudentTraining:
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
class StudentTrainer:
    """Trains students of a subject, those of a seed on the same batches in one process.

    root: the cache that trainings are kept in, see `limbeck.training.trained`; None keeps nothing.
    """

    subject: DiagnosisInput
    answers: TeacherAnswers
    root: Path | None = None
    watch: Observer = ignore

    def train(self, name: str, objective: Objective, seed: int, **more: Any) -> TrainedStudent:
        """Train a student from a seed, or read it; more: see `StudentTraining`."""
        return self.train_all([StudentTraining(name, objective, seed, **more)])[0]

    def train_all(self, plans: Sequence[StudentTraining]) -> list[TrainedStudent]:
        """Train a student for each plan, or read it; each is what it would be if it were taught alone.

        No choice is made: all epochs are run, the last weights are kept, and the held-out data is looked at once.
        """
        students = []
        for outcome in self.attempt_all(plans):
            if isinstance(outcome, NonFiniteLossError):
                raise outcome
            students.append(outcome)
        return students

    def attempt_all(self, plans: Sequence[StudentTraining]) -> list[TrainedStudent | NonFiniteLossError]:
        """Teach as `train_all` does, and return for a student whose loss was not finite its error."""
        students: dict[str, TrainedStudent | NonFiniteLossError] = {}
        waiting: dict[tuple[object, ...], dict[str, Job]] = {}
        jobs = [self._job(plan) for plan in plans]
        for each in jobs:
            if not each.along and any(read_if_same(each, folder) for folder in self.subject.trained):
                students.setdefault(each.address, self._student(each))
            else:
                batches = (each.seed, *(getattr(each.training, key) for key in SHARED))
                waiting.setdefault(batches, {}).setdefault(each.address, each)
        for sharing in (list(each.values()) for each in waiting.values()):
            for first in range(0, len(sharing), TOGETHER):
                together = sharing[first : first + TOGETHER]
                outcomes = attempt_or_read(together, root=self.root, watch=self.watch)
                for each, outcome in zip(together, outcomes, strict=True):
                    students[each.address] = self._student(each, outcome) if isinstance(outcome, Result) else outcome
        return [students[each.address] for each in jobs]

    def _job(self, plan: StudentTraining) -> Job:
        larger = plan.larger and self.subject.larger is not None
        network = (self.subject.larger if larger and self.subject.larger else self.subject.student)(plan.seed)
        teacher = self.answers.teacher if "teacher" in plan.objective.reads() else None
        if plan.objective.taps("teacher"):  # stored answers have no features
            teacher = self.subject.teacher
        return Job(
            Distiller(network, teacher, plan.objective),
            self.subject.train,
            None,
            _fixed(plan.training or self.subject.training, plan.times),
            plan.seed,
            along=(_EARLY,) if plan.early else (),
            code=self.subject.code,
            label=f"{plan.name} (seed {plan.seed})",
        )

    def _student(self, job: Job, result: Result | None = None) -> TrainedStudent:
        """Ask a student; result: of its training, None where it is the diagnosed run's own."""
        network, probe = job.distiller.student, self.subject.train.subset(self.answers.probe)
        early = None if result is None else result.along.get(_EARLY)
        return TrainedStudent(
            probe=predict(network, probe).float().cpu(),
            held_out=predict(network, self.subject.held_out).float().cpu(),
            early=None if early is None else predict(early, probe).float().cpu(),
            network=network,
            epochs=job.training.epochs,
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
