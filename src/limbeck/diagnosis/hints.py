"""Hints as an arm of the diagnosis: layers of teacher and student that can be compared, and how strongly."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck import methods
from limbeck.diagnosis.inputs import DiagnosisInput
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.experiment.layers import layers_of, propose
from limbeck.layers import Layers
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.teachers import ModelTeacher

__all__ = ["HintPlaces", "HintSetting", "hint_places"]

_LOOKED_AT = 256  # training examples

Pair = tuple[str, str]


@dataclass(frozen=True)
class HintSetting:
    """Which layers are compared, as (student's, teacher's), and how strongly.

    strength: the weight of the hint times the mean square of the teacher's feature, so that a projected feature of 0
    costs as much.
    """

    pairs: tuple[Pair, ...]
    strength: float = 10.0

    def __str__(self) -> str:
        """Return both in words.

        >>> str(HintSetting((("pool", "pool"), ("stage1", "stage2")), 0.1))
        'hints at pool and stage1: stage2, strength 0.1'
        """
        places = [one if one == other else f"{one}: {other}" for one, other in self.pairs]
        return f"hints at {' and '.join(places)}, strength {self.strength:g}"


@dataclass(frozen=True)
class HintPlaces:
    """The layers that hints can be given at, from the input to the answer.

    scales: the mean square of the teacher's feature, by pair.  reason: why there are none.
    """

    scales: Mapping[Pair, float] = field(default_factory=dict)
    reason: str = ""

    def choices(self) -> list[HintSetting]:
        """Return the deepest pair and the one in the middle; one where they are the same."""
        pairs = tuple(self.scales)
        return [HintSetting((each,)) for each in dict.fromkeys((pairs[-1], pairs[(len(pairs) - 1) // 2]))]

    def objective(self, setting: HintSetting) -> Objective:
        """Return the hints alone, to be added to what the student learns from the logits."""
        weight = setting.strength / sum(self.scales[pair] for pair in setting.pairs)
        return methods.hint(layers=dict(setting.pairs), weight=weight, hard_weight=0.0)


def hint_places(subject: DiagnosisInput) -> HintPlaces:
    """Look for the layers that a student of the subject can be given hints at."""
    teacher = subject.teacher
    if not isinstance(teacher, ModelTeacher):
        return HintPlaces(reason="the teacher has no layers that can be read: it is no single network")
    positions = torch.arange(min(_LOOKED_AT, len(subject.train)))
    batch = subject.train.batch(positions, augment=None, seed=0, view=0, clean_view=True)
    student = subject.student(0)
    own = layers_of(student, lambda: run_model(student, batch.inputs, task=batch.task).logits)
    proposed = propose(own, layers_of(teacher.model, lambda: teacher(batch).logits))
    scales: dict[Pair, float] = {}
    before: Tensor | None = None
    for pair in (pair for each in proposed for pair in Layers.of(each.layers).pairs):
        feature = teacher(batch, Layers((pair,)).taps()["teacher"]).features[pair[1]]
        scale = float(feature.double().square().mean())
        if scale == 0:
            continue
        try:
            hint = HintPlaces({pair: scale}).objective(HintSetting((pair,)))
            Distiller(student, teacher, hint).build(batch)
        except LimbeckError:
            continue  # a hint cannot compare these two
        if before is not None and torch.equal(feature, before):  # the part between them changes nothing
            scales.popitem()
        scales[pair], before = scale, feature
    return HintPlaces(scales, "" if scales else "student and teacher have no layers that can be paired")
