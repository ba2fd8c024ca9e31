"""Where the students of a diagnosis are trained: each training is kept by its content and never run twice."""

import copy
import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.diagnosis.subject import Answers, Subject
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import predict
from limbeck.locks import exclusive
from limbeck.objective import Objective
from limbeck.own import require_own
from limbeck.training import Observer, Progress, Training, attempt_many, load_weights
from limbeck.training.checkpoints import read_sealed
from limbeck.training.identity import identity_of
from limbeck.training.progress import ignore
from limbeck.training.together import SHARED
from limbeck.training.weights import load_signed, save_signed

__all__ = ["Classroom", "Lesson", "Pupil"]

_FORMAT = 3  # raised whenever the same settings would train another student
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
class _Place:
    """A lesson made ready: what is trained, how, and under which address."""

    lesson: Lesson
    distiller: Distiller
    settings: Training
    address: str

    @property
    def network(self) -> nn.Module:
        return self.distiller.student

    @property
    def label(self) -> str:
        return f"{self.lesson.name} (seed {self.lesson.seed})"

    @property
    def batches(self) -> tuple[object, ...]:
        """What lessons have in common that can be given together."""
        return (self.lesson.seed, *(getattr(self.settings, key) for key in SHARED))


@dataclass(frozen=True, eq=False)
class Classroom:
    """Trains students of a subject, those of a seed on the same batches in one process.

    root: folder that trainings are kept in, addressed by a digest of what decides them; None keeps nothing.
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
        waiting: dict[tuple[object, ...], list[_Place]] = {}
        places = [self._place(lesson) for lesson in lessons]
        for number, place in enumerate(places):
            if place.address in (earlier.address for earlier in places[:number]):
                continue
            if self._read_from_run(place):
                pupils[place.address] = self._pupil(place, None, reused=True)
            else:
                waiting.setdefault(place.batches, []).append(place)
        for sharing in waiting.values():
            for first in range(0, len(sharing), TOGETHER):
                pupils |= self._train(sharing[first : first + TOGETHER])
        return [pupils[place.address] for place in places]

    def _place(self, lesson: Lesson) -> _Place:
        larger = lesson.larger and self.subject.larger is not None
        network = (self.subject.larger if larger and self.subject.larger else self.subject.student)(lesson.seed)
        settings = _fixed(lesson.training or self.subject.training, lesson.times)
        teacher = self.answers.teacher if "teacher" in lesson.objective.reads() else None
        distiller = Distiller(network, teacher, lesson.objective)
        address = self._address(distiller, settings, lesson.seed, early=lesson.early)
        return _Place(lesson, distiller, settings, address)

    def _train(self, places: Sequence[_Place]) -> dict[str, Pupil | NonFiniteLossError]:
        """Train students on the same batches, or read those that were trained before."""
        probe = self.subject.train.subset(self.answers.probe)
        folders = None if self.root is None else [self.root / place.address for place in places]
        looked: dict[str, Tensor] = {}
        by_label = {place.label: place for place in places}

        def look(progress: Progress) -> None:
            self.watch(progress)
            place = by_label[progress.label]
            if place.lesson.early and progress.epoch_ended and progress.epoch == _EARLY:
                looked[place.address] = predict(place.network, probe).float().cpu()
                if self.root is not None:
                    save_signed(place.network, self.root / place.address / "early.safetensors")

        for folder in folders or []:
            require_own(folder, folder.parent)
        with ExitStack() as locks:
            for folder in sorted(folders or []):  # in one order, so that no two processes wait for each other
                locks.enter_context(
                    exclusive(folder.with_suffix(".lock"), wait=True, busy=f"another process trains '{folder}'")
                )
            outcomes = attempt_many(
                [place.distiller for place in places],
                self.subject.train,
                training=[place.settings for place in places],
                seed=places[0].lesson.seed,
                folders=folders,
                labels=list(by_label),
                watch=look,
            )
        pupils: dict[str, Pupil | NonFiniteLossError] = {}
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, NonFiniteLossError):
                pupils[place.address] = outcome
                continue
            if place.lesson.early and place.address not in looked and self.root is not None:
                earlier = _with_weights(place.network, self.root / place.address / "early.safetensors")
                looked[place.address] = predict(earlier, probe).float().cpu()
            pupils[place.address] = self._pupil(place, looked.get(place.address))
        return pupils

    def _read_from_run(self, place: _Place) -> bool:
        """Take over the weights of the diagnosed run's student that had this very training, if there is one."""
        if place.lesson.early or place.lesson.larger:
            return False
        own = self._identity(place.distiller, place.settings, place.lesson.seed)
        for folder in self.subject.trained:
            ended = read_sealed(folder / "result.json")
            weights = folder / "student.safetensors"
            known = {**ended["identity"], "validation": None}  # which such a training makes no choice by
            if known == json.loads(json.dumps(own)) and weights.is_file():
                load_weights(place.network, weights)
                return True
        return False

    def _pupil(self, place: _Place, early: Tensor | None, *, reused: bool = False) -> Pupil:
        probe = self.subject.train.subset(self.answers.probe)
        return Pupil(
            probe=predict(place.network, probe).float().cpu(),
            held_out=predict(place.network, self.subject.held_out).float().cpu(),
            early=early,
            network=place.network,
            epochs=place.settings.epochs,
            reused=reused,
        )

    def _address(self, distiller: Distiller, training: Training, seed: int, *, early: bool) -> str:
        known = self._identity(distiller, training, seed)
        content = {"format": _FORMAT, "code": self.subject.code, "early": early, "training": asdict(training), **known}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def _identity(self, distiller: Distiller, training: Training, seed: int) -> dict[str, Any]:
        teacher = None if distiller.teacher is None else distiller.teacher.fingerprint()
        return identity_of(distiller, self.subject.train, None, training, seed, teacher=teacher)


def _fixed(training: Training, times: int) -> Training:
    """Return settings with so many times the epochs and nothing left to choose on held-out data."""
    return replace(
        training,
        epochs=times * training.epochs,
        milestones=tuple(times * milestone for milestone in training.milestones),
        patience=None,
        keep="last",
    )


def _with_weights(network: nn.Module, path: Path) -> nn.Module:
    twin = copy.deepcopy(network)
    load_signed(twin, path)
    return twin
