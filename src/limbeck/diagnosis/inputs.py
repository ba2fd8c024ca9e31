"""What is diagnosed: a teacher, a kind of student, and the data that both are looked at on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.batch import UNLABELLED
from limbeck.data import SampleSet
from limbeck.errors import DataError, ModelError
from limbeck.losses import KL, Divergence
from limbeck.randomness import permutation
from limbeck.tasks import Need
from limbeck.teacher import ClassVectors, Teacher
from limbeck.teachers import store
from limbeck.training import Training

__all__ = ["DiagnosisInput", "TeacherAnswers", "ask", "require_one_label"]

_PROBED = 10_000  # training examples that students are asked about


@dataclass(frozen=True, eq=False)
class DiagnosisInput:
    """A distillation to be looked into.

    train: what a student learns from, labelled.  held_out: what everything is measured on; never the test set.
    student: a seed -> a fresh network.  larger: the same of the teacher's kind, None where there is none to be had.
    temperature, hard_weight, soft_weight: of the distillation.  clean: the teacher sees unaugmented samples.
    divergence: of its soft term.
    groups: of each class, where a hierarchy is known.
    code: of the factories that the networks are from, where they are; see `limbeck.identity.code_identity`.
    about: lines that say which student is diagnosed, where that is not plain.
    trained: folders of finished trainings, whose students are taken over where a training would be the same.
    """

    name: str
    teacher: Teacher
    train: SampleSet
    held_out: SampleSet
    student: Callable[[int], nn.Module]
    larger: Callable[[int], nn.Module] | None
    training: Training
    temperature: float = 4.0
    hard_weight: float = 0.1
    soft_weight: float = 0.9
    clean: bool = False
    divergence: Divergence = KL
    groups: tuple[int, ...] | None = None
    code: Mapping[str, Any] | None = None
    about: tuple[str, ...] = ()
    trained: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "held_out"):
            samples: SampleSet = getattr(self, part)
            require_one_label(samples)
            known = (samples.labels != UNLABELLED).nonzero().squeeze(1)
            if len(known) < 2:
                raise DataError(f"diagnose: '{samples.name}' has {len(known)} labelled samples, expected 2 or more")
            if len(known) < len(samples):
                object.__setattr__(self, part, samples.subset(known))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.train.classes


def require_one_label(samples: SampleSet) -> None:
    """Require that an example has one class; DataError for the labels of another task."""
    samples.task.require(
        Need.ONE_LABEL, what="diagnose: it looks into", mend=f"'{samples.name}' cannot be diagnosed", error=DataError
    )


@dataclass(frozen=True, eq=False)
class TeacherAnswers:
    """What the teacher said, once and for all.

    train, held_out: logits (n, K) on the unaugmented samples of the subject's sets.
    probe: positions in the training set that students are asked about, (m,).
    vectors: (K, d) rows of the teacher's last linear layer, None where it has none.
    teacher: answers batches in training; looks up what is stored wherever that is exact.
    """

    train: Tensor
    held_out: Tensor
    train_labels: Tensor
    held_out_labels: Tensor
    probe: Tensor
    vectors: Tensor | None
    teacher: Teacher

    @property
    def on_probe(self) -> Tensor:
        """The teacher's logits on the probe."""
        return self.train[self.probe]

    @property
    def probe_labels(self) -> Tensor:
        """The labels of the probe."""
        return self.train_labels[self.probe]


def ask(subject: DiagnosisInput) -> TeacherAnswers:
    """Ask the teacher once about every sample; nothing that follows asks it again, unless training augments."""
    train, held_out = (store(subject.teacher, part, clean=subject.clean) for part in (subject.train, subject.held_out))
    exact = subject.clean or not subject.training.augment.active
    size = len(subject.train)
    probe = permutation(0, "probe", 0, size)[:_PROBED].sort().values
    return TeacherAnswers(
        train=train.logits.float().cpu(),
        held_out=held_out.logits.float().cpu(),
        train_labels=subject.train.labels.cpu(),
        held_out_labels=subject.held_out.labels.cpu(),
        probe=probe,
        vectors=_vectors(subject.teacher, subject.classes),
        teacher=train if exact else subject.teacher,
    )


def _vectors(teacher: Teacher, classes: int) -> Tensor | None:
    if not isinstance(teacher, ClassVectors):
        return None
    try:
        return teacher.class_vectors(classes).detach().cpu()
    except ModelError:
        return None
