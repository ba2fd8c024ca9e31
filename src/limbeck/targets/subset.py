"""A class-specialised student's target: the teacher's distribution over a subset of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target, normalised

__all__ = ["CARD", "Restricted", "label_positions", "restrict"]

CARD = Card(
    name="subset",
    summary="the teacher's probabilities of a subset of its classes, renormalised, for a student that has only those",
    authors="Li-Yun Wang, Anthony Rhodes, Wu-chi Feng",
    year=2022,
    title="Class Specialized Knowledge Distillation",
    source="https://openreview.net/forum?id=wjiPAcZqB9z",
    formula="ρ = softmax(v[S]/T)",
)


@checked
def restrict(target: Dense, classes: Sequence[int] | Tensor) -> Dense:
    """Keep a subset of the classes and renormalise: softmax(v[S]/T), where v/T are the target's logits.

    Args:
        target: log-probabilities (..., K).
        classes: S, (k,) numbers in [0, K), each once, in the order of the student's classes.

    Returns:
        Log-probabilities (..., k).

    Raises:
        InputError: if a class is out of range or repeated, or a row gives all of S probability 0.

    Example:
        >>> restrict(Dense(torch.tensor([[0.1, 0.6, 0.3]]).log()), [2, 0]).log_probs.exp()
        tensor([[0.7500, 0.2500]])

    Reference:
        Wang, Rhodes & Feng (2022), "Class Specialized Knowledge Distillation", openreview.net/forum?id=wjiPAcZqB9z.
    """
    chosen = _checked_classes(classes, target.log_probs.shape[-1]).to(target.log_probs.device)
    return normalised(
        target.log_probs.index_select(-1, chosen),
        f"classes: the teacher gives none of the {len(chosen)} any probability for some sample; leave that sample out",
    )


@checked
def label_positions(labels: Tensor, classes: Sequence[int] | Tensor, total: int) -> Tensor:
    """Return labels as positions in a subset of the classes.

    Args:
        labels: (...) int64 in [0, total), or `UNLABELLED`.
        classes: (k,) numbers in [0, total), each once.
        total: the number of classes.

    Returns:
        (...) int64 in [0, k), `UNLABELLED` where the label is not in the subset.

    Raises:
        InputError: if a class is out of range or repeated, or the labels are not int64.

    Example:
        >>> label_positions(torch.tensor([2, 0, 1, -100]), [2, 1], total=3)
        tensor([   0, -100,    1, -100])
    """
    chosen = _checked_classes(classes, total).to(labels.device)
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")
    places = torch.full((total + 1,), UNLABELLED, device=labels.device)
    places[chosen] = torch.arange(len(chosen), device=labels.device)
    return places[torch.where(labels == UNLABELLED, total, labels)]


@checked_fields
@dataclass(frozen=True)
class Restricted(Target):
    """Match softmax(v[S]/T), for a student that has only the classes S.

    The labels of the batch are positions in S, as `SampleSet.relabelled` makes them.  To derive a further target from
    the restricted probabilities, nest this one: `TopK(k=2, of=Restricted((3, 5, 8)))`.

    Attributes:
        classes: S, numbers of the teacher's classes, each once, in the order of the student's outputs.
        of: the target that is restricted, over the teacher's classes; one that needs no labels.

    Raises:
        InputError: if there is no class, a class is repeated or negative, or `of` needs labels.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3))
        >>> teacher = Outputs(torch.tensor([[0.1, 0.6, 0.3]]).log())
        >>> Restricted((2, 0))(teacher, batch, temperature=1.0).log_probs.exp()
        tensor([[0.7500, 0.2500]])

    Reference:
        Wang, Rhodes & Feng (2022), "Class Specialized Knowledge Distillation", openreview.net/forum?id=wjiPAcZqB9z.
    """

    changes_classes = True

    classes: tuple[int, ...]
    of: Target = PLAIN

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError("classes: found none, expected at least one class")
        for number in self.classes:
            checks.at_least("classes", number, 0)
            if self.classes.count(number) > 1:
                raise InputError(f"classes: {number} occurs more than once, expected each class once")
        if self.of.needs_labels:
            raise InputError(
                f"of: found '{self.of.kind}', which needs labels in the teacher's classes, but those are positions in"
                f" the subset; put the subset inside: {{kind: {self.of.kind}, of: {{kind: subset, ...}}}}"
            )

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return restrict(self.of(outputs, batch, temperature), self.classes)

    def settled(self, legend: Legend) -> Self:
        return self  # the data's classes are the student's, and `of` is made of the teacher's


def _checked_classes(classes: Sequence[int] | Tensor, total: int) -> Tensor:
    """Return class numbers as a tensor, when there are any, all exist and none occurs twice."""
    given = classes.tolist() if isinstance(classes, Tensor) else list(classes)
    if not given:
        raise InputError("classes: found none, expected at least one class")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < total:
            raise InputError(f"classes: found {checks.shown(number)}, expected numbers from 0 to {total - 1}")
    if len(set(given)) < len(given):
        twice = next(number for number in given if given.count(number) > 1)
        raise InputError(f"classes: {twice} occurs more than once, expected each class once")
    return torch.tensor(given)
