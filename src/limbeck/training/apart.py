"""Trainings that need nothing of each other, each in a process of its own."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch
from torch import multiprocessing

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import LimbeckError, RunError
from limbeck.training.job import Job

__all__ = ["fit_apart"]


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
        replace(job, distiller=copy.deepcopy(job.distiller)).fit()  # what is sent lies in memory that both share
    except LimbeckError as error:
        return str(error)
    return None
