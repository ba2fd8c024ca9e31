"""Trainings that need nothing of each other, each in a process of its own."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import multiprocessing

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError, RunError
from limbeck.training.loop import fit
from limbeck.training.settings import Training

__all__ = ["Job", "fit_apart"]


@checked_fields
@dataclass(frozen=True)
class Job:
    """The arguments of one training, for `fit_apart`.

    Attributes:
        distiller: student, teacher and objective.
        train_set: training samples.
        validation: measured after each epoch; None for none.
        training: the settings.
        seed: of the training.
        folder: where the training is kept; a later `fit` there returns its result.
        label: its name in messages.

    Example:
        >>> from dataclasses import fields
        >>> [field.name for field in fields(Job)][-2:]
        ['folder', 'label']
    """

    distiller: Distiller
    train_set: SampleSet
    validation: SampleSet | None
    training: Training
    seed: int
    folder: Path
    label: str


@checked
def fit_apart(jobs: Sequence[Job], workers: int, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Train each job in a process of its own; the jobs' folders then hold the results.

    A training gives the same weights as in this process with as many threads.  A finished one is loaded, an interrupted
    one is resumed.

    Args:
        jobs: the trainings.
        workers: processes at a time; 1 or more.
        say: called with a line when a job ends.

    Raises:
        RunError: with the message of the first job that failed, after the others have ended.
        InputError: if `workers` is below 1.

    Example:
        >>> fit_apart([], workers=1)
    """
    checks.at_least("workers", workers, 1)
    context = multiprocessing.get_context("spawn")
    failed: list[str] = []
    with ProcessPoolExecutor(min(workers, len(jobs)) or 1, mp_context=context) as pool:
        running = {pool.submit(_run, job, torch.get_num_threads()): job for job in jobs}
        for done in as_completed(running):
            line = done.result()
            if line is not None:
                failed.append(f"{running[done].label}: {line}")
            say(f"{running[done].label}: {'failed' if line else 'done'}")
    if failed:
        raise RunError(failed[0])


def _run(job: Job, threads: int) -> str | None:
    """Train a job, and return what stopped it."""
    torch.set_num_threads(threads)
    try:
        fit(
            copy.deepcopy(job.distiller),  # what is sent lies in memory that both processes share
            job.train_set,
            job.validation,
            training=job.training,
            seed=job.seed,
            folder=job.folder,
            label=job.label,
        )
    except LimbeckError as error:
        return str(error)
    return None
