"""A finished run under every measure of its task: the models of every role, on every set and seed, and their cost."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import UNLABELLED
from limbeck.compress import records_of, settled
from limbeck.data import SampleSet
from limbeck.devices import crowded, place
from limbeck.errors import LimbeckError, command
from limbeck.evaluation import (
    Assessment,
    ClassGain,
    Cost,
    Estimate,
    Fidelity,
    Interval,
    McNemar,
    Metrics,
    Nearness,
    Standing,
    Tail,
    Temperature,
    assess_scores,
    class_gains,
    constant_accuracy,
    cost,
    evaluate,
    fidelity,
    figures_of,
    fit_temperature,
    mcnemar,
    paired_difference,
    predict,
    score,
    standing,
    t_interval,
    tail_gains,
)
from limbeck.evaluation.metrics import answers
from limbeck.results.evaluations import EvaluatedModel, Evaluation, MeasuredSet
from limbeck.results.finished import FinishedRun
from limbeck.results.measurements import held
from limbeck.results.representations import LayerSimilarity, compare_layers
from limbeck.runs import RunFolder
from limbeck.tasks import Need, Task, task_named

__all__ = ["AssessedModel", "RunAssessment", "assess_run", "nearness"]

_SCALED = ("nll", "brier", "ece", "ece_mass")
_FIGURES = ("errors", "accuracy", "top5", *_SCALED)
_FIDELITY = ("agreement", "kl", "agreement_where_wrong", "distance")
_AT_ONCE = 500  # samples whose answers are held at a time
_TIMED = 256  # samples of the larger batch whose time is taken


@dataclass(frozen=True, eq=False)
class AssessedModel:
    """One model of a run.

    sets: by "transfer" (what the student learnt from, unaugmented), "validation" (absent after a refit,
        and of a teacher of stored answers) and "test".
    fidelity: of a student to its teacher, by the same names.
    correct: (n,) bool, whether each labelled test sample is right; None where it is not right or wrong as a whole.
    temperature: of one class an example, fitted on the validation part.  scaled: the test set at that temperature: nll,
    brier, ece, ece_mass; empty where the validation part tells no temperature, as when every prediction there is right.
    """

    role: str
    seed: int
    sets: Mapping[str, Assessment | Metrics]
    fidelity: Mapping[str, Fidelity | Nearness]
    correct: Tensor | None
    temperature: Temperature | None = None
    scaled: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return the figures that a table shows, by name, of the test set where nothing else is said."""
        test = self.sets["test"]
        found: dict[str, float | None] = {name: getattr(test, name, None) for name in _FIGURES}
        found |= test.more if isinstance(test, Metrics) else {}
        found |= {f"scaled_{name}": value for name, value in self.scaled.items()}
        if self.temperature is not None and not self.temperature.at_bound:
            found["temperature"] = self.temperature.temperature
        for name, near in self.fidelity.items():
            suffix = "" if name == "test" else f"_{name}"
            found |= {f"{figure}{suffix}": getattr(near, figure, None) for figure in _FIDELITY}
        found |= {f"accuracy_{name}": each.accuracy for name, each in self.sets.items() if name != "test"}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def test_errors(self) -> tuple[int, ...] | None:
        """The positions of the wrong ones among the labelled test samples; None as for `correct`."""
        return None if self.correct is None else tuple(torch.where(~self.correct)[0].tolist())

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        found = {"role": self.role, "seed": self.seed, "sets": self.sets, "fidelity": self.fidelity}
        if isinstance(self.sets["test"], Assessment):
            found |= {"temperature": self.temperature, "scaled": self.scaled}
        return found if self.correct is None else {**found, "test_errors": self.test_errors}


@dataclass(frozen=True, eq=False)
class ClassComparison:
    """What student alone and distilled student are compared by where an example has one class.

    class_names: as the data names them.  paired: the test of `RunAssessment.pooled` by seed.
    classes: the gain and harm of distillation by class; tail: the same on the classes that the student has few training
    examples of.
    equal_compute: the same test as `pooled`, and the same difference, against the student alone at the compute of the
    distillation; None where none was trained.
    """

    class_names: tuple[str, ...]
    paired: Mapping[int, McNemar]
    classes: tuple[ClassGain, ...]
    tail: Tail
    equal_compute: tuple[McNemar, Estimate] | None


@dataclass(frozen=True, eq=False)
class RunAssessment:
    """A run under the measures of its task.

    teaches: whether the scheme uses the teacher.
    models: of every role and seed.  labels: what a table calls each role, in its order.
    test: identity and size of the test set.  cost: of teacher and student; empty when it was not measured.
    pooled: student alone (first) against distilled (second), test sample by test sample, over all seeds, and
    difference: in accuracy; None where an example is not right or wrong as a whole.
    by_class: None where an example has not one class.
    layers: those that the method compares, on test samples.
    """

    name: str
    teaches: bool
    models: tuple[AssessedModel, ...]
    labels: Mapping[str, str]
    test: MeasuredSet
    parameters: Mapping[str, int]
    cost: Mapping[str, Cost]
    pooled: McNemar | None
    difference: Estimate | None
    by_class: ClassComparison | None
    layers: tuple[LayerSimilarity, ...] = ()

    def of(self, role: str) -> list[AssessedModel]:
        """Return the models of a role, in the order of their seeds."""
        return [model for model in self.models if model.role == role]

    def figure(self, role: str, name: str) -> Interval | None:
        """Return a figure of a role with its t-interval over the seeds; None if a model has none."""
        values = [model.figures().get(name) for model in self.of(role)]
        known = [value for value in values if value is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    def advantage(self, name: str) -> Interval | None:
        """Return a figure of the student distilled less that of the student alone, paired by seed."""
        pairs = zip(self.of("alone"), self.of("distilled"), strict=True)
        values = [(one.figures().get(name), two.figures().get(name)) for one, two in pairs]
        known = [two - one for one, two in values if one is not None and two is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    @property
    def task(self) -> Task:
        """What the labels of the test set are."""
        return task_named(self.test.task)

    def standing(self) -> Standing:
        """Return what may be claimed of these figures."""
        seeds, examples = len(self.of("distilled")), self.test.examples
        found: dict[str, list[Metrics]] = {}
        for model in self.models:
            errors, accuracy, nll = (model.figures()[name] for name in ("errors", "accuracy", "nll"))
            found.setdefault(model.role, []).append(Metrics(examples, errors, accuracy, nll))
        shared = {role: each * seeds if len(each) == 1 else each for role, each in found.items()}
        return standing(shared, self.test.constant_accuracy, self.task, teaches=self.teaches)

    def evaluation(self) -> Evaluation:
        """Return what a comparison needs of it."""
        names = list(dict.fromkeys(name for model in self.models for name in model.figures()))
        return Evaluation(
            name=self.name,
            test=self.test,
            parameters=self.parameters,
            summary={
                role: {name: found for name in names if (found := self.figure(role, name)) is not None}
                for role in self.labels
            },
            advantage={name: found for name in names if (found := self.advantage(name)) is not None},
            models=tuple(EvaluatedModel(model.role, model.seed, model.test_errors) for model in self.models),
            failures=tuple(self.standing().failures),
            cost=self.cost,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation with everything that was measured of each model."""
        roles = {role: {"label": label} for role, label in self.labels.items()}
        found = {**vars(self.evaluation()), "roles": roles, "models": self.models}
        if self.layers:
            found["layers"] = self.layers
        pooled = {"pooled": self.pooled, "difference": self.difference}
        if self.by_class is None:
            return {**found, "task": self.task.name, **pooled}
        budget = self.by_class.equal_compute
        equal = budget and {"pooled": budget[0], "difference": budget[1]}
        return {**found, **pooled, **vars(self.by_class), "equal_compute": equal}


def assess_run(
    run: FinishedRun,
    *,
    with_cost: bool = True,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunAssessment:
    """Assess every model of a finished run; the test set's reading is put on record first.

    No choice is made on the test set: the temperature comes from the validation part, and where a refit left none, no
    temperature is fitted.  device: where the models run; by default CUDA where there is one.
    """
    at, parts = place(device), run.parts
    held_out = {} if parts.held_out is None else {"validation": parts.held_out}
    sets: dict[str, SampleSet] = {"transfer": parts.alone, **held_out, "test": parts.test}
    with held(run.folder):
        names = [run.label(role) for role in run.roles]
        folder = RunFolder(run.folder, command("limbeck", "evaluate", run.folder))
        folder.read_test_set(f"evaluation of {', '.join(names[:-1])} and {names[-1]}")
    one_label = Need.ONE_LABEL in parts.test.task.meets
    models = tuple((_by_class if one_label else _by_task)(run, sets, at, say))
    right = {
        role: torch.stack([model.correct for model in models if model.role == role and model.correct is not None])
        for role in run.roles
        if figures_of(parts.test.task).by_example
    }
    return RunAssessment(
        name=run.recipe.name,
        teaches=run.recipe.scheme.uses_teacher,
        models=models,
        labels={role: run.label(role) for role in run.roles},
        test=_identity(parts.test),
        parameters={**run.outcome.parameters, "alone": run.parameters("alone")},
        cost=_costs(run, at, say) if with_cost else {},
        pooled=mcnemar(right["alone"], right["distilled"]) if right else None,
        difference=paired_difference(right["alone"], right["distilled"]) if right else None,
        by_class=_compared(run, right) if one_label else None,
        layers=_layers(run, at, say),
    )


def _layers(run: FinishedRun, device: torch.device, say: Callable[[str], None]) -> tuple[LayerSimilarity, ...]:
    """Measure the layers that the method compares; those that cannot be read are left out, and it is said why."""
    try:
        return compare_layers(run, run.parts.test, device)
    except LimbeckError as error:
        say(f"the compared layers are left out: {error}")
        return ()


def _models(run: FinishedRun, say: Callable[[str], None]) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield role, seed and model, each teacher before its students."""
    for seed in run.seeds:
        for role in run.roles:
            if seed in run.seeds_of(role):
                own, model = run.recipe.teacher.of(seed) if role == "teacher" else seed, run.model(role, seed)
                say(f"evaluating: {role} (seed {own})")
                yield role, own, model


def _by_class(
    run: FinishedRun, sets: Mapping[str, SampleSet], device: torch.device, say: Callable[[str], None]
) -> Iterator[AssessedModel]:
    """Assess models of one class an example, from their answers to every set."""
    teacher: dict[str, Tensor] = {}
    known = {name: samples for name, samples in sets.items() if name != "validation" or run.recipe.teacher.asked}
    for role, seed, model in _models(run, say):
        asked = known if role == "teacher" else sets
        logits = {name: predict(model.to(device), samples).cpu() for name, samples in asked.items()}
        scores = {name: score(logits[name], samples.labels) for name, samples in asked.items()}
        if role == "teacher":
            teacher, near = logits, {}
        else:
            near = {name: fidelity(logits[name], teacher[name], samples.labels) for name, samples in known.items()}
        temperature, scaled = None, {}
        if "validation" in asked:
            temperature = fit_temperature(logits["validation"], sets["validation"].labels)
        if temperature is not None and not temperature.at_bound:
            after = assess_scores(score(logits["test"].double() / temperature.temperature, sets["test"].labels))
            scaled = {name: getattr(after, name) for name in _SCALED}
        assessed = {name: assess_scores(found) for name, found in scores.items()}
        yield AssessedModel(role, seed, assessed, near, scores["test"].correct, temperature, scaled)


def _by_task(
    run: FinishedRun, sets: Mapping[str, SampleSet], device: torch.device, say: Callable[[str], None]
) -> Iterator[AssessedModel]:
    """Assess models of any other task, a part of a set at a time: their answers may be too many to be held."""
    figures, test = figures_of(sets["test"].task), sets["test"]
    teacher: nn.Module = nn.Identity()
    for role, seed, model in _models(run, say):
        model = model.to(device)
        teacher = model if role == "teacher" else teacher
        near = {} if role == "teacher" else {name: nearness(model, teacher, each) for name, each in sets.items()}
        measured = {name: evaluate(model, each) for name, each in sets.items()}
        right = torch.cat([_right(model, part) for part in _parts(test)]) if figures.by_example else None
        yield AssessedModel(role, seed, measured, near, right)


def _parts(samples: SampleSet) -> Iterator[SampleSet]:
    """Yield the parts of a set whose answers are held at a time."""
    for positions in torch.arange(len(samples), device=samples.index.device).split(_AT_ONCE):
        yield samples.subset(positions)


def _right(model: nn.Module, samples: SampleSet) -> Tensor:
    return figures_of(samples.task).correct(predict(model, samples).cpu(), samples.labels.cpu())


def nearness(student: nn.Module, teacher: nn.Module, samples: SampleSet) -> Nearness:
    """Compare a student with its teacher on a set, batch by batch."""
    figures, found = figures_of(samples.task), []
    for (own, labels), (taught, _) in zip(answers(student, samples), answers(teacher, samples), strict=True):
        each = [figures.counted(logits, labels).cpu() for logits in (own, taught)]
        if len(each[0]):
            found.append((len(each[0]), figures.nearness(*each)))
    return Nearness.mean(found)


def _compared(run: FinishedRun, right: Mapping[str, Tensor]) -> ClassComparison:
    """Compare student alone and distilled student by seed and by class, and at equal compute."""
    parts, alone, distilled, budget = run.parts, right["alone"], right["distilled"], right.get("alone_budget")
    labels = parts.test.labels[parts.test.labels != UNLABELLED]
    return ClassComparison(
        class_names=tuple(parts.test.class_names) or tuple(str(label) for label in range(parts.test.classes)),
        paired={seed: mcnemar(alone[i], distilled[i]) for i, seed in enumerate(run.seeds)},
        classes=class_gains(alone, distilled, labels, parts.test.classes),
        tail=tail_gains(alone, distilled, labels, parts.alone.class_counts()),
        equal_compute=None if budget is None else (mcnemar(budget, distilled), paired_difference(budget, distilled)),
    )


def _costs(run: FinishedRun, device: torch.device, say: Callable[[str], None]) -> dict[str, Cost]:
    """Measure the cost of teacher and student."""
    train, seed = run.parts.train, run.seeds[0]
    batch = train.batch(torch.arange(min(_TIMED, len(train))), augment=None, seed=0, view=0).to(device)
    costs = {}
    if (line := crowded()) is not None:
        say(line)
    for role, model in (("teacher", run.teacher(seed)), ("student", run.student("distilled", seed))):
        say(f"measuring the cost of the {role}")
        model = settled(model) if records_of(model) else model  # in the form in which it is used
        costs[role] = cost(model.to(device), batch.inputs, batches=(1, _TIMED))
    return costs


def _identity(samples: SampleSet) -> MeasuredSet:
    """Return what tells whether two runs were measured on the same samples in the same order."""
    digest = hashlib.sha256(samples.source.encode())
    digest.update(samples.index.cpu().numpy().tobytes())
    return MeasuredSet(
        name=samples.name,
        examples=int(samples.task.count(samples.task.labelled(samples.labels))),
        classes=samples.classes,
        digest=digest.hexdigest(),
        task=samples.task.name,
        constant_accuracy=constant_accuracy(samples.labels, samples.task),
    )
