"""Boundary-supporting samples: what the teacher says at its decision boundary, where adversarial steps lead."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype, only_counted
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits, label_shares, require_classes

__all__ = ["CARD", "BoundarySamples", "bss"]

CARD = Card(
    name="bss",
    summary="soft targets at samples that adversarial steps have moved to the teacher's decision boundary",
    authors="Byeongho Heo, Minsik Lee, Sangdoo Yun, Jin Young Choi",
    year=2019,
    title="Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
    source="https://arxiv.org/abs/1805.05532",
    formula="hard_weight·H(y, softmax(z)) + soft_weight·T²·KL(p̃ ‖ q̃) + weight·KL(p̃(x') ‖ q̃(x')), "
    "x' from x by steps η·(L + ε)·∇(v_k - v_b)/‖∇‖",
)

_FEWEST = 2
"""Samples that a student in training mode is asked about: batch normalisation needs as many."""


class BoundarySamples(Term):
    """KL(p̃(x') ‖ q̃(x')) at boundary samples x' made of the batch, a mean over them, times the examples it counts.

    Samples that both networks classify correctly are moved; of these the `candidates` on whose other classes the
    networks disagree most.  The class aimed at is drawn from the teacher's other classes, by (seed, step, index).
    """

    reads = frozenset({"student", "teacher"})
    takes_mixed = True
    relates_examples = True
    differentiates_teacher = True

    def __init__(
        self,
        weight: Schedule = 2.0,
        *,
        temperature: float = 3.0,
        candidates: int = 64,
        steps: int = 10,
        rate: float = 0.3,
        name: str = "bss",
    ) -> None:
        super().__init__(name, weight)
        checks.positive("temperature", temperature)
        checks.at_least("candidates", candidates, _FEWEST)
        checks.at_least("steps", steps, 1)
        checks.positive("rate", rate)
        self.temperature = temperature
        self.candidates = candidates
        self.steps = steps
        self.rate = rate

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' looks for the boundaries of", alone=True)
        if not legend.labelled:
            raise InputError(f"term '{self.name}': needs the true class, but no sample has a label; use another")

    def count(self, batch: Batch) -> Tensor | int:
        return len(batch) if batch.mask is None else batch.mask.sum()

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        student, teacher = outputs["student"], outputs["teacher"]
        if student.ask is None or teacher.ask is None:
            raise InputError(
                f"term '{self.name}': found outputs that cannot be asked again, expected those of a Distiller with a"
                " network as teacher"
            )
        own, other = (only_counted(compute_dtype(each.logits), batch.mask) for each in (student, teacher))
        chosen = self._chosen(own.detach(), other, batch)
        if len(chosen) < _FEWEST:
            return own[:0].sum() + 0.0 * own.sum()
        moved = self._moved(teacher.ask, other, batch, step, chosen)
        answers = [compute_dtype(each(moved).logits) for each in (student.ask, teacher.ask)]
        return losses.kl(answers[0], answers[1], temperature=self.temperature) * self.count(batch)

    def _chosen(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the places of the samples that are moved."""
        labels = label_shares(batch, teacher).argmax(1)
        right = (student.argmax(1) == labels) & (teacher.argmax(1) == labels)
        if batch.labels is None:
            right &= False
        else:
            right &= batch.labels != UNLABELLED
        if batch.mask is not None:
            right &= batch.mask
        difference = (student.softmax(1) - teacher.softmax(1)).scatter(1, labels[:, None], 0.0).square().sum(1)
        order = torch.where(right, difference, -1.0).argsort(descending=True, stable=True)
        return order[: min(self.candidates, int(right.sum()))]

    def _moved(
        self,
        ask: Callable[[Tensor], Outputs],
        teacher: Tensor,
        batch: Batch,
        step: int | None,
        chosen: Tensor,
    ) -> Tensor:
        """Return the chosen samples after the steps, within the range of the batch's inputs, by channel."""
        inputs = batch.inputs
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError(
                f"term '{self.name}': it moves the inputs, expected one tensor of floating-point numbers; token ids and"
                " mappings cannot be moved, so use another method"
            )
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        probabilities = teacher.softmax(1).scatter(1, teacher.argmax(1, keepdim=True), 0.0)
        reached = probabilities.cumsum(1)
        drawn = self.draw(batch, step, "target", 1).to(reached) * reached[:, -1:]
        targets = torch.searchsorted(reached, drawn, right=True)[:, 0].clamp_max(teacher.shape[1] - 1)

        def answer(samples: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            found = ask(samples)
            assert found.vjp is not None
            return compute_dtype(found.logits), found.vjp

        return losses.boundary_samples(
            answer,
            inputs[chosen],
            targets[chosen],
            steps=self.steps,
            rate=self.rate,
            low=inputs.amin(axes, keepdim=True),
            high=inputs.amax(axes, keepdim=True),
        )


@checked
def bss(
    weight: Schedule = 2.0,
    candidates: int = 64,
    steps: int = 10,
    rate: float = 0.3,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 4 / 9,
    temperature: float = 3.0,
) -> Objective:
    """Build distillation at boundary-supporting samples, with the terms `hard`, `soft` and `bss`.

    The teacher has to be a network.  A step asks it up to 2·steps + 2 times more.

    Args:
        weight: b, of the samples at the boundary; a number or schedule.  Published: max(0, 2·(1 - 4e/(3E))) at epoch e
            of E, which is `{kind: linear, start: 2, end: 0, steps: ...}` over three quarters of the training.
        candidates: the most samples of a batch that are moved.
        steps: the most steps that a sample is moved; those that have crossed the boundary stay.
        rate: η > 0 of a step.
        hard_weight: of the labels; a number or schedule.
        soft_weight: a/T², of soft targets at the samples themselves; a number or schedule.  Published: a falls from 4
            to 1 over the training, without the factor T².
        temperature: T > 0 of both.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(bss().terms)
        ['bss', 'hard', 'soft']

    Reference:
        Heo et al. (2019), "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
        arXiv:1805.05532.
    """
    term = BoundarySamples(weight, temperature=temperature, candidates=candidates, steps=steps, rate=rate)
    return beside_logits([term], hard_weight, soft_weight, temperature)
