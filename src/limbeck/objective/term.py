"""One named part of an objective."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial

import torch
from torch import Tensor, nn

from limbeck import checks, randomness, schedules
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses.fused import Part as LogitPart
from limbeck.outputs import Outputs, Tap
from limbeck.schedules import Schedule

__all__ = ["Setup", "Term", "TermAround"]


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
        takes_class_weights: whether it weighs its examples by their labels' classes (`weigh`).
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
    takes_class_weights: bool = False

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

    def weigh(self, weights: Tensor | None) -> None:
        """Weigh the examples of each class by `weights` (K,), none below 1; None for all alike."""

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
    >>> from limbeck.objective import Objective
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
        self.takes_class_weights = term.takes_class_weights

    def extra_repr(self) -> str:
        """Return nothing: the inner term's settings follow it."""
        return ""

    def settle(self, legend: Legend) -> None:
        self.term.settle(legend)

    def weigh(self, weights: Tensor | None) -> None:
        self.term.weigh(weights)

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
