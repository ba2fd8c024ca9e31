"""A method as a weighted, scheduled sum of named terms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from limbeck import checks, randomness, schedules
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses.fused import Part as LogitPart
from limbeck.losses.fused import in_one_pass, joint_of_head
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs, Tap
from limbeck.schedules import Schedule

__all__ = ["Loss", "Objective", "Part", "Setup", "Term", "TermAround"]

_Place = TypeVar("_Place")


@dataclass(frozen=True)
class Part:
    """What one term contributed to a loss.

    Attributes:
        sum: scalar, the sum over examples, cut off from the graph.
        count: the number of examples that the term counted.
        weight: at this step.

    Example:
        >>> Part(torch.tensor(3.0), 2, 1.0).mean
        1.5
    """

    sum: Tensor
    count: Tensor | int
    weight: float

    @property
    def mean(self) -> float:
        """The unweighted mean over what the term counted; 0 when it counted nothing."""
        return float(self.sum) / max(float(self.count), 1.0)


@dataclass
class Loss:
    """The loss of a batch.

    Attributes:
        total: scalar to differentiate.
        parts: what each term contributed, by name.

    Example:
        >>> Loss(torch.tensor(1.5), {"hard": Part(torch.tensor(3.0), 2, 1.0)}).parts["hard"].mean
        1.5
    """

    total: Tensor
    parts: dict[str, Part]


@dataclass(frozen=True)
class Setup:
    """What a term may ask of a training before its first step, to make what depends on models and data.

    Attributes:
        index: (n,) int64, the positions of the training samples in their source set, in which `Batch.index` counts.
        labels: of these samples, as in `Batch`; None if they are unknown.
        seed: of the training.
        passes: runs the models that the objective reads over the training samples once, without augmentation and
            without gradient: an iterator of {model: outputs}.

    Example:
        >>> Setup(index=torch.arange(3)).seed
        0
    """

    index: Tensor
    labels: Tensor | None = None
    seed: int = 0
    passes: Callable[[], Iterator[Mapping[str, Outputs]]] = lambda: iter(())

    @contextmanager
    def drawing(self, *names: object) -> Iterator[None]:
        """Draw from torch's generator in the scope as a function of the seed and `names` alone."""
        with torch.random.fork_rng([]):
            torch.manual_seed(randomness.derive_seed(self.seed, *names))
            yield


class Term(nn.Module):
    """One named part of an objective.

    A subclass declares what it reads and counts, and computes a sum over examples.

    Args:
        name: the same in recipe, log, progress line and report.
        weight: a number or schedule, finite and not negative.  At a step where it is 0, the term is not computed.

    Attributes:
        reads: the models whose outputs the term needs; a teacher that no active term reads is not run.
        taps: the features that it needs, {model: {feature name: path or Tap}}.
        any_classes: the models that may have other classes than the student.
        relates_examples: whether the term relates the examples of a batch to each other, so that the loss of a batch is
            not the mean over its parts.
        reads_class_cosines: whether it needs the teacher's outputs with their `class_cosines`.
        takes_mixed: whether it supports samples that are mixed with others (see `Batch.mix`); otherwise it refuses
            them.
        reads_weights: the parameters that it needs, {model: {name: path}}; "last_linear.weight" and "last_linear.bias"
            are those of the last linear layer, wherever it is.
        differentiates_inputs: whether it differentiates the student by its inputs, which are then `Outputs.inputs`.
        differentiates_twice: whether it differentiates another gradient of the student, as one by a layer.
        differentiates_teacher: whether it needs `ask` and `vjp` of the teacher's outputs, which only a network has.
        finds_layers: whether it finds its layers in the networks (`locate`), so that the teacher is to be one.
        reads_logits: whether it reads logits of the student or a teacher beyond their shape.  One that does without
            `on_logits` cannot be computed where no logits are made (`Outputs.head`).
        takes_sparse: which answers that are cut to few classes it can learn from, of "topk" and "sampled".

    A term can have state that is no parameter, registered as a buffer: it is saved in checkpoints and resumed, and each
    process keeps its own.

    Raises:
        InputError: if the weight is out of range.

    Example:
        >>> from limbeck.terms import HardLabels
        >>> HardLabels(weight=0.5).name
        'hard'
    """

    reads: frozenset[str] = frozenset({"student"})
    any_classes: frozenset[str] = frozenset()
    relates_examples: bool = False
    reads_class_cosines: bool = False
    takes_mixed: bool = False
    reads_weights: Mapping[str, Mapping[str, str]] = {}
    differentiates_inputs: bool = False
    differentiates_twice: bool = False
    differentiates_teacher: bool = False
    finds_layers: bool = False
    reads_logits: bool = True
    takes_sparse: frozenset[str] = frozenset()

    def __init__(self, name: str, weight: Schedule = 1.0) -> None:
        super().__init__()
        if not callable(weight):
            checks.non_negative(f"weight of term '{name}'", weight)
        self.name = name
        self.weight = weight
        self.taps: Mapping[str, Mapping[str, str | Tap]] = {}
        self._seed = 0

    def extra_repr(self) -> str:
        """Return the term's settings, for a reader: what tells two trainings apart is the content (`identity`)."""
        settings = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        plain = {key: _shown(value) for key, value in settings.items() if key not in ("training", "name")}
        return ", ".join(f"{key}={value}" for key, value in sorted(plain.items()) if value != "{}")

    def count(self, batch: Batch) -> Tensor | int:
        """Return how many examples or tokens of the batch this term counts: a function of the batch alone.

        Examples or tokens are what the mask has entries for, else what the labels have, else the samples.
        """
        if batch.mask is not None:
            return batch.task.count(batch.mask)
        return batch.task.size(batch.places)

    def settle(self, legend: Legend) -> None:
        """Take note of what the data's labels mean; InputError when the term cannot do with them."""

    def locate(self, networks: Mapping[str, nn.Module]) -> None:
        """Find the layers that it reads in the networks, by model; ModelError for a network that has no such layers."""

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Create what depends on models and data (projections, banks), from the outputs on a first batch.

        A term that was built before keeps what it has.
        """
        self._seed = setup.seed

    def draw(self, batch: Batch, step: int | None, what: str, count: int) -> Tensor:
        """Return uniform random numbers in [0, 1), (N, count) float32: a function of (seed, step, index) alone.

        what: their purpose, by which they differ from others of this term.  Raises InputError without a step.
        """
        step = schedules.step_of(step, f"term '{self.name}' draws random numbers and")
        view = torch.full_like(batch.index, step)
        return randomness.uniform(self._seed, f"{self.name}/{what}", view, batch.index, count)

    def forward(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> tuple[Tensor, Tensor | int]:
        """Return the term's sum over the batch and its count; InputError for mixed samples, unless it takes them."""
        self.check_samples(outputs, batch)
        return self.sum(outputs, batch, step), self.count(batch)

    def check_samples(self, outputs: Mapping[str, Outputs], batch: Batch) -> None:
        """Raise InputError for mixed samples, unless the term takes them, and for answers that it cannot learn from."""
        if batch.mix is not None and not self.takes_mixed:
            raise InputError(
                f"term '{self.name}': it needs samples of one class each, the batch has mixed ones; leave mixup and"
                " cutmix out, or learn from the teacher's whole distribution"
            )
        self.check_sparse(outputs)

    def check_sparse(self, outputs: Mapping[str, Outputs]) -> None:
        """Raise InputError for an answer that is cut to few classes in a way that the term cannot learn from."""
        for name in self.reads:
            answer = outputs[name].sparse if name in outputs else None
            if answer is not None and answer.kind not in self.takes_sparse:
                raise InputError(
                    f"term '{self.name}': found {answer.kind} answers of the {name}, expected dense ones; store them"
                    " with encoding: dense, or ask the teacher for every batch (store: false)"
                )

    def on_logits(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> LogitPart | None:
        """Return what the term compares the student's logits with, if its sum can be computed together with others'.

        Its `sum` is then coefficient 1 times this part.  None for a term that reads anything else.
        """
        return None

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        """Return the sum of the term over what `count` counts: a scalar with gradient.

        step: optimizer steps done; None where a loop does not tell it, which `schedules.at` refuses for a schedule.
        """
        raise TypeError(f"{type(self).__name__} does not define sum(outputs, batch, step)")


class TermAround(Term):
    """A term that computes another one in a way of its own: all that the other says of itself holds for it too.

    A subclass overrides `count` or `sum`.

    >>> from limbeck.terms import HardLabels
    >>> class Twice(TermAround):
    ...     def sum(self, outputs, batch, step):
    ...         return 2 * self.term.sum(outputs, batch, step)
    >>> batch = Batch.of(torch.zeros(2, 3), torch.tensor([0, 1]))
    >>> Objective([Twice(HardLabels())])({"student": Outputs(torch.zeros(2, 4))}, batch).total
    tensor(2.7726)
    """

    def __init__(self, term: Term) -> None:
        super().__init__(term.name, term.weight)
        self.term = term
        self.taps = term.taps
        self.reads = term.reads
        self.any_classes = term.any_classes
        self.relates_examples = term.relates_examples
        self.reads_class_cosines = term.reads_class_cosines
        self.takes_mixed = term.takes_mixed
        self.reads_weights = term.reads_weights
        self.differentiates_inputs = term.differentiates_inputs
        self.differentiates_twice = term.differentiates_twice
        self.differentiates_teacher = term.differentiates_teacher
        self.finds_layers = term.finds_layers
        self.reads_logits = term.reads_logits
        self.takes_sparse = term.takes_sparse

    def extra_repr(self) -> str:
        """Return nothing: the inner term's settings follow it."""
        return ""

    def settle(self, legend: Legend) -> None:
        self.term.settle(legend)

    def locate(self, networks: Mapping[str, nn.Module]) -> None:
        self.term.locate(networks)
        self.taps = self.term.taps

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        super().build(outputs, setup)
        self.term.build(outputs, setup)

    def count(self, batch: Batch) -> Tensor | int:
        return self.term.count(batch)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        return self.term.sum(outputs, batch, step)


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
                totals.append(value * weight / count.clamp_min(1))
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
                    " are sums over places: hard labels without smoothing, and softened logits of one teacher, not of"
                    " several. Leave chunked_head out, or leave out the term"
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
        for term, weight in () if self.differentiates_twice else active:
            part = term.on_logits(outputs, batch, step)
            if part is not None:
                term.check_samples(outputs, batch)
                count = counted[term.name][1]
                dtype = compute_dtype(outputs["student"].logits[:0]).dtype
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


def _shown(value: object) -> str:
    """Return a setting as text that is the same in every process: functions and bare objects by their names."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        start, end = "[]" if isinstance(value, list) else "()"
        return start + ", ".join(map(_shown, value)) + end
    if isinstance(value, partial):
        return f"partial({_shown(value.func)})"
    if is_dataclass(value) and not isinstance(value, type):
        parts = (f"{each.name}={_shown(getattr(value, each.name))}" for each in fields(value) if each.repr)
        return f"{type(value).__name__}({', '.join(parts)})"
    if type(value).__repr__ is object.__repr__:
        return type(value).__qualname__
    return getattr(value, "__qualname__", None) or repr(value)
