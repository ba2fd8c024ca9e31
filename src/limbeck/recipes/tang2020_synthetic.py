"""The synthetic experiment of Tang et al. (2020): what of a teacher's distribution helps, as classes grow alike.

Five models at three similarities τ of the classes of a group: teacher, student alone, KD, and its two parts, KD-pt (the
teacher's confidence in the true class) and KD-sim (the relations of the classes).  The paper does not state its τ, nor
the function's a and M, nor its widths: orderings are compared, not values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import data, methods
from limbeck.data import SampleSet
from limbeck.evaluation import measure, predict
from limbeck.objective import Objective
from limbeck.recipes.parts import fewest_errors
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_TAUS = (0.3, 0.6, 0.9)
_PAPER = {
    "teacher": (54.82, 60.60, 61.53),
    "student": (38.45, 42.81, 47.10),
    "kd": (55.97, 56.95, 57.70),
    "pt": (57.05, 56.99, 56.25),
    "sim": (51.90, 53.69, 57.20),
}
_TITLES = {
    "teacher": "teacher",
    "student": "student alone",
    "kd": "student, KD",
    "pt": "student, KD-pt",
    "sim": "student, KD-sim",
}
_METHODS: Mapping[str, Callable[..., Objective]] = {
    "student": methods.hard,
    "kd": methods.kd,
    "pt": methods.kd_pt,
    "sim": methods.kd_sim,
}
_SOFT = [{"temperature": temperature, "alpha": alpha} for temperature in (1.0, 2.0, 4.0) for alpha in (0.3, 0.6)]

_FULL: dict[str, Any] = {
    "train": 500000,
    "held_out": 20000,
    "test": 20000,
    "classes": 50,
    "groups": 10,
    "dimensions": 500,
    "terms": 4,
    "frequency": 33.5,
    "teacher_hidden": [2048, 2048],
    "student_hidden": [256, 256],
    "epochs": 30,
    "batch_size": 256,
    "teacher_rate": 0.01,
    "student_rate": 0.03,
    "few": {"train": 20000, "teacher_epochs": 20, "student_epochs": 60, "batch_size": 128},
    "search": {
        "student": [{"learning_rate": rate} for rate in (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)],
        "kd": _SOFT,
        "pt": _SOFT,
        "sim": [
            {"temperature": 1.0, "alpha": alpha, "power": power, "tau": tau}
            for power, tau in ((1.0, 0.1), (1.0, 0.3), (0.5, 0.3))
            for alpha in (0.3, 0.6)
        ],
    },
}
_REDUCED = {
    **_FULL,
    "train": 100000,
    "held_out": 10000,
    "test": 10000,
    "classes": 20,
    "groups": 5,
    "dimensions": 12,
    "frequency": 5.2,  # the same angles as at 500 dimensions: a/√d = 1.5
    "teacher_hidden": [256, 256],
    "student_hidden": [64, 64],
    "epochs": 8,
    "few": {"train": 4000, "teacher_epochs": 20, "student_epochs": 60, "batch_size": 128},
}


@dataclass(frozen=True)
class _Task:
    """Classes of a likeness, to be learnt from many samples or from the first few of them."""

    tau: float
    few: bool = False

    @property
    def name(self) -> str:
        return ("few-" if self.few else "") + f"tau-{self.tau:g}"

    @property
    def title(self) -> str:
        return ("few samples, " if self.few else "") + f"τ = {self.tau:g}"

    def samples(self, lab: Lab) -> SampleSet:
        """Return what teacher and students learn from."""
        train = lab.sets[f"train {self.tau}"]
        return train.subset(torch.arange(lab.budget["few"]["train"])) if self.few else train

    def size(self, lab: Lab, role: str) -> tuple[int, int]:
        """Return the epochs and the batch size of a training."""
        if self.few:
            few = lab.budget["few"]
            return few[f"{role}_epochs"], few["batch_size"]
        return lab.budget["epochs"], lab.budget["batch_size"]


def _load(_folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    """Draw the three tasks; they differ in τ alone."""
    sets: dict[str, SampleSet] = {}
    shape = {key: budget[key] for key in ("test", "classes", "groups", "dimensions", "terms", "frequency")}
    for tau in _TAUS:
        drawn = data.synthetic(tau=tau, train=budget["train"] + budget["held_out"], **shape)
        places = torch.arange(len(drawn.train))
        sets[f"train {tau}"] = drawn.train.subset(places[: budget["train"]])
        sets[f"held_out {tau}"] = drawn.train.subset(places[budget["train"] :])
        sets[f"test {tau}"] = drawn.test
    return sets


def _fitted(lab: Lab, seed: int, task: _Task, method: str, settings: Mapping[str, Any]) -> nn.Module:
    """Train a model of the table with given settings, or read it."""
    keys = dict(settings)
    role = "teacher" if method == "teacher" else "student"
    epochs, batch_size = task.size(lab, role)
    training = Training(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=keys.pop("learning_rate", lab.budget[f"{role}_rate"]),
        schedule="one_cycle",
    )
    return lab.train(
        f"{_TITLES[method]}, {task.title}",
        {"kind": "residual_tanh", "hidden": lab.budget[f"{role}_hidden"]},
        _METHODS.get(method, methods.hard)(**keys),
        task.samples(lab),
        training,
        seed,
        teacher=_teacher(lab, seed, task) if method in ("kd", "pt", "sim") else None,
    ).student


def _teacher(lab: Lab, seed: int, task: _Task) -> StoredTeacher:
    """Return the answers of a seed's teacher to the training set, computed once."""

    def answers() -> StoredTeacher:
        return store(ModelTeacher(_fitted(lab, seed, task, "teacher", {})), task.samples(lab))

    stored: StoredTeacher = lab.remember(f"teacher {seed} {task.name}", answers)
    return stored


def _settings(lab: Lab, task: _Task, method: str) -> dict[str, Any]:
    """Return what makes the fewest held-out errors at seed 0; every method has as many candidates."""
    if method == "teacher":
        return {}

    def search() -> dict[str, Any]:
        held_out = lab.sets[f"held_out {task.tau}"]
        return fewest_errors(lab.budget["search"][method], partial(_fitted, lab, 0, task, method), held_out)

    chosen: dict[str, Any] = lab.choose(f"settings-{method}-{task.name}", search)
    return chosen


def _accuracy(lab: Lab, seed: int, task: _Task, method: str) -> float:
    test = lab.sets[f"test {task.tau}"]
    model = _fitted(lab, seed, task, method, _settings(lab, task, method))
    return 100.0 * measure(predict(model, test), test.labels).accuracy


Difference = Callable[[Lab, int], float]


def _above(lab: Lab, seed: int, *, task: _Task, method: str, other: str) -> float:
    """Return by how many points a method's accuracy lies above another's at the same seed."""
    return _accuracy(lab, seed, task, method) - _accuracy(lab, seed, task, other)


def _gained(lab: Lab, seed: int, *, few: bool) -> float:
    """Return how much better KD-sim stands against KD at the largest τ than at the smallest, at the same seed."""
    ends = (_Task(_TAUS[0], few), _Task(_TAUS[-1], few))
    first, last = (_above(lab, seed, task=task, method="sim", other="kd") for task in ends)
    return last - first


def _run(lab: Lab, seed: int, *, task: _Task, method: str, differences: Mapping[str, Difference]) -> dict[str, float]:
    accuracy = {"accuracy, %": _accuracy(lab, seed, task, method)}
    return accuracy | {name: difference(lab, seed) for name, difference in differences.items()}


def _row(place: int, method: str, *, few: bool) -> Row:
    """Return a method's row at one of the τ, with how far it lies above KD, and the orderings that are aimed at."""
    task, last = _Task(_TAUS[place], few), len(_TAUS) - 1
    paper = {name: values[place] for name, values in _PAPER.items()}
    figures = [Figure("accuracy, %", paper[method])]
    differences: dict[str, Difference] = {}

    def compare(name: str, printed: float, difference: Difference, *, aimed: bool) -> None:
        differences[name] = difference
        figures.append(Figure(name, round(printed, 2), *(("at least", 0.0) if aimed else ())))

    if method in ("pt", "sim"):
        above = partial(_above, task=task, method=method, other="kd")
        compare("above KD", paper[method] - paper["kd"], above, aimed=method == "pt" and place == 0)
    if method == "sim" and place == last:
        above = partial(_above, task=task, method="sim", other="pt")
        compare("above KD-pt", paper["sim"] - paper["pt"], above, aimed=True)
        first = _PAPER["sim"][0] - _PAPER["kd"][0]
        gained = partial(_gained, few=few)
        compare("nearer to KD than at the smallest τ, by", paper["sim"] - paper["kd"] - first, gained, aimed=True)
    run = partial(_run, task=task, method=method, differences=differences)
    return Row(f"{method}-{task.name}", f"{task.title}: {_TITLES[method]}", tuple(figures), run)


REPRODUCTION = Reproduction(
    name="tang2020-synthetic",
    title="Tang et al. (2020), Understanding and Improving Knowledge Distillation, section 4: synthetic data",
    rows=tuple(
        _row(place, method, few=few) for few in (False, True) for place in range(len(_TAUS)) for method in _TITLES
    ),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
