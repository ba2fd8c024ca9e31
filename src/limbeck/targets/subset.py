"""A class-specialised student's target: the teacher's distribution over a subset of its classes."""

from dataclasses import dataclass

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense, restrict
from limbeck.outputs import Outputs
from limbeck.targets.softmax import PLAIN
from limbeck.targets.target import Target

__all__ = ["CARD", "Restricted"]

CARD = Card(
    name="subset",
    summary="the teacher's probabilities of a subset of its classes, renormalised, for a student that has only those",
    authors="Li-Yun Wang, Anthony Rhodes, Wu-chi Feng",
    year=2022,
    title="Class Specialized Knowledge Distillation",
    source="https://openreview.net/forum?id=wjiPAcZqB9z",
    formula="softmax(v[S]/T)",
)


@checked_fields
@dataclass(frozen=True)
class Restricted(Target):
    """softmax(v[S]/T) for a student whose outputs are the classes S (Wang et al. 2022).

    classes: S, numbers of the teacher's classes, each once, in the order of the student's outputs; the batch's labels
    are positions in S (`SampleSet.relabelled` makes such data).  of: the target that is restricted, in the teacher's
    classes, so one that needs no labels; a target of the restricted probabilities is made by putting this one inside:
    `TopK(k=2, of=Restricted((3, 5, 8)))`.

    >>> import torch
    >>> batch = Batch.of(torch.zeros(1, 3))
    >>> teacher = Outputs(torch.tensor([[0.1, 0.6, 0.3]]).log())
    >>> Restricted((2, 0))(teacher, batch, temperature=1.0).log_probs.exp()
    tensor([[0.7500, 0.2500]])
    """

    classes: tuple[int, ...]
    of: Target = PLAIN

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError("classes: found none, expected at least one class")
        for number in self.classes:
            checks.at_least("classes", number, 0)
            if self.classes.count(number) > 1:
                raise InputError(f"classes: {number} stands more than once, expected each class once")
        if self.of.needs_labels:
            raise InputError(
                f"of: found '{self.of.kind}', which needs labels in the teacher's classes, but those are positions in"
                f" the subset; put the subset inside: {{kind: {self.of.kind}, of: {{kind: subset, ...}}}}"
            )

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        return restrict(self.of(outputs, batch, temperature), self.classes)

    @property
    def changes_classes(self) -> bool:
        return True

    @property
    def made_of(self) -> tuple[Target, ...]:
        return (self.of,)
