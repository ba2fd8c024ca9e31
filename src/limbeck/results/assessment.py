"""A finished run under every measure: the models of every role, on every set and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import UNLABELLED
from limbeck.data import SampleSet
from limbeck.evaluation import (
    Assessment,
    ClassGain,
    Estimate,
    Fidelity,
    McNemar,
    Tail,
    Temperature,
    assess_scores,
    class_gains,
    fidelity,
    fit_temperature,
    mcnemar,
    paired_difference,
    predict,
    score,
    tail_gains,
)
from limbeck.results.finished import FinishedRun
from limbeck.results.measured import (
    Judged,
    costs_of,
    identity,
    models_of,
    place,
    put_on_record,
    sets_of,
    wrong_positions,
)
from limbeck.results.task_assessment import TaskAssessment, assess_task
from limbeck.tasks import Need

__all__ = ["AssessedModel", "RunAssessment", "assess_run"]

_STUDENTS = ("alone", "distilled")
_SCALED = ("nll", "brier", "ece", "ece_mass")


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
        """Return everything by name; test_errors are positions among the labelled test samples."""
        return {
            "role": self.role,
            "seed": self.seed,
            "sets": self.sets,
            "fidelity": self.fidelity,
            "temperature": self.temperature,
            "scaled": self.scaled,
            "test_errors": wrong_positions(self.correct),
        }


@dataclass(frozen=True, eq=False)
class RunAssessment(Judged[AssessedModel]):
    """A run under every measure.

    class_names: as the data names them.
    paired: student alone (first) against distilled (second) on the test samples, by seed; pooled: of all seeds, sample
    by sample; difference: in accuracy, over the samples.  classes: the gain and harm of distillation by class;
    tail: the same on the classes that the student has few training examples of.
    equal_compute: the same test as `pooled`, against the student alone at the compute of the distillation; None where
    none was trained.
    """

    class_names: tuple[str, ...]
    paired: Mapping[int, McNemar]
    pooled: McNemar
    difference: Estimate
    classes: tuple[ClassGain, ...]
    tail: Tail
    equal_compute: tuple[McNemar, Estimate] | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        budget = self.equal_compute
        more = {
            "class_names": self.class_names,
            "paired": self.paired,
            "pooled": self.pooled,
            "difference": self.difference,
            "classes": self.classes,
            "tail": self.tail,
            "equal_compute": budget and {"pooled": budget[0], "difference": budget[1]},
        }
        return {**super().as_dict(), **more}


def assess_run(
    run: FinishedRun,
    *,
    with_cost: bool = True,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunAssessment | TaskAssessment:
    """Assess every model of a finished run; the test set's reading is put on record first.

    No choice is made on the test set: the temperature comes from the validation part, and where a refit left none, no
    temperature is fitted.  device: where the models run; by default CUDA where there is one.
    Of a task whose labels are not one class an example it is the figures of that task.
    """
    at, sets = place(device), sets_of(run)
    put_on_record(run)
    if Need.ONE_LABEL not in run.parts.test.task.meets:
        return assess_task(run, sets, at, with_cost=with_cost, say=say)
    parts = run.parts
    models: list[AssessedModel] = []
    answers: dict[str, Tensor] = {}
    for role, seed, model in models_of(run):
        say(f"evaluating: {role} (seed {seed})")
        found = {name: predict(model.to(at), samples).cpu() for name, samples in sets.items()}
        answers = found if role == "teacher" else answers
        models.append(_assessed(role, seed, found, answers, sets))
    alone, distilled = (_correct(models, role) for role in _STUDENTS)
    budget = _correct(models, "alone_budget") if "alone_budget" in run.roles else None
    labels = parts.test.labels[parts.test.labels != UNLABELLED]
    return RunAssessment(
        name=run.recipe.name,
        teaches=run.recipe.scheme.uses_teacher,
        models=tuple(models),
        labels={role: run.label(role) for role in run.roles},
        test=identity(parts.test),
        class_names=tuple(parts.test.class_names) or tuple(str(label) for label in range(parts.test.classes)),
        parameters=run.outcome.parameters,
        paired={seed: mcnemar(alone[i], distilled[i]) for i, seed in enumerate(run.seeds)},
        pooled=mcnemar(alone, distilled),
        difference=paired_difference(alone, distilled),
        classes=class_gains(alone, distilled, labels, parts.test.classes),
        tail=tail_gains(alone, distilled, labels, parts.alone.class_counts()),
        equal_compute=None if budget is None else (mcnemar(budget, distilled), paired_difference(budget, distilled)),
        cost=costs_of(run, at, say) if with_cost else {},
    )


def _correct(models: Sequence[AssessedModel], role: str) -> Tensor:
    return torch.stack([model.correct for model in models if model.role == role])


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
