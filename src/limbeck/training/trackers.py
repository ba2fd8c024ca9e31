"""Experiment trackers, through Accelerate: what the loop tells its observers, written for TensorBoard or W&B."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, one_of
from limbeck.ranks import is_first
from limbeck.training.progress import Observer, Progress

__all__ = ["TRACKERS", "check_trackers", "tracking"]

TRACKERS = ("tensorboard", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """Require known trackers whose packages are installed."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"trackers: found {name!r}; {one_of(str(name), TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"trackers: {name} is not installed; pip install 'limbeck[track]', or leave it out")


@contextmanager
def tracking(names: Sequence[str], folder: Path, project: str, watch: Observer) -> Iterator[Observer]:
    """Return an observer for the scope that tells `watch` everything, and the trackers each epoch's metrics.

    names: of `TRACKERS`; none by default.  folder: of the run; TensorBoard writes to folder/tensorboard, one run for
    each training, W&B to folder/wandb (WANDB_MODE=offline needs no network).  project: W&B's.
    """
    check_trackers(names)
    if not names or not is_first():
        yield watch
        return
    opened: dict[str, list[Any]] = {}

    def track(progress: Progress) -> None:
        watch(progress)
        if not progress.epoch_ended:
            return
        if progress.label not in opened:
            for tracker in (tracker for trackers in opened.values() for tracker in trackers):
                tracker.finish()
            opened.clear()
            opened[progress.label] = [_start(name, folder, project, progress.label) for name in names]
        values = {f"train/{name}": value for name, value in progress.losses.items()}
        values |= {f"validation/{name}": value for name, value in progress.metrics.items()}
        for tracker in opened[progress.label]:
            tracker.log(values, step=progress.step)

    try:
        yield track
    finally:
        for tracker in (tracker for trackers in opened.values() for tracker in trackers):
            tracker.finish()


def _start(name: str, folder: Path, project: str, label: str) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()
    plain = label.replace(" ", "-").replace("(", "").replace(")", "")
    if name == "tensorboard":
        tracker = TensorBoardTracker(plain, logging_dir=folder / "tensorboard")
    else:
        tracker = WandBTracker(project, name=f"{folder.name}-{plain}", dir=str(folder), reinit="finish_previous")
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker
