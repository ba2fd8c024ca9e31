"""Reproducing a paper's table: rows, units of work that are kept by their content, and the merged results."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import nn

from limbeck import models
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.experiment.prepare import initial_weights
from limbeck.identity import network_digests
from limbeck.locks import exclusive
from limbeck.objective import Objective
from limbeck.teacher import Teacher
from limbeck.teachers import estimators
from limbeck.teachers.estimators import Fitted
from limbeck.training import Observer, Result, Training, fit
from limbeck.training.checkpoints import read_sealed, write_sealed
from limbeck.training.weights import is_signed, load_signed, save_signed

__all__ = ["Figure", "Lab", "Reproduction", "Row", "merge"]


@dataclass(frozen=True)
class Figure:
    """One number of a row: what it is, what the paper has for it (None where it has none), and our aim.

    aim: how to read `bound`, "at most" or "at least"; None where the row only reports.
    """

    name: str
    paper: float | None = None
    aim: str | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of a paper's table.

    run: (lab, seed) -> a number for each figure.  It may ask the lab for trainings and choices, which are kept too.
    """

    name: str
    title: str
    figures: tuple[Figure, ...]
    run: Callable[["Lab", int], dict[str, float]]


@dataclass(frozen=True)
class Reproduction:
    """A paper's table and the two budgets it can be run at.

    budgets: by name, "reduced" and "full", everything that sizes a run; seeds: by name, how many.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    budgets: Mapping[str, Mapping[str, Any]]
    seeds: Mapping[str, Sequence[int]]
    load: Callable[[Path | None, Mapping[str, Any]], dict[str, SampleSet]]

    def row(self, name: str) -> Row:
        """Return a row by name."""
        return next(row for row in self.rows if row.name == name)


_FORMAT = 2
"""Of the files of rows and choices; raised whenever they are written otherwise, so that no older one is read."""


@dataclass
class Lab:
    """Where the units of a reproduction are run and kept.

    Every training, choice and row is addressed by a digest of what decides it, so that asking again reads it, and an
    interrupted one goes on.  `sets` holds the data by name; `budget` what sizes the run.
    """

    name: str
    root: Path
    budget: Mapping[str, Any]
    sets: dict[str, SampleSet]
    watch: Observer
    say: Callable[[str], None] = lambda line: None
    _memory: dict[str, Any] = field(default_factory=dict)

    def train(
        self,
        label: str,
        model: Mapping[str, Any],
        objective: Objective,
        samples: SampleSet,
        training: Training,
        seed: int,
        *,
        teacher: Teacher | None = None,
        held_out: SampleSet | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        **what: Any,
    ) -> Result:
        """Train a model from a seed, or read it.  `what` names everything else that decides the result."""
        builder, keys = models.builder(model["kind"]), {k: v for k, v in model.items() if k != "kind"}
        with initial_weights(seed, "student"):
            network = wrap(builder(samples.input_shape, samples.classes, **keys))
        address = self._address(
            "train",
            {
                "model": dict(model),
                "network": network_digests(network, "student"),
                "terms": {name: repr(term) for name, term in objective.terms.items()},
                "objective": network_digests(objective, "objective"),
                "samples": samples.digest(),
                "held_out": None if held_out is None else held_out.digest(),
                "training": _changed(training),
                "seed": seed,
                "teacher": None if teacher is None else teacher.fingerprint(),
                **what,
            },
        )
        folder = self.root / "trainings" / address
        with exclusive(
            folder.with_suffix(".lock"), wait=True, busy=f"{label}: another process trains it in '{folder}'"
        ):
            return fit(
                Distiller(network, teacher, objective),
                samples,
                held_out,
                training=training,
                seed=seed,
                folder=folder,
                watch=self.watch,
                label=f"{label} (seed {seed})",
            )

    def fitted(self, label: str, estimator: Mapping[str, Any], samples: SampleSet, seed: int) -> Fitted:
        """Fit an estimator of scikit-learn from a seed, or read it."""
        keys = {key: value for key, value in estimator.items() if key != "kind"}
        model = estimators.builder(estimator["kind"])(samples.input_shape, samples.classes, **keys)
        what = {
            "estimator": dict(estimator),
            "samples": samples.digest(),
            "seed": seed,
        }
        path = self.root / "estimators" / f"{self._address('train', what)}.safetensors"
        with exclusive(path.with_suffix(".lock"), wait=True, busy=f"{label}: another process fits it in '{path}'"):
            if is_signed(path):
                load_signed(model, path)
            else:
                self.say(f"{label} (seed {seed}): fitted by scikit-learn")
                model.fit(samples, seed)
                save_signed(model, path)
        return model

    def choose(self, name: str, make: Callable[[], Any], **what: Any) -> Any:
        """Return a choice that was made on held-out data, or make it once and keep it."""
        address = self._address("choice", {"name": name, **what})
        if address not in self._memory:
            path = self.root / "choices" / f"{name}-{address}.json"
            with exclusive(path.with_suffix(".lock"), wait=True, busy=f"another process chooses '{path}'"):
                if not path.is_file():
                    write_sealed(path, {"chosen": make()})
                self._memory[address] = read_sealed(path)["chosen"]
            self.say(f"choice on held-out data: {name} = {self._memory[address]}")
        return self._memory[address]

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """Return something that is dear to make, kept for the life of this process."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def unit(self, row: Row, seed: int) -> dict[str, float]:
        """Run a row at a seed, or read it."""
        address = self._address("row", {"name": row.name, "seed": seed})
        path = self.root / "rows" / f"{row.name}-{seed}-{address}.json"
        if path.is_file():
            found: dict[str, float] = read_sealed(path)
            return found
        figures = row.run(self, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, figures)
        return figures

    def _address(self, kind: str, what: Mapping[str, Any]) -> str:
        sized: dict[str, Any] = {}
        if kind != "train":  # a training names the samples that it learns from
            sets = {name: samples.digest() for name, samples in self.sets.items()}
            sized = {"budget": dict(self.budget), "sets": sets, "format": _FORMAT}
        return _digest({"kind": kind, "reproduction": self.name, **sized, **what})


def merge(
    recorded: Mapping[str, Any],
    reproduction: Reproduction,
    budget: str,
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
    *,
    command: str,
) -> dict[str, Any]:
    """Return the recorded results with new ones added: seeds of the same budget join, another budget replaces.

    found: by row and seed, the figures.
    """
    result = json.loads(json.dumps(recorded)) or {}
    result.setdefault("paper", reproduction.title)
    result.setdefault("rows", {})
    sizes = json.loads(json.dumps(dict(reproduction.budgets[budget])))
    for row in reproduction.rows:
        if row.name not in found:
            continue
        entry = result["rows"].setdefault(row.name, {})
        entry["title"] = row.title
        entry["paper"] = {figure.name: figure.paper for figure in row.figures}
        ours = entry.get(budget, {})
        seeds = ours.get("seeds", {}) if ours.get("budget") == sizes else {}
        seeds |= {str(seed): dict(figures) for seed, figures in found[row.name].items()}
        ordered = {seed: seeds[seed] for seed in sorted(seeds, key=int)}
        summary = {}
        for figure in row.figures:
            values = [figures[figure.name] for figures in ordered.values()]
            spread = round(stdev(values), 4) if len(values) > 1 else None
            summary[figure.name] = {"mean": round(fmean(values), 4), "sd": spread}
        entry[budget] = {"budget": sizes, "command": command, "ours": summary, "seeds": ordered}
    return result


_FIRST_AUGMENTATIONS = ("shift", "pad_crop", "flip", "noise")  # an address names them all where it names one


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _changed(training: Training) -> dict[str, Any]:
    """Return the settings that are not the defaults, so that a new setting leaves old addresses as they are."""
    usual = asdict(Training())
    changed = {key: value for key, value in asdict(training).items() if value != usual[key]}
    if "augment" in changed:
        changed["augment"] = {
            key: value
            for key, value in changed["augment"].items()
            if key in _FIRST_AUGMENTATIONS or value != usual["augment"][key]
        }
    return changed
