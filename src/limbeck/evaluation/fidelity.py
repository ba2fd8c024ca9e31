"""Fidelity: how far a student says what its teacher says (Stanton et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses import kl
from limbeck.losses.reduction import check_labels
from limbeck.records import Number

__all__ = ["Fidelity", "Nearness", "fidelity"]


@checked_fields
@dataclass(frozen=True)
class Fidelity:
    """Student and teacher on the same samples, at temperature 1.

    Attributes:
        examples: samples, labelled or not.
        agreement: share with the same prediction, in [0, 1].
        kl: mean KL(teacher ‖ student) in nats.
        teacher_wrong: labelled samples that the teacher gets wrong.
        agreement_where_wrong: share of those with the same prediction; None without any.

    Example:
        >>> fidelity(torch.zeros(1, 2), torch.zeros(1, 2)).agreement
        1.0

    Reference:
        Stanton et al. (2021), "Does Knowledge Distillation Really Work?", arXiv:2106.05945.
    """

    examples: int
    agreement: float
    kl: Number
    teacher_wrong: int
    agreement_where_wrong: float | None


@dataclass(frozen=True)
class Nearness:
    """How similar a student's answers are to its teacher's.

    Attributes:
        agreement: share of the labels (of the places, in a dense task) with the same prediction, in [0, 1].
        kl: mean KL(teacher ‖ student) over the same, in nats.
        distance: in a regression instead, the mean squared difference.

    Example:
        >>> Nearness(agreement=0.9, kl=0.1).distance is None
        True
    """

    agreement: float | None = None
    kl: float | None = None
    distance: float | None = None

    @classmethod
    def mean(cls, parts: Sequence[tuple[int, "Nearness"]]) -> "Nearness":
        """Return that of a whole set from its parts, each with its number of samples."""
        size = sum(count for count, _ in parts)
        columns = {name: [(count, getattr(part, name)) for count, part in parts] for name in cls.__annotations__}
        return cls(
            **{
                name: None if column[0][1] is None else sum(count * value for count, value in column) / size
                for name, column in columns.items()
            }
        )


@torch.no_grad()
@checked
def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Fidelity:
    """Compare a student with its teacher on the same samples, in float64.

    Args:
        student_logits: (n, K) floating point.
        teacher_logits: (n, K) floating point.
        labels: (n,) int64, `UNLABELLED` (-100) for none.

    Returns:
        The figures.

    Raises:
        InputError: if shapes, labels or numbers are wrong.

    Example:
        >>> found = fidelity(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> found.agreement, round(found.kl, 4)  # the second sample costs tanh(1/2)
        (0.5, 0.2311)

    Reference:
        Stanton et al. (2021), "Does Knowledge Distillation Really Work?", arXiv:2106.05945.
    """
    checks.shapes_match("student_logits", student_logits.shape, "teacher_logits", teacher_logits.shape)
    if student_logits.dim() != 2 or 0 in student_logits.shape:
        raise InputError(f"student_logits: found shape {tuple(student_logits.shape)}, expected (n, K)")
    teacher_logits = teacher_logits.to(student_logits.device)
    same = student_logits.argmax(1) == teacher_logits.argmax(1)
    total = kl(student_logits.double(), teacher_logits.double())
    if bool(total.isnan()):
        raise InputError("logits: found NaN or infinity, expected numbers; look at the model or its data")
    wrong = torch.zeros_like(same)
    if labels is not None:
        labels = labels.to(student_logits.device)
        check_labels(labels, student_logits.shape[:1])
        wrong = (teacher_logits.argmax(1) != labels) & (labels != UNLABELLED)
    return Fidelity(
        examples=len(same),
        agreement=float(same.double().mean()),
        kl=float(total),
        teacher_wrong=int(wrong.sum()),
        agreement_where_wrong=float(same[wrong].double().mean()) if bool(wrong.any()) else None,
    )
