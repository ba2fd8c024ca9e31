"""Where the students of a diagnosis are trained: each training is kept by its content and never run twice."""

import copy
import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from limbeck.diagnosis.subject import Answers, Subject
from limbeck.distiller import Distiller
from limbeck.evaluation import predict
from limbeck.locks import exclusive
from limbeck.objective import Objective
from limbeck.teachers import state_digest
from limbeck.training import Observer, Progress, Training, fit, load_weights, save_weights
from limbeck.training.progress import ignore

__all__ = ["Classroom", "Pupil"]

_FORMAT = 2  # raised whenever the same settings would train another student
_EARLY = 1  # the epoch after which a student is looked at early in its training


@dataclass(frozen=True, eq=False)
class Pupil:
    """A trained student's answers.

    probe, held_out: logits on the subject's probe of the training data and on its held-out data.
    early: logits on the probe after the first epoch; None where they were not asked for.
    network: the student itself.  epochs: of its training.
    """

    probe: Tensor
    held_out: Tensor
    early: Tensor | None
    network: nn.Module
    epochs: int

    @property
    def parameters(self) -> int:
        """How many parameters the student has."""
        return sum(parameter.numel() for parameter in self.network.parameters())


@dataclass(frozen=True, eq=False)
class Classroom:
    """Trains students of a subject.

    root: folder that trainings are kept in, addressed by a digest of what decides them; None keeps nothing.
    """

    subject: Subject
    answers: Answers
    root: Path | None = None
    watch: Observer = ignore

    def teach(
        self,
        name: str,
        objective: Objective,
        seed: int,
        *,
        training: Training | None = None,
        times: int = 1,
        larger: bool = False,
        early: bool = False,
    ) -> Pupil:
        """Train a student from a seed, or read it.

        training: by default the subject's.  times: so many times its epochs.  larger: a network of the teacher's kind.
        early: look at the student early in its training, too.
        No choice is made: all epochs are run, the last weights are kept, and the held-out data is looked at once.
        """
        make = self.subject.larger if larger and self.subject.larger is not None else self.subject.student
        network = make(seed)
        settings = _fixed(training or self.subject.training, times)
        teacher = self.answers.teacher if "teacher" in objective.reads() else None
        distiller = Distiller(network, teacher, objective)
        folder = None if self.root is None else self.root / self._address(distiller, settings, seed, early=early)
        probe = self.subject.train.subset(self.answers.probe)
        looked: list[Tensor] = []

        def look(progress: Progress) -> None:
            self.watch(progress)
            if early and progress.epoch_ended and progress.epoch == _EARLY:
                looked.append(predict(network, probe).float().cpu())
                if folder is not None:
                    save_weights(network, folder / "early.safetensors")

        label = f"{name} (seed {seed})"
        with nullcontext() if folder is None else exclusive(folder.with_suffix(".lock"), wait=True, busy=""):
            fit(distiller, self.subject.train, training=settings, seed=seed, folder=folder, watch=look, label=label)
        if early and not looked and folder is not None:
            looked.append(predict(_with_weights(network, folder / "early.safetensors"), probe).float().cpu())
        return Pupil(
            probe=predict(network, probe).float().cpu(),
            held_out=predict(network, self.subject.held_out).float().cpu(),
            early=looked[0] if looked else None,
            network=network,
            epochs=settings.epochs,
        )

    def _address(self, distiller: Distiller, training: Training, seed: int, *, early: bool) -> str:
        content = {
            "format": _FORMAT,
            "code": self.subject.code,
            "student": [state_digest(distiller.student), repr(distiller.student)],
            "objective": {name: repr(term) for name, term in distiller.objective.terms.items()},
            "data": [self.subject.train.source, _digest(self.subject.train.index), _digest(self.subject.train.labels)],
            "training": asdict(training),
            "seed": seed,
            "teacher": None if distiller.teacher is None else distiller.teacher.fingerprint(),
            "early": early,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _fixed(training: Training, times: int) -> Training:
    """Return settings with so many times the epochs and nothing left to choose on held-out data."""
    return replace(
        training,
        epochs=times * training.epochs,
        milestones=tuple(times * milestone for milestone in training.milestones),
        patience=None,
        keep="last",
    )


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def _with_weights(network: nn.Module, path: Path) -> nn.Module:
    twin = copy.deepcopy(network)
    load_weights(twin, path)
    return twin
