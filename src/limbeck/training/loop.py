"""The one training loop.  It knows batches, a distiller that turns one into a loss, and nothing of any method."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch, Legend
from limbeck.data import Loader, SampleSet
from limbeck.data.foreign import samples_of
from limbeck.data.loader import Batches
from limbeck.data.sources import Source, one_pass
from limbeck.distiller import Distiller, check_answer, require_gradient
from limbeck.errors import DataError, InputError, ModelError
from limbeck.evaluation import evaluate_together, figures_of
from limbeck.networks import evaluating, networks_of, restore_modes, start_training
from limbeck.objective import Objective
from limbeck.outputs import run_model
from limbeck.profiling import counted, timed, timing
from limbeck.randomness import derive_seed
from limbeck.tasks import CLASSIFICATION
from limbeck.teacher import Teacher, teacher_weights
from limbeck.training.averaging import average_of, check_average
from limbeck.training.batch_norm import check_batches
from limbeck.training.class_weights import class_weighted
from limbeck.training.compiled import check_compile, compiled, step_begins
from limbeck.training.engine import (
    check_alone,
    engine,
    global_counts,
    keep_own_buffers,
    laid_out,
    placed,
    prepared,
    seeded,
    signals,
    undisturbed,
    unwrapped,
)
from limbeck.training.identity import identity_of
from limbeck.training.loss_sums import LossSums
from limbeck.training.memory import enough_memory
from limbeck.training.optimizers import (
    check_complete,
    constrain_norms,
    constrained_weights,
    learning_rate,
    make_dense,
    make_optimizer,
    set_rate,
    share_of_length,
)
from limbeck.training.progress import Observer, Pace, ignore
from limbeck.training.settings import Training
from limbeck.training.sharding import (
    check_built,
    check_launch,
    check_sharding,
    heed_features,
    placed_apart,
    sharded,
)
from limbeck.training.state import Result, Run, held
from limbeck.training.weights import check_savable

__all__ = ["Moment", "Turns", "batches_of", "fit", "in_lanes", "steps"]


class Moment(Enum):
    """Where a training stands when it lets others have their turn.

    READY: before its first step of this call; what there was to resume is resumed.  COMPUTED: the gradients of a step
    are there, its update is not made.  UPDATED: it is.  ENDED: there are no more steps, and the result is not written.
    """

    READY = "ready"
    COMPUTED = "computed"
    UPDATED = "updated"
    ENDED = "ended"


Turns = Generator[tuple[Moment, Run], None, Result]
"""A training in turns: it stops at each moment, and gives its result at the end."""


def batches_of(train_set: SampleSet | Source, training: Training, order: int) -> Batches:
    """Return the batches of a training: a function of the set, some of the settings and the seed of the order."""
    seed = derive_seed(order, "data")
    if isinstance(train_set, Source):
        return train_set.batches(training.batch_size, seed=seed, shuffle=True, workers=training.workers)
    return Loader(
        train_set,
        training.batch_size,
        seed=seed,
        augment=training.augment,
        clean_view=True,
        workers=training.workers,
        views=training.views,
    )


@checked
def fit(
    model: nn.Module,
    train_set: Any,
    validation: Any = None,
    *,
    teacher: Teacher | nn.Module | None = None,
    method: Objective | None = None,
    training: Training | None = None,
    seed: int = 0,
    order: int | None = None,
    folder: str | Path | None = None,
    watch: Observer = ignore,
    label: str = "student",
    **settings: Any,
) -> Result:
    """Train a student, and return it with its history.

    `fit(student, data, teacher=network)` distills with `kd()`, `fit(student, data, teacher=network, method=...)` with
    another method, and `fit(student, data, method=limbeck.methods.hard())` trains without a teacher.

    Args:
        model: the student, or a `Distiller` with its own teacher and objective.
        train_set: a `SampleSet`, a pair of arrays (inputs, labels), a map-style dataset of torch or of the library
            `datasets`, or a `DataLoader`.  Rows with `input_ids` of unlike lengths are padded; labels of their shape
            are labels of tokens (`limbeck.data.next_tokens`).  A dataset is read anew in each epoch; a loader's batches
            and their order are used as they come, and a `DataWarning` says what is not exact then.  How many classes
            there are is what a `SampleSet` says, and else what the student answers.
        validation: measured after each epoch; in the same forms.
        teacher: a network, which is left as it is, or another `Teacher`.
        method: the objective, from `limbeck.methods`; `kd()` by default.
        training: the settings, or give them by name (`epochs=30, learning_rate=0.05`).
        seed: of the order, the augmentation and dropout; the same seed gives the same weights, bit for bit on the CPU.
        order: a seed of the order and the augmentation alone, where they are not to follow `seed`.
        folder: where to keep checkpoints, metrics.jsonl and the student's weights.  A folder that already holds a part
            of the same training is resumed, and a finished one is read.  A dataset is read through once beforehand, to
            know its content.
        watch: called with `Progress` every few steps and at each epoch's end.
        label: the name of this training in `Progress`.
        settings: fields of `Training`.

    Returns:
        The student in the state that was kept, with the metrics and losses of each epoch.

    Raises:
        InputError: if a teacher or method is given beside a Distiller, or neither to a student; for data of another
            form, a folder for data that cannot be read twice alike, or a batch size that leaves a BatchNorm one value.
        DataError: if samples or labels are not as they should be.
        ModelError: if a model cannot be called, or the teacher was changed by training.
        RunError: if the folder holds another training, or one that goes on at this moment.
        NonFiniteLossError: if a term or a weight becomes NaN or infinite.
        MemoryLimitError: if memory is not enough.
        Interrupted: after a signal, when a folder was given.

    Example:
        >>> student, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
        >>> inputs, labels = torch.randn(64, 3), torch.randint(4, (64,))
        >>> result = fit(student, (inputs, labels), teacher=teacher, epochs=2, batch_size=16)
        >>> result.steps, sorted(result.history[-1]["train"])
        (8, ['hard', 'soft', 'total'])
    """
    if training is not None and settings:
        raise InputError(f"training: found together with {', '.join(settings)}; put them into it, or give all by name")
    classes_known = isinstance(train_set, SampleSet)
    train_set = samples_of("train_set", train_set)
    validation = None if validation is None else samples_of("validation", validation)
    distiller = _distiller(model, teacher, method)
    if isinstance(train_set, Source):
        training = _for_source(train_set, training, settings)
    if isinstance(validation, Source):
        validation.warn_of_absent()
    training = training or Training.named(settings)
    if isinstance(train_set, SampleSet):
        training = in_lanes(train_set, training, given="batch_size" in settings)
    turns = steps(
        distiller,
        train_set,
        validation,
        training=training,
        seed=seed,
        order=order,
        folder=folder,
        classes_known=classes_known,
        watch=watch,
        label=label,
    )
    with signals(folder is not None) as signal, closing(turns):
        while True:
            try:
                moment, run = next(turns)
            except StopIteration as end:
                signal.share(run.accelerator)
                signal.stop(run.last_good)
                return end.value  # type: ignore[no-any-return]
            if moment is Moment.UPDATED and run.due(training.checkpoint_seconds, signal):
                run.save()
                signal.stop(run.last_good)


def _distiller(model: nn.Module, teacher: Teacher | nn.Module | None, method: Objective | None) -> Distiller:
    if not isinstance(model, Distiller):
        return Distiller(model, teacher, method)
    for name, given in (("teacher", teacher), ("method", method)):
        if given is not None:
            raise InputError(
                f"{name}: found together with a Distiller, which has its own; leave it out, or give the student"
            )
    return model


def _for_source(source: Source, given: Training | None, settings: Mapping[str, Any]) -> Training:
    """Return the settings of a training on another library's data, whose loader may have batches of its own size."""
    training = given or Training.named(settings)
    usual = Training.batch_size
    asked = training.batch_size if "batch_size" in settings or training.batch_size != usual else None
    source.check(augment=training.augment, accumulate=training.accumulate, workers=training.workers)
    return replace(training, batch_size=source.batch_size(asked, usual))


def in_lanes(samples: SampleSet, training: Training, *, given: bool = False) -> Training:
    """Return the settings of a training on a set, whose batches have its lanes where it is a stream.

    given: whether batch_size was given, so that its default too is a number of lanes.
    Raises InputError where batch_size is another number.
    """
    if samples.lanes is None or training.batch_size == samples.lanes:
        return training
    if given or training.batch_size != Training.batch_size:
        raise InputError(
            f"batch_size: found {training.batch_size}, but '{samples.name}' is a stream in {samples.lanes} lanes, each"
            " a row of every batch; leave batch_size out, or change the lanes of the data"
        )
    return replace(training, batch_size=samples.lanes)


def steps(
    distiller: Distiller,
    train_set: SampleSet | Source,
    validation: SampleSet | Source | None = None,
    *,
    training: Training,
    seed: int = 0,
    order: int | None = None,
    folder: str | Path | None = None,
    at: int | None = None,
    batches: Batches | None = None,
    classes_known: bool = True,
    watch: Observer = ignore,
    label: str = "student",
) -> Turns:
    """Train as `fit` does, and stop at each `Moment`; the caller continues, saves the run, or lets others train.

    order: a seed of order and augmentation of their own, where dropout's is to be another.
    at: the step of the checkpoint to go on from, 0 for none; the newest by default.
    batches: those that `batches_of` makes for the same set, settings and seed, where several trainings share them.
    classes_known: whether the set says how many classes there are; otherwise the student's answer does.
    Random numbers are drawn from the framework's generator: where several trainings take turns, each needs its own
    state of it (see `Turn`).
    """
    seed = checks.seed(seed)
    order = None if order == seed else order
    training = in_lanes(train_set, training) if isinstance(train_set, SampleSet) else training
    if not torch.is_grad_enabled():
        raise InputError("fit: found gradients switched off; call it outside torch.no_grad and torch.inference_mode")
    check_average(training, validated=validation is not None)
    check_alone()
    accelerator = engine(training.precision)
    rank, world, parts = accelerator.process_index, accelerator.num_processes, training.accumulate
    check_launch(training)
    check_sharding(distiller, training)
    placed_apart(distiller, training, accelerator.device)
    train_set = train_set.to(accelerator.device)
    validation = None if validation is None else validation.to(accelerator.device)
    loader = batches_of(train_set, training, seed if order is None else order) if batches is None else batches
    rate = learning_rate(training, loader.steps)
    known = {} if folder is None else identity_of(distiller, train_set, validation, training, seed, order=order)
    loss_sums = LossSums(distiller)

    with (
        enough_memory(label, distiller, training),
        seeded(seed, rank),
        restore_modes(distiller, *networks_of(distiller.teacher)),
        unwrapped(distiller),
        ExitStack() as scope,
        held(folder),
    ):
        scope.enter_context(laid_out(distiller.student, training.memory_format))
        scope.enter_context(distiller.in_chunks(training.chunked_head))
        shards = scope.enter_context(sharded(distiller, training, accelerator.device, fingerprint=bool(known)))
        first = placed(next(loader.epoch(0)), accelerator.device, training.memory_format)
        distiller.objective.require_active(training.epochs * loader.steps)
        _build(distiller, first, train_set, training, seed, classes_known=classes_known)
        check_built(distiller, training)
        heed_features(distiller, training)
        scope.enter_context(class_weighted(distiller.objective, training, train_set))
        scope.enter_context(laid_out(distiller.objective, training.memory_format))
        before = teacher_weights(distiller.teacher)
        if known and distiller.teacher is not None:
            known["teacher"] = distiller.teacher.fingerprint()  # of a lazy one, once it has its weights
        check_compile(distiller, training, accelerator.device)
        if folder is not None:
            check_savable(distiller.student, "student")
        check_batches(distiller.student, train_set, training, world, first)
        raw_optimizer = make_optimizer(distiller, training)
        if training.max_norm is not None:
            constrained_weights(distiller.student)
        keep_own_buffers(distiller)
        scope.enter_context(compiled(distiller, training))
        module, optimizer = prepared(accelerator, distiller, raw_optimizer)
        average = average_of(distiller.student, training)
        distiller.follow(average)
        run = Run(folder, distiller, raw_optimizer, average, loss_sums, accelerator, shards)
        run.resume(known, at)
        distiller.observe(run.history)
        size = train_set.size if isinstance(train_set, Source) else len(train_set)
        in_all, together = training.epochs * loader.steps, min(training.batch_size, size or training.batch_size)
        look = undisturbed(watch)
        measured = figures_of(train_set.task).errors
        pace = Pace(label, steps=in_all, epochs=training.epochs, samples=together, done=run.step, measured=measured)
        for child in distiller.children():
            start_training(child)
        if run.step:
            look(pace.resumed(min(run.epoch + 1, training.epochs), run.metrics))
        yield Moment.READY, run

        while run.epoch < training.epochs and not run.finished and not _patience_is_over(training, run):
            shares = [
                loader.epoch(run.epoch, start=run.batch, rank=rank * parts + part, world=world * parts)
                for part in range(parts)
            ]
            for micros in timed("data", label, _placed(shares, accelerator.device, training.memory_format)):
                share = share_of_length(train_set, micros[0]) if training.rate_by_length else 1.0
                set_rate(raw_optimizer, rate(run.step) * share)
                counts = global_counts(accelerator, distiller.objective, micros)
                step_begins(training)
                for part, micro in enumerate(micros):
                    last = part == parts - 1
                    with nullcontext() if last else accelerator.no_sync(module):
                        with timing("loss", label):  # apart from the networks, which are parts within it
                            loss = module(micro, run.step, counts)
                            require_gradient(loss)
                        with timing("backward", label):
                            accelerator.backward(loss.total * world if world > 1 else loss.total)
                    loss_sums.add(run.step, loss)
                make_dense(raw_optimizer)
                yield Moment.COMPUTED, run
                with timing("optimizer", label):
                    if training.clip is not None:
                        accelerator.clip_grad_norm_(module.parameters(), training.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                with timing("other", label):
                    if training.max_norm is not None:
                        constrain_norms(distiller.student, training.max_norm)
                    if average is not None:
                        average.update(distiller.student)
                run.step += 1
                run.batch += 1
                counted(label)
                if loss_sums.full:
                    with timing("other", label):
                        loss_sums.read(run.last_good)
                    look(pace.look(run.step, run.epoch + 1, loss_sums.means(), run.metrics))
                yield Moment.UPDATED, run

            loss_sums.read(run.last_good)
            line: dict[str, Any] = {
                "epoch": run.epoch + 1,
                "step": run.step,
                "learning_rate": rate(run.step - 1),
                "train": loss_sums.means(accelerator),
                "validation": {} if validation is None else _validated(run, distiller, validation, training.batch_size),
            }
            check_complete(distiller, raw_optimizer)
            run.end_epoch(line, keep_best=training.keep == "best")
            distiller.observe(run.history)
            look(pace.look(run.step, run.epoch, line["train"], line["validation"], epoch_ended=True))

        yield Moment.ENDED, run
        if teacher_weights(distiller.teacher) != before:
            raise ModelError("teacher: its weights changed during training; give the student its own modules")
        return run.finish(keep_best=training.keep == "best", seconds=pace.seconds)


def _placed(shares: Sequence[Iterator[Batch]], device: torch.device, memory_format: str) -> Iterator[list[Batch]]:
    """Yield the parts of each step's batch, on the device."""
    for drawn in zip(*shares, strict=True):
        yield [placed(micro, device, memory_format) for micro in drawn]


def _patience_is_over(training: Training, run: Run) -> bool:
    return training.patience is not None and run.stale >= training.patience


def _build(
    distiller: Distiller,
    first: Batch,
    samples: SampleSet | Source,
    training: Training,
    seed: int,
    *,
    classes_known: bool,
) -> None:
    """Build a distiller for its data: for as many classes as the set says, or else as the student answers."""
    known = (samples.index, samples.labels) if isinstance(samples, SampleSet) else None

    def batches() -> Iterator[Batch]:
        for batch in one_pass(samples, training.batch_size).epoch(0):
            yield placed(batch, first.index.device, training.memory_format)

    build = partial(distiller.build, first, seed=seed, samples=known, batches=batches)
    if isinstance(samples, SampleSet) and classes_known:
        build(classes=samples.classes, legend=samples.legend)
        return
    task = samples.task
    with evaluating(distiller.student), torch.no_grad():
        last = distiller.last_layer(first)
        logits = run_model(distiller.student, first.inputs, task=task, role="student", last=last).logits
    classes = task.classes(logits)
    if isinstance(samples, SampleSet):
        check_answer("student", logits, max(samples.classes, classes), task)
        labelled = samples.legend.labelled
    else:
        samples.classes = classes
        labelled = first.labels is not None
        if task is CLASSIFICATION and logits.dim() == 3:
            given = "no labels" if first.labels is None else "a label for each sample"
            raise DataError(
                f"{samples.name}: found {given}, and the student answers for each token; expected labels (N, L). Give"
                f" next tokens with limbeck.data.next_tokens({samples.name}), and hard_weight=0 to teach without them"
            )
    legend = Legend(tuple(map(str, range(classes))), labelled=labelled, task=task)
    for name, answer in build(legend=legend).items():
        found = task.classes(answer.logits)
        if found != classes and distiller.objective.shares_classes(name):
            raise ModelError(
                f"{name}: answers {found} classes, the student {classes}; give both the same number of outputs"
            )


def _validated(run: Run, distiller: Distiller, samples: SampleSet | Source, batch_size: int) -> dict[str, float]:
    """Return the metrics and the distiller's own measures of the weights that would be kept."""
    with run.kept_weights():
        own = distiller.measure(one_pass(samples, batch_size, clean_view=True).epoch(0))
        return run.agree({**evaluate_together(distiller.student, samples).as_dict(), **own})
