"""Early-stopped distillation: the teacher leaves at some point, and training goes on with hard labels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from limbeck import checks, schedules
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import evaluate
from limbeck.networks import evaluating
from limbeck.objective import Objective, Term
from limbeck.schedules import Schedule
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.terms import HardLabels

__all__ = ["CARD", "EarlyStopping", "Ending", "EndingDistiller", "ending_objective"]

CARD = Card(
    name="early_stopping",
    summary="distillation that ends before the training does, and a teacher that is stopped early",
    authors="Jang Hyun Cho, Bharath Hariharan",
    year=2019,
    title="On the Efficacy of Knowledge Distillation",
    source="https://arxiv.org/abs/1910.01348",
    formula="the method's loss before the end, hard_weight·H(y, softmax(z)) after it",
)


class Ending:
    """When distillation ends: at a step that is given, or once the teacher's terms have converged on validation.

    step: of the end; None while it has not come.  patience: epochs without a loss below (1 - tolerance) of the best
    one, after which the end has come; None where the step is given.

    >>> ending = Ending(patience=1)
    >>> ending.observe([1.0, 0.5, 0.6], steps=10)
    >>> ending.step
    30
    """

    def __init__(self, step: int | None = None, *, patience: int | None = None, tolerance: float = 0.0) -> None:
        if (step is None) == (patience is None):
            raise InputError("step: found together with patience; give one of them")
        self.step = step
        self.patience = patience
        self.tolerance = tolerance

    def observe(self, losses: Sequence[float], *, steps: int) -> None:
        """Look for the end in the validation losses of the epochs so far.  steps: of an epoch."""
        if self.patience is None:
            return
        self.step = None
        best, stale = math.inf, 0
        for epoch, loss in enumerate(losses, start=1):
            stale = 0 if loss < best * (1 - self.tolerance) or not math.isfinite(best) else stale + 1
            best = min(best, loss)
            if stale >= self.patience:
                self.step = epoch * steps
                return

    def come(self, step: int) -> bool:
        """Whether distillation has ended at a step."""
        return self.step is not None and step >= self.step

    def __repr__(self) -> str:
        if self.patience is None:
            return f"Ending(step={self.step})"
        return f"Ending(patience={self.patience}, tolerance={self.tolerance})"


def ending_objective(objective: Objective, ending: Ending, hard_weight: float) -> Objective:
    """Return an objective whose terms that read the teacher end, and whose hard labels then weigh `hard_weight`.

    Where the objective has no hard labels, they join it at the end.

    >>> from limbeck.methods import kd
    >>> ended = ending_objective(kd(temperature=4.0, alpha=0.1), Ending(5), hard_weight=1.0)
    >>> sorted(ended.reads_at(4)), sorted(ended.reads_at(5))
    (['student', 'teacher'], ['student'])
    """
    terms: list[Term] = list(objective.terms.values())  # type: ignore[arg-type]
    for term in terms:
        if "teacher" in term.reads:
            term.weight = _Then(ending, term.weight, 0.0)
        elif isinstance(term, HardLabels):
            term.weight = _Then(ending, term.weight, hard_weight)
    if not any(isinstance(term, HardLabels) for term in terms):
        terms.append(HardLabels(_Then(ending, 0.0, hard_weight)))
    return Objective(terms)


@dataclass(frozen=True)
class _Then:
    """A schedule until an ending has come, and a number from there on."""

    ending: Ending
    before: Schedule
    after: float

    def __call__(self, step: int) -> float:
        return self.after if self.ending.come(step) else schedules.at(self.before, step)


class EndingDistiller(Distiller):
    """A distiller that notes the teacher's terms on the validation set, and lets an `Ending` hear of them.

    judge: answers for the validation set as the teacher does for the training set.  steps: of an epoch.
    """

    def __init__(
        self, student: nn.Module, teacher: Teacher, objective: Objective, ending: Ending, judge: Teacher, steps: int
    ) -> None:
        super().__init__(student, teacher, objective)
        self.ending = ending
        self.steps = steps
        self._judge = (judge,)

    def prepare(self, device: torch.device | str) -> "EndingDistiller":
        """Place student, terms, teacher and judge on a device."""
        super().prepare(device)
        self._judge[0].to(device)
        return self

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the mean over the validation set of each term that reads the teacher, by the term's name.

        Their schedules stand at step 0, so that the epochs can be compared.
        """
        if self.ending.patience is None:
            return {}
        terms: list[Term] = [term for term in self.objective.terms.values() if "teacher" in term.reads]  # type: ignore[misc,operator]
        sums, counts = {term.name: 0.0 for term in terms}, {term.name: 0 for term in terms}
        judging = Distiller(self.student, self._judge[0], self.objective)
        with evaluating(self.student):
            for batch in batches:
                outputs = judging.outputs(batch, 0)
                for term in terms:
                    value, count = term(outputs, batch, 0)
                    sums[term.name] += float(value)
                    counts[term.name] += int(count)
        return {name: value / max(counts[name], 1) for name, value in sums.items()}

    def observe(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Let the ending hear of the teacher's terms, added up."""
        names = [name for name, term in self.objective.terms.items() if "teacher" in term.reads]  # type: ignore[operator]
        losses = [sum(entry["validation"].get(name, 0.0) for name in names) for entry in history]
        self.ending.observe(losses, steps=self.steps)


@dataclass(frozen=True)
class EarlyStopping(Scheme):
    """The teacher teaches until an end; then training goes on with hard labels, on the same learning-rate schedule.

    Attributes:
        step: the step at which distillation ends, counted from 0; None to let `share` or the validation loss decide.
        share: the same as a share of the training's steps, in (0, 1]; None to let `step` or the validation loss decide.
        patience: without step or share, distillation ends after this many epochs in which the validation loss of the
            teacher's terms was never below (1 - tolerance) of the best one.
        tolerance: by which share a validation loss must be below the best one to count as better, in [0, 1).
        hard_weight: weight of the hard labels after the end; a number or a schedule.
        teacher_epochs: epochs of the teacher's training after which it is a candidate teacher, besides its end; the one
            whose student makes the fewest held-out errors at the first seed teaches.
    """

    step: int | None = None
    share: float | None = None
    patience: int = 3
    tolerance: float = 0.0
    hard_weight: float = 1.0
    teacher_epochs: tuple[int, ...] = ()

    needs_held_out: ClassVar[bool] = True

    @property
    def along(self) -> Sequence[int]:
        """The epochs of the teacher's training after which its weights are kept."""
        return self.teacher_epochs

    def __post_init__(self) -> None:
        if self.step is not None and self.share is not None:
            raise InputError("share: found together with step; give one of them")
        if self.step is not None:
            checks.at_least("step", self.step, 1)
        if self.share is not None:
            checks.positive("share", self.share)
            checks.unit_interval("share", self.share)
        checks.at_least("patience", self.patience, 1)
        checks.unit_interval("tolerance", self.tolerance)
        checks.non_negative("hard_weight", self.hard_weight)
        for epoch in self.teacher_epochs:
            checks.at_least("teacher_epochs", epoch, 1)
        if list(self.teacher_epochs) != sorted(set(self.teacher_epochs)):
            raise InputError(f"teacher_epochs: found {list(self.teacher_epochs)}, expected rising epochs")

    def check(self, builder: Builder) -> str | None:
        """Refuse a method that no teacher takes part in, and labels that are not there after the end."""
        if not builder.needs_teacher:
            return "name: early_stopping needs a method that reads a teacher; use kd, for example"
        if not builder.transfer_has_labels:
            return "name: early_stopping ends with labels alone, but data.transfer.labels is false; set it to true"
        if builder.teacher_source == "stored":
            return "name: early_stopping asks the teacher about the held-out part, to which a store has no answers"
        epochs = builder.teacher_training.epochs
        if self.teacher_epochs and builder.teacher_source != "trained":
            known = {"estimator": "fitted by scikit-learn", "arrays": "read from a file", "onnx": "an ONNX file"}
            how = known.get(builder.teacher_source, "used as given")
            return f"teacher_epochs: the teacher is {how}, so the epochs of its training are not available"
        if self.teacher_epochs and self.teacher_epochs[-1] >= epochs:
            last = self.teacher_epochs[-1]
            return f"teacher_epochs: found {last}, expected epochs before the teacher's last, {epochs}"
        return None

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the student's training; where there are candidate teachers, one for each of them at the first seed."""
        last = super().planned(builder, teacher)
        if not self.teacher_epochs:
            return last
        label, count = "students of other candidates", len(self.teacher_epochs)
        return [self.planned_as("distilled", label, builder, teacher, count=count, once=True), *last]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student, with each candidate teacher where there are several."""
        if not self.teacher_epochs:
            return {"distilled": self._student(context, "distilled", context.teacher_model)}
        candidates = {**context.teachers_along, context.teacher_training.epochs: context.teacher_model}
        chosen = context.choose("teacher_epoch", lambda: self._best(context, candidates))
        context.copy(_candidate(chosen), "distilled")
        return {"distilled": self._student(context, "distilled", candidates[chosen])}

    def _best(self, context: Context, candidates: Mapping[int, nn.Module]) -> int:
        """Return the epoch of the candidate teacher whose student makes the fewest held-out errors."""
        scored = []
        for epoch, model in candidates.items():
            student = self._student(context, _candidate(epoch), model)
            found = evaluate(student, context.held_out)
            context.say(f"early_stopping: the teacher of epoch {epoch} gives {found.errors} held-out errors")
            scored.append((found.errors, found.nll, epoch))
        return min(scored)[-1]

    def _student(self, context: Context, unit: str, model: nn.Module) -> nn.Module:
        training, samples = context.training, context.parts.transfer
        steps = math.ceil(len(samples) / training.batch_size)
        if self.step is not None or self.share is not None:
            ending = Ending(self.step if self.share is None else round(self.share * training.epochs * steps))
        elif context.parts.held_out is None:  # a refit ends where the run with a held-out part did
            ending = Ending(context.recall("end") * steps)
        else:
            ending = Ending(patience=self.patience, tolerance=self.tolerance)
        objective = ending_objective(context.objective(), ending, self.hard_weight)
        taught = context.teach(model, name=f"the teacher of {unit}")
        distiller = EndingDistiller(context.student(), taught, objective, ending, context.judge(model), steps)
        student = context.fit(unit, distiller, samples).student
        if ending.patience is not None:
            last = training.epochs if ending.step is None else ending.step // steps
            context.note("end", last)
        return student


def _candidate(epoch: int) -> str:
    return f"taught_by_epoch_{epoch}"
