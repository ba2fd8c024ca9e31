"""The ways in which a recipe's teacher can be had, and what each takes, reckoned from a measured batch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.cache import CachedTeacher, DenseEncoding, Order, QuantizedEncoding, TopKEncoding, build_store
from limbeck.cache.build import ask
from limbeck.cache.plan import shard_samples
from limbeck.config import Recipe
from limbeck.config.stores import StoreSpec
from limbeck.data import SampleSet
from limbeck.errors import InputError, RecipeError
from limbeck.experiment.parts import Parts
from limbeck.experiment.stores import order_of
from limbeck.experiment.teacher import ANSWERS, storable
from limbeck.networks import networks_of
from limbeck.outputs import Outputs, Tap
from limbeck.profiling import Profile
from limbeck.randomness import derive_seed
from limbeck.teacher import ClassVectors, Teacher
from limbeck.teachers import store

__all__ = ["AskedOnce", "TeacherPlan", "TeacherWay", "plan_teacher", "predicted_and_real"]

_ENOUGH, _FIRST, _MOST = 0.5, 16, 1024
"""Seconds that the teacher is asked for at most, and how many samples it is asked about at first and at most."""
_ROUNDS, _SHARDS = 5, 4


@dataclass(frozen=True)
class TeacherWay:
    """One way to have the teacher's answers.

    name: live, memory, or how they are stored on disk.
    answers: what a student learns from them: "exact", "rounded", "lower bound" (of the divergence) or "unbiased".
    build: seconds in which the teacher is asked beforehand, for all trainings.  reading: seconds in their steps.
    memory: bytes of the teacher's weights and of the answers that are held at a time.  disk: bytes.
    line: of a recipe, which selects it.  refused: why the recipe cannot have it; empty where it can.
    """

    name: str
    answers: str
    line: str
    build: float = 0.0
    reading: float = 0.0
    memory: int = 0
    disk: int = 0
    refused: str = ""

    @property
    def seconds(self) -> float:
        """All the time that the teacher takes."""
        return self.build + self.reading


@dataclass(frozen=True)
class TeacherPlan:
    """All ways, the one that the recipe has, and the fastest of those that are exact."""

    ways: tuple[TeacherWay, ...]
    chosen: str
    cheapest: str

    def way(self, name: str) -> TeacherWay:
        """Return a way by its name."""
        return next(way for way in self.ways if way.name == name)


class AskedOnce:
    """A teacher that answers a batch once and remembers it, as one whose answers are stored."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.seconds_a_sample = teacher, 0.0
        self._named: str | None = None
        self._answers: dict[tuple[int, ...], Outputs] = {}

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        key = tuple(batch.index.tolist())
        if key not in self._answers:
            began = time.perf_counter()
            self._answers[key] = self.teacher(batch, taps) if taps else self.teacher(batch)
            self.seconds_a_sample = (time.perf_counter() - began) / len(key)
        return self._answers[key]

    def class_vectors(self, classes: int | None = None) -> Tensor:
        if not isinstance(self.teacher, ClassVectors):
            raise TypeError(f"{type(self.teacher).__name__} has no class vectors")
        return self.teacher.class_vectors(classes)

    def to(self, device: torch.device | str) -> "AskedOnce":
        self.teacher.to(device)
        return self

    def fingerprint(self) -> str:
        if self._named is None:
            self._named = self.teacher.fingerprint()
        return self._named


def plan_teacher(recipe: Recipe, parts: Parts, teacher: Teacher, runs: int) -> TeacherPlan | None:
    """Measure a recipe's teacher on a batch and reckon what each way to have it takes; None where none is read.

    Of answers that are stored already nothing is said, nor of a stream of text: its stores cannot be measured on a
    part of it.
    teacher: of the recipe's network, trained or not.  runs: how many trainings it teaches.
    """
    reads = "teacher" in recipe.inspected.reads() and recipe.scheme.uses_teacher
    if not reads or parts.transfer.lanes is not None or recipe.teacher.members[0].stored:
        return None
    planner = _Planner(recipe, parts, teacher, runs)
    ways = (planner.live(), planner.memory(), *map(planner.on_disk, planner.specs()))
    chosen = planner.chosen()
    exact = [way for way in ways if way.answers == "exact" and not way.refused]
    return TeacherPlan(ways, chosen, min(exact, key=lambda way: way.seconds).name)


def predicted_and_real(plan: TeacherPlan | None, seconds: Mapping[str, float], profile: Profile) -> dict[str, Any]:
    """Return what was predicted of a run and what it took, in seconds: of the teacher, and of all training steps.

    seconds: predicted for the trainings, by role; a teacher that was found trained is left out.  profile: of the whole
    run, from its beginning.
    error: real as a multiple of predicted, less 1.
    """
    told: dict[str, Any] = {}
    real = {label: parts for label, parts in profile.seconds.items() if label != ANSWERS}
    steps = sum(sum(parts.values()) for parts in real.values())
    asked = profile.seconds.get(ANSWERS, {}).get("build", 0.0)
    if plan is not None:
        way = plan.way(plan.chosen)
        reading = sum(parts.get("teacher", 0.0) for parts in real.values())
        told["teacher"] = {
            "way": way.name,
            "predicted": {"build": way.build, "reading": way.reading, "seconds": way.seconds},
            "real": {"build": asked, "reading": reading, "seconds": asked + reading},
            "error": _error(way.seconds, asked + reading),
        }
    learns = any(label.startswith("teacher") for label in real)
    predicted = sum(each for role, each in seconds.items() if learns or role != "teacher")
    told["trainings"] = {"predicted": predicted, "real": steps + asked, "error": _error(predicted, steps + asked)}
    return told


def _error(predicted: float, real: float) -> float | None:
    return real / predicted - 1.0 if predicted else None


class _Planner:
    def __init__(self, recipe: Recipe, parts: Parts, teacher: Teacher, runs: int) -> None:
        self.recipe, self.parts, self.teacher, self.runs = recipe, parts, teacher, runs
        training = recipe.training
        self.samples, self.taps = parts.transfer, recipe.inspected.taps("teacher") or None
        self.size = min(training.batch_size, len(self.samples))
        self.clean = recipe.teacher.view == "clean"
        self.random = training.augment.active and not self.clean
        self.order = Order(
            self.samples,
            DenseEncoding(),
            augment=training.augment if self.random else None,
            seed=derive_seed(recipe.seeds[0], "data"),
            views=(1,) if self.random else (0,),
            clean=self.clean,
            taps=self.taps,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        teacher.to(self.order.device)
        self.batch, answer = ask(teacher, self.samples, torch.arange(self.size), self.order, self.order.views[0])
        self.answer_bytes = sum(map(_bytes, _tensors(answer))) / self.size
        self.weights = sum(_bytes(p) for network in networks_of(teacher) for p in network.parameters())
        steps = -(-len(self.samples) // self.size)
        self.batches = steps * training.epochs * runs
        self.some, self.asking = self._asked()
        self.named = _once(lambda: (self.samples.digest(), teacher.fingerprint()))
        self.beside: tuple[float, float] | None = None  # seconds of a store, and of a shard, beside their samples
        self.build_memory = self.weights + round(self.answer_bytes * min(len(self.samples), _MOST))

    def live(self) -> TeacherWay:
        seconds = _seconds(lambda: self._answer(self.teacher))
        memory = self.weights + round(self.answer_bytes * self.size)
        return TeacherWay("live", "exact", "teacher.store: false", reading=seconds * self.batches, memory=memory)

    def memory(self) -> TeacherWay:
        way = TeacherWay("memory", "exact", "teacher.store: true")
        if self.random:
            return replace(way, refused="each epoch shows another random view; set teacher.view: clean, or store these")
        if self.recipe.inspected.needs_network or not storable(self.recipe, self.teacher, self.samples):
            return replace(way, refused="the method needs the network, or features or texts beyond memory")
        held = store(self.teacher, self.some, clean=self.clean, taps=self.taps, device=self.order.device)
        reading = _seconds(lambda: self._answer(held)) * self.batches
        everything = round(self.answer_bytes * len(self.samples))
        builds = self._stores(disk=False)
        build = builds * self.asking * len(self.samples)
        return replace(way, build=build, reading=reading, memory=self.weights + everything)

    def specs(self) -> list[StoreSpec]:
        """Return the stores that are compared; of an encoding that the recipe has, its own keys."""
        own = self.recipe.teacher.store
        usual = [
            StoreSpec("dense", {"dtype": "fp32"}),
            StoreSpec("dense", {"dtype": "fp16"}),
            StoreSpec("quantized", {"bits": 4}),
            StoreSpec("topk", {"k": 16}),
            StoreSpec("sampled", {"draws": 12}),
        ]
        if not isinstance(own, StoreSpec) or own.encoding == "dense":
            return usual
        return [replace(own, path=None) if spec.encoding == own.encoding else spec for spec in usual]

    def chosen(self) -> str:
        """Return the name of the way that the recipe has."""
        own = self.recipe.teacher.store
        if isinstance(own, StoreSpec):
            return _name(own) if own.keys.get("dtype") != "bf16" else "dense fp16"
        held = own and not self.random and storable(self.recipe, self.teacher, self.samples)
        return "memory" if held else "live"

    def on_disk(self, spec: StoreSpec) -> TeacherWay:
        keys = ", ".join(
            f"{name}: {value}" for name, value in [("encoding", spec.encoding), *sorted(spec.keys.items())]
        )
        way = TeacherWay(_name(spec), "exact", f"teacher.store: {{{keys}}}")
        recipe = replace(self.recipe, teacher=replace(self.recipe.teacher, store=spec))
        try:
            order = order_of(recipe, self.samples, recipe.seeds[0])
            way = replace(way, answers=_kind(order, self.samples))
            return self._measured(way, order)
        except (RecipeError, InputError) as error:
            return replace(way, refused=str(error))

    def _measured(self, way: TeacherWay, order: Order) -> TeacherWay:
        """Return a way with what it takes: small stores are built, and one is read.

        What a store and a shard take beside their samples is the same for every encoding, and is measured with the
        first one, by stores of fewer samples and of several shards.
        """
        few, some = min(_FIRST, len(self.some)), len(self.some)
        known, view = AskedOnce(self.teacher), order.views[:1]
        with tempfile.TemporaryDirectory() as folder:

            def built(name: str, samples: SampleSet, shards: int) -> tuple[float, CachedTeacher]:
                """Return the seconds of the faster of two, of which the first one asks the teacher."""
                part, times = replace(order, samples=samples, views=view, shard_samples=-(-len(samples) // shards)), []
                for number in range(2):
                    began = time.perf_counter()
                    cached = build_store(known, Path(folder) / f"{name} {number}", part)
                    times.append(time.perf_counter() - began)
                return min(times), cached

            whole, cached = built("some", self.some, 1)
            if self.beside is None:
                small, _ = built("few", self.some.subset(torch.arange(few)), 1)
                parted = built("parts", self.some, _SHARDS)[0] if some >= 2 * _SHARDS else whole
                a_shard = max(0.0, parted - whole) / (_SHARDS - 1)
                a_sample = max(0.0, whole - small) / max(1, some - few)
                self.beside = max(0.0, small - a_sample * few - a_shard), a_shard
            fixed, a_shard = self.beside
            a_sample = max(0.0, whole - fixed - a_shard) / some
            header = cached.store.header
            opened = CachedTeacher(cached.store.folder)  # which compares checksums at its first answer
            opening = _once(lambda: self._answer(opened))
            reading = _seconds(lambda: self._answer(opened))
            opening = max(0.0, opening - reading) / header.shards
        count, views = len(self.samples), len(order.views)
        all_rows = round(header.rows / some * count)
        shards = -(-count // shard_samples(order, all_rows, header.row))
        once = fixed + self.named + views * (shards * a_shard + count * (a_sample + self.asking))
        disk = views * (all_rows * header.row.stride + 104 * shards) + 8 * count
        stores = self._stores(disk=True)
        return replace(
            way,
            build=stores * once,
            reading=reading * self.batches + opening * shards * views * self.runs,
            memory=self.build_memory,
            disk=stores * disk,
        )

    def _stores(self, *, disk: bool) -> int:
        """Return how many times all samples are asked about: seeds whose teacher and views are the same share them."""
        shared = self.recipe.teacher.seed is not None and not (disk and self.random)
        return 1 if shared else len(self.recipe.seeds)

    def _asked(self) -> tuple[SampleSet, float]:
        """Return some samples, as many as a batch at least, and the seconds that the teacher takes for one of them."""
        count, view, most = min(_FIRST, len(self.samples)), self.order.views[0], min(_MOST, len(self.samples))
        while True:
            positions = torch.arange(count)
            ask(self.teacher, self.samples, positions, self.order, view)
            began = time.perf_counter()
            ask(self.teacher, self.samples, positions, self.order, view)
            seconds = time.perf_counter() - began
            if count >= most or 4 * seconds > _ENOUGH:
                break
            count = min(2 * count, most)
        return self.samples.subset(torch.arange(max(count, self.size))), seconds / count

    def _answer(self, teacher: Teacher) -> Outputs:
        return teacher(self.batch, self.taps) if self.taps else teacher(self.batch)


def _name(spec: StoreSpec) -> str:
    if spec.encoding == "dense":
        return f"dense {spec.keys.get('dtype', 'fp32')}"
    if spec.encoding == "quantized":
        return f"quantized {spec.keys.get('bits', 4)} bits"
    return f"topk k={spec.keys.get('k', 16)}" if spec.encoding == "topk" else f"sampled n={spec.keys.get('draws', 12)}"


def _kind(order: Order, samples: SampleSet) -> str:
    """Return what a student learns from the answers of an encoding."""
    if isinstance(order.encoding, DenseEncoding):
        return "exact" if order.encoding.dtype == "fp32" else "rounded"
    if isinstance(order.encoding, QuantizedEncoding):
        return "rounded"
    if isinstance(order.encoding, TopKEncoding):
        whole = "exact" if order.encoding.dtype == "fp32" else "rounded"
        return whole if order.encoding.k >= samples.classes else "lower bound"
    return "unbiased"


def _tensors(answer: Outputs) -> list[Tensor]:
    members = [] if answer.members is None else [answer.members.logits]
    return [answer.logits, *members, *answer.features.values()]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _seconds(work: Callable[[], object]) -> float:
    """Return the median time of a call that has been made before."""
    work()
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < _ENOUGH:
        times.append(_once(work))
    return statistics.median(times)
