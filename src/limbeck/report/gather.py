"""What a report tells of a run, gathered from its folder as plain numbers."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress import records_of, settled
from limbeck.data import SampleSet, TextSet
from limbeck.data.selection import evenly
from limbeck.errors import LimbeckError
from limbeck.evaluation import (
    Figures,
    Interval,
    Standing,
    figures_of,
    predict,
    t_interval,
)
from limbeck.evaluation.attention import AttentionMap
from limbeck.evaluation.calibration import Temperature, fit_temperature
from limbeck.evaluation.cost import Timing, flops, time_forward
from limbeck.experiment.outcome import FIXED_ROLES
from limbeck.exporting import exported_bytes
from limbeck.locks import exclusive
from limbeck.results.attention import sentence_attention
from limbeck.results.finished import FinishedRun
from limbeck.results.reading import ReadTexts, read_texts
from limbeck.results.representations import LayerMaps, LayerSimilarity, attention_maps, compare_layers
from limbeck.runs import RunFolder, read_manifest
from limbeck.training.checkpoints import digest

__all__ = ["ComparedLayers", "Curve", "Gathered", "Model", "Taught", "TestAnswers", "gather"]

_OWN_COLOUR = ("teacher", "alone", "distilled")
_MOST_MODELS = 5
_OTHERS = ("other", "fourth", "fifth")
_SECONDS_OF_TIMING = 0.2
_ASKED = 2000  # training samples that the teacher is asked about
_SHOWN = 4  # test examples whose attention maps are shown
_SENTENCES, _SHORTEST, _LONGEST = 2, 6, 18  # test sentences whose attention is shown, and their tokens
_MOST_LABELS = 500_000  # labels of a set, of several an example, that the models are asked about


@dataclass(frozen=True)
class Model:
    """One of the models of a run, over its seeds.

    colour: a name of the page's palette.
    bytes: of its weights on disk; of one that was made smaller, as it is exported.
    flops: of a forward pass of one sample.  timing: of such a pass, on this machine.
    compute: FLOPs of all trainings that led to it, as a multiple of the student alone's.
    """

    role: str
    name: str
    colour: str
    errors: Interval
    accuracy: Interval
    nll: Interval
    parameters: int
    bytes: int | None
    flops: int | None
    timing: Timing | None
    compute: float | None


@dataclass(frozen=True)
class TestAnswers:
    """Logits (n, K) on the test set by role, one tensor a seed, and the labels (n,).

    Where an example has several labels or one for each place, each of them is a row; of a regression the logits are the
    numbers (n, D), and so are the labels.
    Of a run whose weights cannot be read there are none.
    samples: the test samples that were asked: all, or as many as keep the labels below what is drawn.
    fitted: the temperature that held-out data asks for, for each model; nothing where a refit has left no such data.
    """

    samples: SampleSet
    labels: Tensor
    logits: Mapping[str, Sequence[Tensor]]
    fitted: Mapping[str, Sequence[Temperature]]

    def has(self, *roles: str) -> bool:
        """Whether all these roles have answered."""
        return all(self.logits.get(role) for role in roles)

    def first(self, models: Sequence[Model]) -> dict[str, Tensor]:
        """Return the answers of models at the first seed, by the names of columns."""
        return {model.name.removeprefix("Student ").capitalize(): self.logits[model.role][0] for model in models}

    def pairs(self, role: str) -> list[tuple[Tensor, Tensor]]:
        """Return the answers of the teacher and of a student, seed by seed; they share one teacher or have each one."""
        teachers, students = list(self.logits["teacher"]), list(self.logits[role])
        return list(zip(teachers * len(students) if len(teachers) == 1 else teachers, students, strict=False))


@dataclass(frozen=True)
class Taught:
    """What the teacher of the first seed says of training samples: logits (n, ..., K) at positions (n,) of the set."""

    positions: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs: the mean over the seeds, and its least and greatest value."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ComparedLayers:
    """The layers that a run compares: how similar they are, and the attention maps of some test examples."""

    similarities: tuple[LayerSimilarity, ...]
    samples: SampleSet
    maps: tuple[LayerMaps, ...]


@dataclass(frozen=True)
class Gathered:
    """A run as its report sees it.

    standing: what may be claimed of the test figures.
    layers: that the method compares; None where it compares none.
    texts: what the models say of test texts with a label for each token; None for other data.
    attention: of test sentences in the blocks of student and teacher, where both are transformers.
    curves: by role and quantity ("train.soft", "validation.errors", "learning_rate").
    digests: SHA-256 of the files of weights, by role.
    notes: what had to be left out, and why.
    """

    run: FinishedRun
    models: tuple[Model, ...]
    standing: Standing
    answers: TestAnswers
    taught: Taught | None
    layers: ComparedLayers | None
    texts: ReadTexts | None
    attention: tuple[AttentionMap, ...]
    curves: Mapping[str, Mapping[str, Curve]]
    manifest: Mapping[str, Any]
    recipe: str
    digests: Mapping[str, Sequence[str]]
    notes: list[str] = field(default_factory=list)

    def model(self, role: str) -> Model | None:
        """Return a model by its role."""
        return next((model for model in self.models if model.role == role), None)

    @property
    def figures(self) -> Figures:
        """What the models are measured by, and what that is called."""
        return figures_of(self.run.parts.test.task)

    @property
    def chief(self) -> list[Model]:
        """The models whose answers are shown: all that have answered, where a scheme added many without its own."""
        few = len(self.models) <= _MOST_MODELS
        return [each for each in self.models if self.answers.has(each.role) and (few or each.role in FIXED_ROLES)]

    @property
    def students(self) -> list[Model]:
        """Those of them that are no teacher."""
        return [model for model in self.chief if model.role != "teacher"]


def gather(folder: Path, *, trust: bool = False, data: Path | None = None) -> Gathered:
    """Read a finished run and let its models answer the test set, which is put on record.

    trust, data: see `FinishedRun.read`.  Raises RunError when it is no finished run, or has changed since.
    """
    run = FinishedRun.read(folder, trust=trust, data=data)
    notes: list[str] = []
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {role: [model.to(place) for model in models] for role, models in _networks(run, notes).items()}
    test, held_out = run.parts.test, run.parts.held_out
    if networks:
        _put_on_record(folder, notes)
    long = test.has_long_answers
    some = test if long else _part(test)
    if len(some) < len(test):
        notes.append(
            f"What the models answer is drawn for {len(some):,} of {len(test):,} test examples, spread evenly."
        )
    asked = {} if long else networks
    logits = {role: [_answered(model, some) for model in models] for role, models in asked.items()}
    fitted = {
        role: [_fitted(model, _part(held_out)) for model in models]
        for role, models in asked.items()
        if held_out is not None and test.task.has_probabilities and (role != "teacher" or run.recipe.teacher.asked)
    }
    return Gathered(
        run=run,
        models=_models(run, networks),
        standing=run.outcome.standing(),
        answers=TestAnswers(labels=_rows(some), logits=logits, fitted=fitted, samples=some),
        taught=_taught(run, asked["teacher"][0]) if "teacher" in asked else None,
        layers=_layers(run, place, notes) if asked.keys() >= {"teacher", "alone", "distilled"} else None,
        attention=_attention(run, place) if asked.keys() >= {"teacher", "distilled"} else (),
        texts=read_texts({role: each[0] for role, each in networks.items()}, test, place) if long else None,
        curves={role: _curves(run, role, notes) for role in _shown(run)},
        manifest=_manifest(folder, notes),
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        digests={role: [digest(path) for path in _weights(run, role) if path.is_file()] for role in _shown(run)},
        notes=notes,
    )


def _most(samples: SampleSet) -> int:
    """Return of how many samples all labels are drawn."""
    return max(1, _MOST_LABELS // max(1, samples.labels[:1].numel()))


def _part(samples: SampleSet) -> SampleSet:
    """Return the samples, or evenly spread ones where all would have more labels than are drawn."""
    if samples.labels.dim() == 1 or len(samples) <= _most(samples):
        return samples
    return samples.subset(evenly(len(samples), _most(samples)))


def _answered(model: nn.Module, samples: SampleSet) -> Tensor:
    """Return a row for each label, (n, K), or the numbers of a regression, (n, D)."""
    return predict(model, samples).float().cpu().flatten(0, -2)


def _rows(samples: SampleSet) -> Tensor:
    """Return a label for each row of `_answered`."""
    return samples.task.rows(samples.labels.cpu())


def _fitted(model: nn.Module, samples: SampleSet) -> Temperature:
    return fit_temperature(_answered(model, samples), _rows(samples))


def _put_on_record(folder: Path, notes: list[str]) -> None:
    try:
        with exclusive(folder / ".lock", wait=True, busy=f"run folder: '{folder}' is in use by another process"):
            RunFolder(folder).read_test_set("report: where the models differ, and their calibration")
    except (OSError, LimbeckError):
        notes.append("The run's manifest cannot be written, so that this reading of the test set is not on record.")


def _shown(run: FinishedRun) -> list[str]:
    """Return the roles that the page shows: without a teacher that takes no part in the scheme."""
    return [role for role in run.roles if role != "teacher" or run.recipe.scheme.uses_teacher]


def _weights(run: FinishedRun, role: str) -> list[Path]:
    """Return the files of weights of a role, one a seed, or one if all seeds share it."""
    return [run.weights(role, seed) for seed in run.seeds_of(role)]


def _models(run: FinishedRun, networks: Mapping[str, Sequence[nn.Module]]) -> tuple[Model, ...]:
    costs: dict[str, tuple[int | None, Timing | None]] = {}
    models = []
    others = itertools.cycle(_OTHERS)
    for role in _shown(run):
        found = [seed.metrics[role] for seed in run.outcome.seeds if seed.seed in run.seeds_of(role)]
        label, weights = run.label(role), _weights(run, role)[0]
        of = role if role in run.recipe.scheme.roles() or role == "teacher" else "student"
        size = weights.stat().st_size if weights.is_file() else None
        network = networks[role][0] if role in networks else None
        if network is not None and records_of(network):  # of another structure than the student alone
            of, network = role, settled(network)
            size = exported_bytes(network)
        if of not in costs and network is not None:
            costs[of] = _cost(network, run)
        operations, timing = costs.get(of, (None, None))
        models.append(
            Model(
                role=role,
                name=label[:1].upper() + label[1:],
                colour=role if role in _OWN_COLOUR else next(others),
                errors=t_interval([float(metrics.errors) for metrics in found]),
                accuracy=t_interval([metrics.accuracy for metrics in found]),
                nll=t_interval([metrics.nll for metrics in found]),
                parameters=run.parameters(role),
                bytes=size,
                flops=operations,
                timing=timing,
                compute=run.outcome.roles[role].relative,
            )
        )
    return tuple(models)


def _cost(model: nn.Module, run: FinishedRun) -> tuple[int | None, Timing | None]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    one = run.parts.test.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0).to(device).inputs
    return flops(model, one), time_forward(model, one, budget=_SECONDS_OF_TIMING)


def _taught(run: FinishedRun, teacher: nn.Module) -> Taught:
    """Ask the teacher about training samples, spread over the set."""
    train = run.parts.train
    positions = evenly(len(train), min(_ASKED, _most(train)))
    return Taught(positions, predict(teacher, train.subset(positions)).float().cpu())


def _layers(run: FinishedRun, place: torch.device, notes: list[str]) -> ComparedLayers | None:
    """Measure the layers that a run compares, on test samples."""
    test = run.parts.test
    shown = test.subset(evenly(len(test), _SHOWN))
    try:
        similarities = compare_layers(run, test, place)
        maps = attention_maps(run, shown, place) if similarities else ()
    except LimbeckError as error:
        notes.append(f"The compared layers are left out: {error}")
        return None
    return ComparedLayers(similarities, shown, maps) if similarities else None


def _attention(run: FinishedRun, place: torch.device) -> tuple[AttentionMap, ...]:
    """Return the attention of student and teacher for a few test sentences; nothing of other data or networks."""
    test = run.parts.test
    if not isinstance(test, TextSet):
        return ()
    readable = ((test.lengths >= _SHORTEST) & (test.lengths <= _LONGEST)).nonzero().squeeze(1)
    chosen = readable[evenly(len(readable), _SENTENCES)].tolist() if len(readable) else []
    return sentence_attention(run, test, chosen, place) if chosen else ()


def _networks(run: FinishedRun, notes: list[str]) -> dict[str, list[nn.Module]]:
    """Return the trained models of each role whose weights can be read."""
    networks: dict[str, list[nn.Module]] = {}
    for role in _shown(run):
        try:
            networks[role] = [run.model(role, seed) for seed in run.seeds_of(role)]
        except LimbeckError as error:
            notes.append(f"What the {run.label(role)} answers is left out: {error}")
    return networks


def _curves(run: FinishedRun, role: str, notes: list[str]) -> dict[str, Curve]:
    """Return the quantities of a role's training over the epochs that all its seeds have."""
    if run.recipe.scheme.means(role) or (role == "teacher" and not run.recipe.teacher.members[0].learns):
        return {}  # an ensemble is not trained as such, and this teacher was not trained here, or not in epochs
    try:
        histories = [run.history(role, seed) for seed in run.seeds_of(role)]
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and role in run.recipe.scheme.roles():
            return {}  # what a scheme only kept was not trained as such
        notes.append(f"The curves of the {run.label(role)} are left out: its metrics cannot be read ({error}).")
        return {}
    epochs = [entry["epoch"] for entry in min(histories, key=len)]
    columns: dict[str, list[list[float]]] = {}
    for history in histories:
        for number, entry in enumerate(history[: len(epochs)]):
            for name, value in _flat(entry).items():
                columns.setdefault(name, [[] for _ in epochs])[number].append(value)
    return {
        name: Curve(
            epochs=tuple(epoch for epoch, values in zip(epochs, column, strict=True) if values),
            mean=tuple(fmean(values) for values in column if values),
            low=tuple(min(values) for values in column if values),
            high=tuple(max(values) for values in column if values),
        )
        for name, column in columns.items()
    }


def _flat(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name."""
    flat = {f"train.{name}": value for name, value in entry.get("train", {}).items()}
    validation = entry.get("validation") or {}
    flat |= {f"validation.{name}": validation[name] for name in ("errors", "nll") if name in validation}
    if "learning_rate" in entry:
        flat["learning_rate"] = entry["learning_rate"]
    return flat


def _manifest(folder: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_manifest(folder)
    except (OSError, ValueError, RecursionError):
        line = "The manifest cannot be read, so versions, hashes and the command are left out."
        if line not in notes:
            notes.append(line)
        return {}
