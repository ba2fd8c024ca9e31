"""Model compression (Bucilă, Caruana & Niculescu-Mizil 2006): an ensemble in a small network, by samples that are made.

The ensemble is selected from trees, boosting, logistic regression and networks, as the paper's was.  A network learns
what the ensemble answers: to the training set alone, or to samples made from it by MUNGE or at random besides.  Every
network takes the same number of steps; what differs is what it is taught on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import data, methods
from limbeck.data import SampleSet, Splits, Synthesis, TensorSet
from limbeck.data.synthesis import kinds
from limbeck.evaluation import predict
from limbeck.randomness import derive_seed
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

_SETS = {"breast-cancer": "breast cancer", "digits": "digits as a table", "mnist": "MNIST, 14×14, as a table"}
_ROWS = {
    "ensemble": "ensemble",
    "alone": "network alone, labels",
    "train": "network, training set",
    "munge-1": "network, MUNGE × 1",
    "munge-4": "network, MUNGE × 4",
    "munge-16": "network, MUNGE × 16",
    "marginals-16": "network, marginals × 16",
    "uniform-16": "network, uniform × 16",
}
_MOST = 16

_NETWORK = [{"learning_rate": rate, "weight_decay": decay} for rate in (0.001, 0.005) for decay in (0.01, 1.0)]
_FULL: dict[str, Any] = {
    "mnist": {"train": 20000, "held_out": 5000},
    "members": [
        {"kind": "random_forest", "n_estimators": 500},
        {"kind": "extra_trees", "n_estimators": 500},
        {"kind": "gradient_boosting", "iterations": 200},
        {"kind": "logistic_regression", "iterations": 10000},
    ],
    "networks": {"count": 5, "hidden": 512, "steps": 5000},
    "rounds": 20,
    "hidden": 256,
    "steps": 20000,
    "batch_size": 256,
    "search": {
        "network": _NETWORK,
        "munge": [{"swap": swap, "spread": spread} for swap in (0.2, 0.5) for spread in (1.0, 5.0)],
    },
}
_REDUCED = {
    **_FULL,
    "mnist": {"train": 2500, "held_out": 600},
    "members": [
        {"kind": "random_forest", "n_estimators": 100},
        {"kind": "extra_trees", "n_estimators": 100},
        {"kind": "gradient_boosting", "iterations": 50},
        {"kind": "logistic_regression", "iterations": 10000},
    ],
    "networks": {"count": 5, "hidden": 128, "steps": 1000},
    "hidden": 64,
    "steps": 2000,
}


def _load(folder: Path | None, _budget: Mapping[str, Any]) -> dict[str, SampleSet]:
    """Read MNIST as rows of 196 numbers; the other sets come with scikit-learn."""
    inner = None if folder is None else folder / "mnist"
    splits = data.mnist(None if inner is None else str(inner if inner.is_dir() else folder))
    return {"mnist train": _pooled(splits.train, 40000), "mnist test": _pooled(splits.test, 10000)}


def _pooled(samples: SampleSet, count: int) -> SampleSet:
    images = samples.gather(torch.arange(min(count, len(samples)))).float() / 255
    rows = functional.avg_pool2d(images, 2).flatten(1)
    return TensorSet.of(rows, samples.labels[: len(rows)], classes=samples.classes, name=f"{samples.name} 14×14")


def _splits(lab: Lab, name: str, seed: int) -> tuple[SampleSet, SampleSet, SampleSet]:
    """Return what is learnt from, held out and tested on: split anew for every seed, but for MNIST's test set."""
    if name != "mnist":
        whole: Splits = data.bundled(name.replace("-", "_"), seed=seed)  # type: ignore[arg-type]
        train, held_out = whole.train.split(0.2, seed, stratify=True)
        return train, held_out, whole.test
    sizes, whole_train = lab.budget["mnist"], lab.sets["mnist train"]
    rest, held_out = whole_train.split(sizes["held_out"], seed)
    _, train = rest.split(sizes["train"], seed)
    return train, held_out, lab.sets["mnist test"]


def _library(lab: Lab, name: str, seed: int) -> list[nn.Module]:
    """Return the models that the ensemble is selected from, all fitted to the training set of a seed."""
    train = _splits(lab, name, seed)[0]
    sizes = lab.budget["networks"]

    def trained() -> list[nn.Module]:
        models: list[nn.Module] = [
            lab.fitted(f"{_SETS[name]}: {keys['kind']}", keys, train, seed) for keys in lab.budget["members"]
        ]
        training = _training(lab, len(train), sizes["steps"], learning_rate=0.003, weight_decay=0.01)
        for number in range(sizes["count"]):
            label = f"{_SETS[name]}: network {number + 1} of the ensemble"
            kind = {"kind": "mlp", "hidden": [sizes["hidden"]]}
            own = derive_seed(seed, "ensemble", number)
            models.append(lab.train(label, kind, methods.hard(), train, training, own).student.requires_grad_(False))
        return models

    models: list[nn.Module] = lab.remember(f"library {name} {seed}", trained)
    return models


def _weights(lab: Lab, name: str, seed: int) -> list[float]:
    """Return each model's share in the ensemble: one after the other the model that helps most is added, or again.

    Ensemble selection (Caruana et al. 2004), by the RMSE on the held-out rows.
    """

    def selected() -> list[float]:
        held_out = _splits(lab, name, seed)[1]
        answers = [predict(model, held_out).double().softmax(1) for model in _library(lab, name, seed)]
        truth = functional.one_hot(held_out.labels, held_out.classes)
        total, counts = torch.zeros_like(answers[0]), [0] * len(answers)
        for number in range(1, lab.budget["rounds"] + 1):
            wrong = [float((((total + own) / number - truth) ** 2).mean()) for own in answers]
            best = wrong.index(min(wrong))
            total, counts[best] = total + answers[best], counts[best] + 1
        return [count / sum(counts) for count in counts]

    shares: list[float] = lab.choose(f"ensemble-{name}-{seed}", selected)
    return shares


def _ensemble(lab: Lab, name: str, seed: int) -> tuple[list[nn.Module], list[float]]:
    """Return the models that were selected and their weights."""
    pairs = zip(_library(lab, name, seed), _weights(lab, name, seed), strict=True)
    chosen = [(model, share) for model, share in pairs if share > 0]
    return [model for model, _ in chosen], [share for _, share in chosen]


def _taught(lab: Lab, name: str, seed: int, made: Synthesis | None) -> tuple[SampleSet, StoredTeacher]:
    """Return a transfer set and what the ensemble says of it."""
    train = _splits(lab, name, seed)[0]
    samples: SampleSet = train if made is None else made.extended(train, seed)
    models, weights = _ensemble(lab, name, seed)
    return samples, store(EnsembleTeacher([ModelTeacher(model) for model in models], weights=weights), samples)


def _training(lab: Lab, size: int, steps: int, **keys: Any) -> Training:
    """Return a training of so many steps, an epoch of which is as long for every network of a set."""
    epochs = max(1, round(steps * lab.budget["batch_size"] / size))
    return Training(epochs=epochs, batch_size=lab.budget["batch_size"], optimizer="adamw", schedule="cosine", **keys)


def _network(lab: Lab, name: str, seed: int, row: str, settings: Mapping[str, Any]) -> nn.Module:
    """Train a network of the table with given settings, or read it."""
    train, held_out, _ = _splits(lab, name, seed)
    keys = dict(settings)
    rate, decay = keys.pop("learning_rate"), keys.pop("weight_decay")
    way, _, multiple = row.partition("-")
    made = kinds()[way](multiple=int(multiple), **keys) if multiple else None
    samples, teacher = (train, None) if row == "alone" else _taught(lab, name, seed, made)
    epoch = len(train) * (1 + _MOST)
    training = _training(lab, epoch, lab.budget["steps"], learning_rate=rate, weight_decay=decay, keep="best")
    return lab.train(
        f"{_SETS[name]}: {_ROWS[row]}",
        {"kind": "mlp", "hidden": [lab.budget["hidden"]]},
        methods.hard() if teacher is None else methods.kd(temperature=1.0, alpha=0.0),
        samples.subset(torch.arange(epoch) % len(samples)),
        training,
        seed,
        teacher=teacher,
        held_out=held_out,
    ).student


def _settings(lab: Lab, name: str, row: str) -> dict[str, Any]:
    """Return the rate and decay with the least held-out RMSE at seed 0, of the same four for every row.

    Of MUNGE they are chosen at its largest size, after its p and s, which are chosen with the rate and decay of the
    network on the training set.
    """
    way, network = row.partition("-")[0], lab.budget["search"]["network"]
    if way != "munge":
        return _chosen(lab, name, row, f"settings-{name}-{way}", network)
    row = f"munge-{_MOST}"
    taught = _settings(lab, name, "train")
    own = _chosen(
        lab, name, row, f"settings-{name}-munge", [{**taught, **own} for own in lab.budget["search"]["munge"]]
    )
    return _chosen(lab, name, row, f"settings-{name}-munge-network", [{**own, **settings} for settings in network])


def _chosen(lab: Lab, name: str, row: str, choice: str, candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the candidate with the least held-out RMSE at seed 0."""

    def search() -> dict[str, Any]:
        held_out = _splits(lab, name, 0)[1]
        scored = [
            (_rmse(_network(lab, name, 0, row, settings), held_out), number)
            for number, settings in enumerate(candidates)
        ]
        return dict(candidates[min(scored)[1]])

    chosen: dict[str, Any] = lab.choose(choice, search)
    return chosen


def _model(lab: Lab, name: str, seed: int, row: str) -> nn.Module:
    if row == "ensemble":
        models, weights = _ensemble(lab, name, seed)
        return MeanOfModels(models, weights=weights)
    return _network(lab, name, seed, row, _settings(lab, name, row))


def _rmse(model: nn.Module, samples: SampleSet) -> float:
    return _figures(predict(model, samples), samples.labels)[0]


def _figures(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the root of the mean square of what probabilities lack to the labels, and the accuracy, %."""
    wrong = logits.double().softmax(1) - functional.one_hot(labels, logits.shape[1])
    right = (logits.argmax(1) == labels).double().mean()
    return float((wrong**2).mean().sqrt()), 100.0 * float(right)


def _run(lab: Lab, seed: int, *, name: str, row: str) -> dict[str, float]:
    test = _splits(lab, name, seed)[2]
    rmse, accuracy = _figures(predict(_model(lab, name, seed, row), test), test.labels)
    found = {"RMSE": rmse, "accuracy, %": accuracy}
    if row != "alone":
        found["RMSE below the network alone"] = _rmse(_model(lab, name, seed, "alone"), test) - rmse
    return found


def _row(name: str, row: str) -> Row:
    figures = [Figure("RMSE"), Figure("accuracy, %")]
    if row != "alone":
        figures.append(Figure("RMSE below the network alone"))
    run: Callable[[Lab, int], dict[str, float]] = partial(_run, name=name, row=row)
    return Row(f"{name}-{row}", f"{_SETS[name]}: {_ROWS[row]}", tuple(figures), run)


REPRODUCTION = Reproduction(
    name="bucila2006-munge",
    title="Bucilă, Caruana & Niculescu-Mizil (2006), Model compression: an ensemble in a small network",
    rows=tuple(_row(name, row) for name in _SETS for row in _ROWS),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2, 3, 4), "full": (0, 1, 2, 3, 4)},
    load=_load,
)
