"""A finished run under every measure: the models of every role, on every set and seed."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import UNLABELLED
from limbeck.data import SampleSet
from limbeck.errors import InputError, RunError
from limbeck.evaluation import (
    Assessment,
    ClassGain,
    Cost,
    Estimate,
    Fidelity,
    Interval,
    McNemar,
    Tail,
    Temperature,
    assess_scores,
    class_gains,
    cost,
    fidelity,
    fit_temperature,
    mcnemar,
    paired_difference,
    predict,
    score,
    t_interval,
    tail_gains,
)
from limbeck.runs import RunFolder
from limbeck.schemes.finished import FinishedRun
from limbeck.schemes.keeping import FORMAT, held

__all__ = ["AssessedModel", "RunAssessment", "assess_run"]

_STUDENTS = ("alone", "distilled")
_SCALED = ("nll", "brier", "ece", "ece_mass")
_TIMED = 256  # samples of the larger batch whose time is taken


@dataclass(frozen=True, eq=False)
class AssessedModel:
    """One model of a run.

    sets: by "transfer" (what the student learnt from, unaugmented), "validation" (absent after a refit) and "test".
    fidelity: of a student to its teacher, by the same names.
    temperature: fitted on the validation part.  scaled: the test set at that temperature: nll, brier, ece, ece_mass;
    empty where the validation part tells no temperature, as when every prediction there is right.
    correct: (n,) bool, whether each labelled test sample is right.
    """

    role: str
    seed: int
    sets: Mapping[str, Assessment]
    fidelity: Mapping[str, Fidelity]
    temperature: Temperature | None
    scaled: Mapping[str, float]
    correct: Tensor

    def figures(self) -> dict[str, float]:
        """Return the figures that a table shows, by name, of the test set where nothing else is said."""
        test = self.sets["test"]
        found: dict[str, float | None] = {
            name: getattr(test, name) for name in ("errors", "accuracy", "top5", "nll", "brier", "ece", "ece_mass")
        }
        found |= {f"scaled_{name}": value for name, value in self.scaled.items()}
        if self.temperature is not None and not self.temperature.at_bound:
            found["temperature"] = self.temperature.temperature
        for name, near in self.fidelity.items():
            suffix = "" if name == "test" else f"_{name}"
            found[f"agreement{suffix}"], found[f"kl{suffix}"] = near.agreement, near.kl
            found[f"agreement_where_wrong{suffix}"] = near.agreement_where_wrong
        found |= {f"accuracy_{name}": each.accuracy for name, each in self.sets.items() if name != "test"}
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; test_errors are positions among the labelled test samples."""
        return {
            "role": self.role,
            "seed": self.seed,
            "sets": {name: found.as_dict() for name, found in self.sets.items()},
            "fidelity": {name: found.as_dict() for name, found in self.fidelity.items()},
            "temperature": None if self.temperature is None else self.temperature.as_dict(),
            "scaled": dict(self.scaled),
            "test_errors": torch.where(~self.correct)[0].tolist(),
        }


@dataclass(frozen=True, eq=False)
class RunAssessment:
    """A run under every measure.

    models: of every role and seed.  labels: what a table calls each role, in its order.
    test: identity and size of the test set.  class_names: as the data names them.
    paired: student alone (first) against distilled (second) on the test samples, by seed; pooled: of all seeds, sample
    by sample; difference: in accuracy, over the samples.  classes: the gain and harm of distillation by class;
    tail: the same on the classes that the student has few training examples of.
    equal_compute: the same test as `pooled`, against the student alone at the compute of the distillation; None where
    none was trained.
    cost: of teacher and student; empty when it was not measured.
    """

    name: str
    models: tuple[AssessedModel, ...]
    labels: Mapping[str, str]
    test: Mapping[str, Any]
    class_names: tuple[str, ...]
    parameters: Mapping[str, int]
    paired: Mapping[int, McNemar]
    pooled: McNemar
    difference: Estimate
    classes: tuple[ClassGain, ...]
    tail: Tail
    equal_compute: tuple[McNemar, Estimate] | None
    cost: Mapping[str, Cost]

    def of(self, role: str) -> list[AssessedModel]:
        """Return the models of a role, in the order of their seeds."""
        return [model for model in self.models if model.role == role]

    def figure(self, role: str, name: str) -> Interval | None:
        """Return a figure of a role with its t-interval over the seeds; None where a model has it not."""
        values = [model.figures().get(name) for model in self.of(role)]
        known = [value for value in values if value is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    def advantage(self, name: str) -> Interval | None:
        """Return a figure of the student distilled less that of the student alone, paired by seed."""
        pairs = zip(self.of("alone"), self.of("distilled"), strict=True)
        values = [(one.figures().get(name), two.figures().get(name)) for one, two in pairs]
        known = [two - one for one, two in values if one is not None and two is not None]
        return t_interval(known) if known and len(known) == len(values) else None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is not finite is None."""
        names = list(dict.fromkeys(name for model in self.models for name in model.figures()))
        content = {
            "format": FORMAT,
            "name": self.name,
            "test": dict(self.test),
            "class_names": list(self.class_names),
            "parameters": dict(self.parameters),
            "roles": {role: {"label": label} for role, label in self.labels.items()},
            "summary": {
                role: {name: vars(found) for name in names if (found := self.figure(role, name)) is not None}
                for role in self.labels
            },
            "advantage": {name: vars(found) for name in names if (found := self.advantage(name)) is not None},
            "models": [model.as_dict() for model in self.models],
            "paired": {str(seed): found.as_dict() for seed, found in self.paired.items()},
            "pooled": self.pooled.as_dict(),
            "difference": self.difference.as_dict(),
            "classes": [found.as_dict() for found in self.classes],
            "tail": self.tail.as_dict(),
            "equal_compute": None
            if self.equal_compute is None
            else {"pooled": self.equal_compute[0].as_dict(), "difference": self.equal_compute[1].as_dict()},
            "cost": {role: found.as_dict() for role, found in self.cost.items()},
        }
        plain: dict[str, Any] = _finite(content)
        return plain


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
    task = run.parts.test.task
    if not task.one_label:
        raise RunError(
            f"evaluate: it measures one class an example, and the labels are {task.labels} (task {task.name}); "
            f"the run's figures are in '{run.folder / 'outcome.json'}' and its report"
        )
    place = _place(device)
    with held(run.folder):
        names = [run.label(role) for role in run.roles]
        RunFolder(run.folder).read_test_set(f"evaluation of {', '.join(names[:-1])} and {names[-1]}")
    parts = run.parts
    sets: dict[str, SampleSet] = {"transfer": parts.alone, "test": parts.test}
    if parts.held_out is not None:
        sets = {"transfer": parts.alone, "validation": parts.held_out, "test": parts.test}
    models: list[AssessedModel] = []
    answers: dict[str, Tensor] = {}
    for role, seed, model in _models(run):
        say(f"evaluating: {role} (seed {seed})")
        found = {name: predict(model.to(place), samples).cpu() for name, samples in sets.items()}
        answers = found if role == "teacher" else answers
        models.append(_assessed(role, seed, found, answers, sets))
    costs: dict[str, Cost] = {}
    if with_cost:
        inputs = parts.train.batch(torch.arange(min(_TIMED, len(parts.train))), augment=None, seed=0, view=0).inputs
        for role, model in (
            ("teacher", run.teacher(run.seeds[0])),
            ("student", run.student("distilled", run.seeds[0])),
        ):
            say(f"measuring the cost of the {role}")
            costs[role] = cost(model.to(place), inputs.to(place), batches=(1, _TIMED))
    alone, distilled = (_correct(models, role) for role in _STUDENTS)
    budget = _correct(models, "alone_budget") if "alone_budget" in run.roles else None
    labels = parts.test.labels[parts.test.labels != UNLABELLED]
    return RunAssessment(
        name=run.recipe.name,
        models=tuple(models),
        labels={role: run.label(role) for role in run.roles},
        test=_identity(parts.test),
        class_names=tuple(parts.test.class_names) or tuple(str(label) for label in range(parts.test.classes)),
        parameters=run.outcome["parameters"],
        paired={seed: mcnemar(alone[i], distilled[i]) for i, seed in enumerate(run.seeds)},
        pooled=mcnemar(alone, distilled),
        difference=paired_difference(alone, distilled),
        classes=class_gains(alone, distilled, labels, parts.test.classes),
        tail=tail_gains(alone, distilled, labels, parts.alone.class_counts()),
        equal_compute=None if budget is None else (mcnemar(budget, distilled), paired_difference(budget, distilled)),
        cost=costs,
    )


def _correct(models: Sequence[AssessedModel], role: str) -> Tensor:
    return torch.stack([model.correct for model in models if model.role == role])


def _place(device: str | None) -> torch.device:
    """Return the device of a name, after a number was put there."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device: found '{name}' ({str(error).splitlines()[0]}), expected cpu or cuda:0, say"
        ) from None


def _models(run: FinishedRun) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield role, seed and model, each teacher before its students."""
    shared = run.recipe.teacher.seed
    for number, seed in enumerate(run.seeds):
        if shared is None or number == 0:
            yield "teacher", seed if shared is None else shared, run.teacher(seed)
        for role in run.roles[1:]:
            yield role, seed, run.student(role, seed)


def _assessed(
    role: str, seed: int, logits: Mapping[str, Tensor], teacher: Mapping[str, Tensor], sets: Mapping[str, SampleSet]
) -> AssessedModel:
    test_labels = sets["test"].labels
    scores = {name: score(logits[name], samples.labels) for name, samples in sets.items()}
    near = {}
    if role != "teacher":
        near = {name: fidelity(logits[name], teacher[name], samples.labels) for name, samples in sets.items()}
    temperature, scaled = None, {}
    if "validation" in sets:
        temperature = fit_temperature(logits["validation"], sets["validation"].labels)
    if temperature is not None and not temperature.at_bound:
        after = assess_scores(score(logits["test"].double() / temperature.temperature, test_labels))
        scaled = {name: getattr(after, name) for name in _SCALED}
    assessed = {name: assess_scores(found) for name, found in scores.items()}
    return AssessedModel(role, seed, assessed, near, temperature, scaled, scores["test"].correct)


def _identity(samples: SampleSet) -> dict[str, Any]:
    """Return what tells whether two runs were measured on the same samples in the same order."""
    digest = hashlib.sha256(samples.source.encode())
    digest.update(samples.index.cpu().numpy().tobytes())
    labelled = int((samples.labels != UNLABELLED).sum())
    return {"name": samples.name, "examples": labelled, "classes": samples.classes, "digest": digest.hexdigest()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
