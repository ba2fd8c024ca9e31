"""Compression: a student is made smaller in stages, each a transform and a retraining with a teacher."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from limbeck import checks, methods
from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress import Log, Statistics, Transform, rebuilt, settled
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError
from limbeck.evaluation import flops, measure_typing, parameters, require_words, time_forward, time_word
from limbeck.exporting import exported_bytes, ideal_bytes
from limbeck.objective import Objective
from limbeck.randomness import derive_seed
from limbeck.records import plain_values
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.training import Training, load_weights
from limbeck.training.weight_files import transforms_of

__all__ = ["CARD", "Compress", "CompressionStage", "Retrain"]

CARD = Card(
    name="compress",
    summary="a student made smaller in stages: low rank, sharing, pruning, fewer bits; each retrained with a teacher",
    authors="Song Han, Huizi Mao, William J. Dally",
    year=2016,
    title="Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding",
    source="https://arxiv.org/abs/1510.00149",
    formula="student → (transform → retraining by the recipe's method) for each stage",
)

_FIRST, _TEACHER = "uncompressed", "teacher"
_MOST = 20  # stages
_TRIED = 8  # samples that a rehearsal calibrates on
_BESIDE = ("teacher", "member", "alone", "alone_budget")  # what a keyboard's networks are compared with
_COMPARED = "_compared_"  # in the roles of trainings that are compared
_TIMED = 0.2  # seconds for the latency of a stage


@checked_fields
@dataclass(frozen=True)
class Retrain:
    """How a network is trained after a transform.

    Attributes:
        epochs: 0 for no retraining.
        learning_rate: None for a tenth of the recipe's, which is what pruning was published with.
        teacher: "original" for the recipe's teacher, "before" for the student as it was before the first stage, "none"
            for labels alone.  With a teacher the loss is that of the recipe's method.
    """

    epochs: int = 1
    learning_rate: float | None = None
    teacher: Literal["original", "before", "none"] = "original"

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 0)
        if self.learning_rate is not None:
            checks.positive("learning_rate", self.learning_rate)
        checks.choice("teacher", self.teacher, ("original", "before", "none"))


@checked_fields
@dataclass(frozen=True)
class CompressionStage:
    """A transform, and the training after it.

    Attributes:
        transform: what makes the network smaller.
        retrain: how the smaller network is trained.
        compared: further trainings of the network that the transform gives, measured beside the one of `retrain`, with
            which the next stage begins.
    """

    transform: Transform
    retrain: Retrain = field(default_factory=Retrain)
    compared: tuple[Retrain, ...] = ()

    def __post_init__(self) -> None:
        if any(not retrain.epochs for retrain in self.compared):
            raise InputError("compared: found 0 epochs, expected at least 1; the network is measured untrained anyway")


@dataclass(frozen=True)
class Compress(Scheme):
    """A student is trained by the recipe's method, or read from a file, and then made smaller stage by stage.

    Attributes:
        stages: in order.
        start: a file of weights that the student begins with, `{seed}` in its name stands for the student's seed;
            "teacher" to begin as the recipe's teacher, a network like the student; None to train it by the recipe's
            method first.
        calibration: samples of the training data that transforms see.
        offers: n, for language models on words: the words that a keyboard offers; with 1 or more, the keys are counted
            that the test text takes with each network, and its milliseconds are those of one word.
        never: words that are not offered; in the Penn Treebank, `N` stands for a number.
        models: networks to compare with, such as one of as many bytes as the last stage; each is trained alone, on
            labels.
    """

    stages: tuple[CompressionStage, ...] = ()
    start: str | None = None
    calibration: int = 256
    offers: int = 0
    never: tuple[str, ...] = ("N",)
    models: tuple[dict[str, Any], ...] = ()

    any_task: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError(
                "stages: found none, expected at least one, such as {transform: {kind: low_rank, rank: 0.25}}"
            )
        if len(self.stages) > _MOST:
            raise InputError(f"stages: found {len(self.stages)}, expected at most {_MOST}")
        for number, (stage, following) in enumerate(zip(self.stages, (*self.stages[1:], None), strict=True)):
            ramp = stage.transform.ramp_steps
            if ramp and not stage.retrain.epochs and (following is None or not following.transform.ramp_steps):
                raise InputError(
                    f"stages[{number}].retrain.epochs: found 0, but ramp_steps {ramp} leaves weights out while the"
                    " network is trained; retrain it, or leave ramp_steps out"
                )
        checks.at_least("calibration", self.calibration, 1)
        checks.at_least("offers", self.offers, 0)

    def roles(self) -> Mapping[str, str]:
        """Return the student before the first stage, and each stage before and after its retraining."""
        found = {_FIRST: "student, uncompressed"}
        for number, stage in enumerate(self.stages, start=1):
            kind, last = stage.transform.kind, number == len(self.stages)
            if stage.retrain.epochs:
                found[f"stage_{number}_before"] = f"stage {number}, {kind}, not retrained"
            for place, retrain in enumerate(stage.compared, start=1):
                found[_compared(number, place)] = f"stage {number}, {kind}, {_described(retrain)}"
            if not last:
                found[f"stage_{number}"] = f"stage {number}, {kind}"
        several = len(self.models) > 1
        return found | {role: f"smaller student{f' {n}' if several else ''}, alone" for n, role in self._smaller()}

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return the student before any transform, or a network to compare with."""
        number = next((number for number, known in self._smaller() if known == role), 0)
        return builder.model(number - 1, role) if number else builder.student()

    def _smaller(self) -> list[tuple[int, str]]:
        """Return the networks to compare with: number and role."""
        return [(number, f"smaller_{number}") for number in range(1, len(self.models) + 1)]

    def steps(self) -> list[tuple[str, int, str, bool]]:
        """Return what is measured, in order: role, number of the stage (0 before all), kind, whether retrained."""
        found = [(_FIRST, 0, "", False)]
        for number, stage in enumerate(self.stages, start=1):
            kind, retrained = stage.transform.kind, stage.retrain.epochs > 0
            found += [(f"stage_{number}_before", number, kind, False)] if retrained else []
            found += [(_compared(number, place), number, kind, True) for place in range(1, len(stage.compared) + 1)]
            found.append((self._role(number), number, kind, retrained))
        return found

    def check(self, builder: Builder) -> str | None:
        """Refuse a file that does not fit the student, a transform that cannot be applied, and teachers not read."""
        for number, stage in enumerate(self.stages):
            for key, retrain in _named_retrainings(stage):
                if retrain.epochs and retrain.teacher != "none" and not builder.needs_teacher:
                    return (
                        f"stages[{number}].{key}.teacher: found {retrain.teacher}, but the method "
                        f"{builder.method_name} reads no teacher; set none, or the method kd"
                    )
        if self.offers:
            try:
                require_words(builder.parts.train)
            except LimbeckError as error:
                return f"offers: found {self.offers}, but {str(error).removeprefix('samples: ')}; or leave offers out"
        where = "start"
        try:
            model = self._started(builder)
            statistics = self._statistics(builder, _TRIED)
            for number, stage in enumerate(self.stages):
                for key, retrain in _named_retrainings(stage):
                    where = f"stages[{number}].{key}"
                    training = self._training(builder.training, number, retrain)
                    loader = Loader(self._samples(builder, retrain), training.batch_size, seed=0)
                    where = f"stages[{number}].transform"
                    if retrain.epochs:
                        _require_steps(self._ramp(number), retrain.epochs * loader.steps)
                where = f"stages[{number}].transform"
                known = self.start not in (None, _TEACHER)
                transform = stage.transform if known else stage.transform.on_any_weights()
                model, _ = transform.apply(model, statistics, builder.seed)
                where = f"stages[{number}]: the model that the transform gives"
                one = builder.parts.train.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0)
                Statistics([one], builder.parts.train.task).visit(model, [], lambda *_: None)
        except LimbeckError as error:
            return f"{where}.{error}" if where.endswith("transform") else f"{where}: {error}"
        return None

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the first training and the retrainings, of the student before any stage."""
        found = [] if self.start else [self.planned_as(_FIRST, "student, uncompressed", builder, teacher)]
        for number, stage in enumerate(self.stages):
            for key, retrain in _named_retrainings(stage):
                if retrain.epochs:
                    taught = None if retrain.teacher == "none" else teacher
                    distiller = Distiller(self._started(builder), taught, self._objective(builder, retrain))
                    samples = self._samples(builder, retrain)
                    training = self._training(builder.training, number, retrain)
                    compared = key != "retrain"
                    label = f"student, stage {number + 1}" + (f", {_described(retrain)}" if compared else "")
                    found.append(Planned(label, distiller, samples, training, compared=compared))
        own = [each for each in found if not each.compared]
        own = [*own[:-1], *(replace(last, label="student distilled") for last in own[-1:])]
        for _, role in self._smaller():
            distiller = Distiller(self.build(role, builder), None, methods.hard())
            found.append(Planned(self.roles()[role], distiller, builder.parts.alone, compared=True))
        return [*(each for each in found if each.compared), *own]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the student, and make it smaller stage by stage."""
        context.require(
            [role for role, number, _, retrained in self.steps() if retrained or not (number or self.start)]
        )
        student = self._first(context)
        models = {_FIRST: student}
        statistics = self._statistics(context, self.calibration)
        if any(stage.transform.needs_statistics for stage in self.stages):
            context.note("calibration", statistics.index.tolist())
        teachers: dict[str, Teacher] = {}
        transformed: dict[int, nn.Module] = {}
        for number, stage in enumerate(self.stages, start=1):
            role, name = self._role(number), f"stage {number}, {stage.transform.kind}"
            smaller, log = stage.transform.apply(student, statistics, derive_seed(context.seed, f"stage {number}"))
            context.note(f"stage_{number}", plain_values({"changed": log.changed, "kept": log.kept, **log.figures}))
            context.say(_told(name, log, parameters(student), parameters(smaller)))
            transformed[number] = deepcopy(smaller) if stage.compared else smaller
            if not stage.retrain.epochs:
                models[role] = student = context.keep(role, smaller)
                continue
            before = f"stage_{number}_before"
            models[before] = context.keep(before, deepcopy(smaller))
            models[role] = student = self._retrained(
                context, role, smaller, number, stage.retrain, models[_FIRST], teachers
            )
        for number, stage in enumerate(self.stages, start=1):
            for place, retrain in enumerate(stage.compared, start=1):
                role, student = _compared(number, place), deepcopy(transformed[number])
                models[role] = self._retrained(context, role, student, number, retrain, models[_FIRST], teachers)
        for _, role in self._smaller():
            distiller = Distiller(self.build(role, context), None, methods.hard())
            models[role] = context.fit(role, distiller, context.parts.alone).student
        return models

    def _retrained(
        self,
        context: Context,
        role: str,
        student: nn.Module,
        number: int,
        retrain: Retrain,
        first: nn.Module,
        teachers: dict[str, Teacher],
    ) -> nn.Module:
        """Train a network after a transform.

        number: of its stage, from 1.  first: the student before any stage.  teachers: made before, by name.
        """
        if retrain.teacher == "original":
            teachers.setdefault("original", context.teacher())
        elif retrain.teacher == "before" and "before" not in teachers:
            teachers["before"] = context.teach(first, name=_FIRST)
        distiller = Distiller(student, teachers.get(retrain.teacher), self._objective(context, retrain))
        training = self._training(context.training, number - 1, retrain)
        return context.fit(role, distiller, self._samples(context, retrain), training=training).student

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return what each stage costs: parameters, bytes on disk, bytes of an ideal code, FLOPs and latency."""
        steps = [*self.steps(), *((role, 0, "", False) for _, role in self._smaller())]
        found = {"stages": [self._measured(models[step[0]], step, samples) for step in steps]}
        if self.offers:
            beside = [(role, 0, "", False) for role in _BESIDE if role in models]
            found["beside"] = [self._measured(models[step[0]], step, samples) for step in beside]
        return plain_values(found)  # type: ignore[no-any-return]

    def _measured(self, network: nn.Module, step: tuple[str, int, str, bool], samples: SampleSet) -> dict[str, Any]:
        """Return what a network costs, and the keys that the test text takes with it."""
        model = settled(network)
        device = next((each.device for each in model.state_dict().values()), torch.device("cpu"))
        one = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0).to(device).inputs
        return {
            **dict(zip(("role", "stage", "transform", "retrained"), step, strict=True)),
            "compared": _COMPARED in step[0],
            "parameters": parameters(network),
            "bytes": exported_bytes(model),
            "ideal_bytes": ideal_bytes(model),
            "flops": flops(model, one),
            "latency": self._latency(model, one, samples),
            **({"typing": self._typing(model, samples)} if self.offers else {}),
        }

    def _latency(self, model: nn.Module, inputs: Any, samples: SampleSet) -> dict[str, float]:
        """Return the seconds of an answer to one sample, or of one word: the median and the quartiles."""
        if self.offers:
            found = time_word(model, samples.classes, offers=min(self.offers, samples.classes), budget=_TIMED)
        else:
            found = time_forward(model, inputs, budget=_TIMED)
        return {"median": found.seconds, "lower": found.lower, "upper": found.upper}

    def _typing(self, model: nn.Module, samples: SampleSet) -> dict[str, Any]:
        """Return the keys that the text takes, and the rates."""
        return measure_typing(model, samples, offers=self.offers, never=self.never).as_dict()

    def notes(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
        """Say how much smaller the student is."""
        first, last = (figures[0]["stages"][number] for number in (0, len(self.steps()) - 1))
        lines = [
            f"compression: {first['bytes']:,} to {last['bytes']:,} bytes on disk ({first['bytes'] / last['bytes']:.2f}"
            f" times smaller), {first['parameters']:,} to {last['parameters']:,} parameters"
        ]
        if any(stage.compared for stage in self.stages):
            lines.append("compute: of compared trainings, what led to the network that they begin with is not counted")
        if self.start not in (None, _TEACHER):
            lines.append(
                "compute: the student's weights are used as given, and what their training took is not counted"
            )
        return lines

    def _role(self, number: int) -> str:
        return "distilled" if number == len(self.stages) else f"stage_{number}"

    def _started(self, builder: Builder) -> nn.Module:
        """Return the student with the weights of `start`; as it is built without such."""
        student = builder.student()
        if self.start is None:
            return student
        if self.start == _TEACHER:
            _require_alike(builder, student)
            return student
        path = Path(self.start.replace("{seed}", str(builder.seed)))
        student = rebuilt(student, transforms_of(path))
        load_weights(student, path)
        return student

    def _first(self, context: Context) -> nn.Module:
        student = self._started(context)
        if self.start == _TEACHER:
            student.load_state_dict(context.teacher_model.state_dict())
        if self.start is not None:
            return context.keep(_FIRST, student)
        distiller = Distiller(student, context.teacher(), context.objective())
        return context.fit(_FIRST, distiller, context.parts.transfer).student

    def _statistics(self, builder: Builder, count: int) -> Statistics:
        return Statistics.of(builder.parts.train, count, seed=builder.seed)

    def _objective(self, builder: Builder, retrain: Retrain) -> Objective:
        return methods.hard() if retrain.teacher == "none" else builder.objective()

    def _samples(self, builder: Builder, retrain: Retrain) -> SampleSet:
        return builder.parts.alone if retrain.teacher == "none" else builder.parts.transfer

    def _training(self, training: Training, number: int, retrain: Retrain) -> Training:
        """Return the settings of a retraining of a stage, from 0: the recipe's, with fewer epochs and a smaller rate.

        Along a ramp, the weights before its end have too few zeros, and so the last ones are kept.
        """
        found = training.continued(max(1, retrain.epochs), retrain.learning_rate)
        return replace(found, keep="last", patience=None) if self._ramp(number) else found

    def _ramp(self, number: int) -> int:
        """Return the steps of the ramps that a stage's training follows, those of untrained stages before it too."""
        steps = self.stages[number].transform.ramp_steps
        if steps and number and not self.stages[number - 1].retrain.epochs:
            return max(steps, self._ramp(number - 1))
        return steps


def _require_steps(ramp: int, steps: int) -> None:
    """Require a training that has a step left when the ramp has ended: masks are drawn before a step."""
    if ramp and ramp >= steps:
        raise InputError(
            f"ramp_steps: found {ramp}, but the retraining takes {steps} steps; expected fewer. Lower it, or retrain"
            " for more epochs"
        )


def _require_alike(builder: Builder, student: nn.Module) -> None:
    """Require a teacher that is one network with the student's weights by name and shape."""
    if builder.teacher_source not in ("trained", "file") or builder.teachers != 1:
        raise InputError(f"found {_TEACHER}, but the recipe's teacher is not one network; name a file of weights")
    own = {name: each.shape for name, each in student.state_dict().items()}
    if own != {name: each.shape for name, each in builder.teacher_network().state_dict().items()}:
        raise InputError(f"found {_TEACHER}, but the teacher's layers are not the student's; give both the same model")


def _told(name: str, log: Log, before: int, after: int) -> str:
    """Return the line about a transform."""
    figures = "".join(f", {key.replace('_', ' ')} {value:.4g}" for key, value in log.figures.items())
    return (
        f"{name}: {len(log.changed)} layers changed, {len(log.kept)} kept; {before:,} to {after:,} parameters{figures}"
    )


def _compared(number: int, place: int) -> str:
    """Return the role of a compared training of a stage."""
    return f"stage_{number}{_COMPARED}{place}"


def _described(retrain: Retrain) -> str:
    """Return how a compared training is called in tables."""
    by = {"original": "the teacher", "before": "the uncompressed student", "none": "labels"}[retrain.teacher]
    return f"retrained by {by} for {retrain.epochs} epoch{'s' if retrain.epochs > 1 else ''}"


def _named_retrainings(stage: CompressionStage) -> list[tuple[str, Retrain]]:
    """Return a stage's trainings by their keys in a recipe."""
    return [("retrain", stage.retrain), *((f"compared[{place}]", each) for place, each in enumerate(stage.compared))]
