"""The specialists of Hinton, Vinyals & Dean (2015), section 5, on three sets that anyone can have.

The paper's set, JFT, is not public, and its generalist had more images than it could fit.  A network that is small for
its data is the like of it here: on the synthetic classes, which also have groups that are known, on Fashion-MNIST, and
on CIFAR-100.  The settings of the synthetic classes came to be on a calibration draw, whose test figures had been seen;
the draw beside it was made afterwards and run once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import data, methods, models
from limbeck.data import SampleSet, half_and_half, with_dustbin
from limbeck.evaluation import measure, parameters, predict
from limbeck.experiment.cost import forward_flops
from limbeck.models.layers import MixtureOfExperts
from limbeck.randomness import derive_seed
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.schemes.specialists import Grouping, specialist_distiller
from limbeck.teachers import ModelTeacher, state_digest, store
from limbeck.teachers.specialists import GeneralistWithSpecialists, Specialist, dustbin_shift, specialise
from limbeck.training import Training

__all__ = ["REPRODUCTION"]

# A mixture has as many experts as there are specialists and the generalist, where that is not too dear.  Its rates, of
# which held-out samples choose one, are times the generalist's learning rate.
_SYNTHETIC: dict[str, Any] = {
    "data": {
        "kind": "synthetic",
        "dimensions": 50,
        "terms": 4,
        "frequency": 5.0,
        "train": 40000,
        "test": 10000,
        "seed": 2,
    },
    "train": 40000,
    "held_out": 4000,
    "model": {"kind": "residual_tanh", "hidden": [32, 32]},
    "training": {"epochs": 8, "batch_size": 128, "optimizer": "adamw", "learning_rate": 0.005},
    "groups": {"count": 12, "smallest": 3, "largest": 8, "overlap": 1.5},
    "specialist": {"epochs": 8, "batch_size": 128, "optimizer": "adamw", "learning_rate": 0.0015},
    "mixture": {"experts": 13, "rates": [0.3, 1.0, 3.0]},
    "temperature": 2.0,
}
_CALIBRATION = {**_SYNTHETIC, "data": {**_SYNTHETIC["data"], "seed": 1}}
_FASHION: dict[str, Any] = {
    "data": {"kind": "fashion_mnist"},
    "train": 20000,
    "held_out": 2000,
    "model": {"kind": "mlp", "hidden": [32]},
    "training": {"epochs": 12, "batch_size": 128, "learning_rate": 0.1},
    "groups": {"count": 4, "smallest": 2, "largest": 5, "overlap": 2.0},
    "specialist": {"epochs": 8, "batch_size": 128, "learning_rate": 0.03},
    "mixture": {"experts": 5, "rates": [0.3, 1.0, 3.0]},
    "temperature": 2.0,
}
_CIFAR: dict[str, Any] = {
    "data": {"kind": "cifar100"},
    "train": 22000,
    "held_out": 2000,
    "model": {"kind": "cnn", "channels": [16, 32, 64]},
    "training": {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.6,
        "precision": "bf16",
        "memory_format": "channels_last",
    },
    "groups": {"count": 10, "smallest": 5, "largest": 20, "overlap": 1.1},
    "specialist": {
        "epochs": 4,
        "batch_size": 128,
        "learning_rate": 0.3,
        "precision": "bf16",
        "memory_format": "channels_last",
    },
    "mixture": {"experts": 3, "rates": [0.3, 1.0]},
    "temperature": 2.0,
}
_REDUCED = {
    "synthetic": _SYNTHETIC,
    "calibration": _CALIBRATION,
    "fashion-mnist": _FASHION,
    "cifar-100": _CIFAR,
    "tops": [1, 2, 3],
}
_LARGE = {"train": 200000, "held_out": 10000}
_FULL = {
    "synthetic": {**_SYNTHETIC, **_LARGE, "data": {**_SYNTHETIC["data"], "train": 200000}},
    "calibration": {**_CALIBRATION, **_LARGE, "data": {**_CALIBRATION["data"], "train": 200000}},
    "fashion-mnist": {**_FASHION, "train": 60000, "held_out": 10000},
    "cifar-100": {
        **_CIFAR,
        "train": 50000,
        "held_out": 5000,
        "model": {"kind": "resnet", "depth": 20},
        "training": {
            "epochs": 100,
            "batch_size": 128,
            "learning_rate": 0.1,
            "nesterov": True,
            "weight_decay": 0.0005,
            "augment": {"pad_crop": 4, "flip": 0.5},
        },
        "specialist": {
            "epochs": 20,
            "batch_size": 128,
            "learning_rate": 0.01,
            "weight_decay": 0.0005,
            "augment": {"pad_crop": 4, "flip": 0.5},
        },
    },
    "tops": [1, 2, 3],
}


class _Sets(dict[str, SampleSet]):
    """The sets of each kind of data by name, such as "synthetic test", read when one of them is first asked for."""

    def __init__(self, folder: Path | None, budget: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder, self.budget = folder, budget

    def __missing__(self, key: str) -> SampleSet:
        kind = key.split(maxsplit=1)[0]
        sizes = self.budget[kind]
        keys = dict(sizes["data"])
        made = keys["kind"] == "synthetic"
        load = data.kinds()[keys.pop("kind")]
        if not made and self.folder is not None:
            within = self.folder / kind
            keys["folder"] = str(within if within.is_dir() else self.folder)
        splits = load(**keys)
        train, held_out = splits.train.subset(torch.arange(sizes["train"])).split(sizes["held_out"], seed=0)
        self.update({f"{kind} train": train, f"{kind} held_out": held_out, f"{kind} test": splits.test})
        return self[key]


def _training(keys: Mapping[str, Any]) -> Training:
    augment = data.Augment(**keys.get("augment", {}))
    return Training(**{**keys, "augment": augment})


# -- the networks ------------------------------------------------------------------------------------------------------


def _generalist(lab: Lab, kind: str, seed: int) -> nn.Module:
    sizes = lab.budget[kind]
    return lab.train(
        f"{kind} generalist",
        sizes["model"],
        methods.hard(),
        lab.sets[f"{kind} train"],
        _training(sizes["training"]),
        seed,
        held_out=lab.sets[f"{kind} held_out"],
    ).student


@dataclass(frozen=True)
class _Variant:
    """How specialists are made.  by: what their groups come from.  full: whether they keep a full softmax."""

    by: str = "covariance"
    full: bool = False


def _groups(lab: Lab, kind: str, seed: int, by: str) -> list[list[int]]:
    """Return the groups that the generalist confuses on held-out samples."""

    def find() -> list[list[int]]:
        grouping = Grouping(by=by, **lab.budget[kind]["groups"])  # type: ignore[arg-type]
        return [list(group) for group in grouping.find(_generalist(lab, kind, seed), held_out, seed)]

    held_out = lab.sets[f"{kind} held_out"]
    found: list[list[int]] = lab.choose(f"groups-{kind}-{by}-{seed}", find)
    return found


def _specialists(lab: Lab, kind: str, seed: int, variant: _Variant) -> list[Specialist]:
    """Train the specialists of a generalist."""
    generalist = _generalist(lab, kind, seed)
    origin = state_digest(generalist)
    made = []
    for number, group in enumerate(_groups(lab, kind, seed, variant.by)):
        specialist = specialise(generalist, group, full=variant.full)
        half = half_and_half(lab.sets[f"{kind} train"], group)
        lab.train(
            f"{kind} specialist {number}{' full' if variant.full else ''}",
            lab.budget[kind]["model"],
            specialist_distiller(specialist, generalist).objective,
            half,
            _training(lab.budget[kind]["specialist"]),
            derive_seed(seed, "specialist", number),
            teacher=ModelTeacher(generalist) if variant.full else None,
            held_out=with_dustbin(lab.sets[f"{kind} held_out"], group),
            wrap=lambda _, specialist=specialist: specialist,  # type: ignore[misc]
            generalist=origin,
            group=group,
            full=variant.full,
        )
        specialist.shift.fill_(dustbin_shift(half.share))
        made.append(specialist)
    return made


def _together(
    lab: Lab, kind: str, seed: int, variant: _Variant | None = None, rule: str = "joint"
) -> GeneralistWithSpecialists:
    """Return generalist and specialists; how many top classes call them is chosen on held-out samples at seed 0."""
    variant = variant or _Variant()

    def made(of: int, top: int) -> GeneralistWithSpecialists:
        parts = _specialists(lab, kind, of, variant)
        together = GeneralistWithSpecialists(
            _generalist(lab, kind, of),
            parts,
            top=top,
            rule=rule,  # type: ignore[arg-type]
        )
        return together.requires_grad_(False).eval()

    def best() -> int:
        held_out = lab.sets[f"{kind} held_out"]
        tops: list[int] = lab.budget["tops"]
        return max(tops, key=lambda top: (_accuracy(predict(made(0, top), held_out), held_out.labels), -top))

    name = f"top-{kind}-{rule}-{variant.by}{'-full' if variant.full else ''}"
    top: int = lab.choose(name, best)
    return made(seed, top)


def _student(lab: Lab, kind: str, seed: int, teacher: nn.Module) -> nn.Module:
    """Distill a teacher back into one network of the generalist's size and training."""
    sizes = lab.budget[kind]
    training = _training(sizes["training"])
    samples = lab.sets[f"{kind} train"]
    asked = ModelTeacher(teacher)
    return lab.train(
        f"{kind} student",
        sizes["model"],
        methods.kd(temperature=sizes["temperature"], hard_weight=0.0, soft_weight=1.0),
        samples,
        training,
        seed,
        teacher=asked if training.augment.active else store(asked, samples),
        held_out=lab.sets[f"{kind} held_out"],
    ).student


def _longer(lab: Lab, kind: str, seed: int) -> nn.Module:
    """Train the generalist alone for the compute of generalist, specialists, their answers and the student.

    Of its epochs the best on held-out samples is kept.
    """
    epochs = round(_epochs_in_all(lab, kind, seed))
    return lab.train(
        f"{kind} generalist, longer",
        lab.budget[kind]["model"],
        methods.hard(),
        lab.sets[f"{kind} train"],
        _training({**lab.budget[kind]["training"], "epochs": epochs, "keep": "best"}),
        seed,
        held_out=lab.sets[f"{kind} held_out"],
    ).student


def _epochs_in_all(lab: Lab, kind: str, seed: int) -> float:
    """Return the compute of the whole scheme in epochs of the generalist's training.

    A sample that is learnt from costs three forward passes, one that is answered one; a specialist costs as much as the
    generalist, and answers those samples that are put to it.
    """
    samples, together = lab.sets[f"{kind} train"], _together(lab, kind, seed)
    generalist, specialist = (lab.budget[kind][name]["epochs"] for name in ("training", "specialist"))
    own = sum(len(half_and_half(samples, group.tolist())) for group in together.groups) / len(samples)
    asked = float(together.covering(predict(together.generalist, samples)).sum()) / len(samples)
    return float(2 * generalist + specialist * own + (1 + asked) / 3)


def _mixture(lab: Lab, kind: str, seed: int) -> nn.Module:
    """Train a mixture of experts of the generalist's kind, as many as the budget says."""
    sizes, samples = lab.budget[kind], lab.sets[f"{kind} train"]
    count = sizes["mixture"]["experts"]
    expert = dict(sizes["model"])
    build = models.builder(expert.pop("kind"))

    def mixed(first: nn.Module) -> nn.Module:
        others = [build(samples.input_shape, samples.classes, **expert) for _ in range(count - 1)]
        return MixtureOfExperts([first, *others], math.prod(samples.input_shape))

    def trained(of: int, factor: float) -> nn.Module:
        rate = factor * sizes["training"]["learning_rate"]
        return lab.train(
            f"{kind} mixture of {count} experts",
            sizes["model"],
            methods.hard(),
            samples,
            _training({**sizes["training"], "learning_rate": rate}),
            of,
            wrap=mixed,
            experts=count,
        ).student

    def best() -> float:
        held_out = lab.sets[f"{kind} held_out"]
        rates: list[float] = sizes["mixture"]["rates"]
        return max(rates, key=lambda rate: _accuracy(predict(trained(0, rate), held_out), held_out.labels))

    rate: float = lab.choose(f"mixture-{kind}", best)
    return trained(seed, rate)


# -- the rows ----------------------------------------------------------------------------------------------------------


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100.0 * measure(logits, labels).accuracy


def _test(lab: Lab, kind: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    samples = lab.sets[f"{kind} test"]
    return predict(model, samples), samples.labels


def _figures(lab: Lab, kind: str, seed: int, model: nn.Module) -> dict[str, float]:
    """Return test accuracy, its change relative to the generalist's, and the negative log-likelihood."""
    logits, labels = _test(lab, kind, model)
    before = _accuracy(*_test(lab, kind, _generalist(lab, kind, seed)))
    found = measure(logits, labels)
    return {
        "accuracy, %": 100.0 * found.accuracy,
        "relative change, %": 100.0 * (100.0 * found.accuracy / before - 1),
        "NLL": found.nll,
    }


def _run(lab: Lab, seed: int, *, kind: str, model: Callable[[Lab, str, int], nn.Module]) -> dict[str, float]:
    return _figures(lab, kind, seed, model(lab, kind, seed))


def _run_covered(lab: Lab, seed: int, *, kind: str) -> dict[str, float]:
    """Return what the specialists change, by how many of their sets hold the true class."""
    together = _together(lab, kind, seed)
    (after, labels), (before, _) = _test(lab, kind, together), _test(lab, kind, together.generalist)
    held = torch.stack([torch.isin(labels, group) for group in together.groups]).sum(0)
    figures = {}
    for count in range(4):
        chosen = held == count if count < 3 else held >= count
        right = [int((logits.argmax(1) == labels)[chosen].sum()) for logits in (before, after)]
        name = _covered(count)
        figures[f"{name}: examples"] = float(chosen.sum())
        figures[f"{name}: change in right answers"] = float(right[1] - right[0])
        figures[f"{name}: relative change, %"] = 100.0 * (right[1] / right[0] - 1) if right[0] else 0.0
    return figures


def _covered(count: int) -> str:
    return ("no set", "1 set", "2 sets", "3 sets or more")[count]


def _run_beside(
    lab: Lab, seed: int, *, kind: str, model: Callable[[Lab, str, int], nn.Module], compute: Callable[..., float]
) -> dict[str, float]:
    """Return the figures of what is no specialist, and its size and training in those of the generalist."""
    found, generalist = model(lab, kind, seed), _generalist(lab, kind, seed)
    return _figures(lab, kind, seed, found) | {
        "parameters, times the generalist's": parameters(found) / parameters(generalist),
        "compute, times the generalist's": compute(lab, kind, seed),
    }


def _compute_of_longer(lab: Lab, kind: str, seed: int) -> float:
    epochs: int = lab.budget[kind]["training"]["epochs"]
    return round(_epochs_in_all(lab, kind, seed)) / epochs


def _compute_of_mixture(lab: Lab, kind: str, seed: int) -> float:
    generalist, mixture = _generalist(lab, kind, seed), _mixture(lab, kind, seed)
    samples = lab.sets[f"{kind} train"]
    return forward_flops(mixture, samples) / forward_flops(generalist, samples)


def _taken(lab: Lab, kind: str, seed: int) -> nn.Module:
    return _together(lab, kind, seed, rule="take")


def _of(lab: Lab, kind: str, seed: int, *, teacher: Callable[[Lab, str, int], nn.Module]) -> nn.Module:
    return _student(lab, kind, seed, teacher(lab, kind, seed))


def _rows(kind: str, title: str, variants: Sequence[str]) -> list[Row]:
    """Return the rows of one kind of data.  The paper's relative change is that of JFT, from 25.0 to 26.1 %."""
    accuracy, change, nll = Figure("accuracy, %"), Figure("relative change, %"), Figure("NLL")
    covered = [
        Figure(f"{_covered(count)}: {what}")
        for count in range(4)
        for what in ("examples", "change in right answers", "relative change, %")
    ]
    known: dict[str, tuple[str, Callable[[Lab, str, int], nn.Module]]] = {
        "generalist": ("generalist", _generalist),
        "together": ("with specialists, joint answer", _together),
        "taken": ("with specialists, their answer taken", _taken),
        "full": ("with specialists of full softmax", partial(_together, variant=_Variant(full=True))),
        "confusion": ("with specialists, groups by confusion", partial(_together, variant=_Variant(by="confusion"))),
        "of-generalist": ("student of the generalist", partial(_of, teacher=_generalist)),
        "of-together": ("student of generalist and specialists", partial(_of, teacher=_together)),
    }
    rows = []
    for name, (what, model) in known.items():
        if name in ("full", "confusion") and name not in variants:
            continue
        stated = Figure("relative change, %", 4.4) if name == "together" else change
        rows.append(
            Row(
                f"{kind}-{name}",
                f"{title}, {what}",
                (accuracy, stated, nll),
                partial(_run, kind=kind, model=model),
            )
        )
    beside: dict[str, tuple[str, Callable[[Lab, str, int], nn.Module], Callable[..., float]]] = {
        "longer": ("generalist alone for the compute of all", _longer, _compute_of_longer),
        "mixture": ("mixture of experts", _mixture, _compute_of_mixture),
    }
    times = [Figure(f"{what}, times the generalist's") for what in ("parameters", "compute")]
    for name, (what, model, compute) in beside.items():
        if name == "longer" or name in variants:
            run = partial(_run_beside, kind=kind, model=model, compute=compute)
            rows.append(Row(f"{kind}-{name}", f"{title}, {what}", (accuracy, change, nll, *times), run))
    rows.insert(
        2,
        Row(
            f"{kind}-covered",
            f"{title}, by how many sets hold the true class",
            tuple(covered),
            partial(_run_covered, kind=kind),
        ),
    )
    return rows


REPRODUCTION = Reproduction(
    name="hinton2015-specialists",
    title="Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network, section 5: specialists",
    rows=(
        *_rows("synthetic", "synthetic classes", ("full", "confusion", "mixture")),
        *_rows("calibration", "calibration draw of the synthetic classes", ("full", "confusion")),
        *_rows("fashion-mnist", "Fashion-MNIST", ("full", "confusion", "mixture")),
        *_rows("cifar-100", "CIFAR-100", ("mixture",)),
    ),
    budgets={"reduced": _REDUCED, "full": _FULL},
    seeds={"reduced": (0, 1, 2), "full": (0, 1, 2)},
    load=_Sets,
)
