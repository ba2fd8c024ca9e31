"""The terms that objectives are made of: thin holders around the pure losses."""

from collections.abc import Mapping

from torch import Tensor

from limbeck import checks, schedules
from limbeck.batch import UNLABELLED, Batch
from limbeck.errors import InputError, ModelError
from limbeck.losses import CROSS_ENTROPY, KL, Divergence, SoftTarget, cross_entropy, logit_matching, reduce, soften
from limbeck.losses.reduction import check_labels, check_mask, compute_dtype
from limbeck.losses.targets import smooth_labels
from limbeck.objective import Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule

__all__ = ["HardLabels", "LogitMatching", "SoftTargets"]


class HardLabels(Term):
    """Cross-entropy on hard labels, smoothed by `label_smoothing` ε (Szegedy et al. 2016); counts labelled examples."""

    def __init__(self, weight: Schedule = 1.0, *, label_smoothing: float = 0.0, name: str = "hard") -> None:
        super().__init__(name, weight)
        checks.unit_interval("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> Tensor | int:
        if batch.labels is None:
            return 0
        labelled = batch.labels != UNLABELLED
        return (labelled if batch.mask is None else labelled & batch.mask).sum()

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int) -> Tensor:
        logits = outputs["student"].logits
        if batch.labels is None:
            return compute_dtype(logits[:0]).sum()
        if not self.label_smoothing:
            return cross_entropy(logits, batch.labels, mask=batch.mask, reduction="sum")
        check_labels(batch.labels, logits.shape[:-1])
        if batch.mask is not None:
            check_mask(batch.mask, batch.labels.shape)
        dtype = compute_dtype(logits).dtype
        target = smooth_labels(batch.labels, logits.shape[-1], self.label_smoothing, dtype=dtype)
        labelled = batch.labels != UNLABELLED
        mask = labelled if batch.mask is None else labelled & batch.mask
        return reduce(CROSS_ENTROPY.per_example(logits, target, 1.0), mask, "sum")


class SoftTargets(Term):
    """A divergence between the teacher's softened distribution and the student's, times the factor it declares.

    temperature: above 0, a number or schedule.
    """

    reads = frozenset({"student", "teacher"})

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        temperature: Schedule = 4.0,
        divergence: Divergence = KL,
        name: str = "soft",
    ) -> None:
        super().__init__(name, weight)
        if not callable(temperature):
            checks.positive("temperature", temperature)
        self.temperature = temperature
        self.divergence = divergence

    def target(self, outputs: Outputs, batch: Batch, temperature: float) -> SoftTarget:
        """Return what the student is asked to match."""
        return soften(outputs.logits, temperature)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int) -> Tensor:
        student, _ = _logits(outputs, batch)
        temperature = schedules.at(self.temperature, step)
        target = self.target(outputs["teacher"], batch, temperature)
        per_example = self.divergence.per_example(student, target, temperature)
        return self.divergence.factor(temperature) * reduce(per_example, batch.mask, "sum")


class LogitMatching(Term):
    """½·Σ(z-v)²/K between the student's logits and the teacher's (Ba & Caruana 2014)."""

    reads = frozenset({"student", "teacher"})

    def __init__(self, weight: Schedule = 1.0, *, zero_mean: bool = False, name: str = "logits") -> None:
        super().__init__(name, weight)
        self.zero_mean = zero_mean

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int) -> Tensor:
        student, teacher = _logits(outputs, batch)
        return logit_matching(student, teacher, zero_mean=self.zero_mean, mask=batch.mask, reduction="sum")


def _logits(outputs: Mapping[str, Outputs], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits of student and teacher, when they agree with each other and with what the batch counts."""
    student, teacher = outputs["student"].logits, outputs["teacher"].logits
    if student.shape != teacher.shape:
        raise ModelError(
            f"logits: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}; give both models the same classes"
        )
    counted = (batch.mask if batch.mask is not None else batch.index if batch.labels is None else batch.labels).shape
    if student.shape[:-1] != counted:
        raise InputError(
            f"logits: student {tuple(student.shape)}, but the batch counts {tuple(counted)} examples or tokens; "
            f"give it a mask of shape {tuple(student.shape[:-1])}"
        )
    return student, teacher
