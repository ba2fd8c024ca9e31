"""A method as a weighted, scheduled sum of named terms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from limbeck import checks, schedules
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses.fused import Part as LogitPart
from limbeck.losses.fused import in_one_pass, joint_of_head
from limbeck.losses.reduction import compute_dtype
from limbeck.objective.loss import Loss, Part
from limbeck.objective.term import Setup, Term
from limbeck.outputs import Outputs, Tap

__all__ = ["Objective"]

_Place = TypeVar("_Place")


class Objective(nn.Module):
    """The weighted sum of terms: Σ over terms of weight(step) · sum/count.

    Args:
        terms: with different names; at least one.

    Raises:
        InputError: if there is no term or a name is repeated.

    Example:
        >>> from limbeck.terms import HardLabels
        >>> objective = Objective([HardLabels()])
        >>> batch = Batch.of(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> objective({"student": Outputs(torch.zeros(2, 4))}, batch).total
        tensor(1.3863)
    """

    HOW_MADE = "limbeck.methods.kd(), say, makes one"

    @checked
    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        names = [term.name for term in terms]
        if not terms:
            raise InputError("terms: found none, expected at least one term")
        if len(set(names)) != len(names):
            raise InputError(f"terms: found the names {names}, expected each name once; rename one")
        try:
            self.terms = nn.ModuleDict({term.name: term for term in terms})
        except KeyError as error:
            raise InputError(f"terms: {error.args[0]}; rename the term") from None
        if all(not callable(term.weight) and term.weight == 0 for term in terms):
            raise InputError(f"terms: the weights of {', '.join(names)} are 0, expected at least one above 0")

    def __add__(self, other: "Objective") -> "Objective":
        """Return the objective with the terms of both; InputError where two have one name."""
        if not isinstance(other, Objective):
            return NotImplemented
        for name in self.terms:
            if name in other.terms:
                mend = (
                    f"set {name}_weight=0 in one of them"
                    if name in ("hard", "soft")
                    else "name all its layers in one of them"
                )
                raise InputError(f"terms: both objectives have a term '{name}'; {mend}")
        return Objective([*self._terms(), *other._terms()])

    def active(self, step: int | None) -> list[tuple[Term, float]]:
        """Return the terms whose weight at `step` is not 0, with that weight; None allows only numbers for weights."""
        weighted = [(term, schedules.at(term.weight, step)) for term in self._terms()]
        for term, weight in weighted:
            checks.non_negative(f"weight of term '{term.name}' at step {step}", weight)
        return [(term, weight) for term, weight in weighted if weight != 0]

    def require_active(self, steps: int) -> None:
        """Require that every term has a weight above 0 at some step of a training of so many steps."""
        for term in self._terms():
            if callable(term.weight) and not any(schedules.at(term.weight, step) for step in range(steps)):
                raise InputError(
                    f"term '{term.name}': its weight is 0 at every step of the training, which has {steps:,}, so that"
                    " nothing is learned by it; train longer, or let it begin earlier"
                )

    def reads(self) -> frozenset[str]:
        """Return the models whose outputs are needed at any step."""
        return frozenset[str]().union(*(term.reads for term in self._terms()))

    def reads_at(self, step: int | None) -> frozenset[str]:
        """Return the models whose outputs are needed at `step`, as `active` takes it."""
        return frozenset[str]().union(*(term.reads for term, _ in self.active(step)))

    def taps(self, model: str) -> dict[str, str | Tap]:
        """Return all features that the terms need of a model."""
        return _merged([term.taps.get(model, {}) for term in self._terms()], f"feature '%s' of the {model}")

    def reads_weights(self, model: str) -> dict[str, str]:
        """Return the paths of all parameters that the terms need of a model, by name."""
        return _merged([term.reads_weights.get(model, {}) for term in self._terms()], f"weight '%s' of the {model}")

    @property
    def differentiates_inputs(self) -> bool:
        """Whether any term differentiates the student by its inputs."""
        return any(term.differentiates_inputs for term in self._terms())

    @property
    def differentiates_twice(self) -> bool:
        """Whether any term differentiates a gradient of the student, by its inputs or by a layer."""
        return any(term.differentiates_inputs or term.differentiates_twice for term in self._terms())

    @property
    def needs_network(self) -> bool:
        """Whether any term needs a teacher that is a network, and not only its answers and features."""
        return self.finds_layers or any(
            term.differentiates_teacher or term.reads_weights.get("teacher") for term in self._terms()
        )

    @property
    def finds_layers(self) -> bool:
        """Whether any term finds its layers in the networks themselves."""
        return any(term.finds_layers for term in self._terms())

    def shares_classes(self, model: str) -> bool:
        """Return whether a model must answer the student's classes for some term that reads it."""
        return any(model in term.reads and model not in term.any_classes for term in self._terms())

    @property
    def reads_class_cosines(self) -> bool:
        """Whether any term needs the similarity of the classes in the teacher's last layer."""
        return any(term.reads_class_cosines for term in self._terms())

    def settle(self, legend: Legend) -> None:
        """Let every term take note of what the data's labels mean, before anything runs."""
        for term in self._terms():
            term.settle(legend)
        unlabelled = Batch.of(torch.zeros(1, 1), task=legend.task)
        if not legend.labelled and not any(int(term.count(unlabelled)) for term in self._terms()):
            names = ", ".join(f"'{term.name}'" for term in self._terms())
            raise InputError(f"terms: {names} need labels, but no sample has one; add a term with soft targets")

    def weigh(self, weights: Tensor | None) -> None:
        """Let the terms on labels weigh classes by `weights` (K,), none below 1; InputError where there is none."""
        if weights is not None and not any(term.takes_class_weights for term in self._terms()):
            raise InputError(
                f"class_weights: found for the terms {', '.join(self.terms)}, none of which compares with labels;"
                " expected one. Leave class_weights out, or give the hard labels a weight"
            )
        for term in self._terms():
            term.weigh(weights)

    def locate(self, networks: Mapping[str, nn.Module]) -> None:
        """Let every term that finds its layers in the networks do so."""
        for term in self._terms():
            if term.finds_layers:
                term.locate(networks)

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Let every term create what depends on models and data."""
        for term in self._terms():
            term.check_sparse(outputs)
            term.build(outputs, setup)

    def counts(self, batch: Batch) -> dict[str, Tensor | int]:
        """Return what each term counts in the batch, to be added up over accumulation and ranks."""
        return {term.name: term.count(batch) for term in self._terms()}

    def forward(
        self,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None = None,
        counts: Mapping[str, Tensor | int] | None = None,
    ) -> Loss:
        """Compute the loss of a batch.

        step: optimizer steps done, for schedules; InputError where one is read and there is no step.
        counts: by term, the counts over the whole optimizer step where this batch is one share of it (gradient
        accumulation, ranks); by default the batch's own.
        """
        logits, head = outputs["student"].logits, outputs["student"].head
        active = self.active(step)
        counted = {term.name: self._count(term, batch, counts) for term, _ in active}
        together = self._on_logits(active, outputs, batch, step, counted)
        found = None
        if head is not None:
            self._require_together([term for term, _ in active], together)
        if together:
            of_logits = list(together.values())
            found = in_one_pass(logits, of_logits) if head is None else joint_of_head(head, of_logits)
        sums = {} if found is None else dict(zip(together, found[1], strict=True))
        totals, parts = list[Tensor]() if found is None else [found[0]], dict[str, Part]()
        for term, weight in active:
            own, count = counted[term.name]
            if term.name in sums:
                parts[term.name] = Part(sums[term.name], own, weight)
                continue
            value, _ = term(outputs, batch, step)
            if isinstance(count, int):
                totals.append(value * (weight / max(count, 1)))
            else:
                totals.append(value * weight / count.clamp_min(1).to(value.dtype))
            parts[term.name] = Part(value.detach(), own, weight)
        nothing = logits[:0].sum() if head is None else head.hidden[:0].sum()
        return Loss(sum(totals[1:], totals[0]) if totals else nothing, parts)

    def require_parts(self, outputs: Mapping[str, Outputs], batch: Batch) -> None:
        """Require terms that can be computed without whole logits, as seen at a first batch; InputError otherwise."""
        terms = [(term, 1.0) for term in self._terms()]
        counted = {term.name: self._count(term, batch, None) for term in self._terms()}
        self._require_together(self._terms(), self._on_logits(terms, outputs, batch, 0, counted))

    @staticmethod
    def _require_together(terms: Sequence[Term], together: Mapping[str, LogitPart]) -> None:
        for term in terms:
            if term.reads_logits and term.name not in together:
                raise InputError(
                    f"chunked_head: found term '{term.name}', which reads whole logits; expected terms on logits that"
                    " are sums over places: hard labels without smoothing and class weights, and softened logits of one"
                    " teacher, not of several. Leave chunked_head out, or leave out the term"
                )

    @staticmethod
    def _count(
        term: Term, batch: Batch, counts: Mapping[str, Tensor | int] | None
    ) -> tuple[Tensor | int, Tensor | int]:
        """Return how many a term counts in a batch, and by what its sum is divided."""
        own = term.count(batch)
        if counts is not None and term.name not in counts:
            raise InputError(f"counts: term '{term.name}' is missing; give what Objective.counts returns, added up")
        return own, own if counts is None else counts[term.name]

    def _on_logits(
        self,
        active: Sequence[tuple[Term, float]],
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
        counted: Mapping[str, tuple[Tensor | int, Tensor | int]],
    ) -> dict[str, LogitPart]:
        """Return the terms that compare the student's logits alone, to be computed together."""
        found = dict[str, LogitPart]()
        dtype = compute_dtype(outputs["student"].logits[:0]).dtype
        for term, weight in () if self.differentiates_twice else active:
            part = term.on_logits(outputs, batch, step)
            if part is not None:
                term.check_samples(outputs, batch)
                count = counted[term.name][1]
                divisor = max(count, 1) if isinstance(count, int) else count.clamp_min(1).to(dtype)
                found[term.name] = replace(part, coefficient=weight / divisor)
        return found

    def _terms(self) -> list[Term]:
        return list(self.terms.values())  # type: ignore[arg-type]


def _merged(parts: Sequence[Mapping[str, _Place]], what: str) -> dict[str, _Place]:
    """Return what all terms name; InputError where two mean different places by one name."""
    merged: dict[str, _Place] = {}
    for part in parts:
        for name, place in part.items():
            if merged.setdefault(name, place) != place:
                raise InputError(
                    f"{what % name}: two terms read it from different places, {merged[name]} and {place}; name one of"
                    " them differently"
                )
    return merged
