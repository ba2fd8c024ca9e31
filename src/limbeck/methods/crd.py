"""Contrastive representation distillation: an example's embedding told from those of all others, held in banks."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks, losses, projections, randomness, ranks, schedules
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Contrast", "Embeddings", "crd"]

CARD = Card(
    name="crd",
    summary="the teacher's embedding of the same example, told from those of examples of other classes",
    authors="Yonglong Tian, Dilip Krishnan, Phillip Isola",
    year=2020,
    title="Contrastive Representation Distillation",
    source="https://arxiv.org/abs/1910.10699",
    formula="hard_weight·H(y, softmax(z)) + weight·Σ over both sides of softplus(-l₊) + Σ₋ softplus(l₋), "
    "l = M·a/τ - ln Z - ln(m/n)",
)


class Embeddings(nn.Module):
    """A linear layer for each network, whose outputs have length 1."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int], dimension: int) -> None:
        super().__init__()
        self.student = projections.embed(student, dimension)
        self.teacher = projections.embed(teacher, dimension)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(student), self.teacher(teacher.to(student.dtype))


class Contrast(FeatureTerm):
    """Noise-contrastive estimation of each example's own row among the rows of others, in two banks.

    The banks have a row for each training sample.  What a batch embeds is written into them before the next batch is
    scored, or when the state is saved; every process writes the rows of all.  The constants of the estimation are those
    of the first batch.
    """

    axes = frozenset({2, 4})
    same_axes = False
    takes_mixed = False
    relates_examples = True  # through the banks, which each batch changes
    student_bank: Tensor
    teacher_bank: Tensor
    constants: Tensor
    groups: Tensor
    order: Tensor

    def __init__(
        self,
        weight: Schedule = 0.8,
        *,
        layers: LayerPairs,
        dimension: int = 128,
        negatives: int = 16384,
        negatives_of: Literal["other_classes", "others"] = "other_classes",
        contrast_temperature: float = 0.07,
        momentum: float = 0.5,
        name: str = "crd",
    ) -> None:
        super().__init__(name, weight, layers)
        if len(self.layers) > 1:
            raise InputError(f"layers: found {len(self.layers)} pairs, expected one, such as pool; the banks hold one")
        checks.at_least("dimension", dimension, 1)
        checks.at_least("negatives", negatives, 1)
        checks.choice("negatives_of", negatives_of, ("other_classes", "others"))
        checks.positive("contrast_temperature", contrast_temperature)
        checks.unit_interval("momentum", momentum)
        self.dimension = dimension
        self.negatives = negatives
        self.negatives_of = negatives_of
        self.contrast_temperature = contrast_temperature
        self.momentum = momentum
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        self._largest = 0

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        return Embeddings(student.shape, teacher.shape, self.dimension)

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        super().build(outputs, setup)
        feature = outputs["student"].features[self.layers.pairs[0][0]]
        order, places = setup.index.to(feature.device).sort()
        groups = self._groups(setup, places)
        self._largest = int(groups.unique(return_counts=True)[1].max())
        known = self._buffers.get("order")
        self.register_buffer("order", order, persistent=False)  # of the data, and no state
        self.register_buffer("groups", groups, persistent=False)
        if known is not None and torch.equal(known.to(order.device), order):
            return
        self._pending = None
        dtype = compute_dtype(feature[:0], "student").dtype
        bound = (3.0 / self.dimension) ** 0.5
        with setup.drawing("bank", self.name):
            banks = [(2.0 * torch.rand(len(order), self.dimension) - 1.0) * bound for _ in range(2)]
        self.register_buffer("student_bank", banks[0].to(feature.device, dtype))
        self.register_buffer("teacher_bank", banks[1].to(feature.device, dtype))
        self.register_buffer("constants", torch.zeros(2, device=feature.device, dtype=dtype))

    def _groups(self, setup: Setup, places: Tensor) -> Tensor:
        """Return the class of each row of the banks, or its number where all others are negatives."""
        if len(places) < 2:
            raise InputError(f"term '{self.name}': found {len(places)} training samples, expected 2 or more")
        if self.negatives_of == "others":
            return torch.arange(len(places), device=places.device)
        labels = setup.labels
        if labels is None or labels.dim() != 1 or labels.is_floating_point() or bool((labels == UNLABELLED).any()):
            raise InputError(
                "negatives_of: found other_classes, and training samples without a class each; label them, or use"
                " negatives_of: others"
            )
        if not bool((labels != labels[0]).any()):
            raise InputError("negatives_of: found other_classes, and one class alone; use negatives_of: others")
        return labels.to(places.device)[places]

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        """Return the loss per example, summed; every process takes part, whatever counts in its own batch."""
        self.write()
        students, teachers = self._features(outputs)
        if batch.mask is None:
            counted = torch.ones(len(batch), dtype=torch.bool, device=batch.index.device)
        else:
            counted = self._counted(batch.mask)
        own, other = (each[0][counted] for each in (students, teachers))
        rows = self._rows(batch.index[counted])
        embeddings: tuple[Tensor, Tensor] = self.projections[0](own, other)
        scored, positives, negatives = self._scored(rows, step)
        banks = self.student_bank[scored], self.teacher_bank[scored]
        if not bool(self.constants.all()):
            self._fix_constants(embeddings, banks, positives, negatives)
        if torch.is_grad_enabled():
            detached = (each.detach() for each in embeddings)
            gathered = [ranks.all_rows(each) for each in (rows, *detached)]
            self._pending = gathered[0], gathered[1], gathered[2]
        if not len(rows):
            return self._nothing(students)
        return losses.crd(
            *embeddings,
            *banks,
            positives,
            negatives,
            temperature=self.contrast_temperature,
            constants=(self.constants[0], self.constants[1]),
            size=len(self.order),
            reduction="sum",
        )

    def write(self) -> None:
        """Write the rows of the last batch into the banks; of a sample that was in it twice, the last one."""
        if self._pending is None:
            return
        rows, *embeddings = self._pending
        self._pending = None
        distinct, place = rows.unique(return_inverse=True)
        last = torch.zeros_like(distinct).scatter_reduce_(
            0, place, torch.arange(len(rows), device=rows.device), "amax", include_self=False
        )
        with torch.no_grad():
            for bank, each in zip((self.student_bank, self.teacher_bank), embeddings, strict=True):
                bank[distinct] = losses.bank_rows(bank[distinct], each[last].to(bank.dtype), momentum=self.momentum)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.write()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._pending = None
        super()._load_from_state_dict(*args, **kwargs)

    def _rows(self, index: Tensor) -> Tensor:
        """Return the rows of the banks that belong to samples."""
        rows = torch.searchsorted(self.order, index).clamp_max(len(self.order) - 1)
        if len(rows) and bool((self.order[rows] != index).any()):
            unknown = int(index[self.order[rows] != index][0])
            raise InputError(
                f"term '{self.name}': found sample {unknown}, which is not among the {len(self.order)} training samples"
                " that its banks have rows for; train on a set whose samples have fixed positions, not on a stream"
            )
        return rows

    def _scored(self, rows: Tensor, step: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows that a batch is scored against, and each sample's own and its negatives among them.

        A step has one random order of all rows, a function of (seed, step).  A sample's negatives are the first m of
        other groups, so that none is taken twice while there are m, and the samples of a step share most of them: no
        more than about m rows are scored.
        """
        step = schedules.step_of(step, f"term '{self.name}' draws negatives and")
        order = randomness.permutation(self._seed, f"{self.name}/order", step, len(self.order))
        order = order[: self.negatives + self._largest].to(rows.device)
        groups, own = self.groups[order], self.groups[rows]
        negatives = torch.empty(len(rows), self.negatives, dtype=torch.int64, device=rows.device)
        for group in own.unique():
            others = (groups != group).nonzero()[: self.negatives, 0]
            if len(others) < self.negatives:
                others = others[torch.arange(self.negatives, device=rows.device) % len(others)]
            negatives[own == group] = others
        return torch.cat([rows, order]), torch.arange(len(rows), device=rows.device), negatives + len(rows)

    def _fix_constants(
        self, embeddings: tuple[Tensor, Tensor], banks: tuple[Tensor, Tensor], positives: Tensor, negatives: Tensor
    ) -> None:
        """Take the constants from the scores of a batch, over all processes."""
        count = len(positives)
        own = [
            losses.contrast_constant(
                each, bank, positives, negatives, temperature=self.contrast_temperature, size=len(self.order)
            )
            if count
            else self.constants.new_zeros(())
            for each, bank in zip(embeddings, reversed(banks), strict=True)
        ]
        everyone = ranks.all_rows(torch.stack([*(count * each for each in own), own[0].new_tensor(count)])[None]).sum(0)
        if everyone[2] > 0:
            self.constants.copy_(everyone[:2] / everyone[2])


@checked
def crd(
    layers: LayerPairs,
    weight: Schedule = 0.8,
    dimension: int = 128,
    negatives: int = 16384,
    negatives_of: Literal["other_classes", "others"] = "other_classes",
    contrast_temperature: float = 0.07,
    momentum: float = 0.5,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build contrastive representation distillation, with the terms `hard` and `crd`.

    It needs a set whose samples have fixed positions, and is not for mixed samples.  The banks hold 2·n·dimension
    numbers for n training samples.

    Args:
        layers: one vector for each example, such as `pool`; a map is flattened.
        weight: β, of both sides' sum; a number or schedule.
        dimension: of the embeddings.
        negatives: m, the rows of others for each example, which the examples of a step share but for those of its own
            class.  If there are fewer than m, they are repeated.
        negatives_of: "other_classes", which needs the class of every training sample, or "others".
        contrast_temperature: τ > 0 of the scores.
        momentum: in [0, 1], of a bank's rows.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.  Published as CRD+KD: 1.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(crd("pool").terms)
        ['crd', 'hard']

    Reference:
        Tian, Krishnan & Isola (2020), "Contrastive Representation Distillation", arXiv:1910.10699.
    """
    term = Contrast(
        weight,
        layers=layers,
        dimension=dimension,
        negatives=negatives,
        negatives_of=negatives_of,
        contrast_temperature=contrast_temperature,
        momentum=momentum,
    )
    return beside_logits([term], hard_weight, soft_weight, temperature)
