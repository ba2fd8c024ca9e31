"""What a scheme works with: the recipe's networks, sets and teacher, and trainings that are units of their own."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from limbeck.cache import CachedTeacher
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import RunError
from limbeck.experiment.building import SeedBuilder, as_teacher
from limbeck.experiment.cost import Compute, forward_flops, spent, spent_by_peers
from limbeck.experiment.stores import STORED
from limbeck.experiment.teacher import TrainedTeacher, storable, wrap_teacher
from limbeck.objective import Objective
from limbeck.peers import Peer, fit_together
from limbeck.ranks import first_says
from limbeck.runs import RunFolder
from limbeck.teacher import Teacher
from limbeck.teachers import StoredTeacher, store
from limbeck.training import Observer, Result, Training, fit, save_weights
from limbeck.training.progress import ignore

__all__ = ["Decisions", "SeedContext"]


@dataclass
class Decisions:
    """What a scheme chose on held-out data, to be kept to when it is run again on all of the training data.

    epochs: by unit.  answers: by name.
    """

    epochs: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedContext(SeedBuilder):
    """One seed of a recipe, as its scheme carries it out.

    role: that it ends with.  trial: the name of a run that is made to choose something; None for the final one.
    keep_to: decisions made before, which this run makes again.
    answering: the recipe's teacher of the transfer set, where it was made before and answers others too.
    shared: the stored answers of the recipe's teacher, for the seeds that it teaches alike; one entry at most.
    cache: where what can be made again is kept; None for `limbeck.own.cache_folder()`.
    decided, costs, copied, untaught: filled while the scheme runs; the last are units that no teacher took part in.
    """

    folder: RunFolder
    taught: TrainedTeacher | None = None
    watch: Observer = ignore
    say: Callable[[str], None] = lambda line: None
    role: str = "distilled"
    trial: str | None = None
    keep_to: Decisions | None = None
    answering: Teacher | None = None
    shared: dict[tuple[int, ...], StoredTeacher] = field(default_factory=dict)
    cache: Path | None = None
    decided: Decisions = field(default_factory=Decisions)
    costs: dict[str, Compute] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    untaught: set[str] = field(default_factory=set)

    @property
    def teacher_model(self) -> nn.Module:
        """The recipe's trained teacher, as a network."""
        if self.taught is None:
            raise ValueError("this scheme has declared that it uses no teacher")
        return self.taught.model

    def lender(self) -> nn.Module:
        """Return the recipe's trained teacher, of which the student is given a part."""
        return self.teacher_model

    @property
    def teachers_along(self) -> Mapping[int, nn.Module]:
        """The recipe's teacher as it was after the epochs of its training that the scheme's `along` names."""
        return {} if self.taught is None else self.taught.along

    @property
    def held_out(self) -> SampleSet:
        """The held-out part, where choices are made; a refit has none."""
        if self.parts.held_out is None:
            raise ValueError("a refit has no held-out part; recall what was decided before")
        return self.parts.held_out

    @cached_property
    def _recipes_teacher(self) -> Teacher:
        if self.answering is not None:
            return self.answering
        key = (id(self.recipe), id(self.parts), id(self.taught))
        if key not in self.shared:
            teacher = wrap_teacher(self.recipe, self.teacher_model, self.parts, self.seed)
            if not isinstance(teacher, StoredTeacher):
                return self._counted(teacher, self.teacher_model, "teacher")
            self.shared.clear()
            self.shared[key] = teacher
        self.count_answers("answers of teacher", self.teacher_model, self.parts.transfer)
        return self.shared[key]

    def teacher(self, objective: Objective | None = None) -> Teacher:
        """Return the recipe's teacher of the transfer set; its answers are computed once wherever that is exact.

        objective: what reads it, by default all of the recipe's method.
        """
        if objective is None or self.answering is not None or isinstance(self._recipes_teacher, STORED):
            return self._recipes_teacher
        teacher = wrap_teacher(self.recipe, self.teacher_model, self.parts, self.seed, objective)
        return self._counted(teacher, self.teacher_model, "teacher")

    def teach(self, model: nn.Module, *, name: str = "teacher") -> Teacher:
        """Make a trained network a teacher of the transfer set, as the recipe says of its own; its answers count."""
        return self._counted(wrap_teacher(self.recipe, model, self.parts, self.seed, own=False), model, name)

    def _counted(self, teacher: Teacher, model: nn.Module, name: str) -> Teacher:
        """Return a teacher of the transfer set; answers that were computed beforehand count."""
        if isinstance(teacher, STORED):
            times = len(teacher.views) if isinstance(teacher, CachedTeacher) else 1
            self.count_answers(f"answers of {name}", model, self.parts.transfer, times)
        return teacher

    def forward_flops(self, model: nn.Module) -> int:
        """Return the FLOPs of a network's answer to one sample."""
        return forward_flops(model, self.parts.train)

    def count_answers(self, name: str, model: nn.Module, samples: SampleSet, times: int = 1) -> None:
        """Count that a network answered each sample of a set so many times."""
        self._count(name, Compute(answers=float(forward_flops(model, samples) * len(samples) * times)))

    def judge(self, model: nn.Module) -> Teacher:
        """Make a trained network a teacher that answers for the held-out part."""
        teacher = as_teacher(self.recipe, model)
        held_out = self.parts.held_out
        if held_out is None or not storable(self.recipe, teacher, held_out):
            return teacher
        return store(teacher, held_out, clean=True, taps=self.inspected.taps("teacher"))

    def place(self, unit: str) -> Path:
        """Return the folder of a unit."""
        return self.folder.path / self._name(unit)

    def fit(
        self,
        unit: str,
        distiller: Distiller,
        samples: SampleSet,
        *,
        training: Training | None = None,
        seed: int | None = None,
        extra: float = 0.0,
        held_out: SampleSet | None = None,
    ) -> Result:
        """Train a unit; a finished one is read, an interrupted one is resumed.

        unit: its name; the last unit of a role bears the role's.  training: the recipe's by default.
        seed: of order, augmentation and dropout, by default the context's own.
        extra: FLOPs of each sample besides the student's learning and the distiller's teacher.
        held_out: what it is judged on, by default the held-out part; another is used only where there is one.
        """
        training = self.planned(unit, training or self.training)
        if distiller.teacher is None:
            self.untaught.add(unit)
        result = fit(
            distiller,
            samples,
            self.parts.held_out if held_out is None else held_out,
            training=training,
            seed=self.seed if seed is None else seed,
            folder=self.place(unit),
            watch=self.watch,
            label=self._name(unit) if self.trial else f"{unit} (seed {self.seed})",
        )
        if training.patience is not None or training.keep == "best":
            self.decided.epochs[unit] = result.epoch
        if unit in self.copied:
            return result
        cost = spent(distiller.student, distiller.teacher, distiller.objective, result, samples)
        self._count(unit, cost + Compute(answers=extra * len(result.history) * len(samples)))
        return result

    def fit_together(
        self, peers: Mapping[str, Peer], *, update: Literal["simultaneous", "sequential"], every: int
    ) -> dict[str, Result]:
        """Train peers step by step together, each a unit; finished ones are read, interrupted ones are resumed.

        Each unit costs what all of them took.
        """
        placed = [
            replace(peer, training=self.planned(unit, peer.training), folder=self.place(unit))
            for unit, peer in peers.items()
        ]
        results = dict(zip(peers, fit_together(placed, update=update, every=every, watch=self.watch), strict=True))
        for unit, peer in zip(peers, placed, strict=True):
            if peer.training.patience is not None or peer.training.keep == "best":
                self.decided.epochs[unit] = results[unit].epoch
        self._count("peers", spent_by_peers(placed, list(results.values()), update=update, every=every))
        self.charge(*peers)
        return results

    def charge(self, *roles: str) -> None:
        """Let roles be known that took no training besides those so far, all of which they owe to."""
        for role in roles:
            self._count(role, Compute())

    def planned(self, unit: str, training: Training) -> Training:
        """Return a unit's training with the epochs that were chosen for it before, if they were."""
        if self.keep_to is None or unit not in self.keep_to.epochs:
            return training
        return replace(training, epochs=self.keep_to.epochs[unit], patience=None, keep="last")

    def keep(self, role: str, model: nn.Module) -> nn.Module:
        """Keep the weights of a role that no unit bears the name of; the report and later readers find them there."""

        def write(path: Path) -> None:
            path.parent.mkdir(exist_ok=True)
            save_weights(model, path)

        self.folder.save(f"{self._name(role)}/student.safetensors", write)
        self._count(role, Compute())
        return model

    def require(self, units: Sequence[str]) -> None:
        """Refuse to go on where the weights of finished units are gone: RunError that names them all."""
        gone = [
            place
            for place in map(self.place, units)
            if (place / "result.json").is_file() and not (place / "student.safetensors").is_file()
        ]
        if gone:
            files = ", ".join(f"'{place / 'student.safetensors'}'" for place in gone)
            names = ", ".join(place.name for place in gone)
            raise RunError(
                f"resume: the weights of finished trainings are missing: {files}; put them back, or delete "
                f"{names} and what was taught by {'it' if len(gone) == 1 else 'them'} to train anew"
            )

    def copy(self, unit: str, role: str) -> None:
        """Let a role be a unit that was trained already, if it was: `fit` reads it, and it costs nothing more."""
        made, copy = self.place(unit), self.place(role)
        if not (made / "result.json").is_file():
            return

        def write(copy: Path) -> None:
            if (copy / "result.json").is_file():
                return
            aside = copy.with_name(f".{copy.name}.tmp")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(made, aside)
            aside.replace(copy)

        self.folder.save(copy.name, write)
        self.copied.add(role)

    def choose(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what is decided on the held-out part, at the first seed: other seeds and a refit keep to it.

        decide: gives a plain value, the same whenever it is called with the same finished units.
        """
        known = self.keep_to is not None and name in self.keep_to.answers
        return self.note(name, self.recall(name) if known else first_says(decide()))

    def note(self, name: str, value: Any) -> Any:
        """Put on record what came out on the held-out part, a plain value, and return it."""
        self.decided.answers[name] = value
        return value

    def recall(self, name: str) -> Any:
        """Return what was noted or chosen under a name before, where there was a held-out part."""
        if self.keep_to is None:
            raise ValueError(f"'{name}' was never decided")
        return self.note(name, self.keep_to.answers[name])

    def compute(self, role: str) -> Compute:
        """Return what it took to have a role: all units up to the one of its name, and the teacher's training.

        Units that come after the one that the scheme ends with are for comparison, and owe nothing to those before, nor
        to a teacher if none took part; a role without a unit, a mean of others, owes to all.
        """
        teachers = Compute()
        if self.recipe.scheme.uses_teacher and self.taught is not None:
            teachers = Compute(teachers=self.taught.compute.total())
        total = teachers
        for unit, cost in self.costs.items():
            total += cost
            if unit == role:
                break
            if unit == self.role and role in self.costs:
                total = Compute() if role in self.untaught else teachers
        return total

    def _name(self, unit: str) -> str:
        if self.trial is None:
            return f"{unit}-{self.seed}"
        return self.trial if unit == self.role else f"{self.trial}-{unit}"

    def _count(self, unit: str, cost: Compute) -> None:
        self.costs[unit] = self.costs.get(unit, Compute()) + cost
