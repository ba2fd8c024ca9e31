"""Ten networks distilled into one of their kind, after the ensembles of Hinton, Vinyals & Dean (2015), section 3.1.

The paper's acoustic models are not public.  Here small perceptrons on MNIST and on Fashion-MNIST, which differ in their
initial weights and in the order of the samples alone: narrow ones, since those of 300 units a layer and more agree so
well that ten of them are hardly better than one.  How much of the ensemble's gain one network keeps is the question,
for each mean and number of members.  Beside it stand the student alone, trained for as much compute as all of it took,
and a wider student, still of half the ten members' parameters.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import nn

from limbeck import data, methods
from limbeck.data import SampleSet
from limbeck.evaluation import measure, predict
from limbeck.randomness import derive_seed
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

Mean = Literal["arithmetic", "geometric"]

_ENSEMBLES: tuple[tuple[int | None, Mean], ...] = (
    (1, "arithmetic"),
    (3, "arithmetic"),
    (None, "arithmetic"),
    (None, "geometric"),
)
"""How many members teach, all without a number, and by which mean."""
_PAPER_SHARE = 86.4
"""From 58.9 to 60.8 % of the frames, where the ensemble has 61.1 %."""

_REDUCED: dict[str, Any] = {
    "train": 20000,
    "held_out": 5000,
    "members": 10,
    "model": {"kind": "mlp", "hidden": [64, 64]},
    "wide": {"kind": "mlp", "hidden": [256, 256]},
    "training": {"epochs": 30, "batch_size": 128, "clip": 1.0},
    "rates": [0.03, 0.1, 0.2, 0.4],
    "settings": [
        {"temperature": temperature, "hard_weight": hard, "soft_weight": 1.0 - hard}
        for temperature in (2.0, 4.0)
        for hard in (0.0, 0.5)
    ],
}
_FULL = {**_REDUCED, "train": 60000, "held_out": 10000, "training": {**_REDUCED["training"], "epochs": 60}}
_LOADERS = {"mnist": data.mnist, "fashion-mnist": data.fashion_mnist}


class _Sets(dict[str, SampleSet]):
    """The sets of each kind of data by name, such as "mnist test", read when one of them is first asked for."""

    def __init__(self, folder: Path | None, budget: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.budget = folder, budget

    def __missing__(self, key: str) -> SampleSet:
        kind = key.split(maxsplit=1)[0]
        within = None if self.folder is None else self.folder / kind
        if within is not None and not within.is_dir():
            within = self.folder
        splits = _LOADERS[kind](folder=None if within is None else str(within))
        first = splits.train.subset(torch.arange(self.budget["train"]))
        train, held_out = first.split(self.budget["held_out"], seed=0)
        self.update({f"{kind} train": train, f"{kind} held_out": held_out, f"{kind} test": splits.test})
        return self[key]


# -- the networks ------------------------------------------------------------------------------------------------------


def _alone(lab: Lab, kind: str, seed: int, rate: float, *, epochs: int | None = None) -> nn.Module:
    """Train one network on the labels; with `epochs`, so many, of which the best on held-out images is kept."""
    keys = {**lab.budget["training"], "learning_rate": rate}
    if epochs is not None:
        keys |= {"epochs": epochs, "keep": "best"}
    return lab.train(
        f"{kind} network",
        lab.budget["model"],
        methods.hard(),
        lab.sets[f"{kind} train"],
        Training(**keys),
        seed,
        held_out=None if epochs is None else lab.sets[f"{kind} held_out"],
    ).student


def _held_out_errors(lab: Lab, kind: str, model: nn.Module) -> float:
    samples = lab.sets[f"{kind} held_out"]
    return measure(predict(model, samples), samples.labels).errors


def _rate(lab: Lab, kind: str) -> float:
    """Return the learning rate of a network with the fewest held-out errors; all networks are trained with it."""

    def search() -> float:
        rates: list[float] = lab.budget["rates"]
        seed = derive_seed(0, "member", 0)
        return min(rates, key=lambda rate: _held_out_errors(lab, kind, _alone(lab, kind, seed, rate)))

    found: float = lab.choose(f"rate-{kind}", search)
    return found


def _members(lab: Lab, kind: str, seed: int, count: int | None = None) -> list[nn.Module]:
    """Return the first members of a seed's ensemble, by default all."""
    rate = _rate(lab, kind)
    return [
        _alone(lab, kind, derive_seed(seed, "member", number), rate) for number in range(count or lab.budget["members"])
    ]


def _teacher(lab: Lab, kind: str, seed: int, count: int | None, mean: Mean) -> StoredTeacher:
    """Return the ensemble's answers to the training set, computed once."""

    def answers() -> StoredTeacher:
        members = [ModelTeacher(model) for model in _members(lab, kind, seed, count)]
        return store(EnsembleTeacher(members, mean=mean), lab.sets[f"{kind} train"])

    found: StoredTeacher = lab.remember(f"answers {kind} {seed} {count} {mean}", answers)
    return found


def _taught(
    lab: Lab, kind: str, seed: int, count: int | None, mean: Mean, settings: Mapping[str, Any], model: str = "model"
) -> nn.Module:
    """Distil an ensemble into a network of its members' kind and training, or of another `model` of the budget."""
    return lab.train(
        f"{kind} student of {count or 'all'}, {mean} mean",
        lab.budget[model],
        methods.kd(**settings),
        lab.sets[f"{kind} train"],
        Training(**{**lab.budget["training"], "learning_rate": _rate(lab, kind)}),
        derive_seed(seed, "student"),
        teacher=_teacher(lab, kind, seed, count, mean),
    ).student


def _distilled(lab: Lab, kind: str, seed: int, *, count: int | None, mean: Mean) -> nn.Module:
    """Distil with the temperature and weights that make the fewest held-out errors at seed 0, with all members."""

    def search() -> dict[str, Any]:
        chosen: dict[str, Any] = min(
            lab.budget["settings"],
            key=lambda settings: _held_out_errors(lab, kind, _taught(lab, kind, 0, None, mean, settings)),
        )
        return chosen

    return _taught(lab, kind, seed, count, mean, lab.choose(f"settings-{kind}-{mean}", search))


def _wide(lab: Lab, kind: str, seed: int) -> nn.Module:
    """Distil all members into a wider network, with settings chosen for it."""

    def taught(of: int, settings: Mapping[str, Any]) -> nn.Module:
        return _taught(lab, kind, of, None, "arithmetic", settings, "wide")

    def search() -> dict[str, Any]:
        chosen: dict[str, Any] = min(
            lab.budget["settings"], key=lambda settings: _held_out_errors(lab, kind, taught(0, settings))
        )
        return chosen

    return taught(seed, lab.choose(f"settings-{kind}-wide", search))


def _wide_alone(lab: Lab, kind: str, seed: int) -> nn.Module:
    return lab.train(
        f"{kind} wider network",
        lab.budget["wide"],
        methods.hard(),
        lab.sets[f"{kind} train"],
        Training(**{**lab.budget["training"], "learning_rate": _rate(lab, kind)}),
        derive_seed(seed, "student"),
    ).student


def _ensemble(lab: Lab, kind: str, seed: int, *, count: int | None, mean: Mean) -> nn.Module:
    return MeanOfModels(_members(lab, kind, seed, count), mean=mean).eval()


def _longer(lab: Lab, kind: str, seed: int) -> nn.Module:
    """Train the student alone for the compute of ten members, their answers, and the student.

    A sample that is learnt from costs three forward passes, one that is answered one.
    """
    epochs = lab.budget["training"]["epochs"]
    whole = round(lab.budget["members"] * (epochs + 1 / 3) + epochs)
    return _alone(lab, kind, derive_seed(seed, "student"), _rate(lab, kind), epochs=whole)


# -- the rows ----------------------------------------------------------------------------------------------------------


def _errors(lab: Lab, kind: str, model: nn.Module) -> float:
    samples = lab.sets[f"{kind} test"]
    return measure(predict(model, samples), samples.labels).errors


def _single(lab: Lab, kind: str, seed: int) -> float:
    """Return the test errors of a single network: the mean over the ten members."""
    return fmean(_errors(lab, kind, model) for model in _members(lab, kind, seed))


def _share(lab: Lab, kind: str, seed: int, errors: float) -> float:
    """Return how much of what ten members gain over one, by their arithmetic mean, a model has, in per cent."""
    single = _single(lab, kind, seed)
    gain = single - _errors(lab, kind, _ensemble(lab, kind, seed, count=None, mean="arithmetic"))
    return 100.0 * (single - errors) / gain if gain else 0.0


Build = Callable[[Lab, str, int], nn.Module]


def _run(lab: Lab, seed: int, *, kind: str, build: Build) -> dict[str, float]:
    errors = _errors(lab, kind, build(lab, kind, seed))
    return {"errors": float(errors), "share of the gain of ten, %": _share(lab, kind, seed, errors)}


def _run_single(lab: Lab, seed: int, *, kind: str) -> dict[str, float]:
    each = [_errors(lab, kind, model) for model in _members(lab, kind, seed)]
    return {"errors": fmean(each), "fewest": float(min(each)), "most": float(max(each))}


def _called(count: int | None, mean: Mean) -> str:
    return f"{count or 10}" + ("-geometric" if mean == "geometric" else "")


def _rows(kind: str, title: str) -> list[Row]:
    """Return the rows of one set of images."""
    errors, share = Figure("errors"), Figure("share of the gain of ten, %")
    aimed = Figure("share of the gain of ten, %", _PAPER_SHARE, "at least", 80.0)

    def row(name: str, what: str, build: Build, kept: Figure = share) -> Row:
        return Row(f"{kind}-{name}", f"{title}, {what}", (errors, kept), partial(_run, kind=kind, build=build))

    figures = (errors, Figure("fewest"), Figure("most"))
    rows = [Row(f"{kind}-single", f"{title}, one network: mean of ten", figures, partial(_run_single, kind=kind))]
    for count, mean in _ENSEMBLES[1:]:
        build = partial(_ensemble, count=count, mean=mean)
        rows.append(row(f"ensemble-{_called(count, mean)}", f"ensemble of {count or 10}, {mean} mean", build))
    for count, mean in _ENSEMBLES:
        what = "distilled from one" if count == 1 else f"distilled from {count or 10}, {mean} mean"
        build = partial(_distilled, count=count, mean=mean)
        aim = aimed if count is None and mean == "arithmetic" else share
        rows.append(row(f"distilled-{_called(count, mean)}", what, build, aim))
    return [
        *rows,
        row("longer", "alone for the compute of ten members and a student", _longer),
        row("wide", "a wider network alone", _wide_alone),
        row("wide-distilled-10", "a wider network distilled from 10, arithmetic mean", _wide),
    ]


REPRODUCTION = Reproduction(
    name="hinton2015-ensemble",
    title="Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network, section 3.1: ten into one",
    rows=(*_rows("mnist", "MNIST"), *_rows("fashion-mnist", "Fashion-MNIST")),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_Sets,
)
