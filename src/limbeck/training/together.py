"""Trainings on the same batches in one process: each batch is made once and the teacher asked about it once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from limbeck.arguments import checked
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, NonFiniteLossError
from limbeck.training.engine import Signals, engine, signals
from limbeck.training.loop import batches_of, steps
from limbeck.training.progress import Observer, ignore
from limbeck.training.settings import Training
from limbeck.training.sharing import SharedBatches, SharedTeacher
from limbeck.training.state import Result
from limbeck.training.turns import Turn

__all__ = ["SHARED", "attempt_many", "fit_many"]

_Value = TypeVar("_Value")

SHARED = (
    "batch_size",
    "accumulate",
    "precision",
    "memory_format",
    "compile",
    "chunked_head",
    "fsdp",
    "augment",
    "views",
    "workers",
)
"""The settings that decide the batches and how the teacher sees them; all else may differ from student to student."""


@checked
def fit_many(
    distillers: Sequence[Distiller],
    train_set: SampleSet,
    validation: SampleSet | None = None,
    *,
    training: Training | Sequence[Training] | None = None,
    seed: int | Sequence[int] = 0,
    order: int | None = None,
    folders: Sequence[str | Path] | None = None,
    labels: Sequence[str] | None = None,
    watch: Observer = ignore,
    **settings: Any,
) -> list[Result]:
    """Train several distillers on the same batches.

    A batch is loaded and augmented once for all, and a teacher that several distillers share (the same object) answers
    it once.  Each result, folder and line of metrics is what `fit(distiller, train_set, validation, training=...,
    seed=..., order=order)` gives for the distiller alone, bit for bit on the CPU; both resume each other's folders.
    Only `Result.seconds` is of all together.

    Args:
        distillers: they share no parameters that are trained.
        train_set: training samples.
        validation: measured after each epoch.
        training: the settings, one for all or one for each.  They may not differ in batch_size, accumulate, precision,
            memory_format, compile, chunked_head, augment, views or workers, nor have `fsdp`.
        seed: one for all or one for each.
        order: the seed of order and augmentation, which all share; by default the first distiller's seed.
        folders: one for each distiller, as in `fit`.
        labels: the name of each in `Progress`; "student 1" and so on by default.
        watch: called with `Progress` every few steps and at the end of each epoch.
        **settings: fields of `Training`, instead of `training`.

    Returns:
        The results, in the order of the distillers.

    Raises:
        InputError: if the settings need different batches, or distillers share parameters.
        NonFiniteLossError: after the others have ended, if the loss of a student became NaN or infinite.

    Example:
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
        >>> teacher = lb.ModelTeacher(nn.Linear(3, 4))
        >>> students = [lb.Distiller(nn.Linear(3, 4), teacher, lb.methods.kd(temperature=t)) for t in (1.0, 2.0, 4.0)]
        >>> results = fit_many(students, samples, validation=samples, epochs=2, batch_size=16)
        >>> [result.steps for result in results]
        [8, 8, 8]
    """
    if training is not None and settings:
        raise InputError(f"training: found together with {', '.join(settings)}; put them into it, or give all by name")
    outcomes = attempt_many(
        distillers,
        train_set,
        validation,
        training=training or Training.named(settings),
        seed=seed,
        order=order,
        folders=folders,
        labels=labels,
        watch=watch,
    )
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Result)]


@checked
def attempt_many(
    distillers: Sequence[Distiller],
    train_set: SampleSet,
    validation: SampleSet | None = None,
    *,
    training: Training | Sequence[Training],
    seed: int | Sequence[int] = 0,
    order: int | None = None,
    folders: Sequence[str | Path] | None = None,
    labels: Sequence[str] | None = None,
    watch: Observer = ignore,
    drops_out: tuple[type[Exception], ...] = (NonFiniteLossError,),
) -> list[Result | Exception]:
    """Train as `fit_many` does, and return the error of a student that dropped out in place of its result.

    Args:
        distillers: as for `fit_many`.
        train_set: as for `fit_many`.
        validation: as for `fit_many`.
        training: as for `fit_many`.
        seed: as for `fit_many`.
        order: as for `fit_many`.
        folders: as for `fit_many`.
        labels: as for `fit_many`.
        watch: as for `fit_many`.
        drops_out: errors of the training or of `watch` that end one student alone; any other error ends all.

    Returns:
        A result or an error for each distiller, in order.

    Raises:
        InputError: if the settings need different batches, or distillers share parameters.

    Example:
        >>> from torch import nn
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(8, 3), torch.randint(4, (8,)), classes=4)
        >>> distillers = [lb.Distiller(nn.Linear(3, 4), objective=lb.methods.hard())]
        >>> [found] = attempt_many(distillers, samples, training=lb.Training(epochs=1, batch_size=4))
        >>> found.steps
        2
    """
    count = len(distillers)
    trainings = _each("training", training, count) if isinstance(training, Sequence) else [training] * count
    seeds = _each("seed", seed, count) if isinstance(seed, Sequence) else [seed] * count
    names = [f"student {number + 1}" for number in range(count)] if labels is None else _each("labels", labels, count)
    places = [None] * count if folders is None else [Path(folder) for folder in _each("folders", folders, count)]
    _check(distillers, trainings, names, places)
    shared, device = trainings[0], engine(trainings[0].precision).device
    own_order = seeds[0] if order is None else order
    batches = SharedBatches(batches_of(train_set.to(device), shared, own_order), device, shared.memory_format)
    with signals(folders is not None) as signal, _asking_once(distillers, shared.accumulate), ExitStack() as stack:
        turns = []
        for number, distiller in enumerate(distillers):
            training_in_turns = steps(
                distiller,
                train_set,
                validation,
                training=trainings[number],
                seed=seeds[number],
                order=own_order,
                folder=places[number],
                batches=batches,
                watch=watch,
                label=names[number],
            )
            turns.append(stack.enter_context(closing(Turn(training_in_turns))))
        return _in_step(turns, trainings, signal, drops_out)


def _in_step(
    turns: Sequence[Turn],
    trainings: Sequence[Training],
    signal: Signals,
    drops_out: tuple[type[Exception], ...],
) -> list[Result | Exception]:
    """Let every training make its steps, those that are behind first, and return what each came to."""
    outcomes: dict[int, Result | Exception] = {}
    while running := [number for number in range(len(turns)) if number not in outcomes]:
        step = min(turns[number].run.step for number in running)
        here = [number for number in running if turns[number].run.step == step]
        for number in here:
            turn = turns[number]
            try:
                turn.step()
                if turn.result is not None:
                    outcomes[number] = turn.result
                elif turn.run.due(trainings[number].checkpoint_seconds, signal):
                    turn.save()
            except drops_out as error:
                outcomes[number] = error
        if signal.received is not None:
            for number in running:
                if number not in here:
                    turns[number].save()
            signal.stop(turns[here[0]].run.last_good)
    signal.share(turns[0].run.accelerator)
    signal.stop(turns[0].run.last_good)
    return [outcomes[number] for number in range(len(turns))]


@contextmanager
def _asking_once(distillers: Sequence[Distiller], batches: int) -> Iterator[None]:
    """Let the answers of a teacher that several distillers have be computed once, for so many batches at a time."""
    teachers = {id(distiller.teacher): distiller.teacher for distiller in distillers}
    with ExitStack() as stack:
        for key, teacher in teachers.items():
            taught = [distiller for distiller in distillers if id(distiller.teacher) == key]
            if teacher is not None and len(taught) > 1:
                asked = SharedTeacher(teacher, last=batches)
                for distiller in taught:
                    stack.enter_context(distiller.asking(asked))
        yield


def _each(name: str, given: Sequence[_Value], count: int) -> list[_Value]:
    if isinstance(given, str) or len(given) != count:
        found = repr(given) if isinstance(given, str) else len(given)
        raise InputError(f"{name}: found {found}, expected one for each of the {count} distillers")
    return list(given)


def _check(
    distillers: Sequence[Distiller],
    trainings: Sequence[Training],
    labels: Sequence[str],
    folders: Sequence[Path | None],
) -> None:
    if not distillers:
        raise InputError("distillers: found none, expected at least one")
    owners: dict[int, int] = {}
    for number, distiller in enumerate(distillers):
        for tensor in (*distiller.parameters(), *distiller.buffers()):
            if owners.setdefault(id(tensor), number) != number:
                raise InputError(
                    f"distillers: {labels[owners[id(tensor)]]} and {labels[number]} share a parameter, so that each"
                    " would train the other; give each student and each objective its own modules"
                )
    for label, training in zip(labels, trainings, strict=True):
        for key in SHARED:
            first, own = getattr(trainings[0], key), getattr(training, key)
            if own != first:
                raise InputError(
                    f"training.{key}: found {first!r} for {labels[0]} and {own!r} for {label}, but they share their"
                    f" batches; give all the same {key}, or train them apart"
                )
    if len(trainings) > 1 and trainings[0].fsdp != "none":
        raise InputError(
            f"fsdp: found '{trainings[0].fsdp}' for {len(trainings)} students that are trained together; train one"
            " after the other, or leave fsdp out"
        )
    for name, given in (("labels", labels), ("folders", [folder for folder in folders if folder is not None])):
        twice = [each for number, each in enumerate(given) if each in given[:number]]
        if twice:
            raise InputError(f"{name}: found '{twice[0]}' twice, expected each once")
