"""Planted cases: distillations whose trouble is known, at fixed strengths, to score the diagnosis with.

Each is made of a labelled set, with a multi-layer perceptron as teacher and a smaller one as student, and trains in
seconds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.data import SampleSet, TensorSet
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.causes import Finding, find_causes
from limbeck.diagnosis.examining import look_into_capacity
from limbeck.diagnosis.inputs import DiagnosisInput
from limbeck.diagnosis.signs import Signs, read_signs
from limbeck.diagnosis.students import StudentTrainer
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, one_of
from limbeck.experiment.building import initial_weights
from limbeck.models import mlp
from limbeck.objective import Objective
from limbeck.outputs import Outputs, Tap
from limbeck.randomness import derive_seed, uniform
from limbeck.teacher import ClassVectors, Teacher, teacher_weights
from limbeck.teachers import ModelTeacher
from limbeck.training import Progress, Training, fit

__all__ = ["PLANTED", "Examination", "Shuffled", "Strengths", "examine", "plant"]


@dataclass(frozen=True)
class Examination:
    """What was seen of a case, and what it comes to."""

    signs: Signs
    capacity: Capacity
    findings: tuple[Finding, ...]


def examine(trainer: StudentTrainer, seed: int, *, needed: bool = False) -> Examination:
    """Look at a teacher and at what a student can take over of it: four trainings of a seed.

    needed: two to four, as many as the findings ask for, which are the same.
    """
    alone = trainer.train("hard labels", methods.hard(), seed)
    capacity = look_into_capacity(trainer, seed, needed=needed)
    signs = read_signs(trainer.answers, alone, capacity)
    return Examination(signs, capacity, find_causes(signs))


@dataclass(frozen=True)
class Strengths:
    """How strongly each trouble is planted, and the sizes of every case.

    smoothing: ε of the smoothed teacher.  mislabelled: share of the labels that are drawn anew for the over-fitted one,
    which is trained `memorising` times as long, without dropout.  small: hidden units of the student whose teacher is
    too large.  large: units in each layer of these two teachers.  pattern: length of the pattern that alone tells
    unrelated classes apart, in shares of the root mean square distance of the samples from their mean.
    teacher, student: hidden units.  dropout: of the teacher.
    validation: share of the training part that is taken away, from teacher and student alike, to stop every teacher but
    the over-fitted one early: it keeps the weights of the epoch with the lowest loss there.  0 trains it to its end,
    which over-fits on a set that is hard to learn.
    """

    smoothing: float = 0.1
    mislabelled: float = 0.3
    memorising: int = 3
    small: int = 2
    large: int = 512
    pattern: float = 0.3
    teacher: tuple[int, ...] = (128, 128)
    student: tuple[int, ...] = (32,)
    dropout: float = 0.2
    validation: float = 0.0
    training: Training = field(default_factory=lambda: Training(epochs=30, batch_size=64, learning_rate=0.05))


def plant(case: str, samples: SampleSet, seed: int, strengths: Strengths | None = None) -> DiagnosisInput:
    """Return the subject of a case: "healthy", or the name of a cause, which is then what is wrong with it.

    samples: labelled; a quarter of them is held out.  seed: of everything that is random.
    """
    if case not in PLANTED:
        raise InputError(f"case: found {case!r}; {one_of(case, PLANTED)}")
    return PLANTED[case](samples, seed, strengths or Strengths())


def _subject(
    samples: SampleSet,
    seed: int,
    strengths: Strengths,
    *,
    hidden: tuple[int, ...] | None = None,
    small: tuple[int, ...] | None = None,
    dropout: float | None = None,
    objective: Objective | None = None,
    times: int = 1,
    early: bool = True,
    wrap: Callable[[Teacher], Teacher] = lambda teacher: teacher,
) -> DiagnosisInput:
    """Split the samples, train the teacher and put the case together."""
    train, held_out = samples.split(0.25, derive_seed(seed, "split"), stratify=True)
    validation: SampleSet | None = None
    if strengths.validation:
        train, validation = train.split(strengths.validation, derive_seed(seed, "validation"), stratify=True)
    wide, narrow = hidden or strengths.teacher, small or strengths.student

    def network(units: tuple[int, ...], own: int, role: str, drop: float = 0.0) -> nn.Module:
        with initial_weights(own, role):
            return mlp(train.input_shape, train.classes, hidden=units, dropout=drop)

    teacher = network(wide, seed, "teacher", strengths.dropout if dropout is None else dropout)
    long = replace(strengths.training, epochs=times * strengths.training.epochs)
    lowest = _Lowest(teacher)
    fit(
        Distiller(teacher, None, objective or methods.hard()),
        train,
        validation if early else None,
        training=long,
        seed=derive_seed(seed, "teacher"),
        watch=lowest.look,
    )
    lowest.put_back()
    return DiagnosisInput(
        name=samples.name,
        teacher=wrap(ModelTeacher(teacher)),
        train=train,
        held_out=held_out,
        student=lambda own: network(narrow, own, "student"),
        larger=lambda own: network(wide, own, "larger"),
        training=strengths.training,
    )


class _Lowest:
    """The weights of the epoch whose validation loss was the lowest; without a validation set those of the end."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._loss, self._weights = math.inf, network.state_dict()

    def look(self, progress: Progress) -> None:
        """Keep the weights where the loss is lower than ever."""
        if progress.epoch_ended and progress.metrics and progress.metrics["nll"] < self._loss:
            self._loss = progress.metrics["nll"]
            self._weights = {name: value.clone() for name, value in self._network.state_dict().items()}

    def put_back(self) -> None:
        """Put the kept weights into the network."""
        self._network.load_state_dict(self._weights)


def _healthy(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    return _subject(samples, seed, strengths)


def _smoothed(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    return _subject(samples, seed, strengths, objective=methods.hard(label_smoothing=strengths.smoothing))


def _overfitted(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    """Draw labels anew, in what the teacher learns and in what it is measured on, and let it memorise them."""
    draws = uniform(seed, "mislabelled", torch.zeros_like(samples.index), samples.index, 2)
    anew = (draws[:, 1] * samples.classes).long().clamp_max(samples.classes - 1)
    labels = torch.where(draws[:, 0] < strengths.mislabelled, anew, samples.labels)
    noisy = replace(samples, labels=labels)
    wide = (strengths.large,) * len(strengths.teacher)
    return _subject(noisy, seed, strengths, hidden=wide, dropout=0.0, times=strengths.memorising, early=False)


def _too_large(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    wide = (strengths.large,) * len(strengths.teacher)
    return _subject(samples, seed, strengths, hidden=wide, small=(strengths.small,))


def _shuffled(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    return _subject(samples, seed, strengths, wrap=lambda teacher: Shuffled(teacher, seed))


def _two_classes(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    """Keep two classes, drawn by the seed."""
    kept = uniform(
        seed, "two classes", torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), samples.classes
    )
    first, second = kept[0].argsort()[:2].sort().values.tolist()
    pair = samples.only_classes([first, second])
    labels = (pair.labels == second).long()
    return _subject(TensorSet.of(_rows(pair), labels, classes=2, name=samples.name), seed, strengths)


def _unrelated(samples: SampleSet, seed: int, strengths: Strengths) -> DiagnosisInput:
    """Label the samples at random and add to each the pattern of its label; the patterns are orthonormal."""
    rows = _rows(samples)
    flat = rows.flatten(1)
    if flat.shape[1] < samples.classes:
        raise InputError(f"samples: {flat.shape[1]} inputs cannot hold {samples.classes} orthonormal patterns")
    generator = torch.Generator().manual_seed(derive_seed(seed, "patterns"))
    patterns = torch.linalg.qr(torch.randn(flat.shape[1], samples.classes, generator=generator))[0].T
    length = strengths.pattern * math.sqrt(float((flat - flat.mean(0)).square().sum(1).mean()))
    labels = torch.arange(len(flat)) % samples.classes
    labels = labels[torch.randperm(len(flat), generator=generator)]
    inputs = (flat + length * patterns[labels]).view(rows.shape)
    return _subject(TensorSet.of(inputs, labels, classes=samples.classes, name=samples.name), seed, strengths)


def _rows(samples: SampleSet) -> Tensor:
    """Return all samples as the networks see them."""
    every = torch.arange(len(samples))
    inputs: Tensor = samples.batch(every, augment=None, seed=0, view=0).inputs
    return inputs


class Shuffled:
    """A teacher whose probabilities are dealt out anew among all classes but the most probable one.

    The permutation is a function of (seed, sample) alone, as for the same teacher's answers to the same sample.
    """

    def __init__(self, teacher: Teacher, seed: int) -> None:
        self.teacher, self.seed = teacher, seed

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the teacher's outputs with shuffled logits."""
        outputs = self.teacher(batch, taps) if taps else self.teacher(batch)
        logits = outputs.logits
        draws = uniform(self.seed, "shuffled", torch.zeros_like(batch.index), batch.index, logits.shape[1])
        top = logits.argmax(1, keepdim=True)
        order = draws.scatter(1, top, -1.0).argsort(1)  # the most probable class, then the others in drawn order
        places = torch.zeros_like(logits).scatter(1, top, -1.0).argsort(dim=1, stable=True)
        return replace(outputs, logits=torch.empty_like(logits).scatter(1, places, logits.gather(1, order)))

    def class_vectors(self, classes: int) -> Tensor:
        """Return the class vectors of the teacher."""
        if not isinstance(self.teacher, ClassVectors):
            raise ModelError("shuffled teacher: what it shuffles has no class vectors")
        return self.teacher.class_vectors(classes)

    def to(self, device: torch.device | str) -> "Shuffled":
        """Place the teacher on a device."""
        self.teacher.to(device)
        return self

    def fingerprint(self) -> str:
        """Return a digest of the teacher and the seed."""
        return f"shuffled {self.seed} {self.teacher.fingerprint()}"

    def weights_digest(self) -> str | None:
        """Return the digest of the teacher's weights."""
        return teacher_weights(self.teacher)


PLANTED: Mapping[str, Callable[[SampleSet, int, Strengths], DiagnosisInput]] = {
    "healthy": _healthy,
    "smoothed_teacher": _smoothed,
    "overfitted_teacher": _overfitted,
    "teacher_too_large": _too_large,
    "noise_beside_the_label": _shuffled,
    "two_classes": _two_classes,
    "unrelated_classes": _unrelated,
}
"""How each case is made, by the name of its cause."""
