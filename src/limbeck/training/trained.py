"""Trainings that are kept by what decides them: each is made once, and found by all that want the same.

A training lies in `trainings/<address>` of a cache, as `fit(folder=...)` writes it; the address is a digest of its
identity.  A teacher of a recipe, a unit of a table and a student of a diagnosis that are the same training share it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from limbeck.data import SampleSet
from limbeck.errors import NonFiniteLossError, RunError
from limbeck.evaluation import evaluate
from limbeck.evaluation.figures import figures_of
from limbeck.own import require_own
from limbeck.ranks import first_does, first_says, held_by_first, is_first
from limbeck.training.checkpoints import read_sealed
from limbeck.training.identity import address_of, identity_of_fit, require_same
from limbeck.training.job import Job
from limbeck.training.progress import Observer, Progress, ignore
from limbeck.training.state import Result
from limbeck.training.together import attempt_many
from limbeck.training.weights import RESULT, load_result, save_result

__all__ = ["attempt_or_read", "fit_estimator_or_read", "fit_or_read", "read_if_same"]

Say = Callable[[str], None]


def fit_or_read(job: Job, *, root: Path, watch: Observer = ignore, say: Say = lambda line: None) -> Result:
    """Train as `fit` does and keep the result in a cache, or read it where the same training is there.

    An interrupted training is resumed.  Where another process makes the same training, its end is waited for.
    root: the cache, `limbeck.own.cache_folder()` as a rule; RunError where another user can write in it.
    say: told whether the training is found or made, and where.
    Raises what `fit` raises, CheckpointError where a file is damaged, and RunError where a training ended before an
    epoch of `along`.

    >>> import tempfile, torch
    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
    >>> def train(root):
    ...     torch.manual_seed(0)
    ...     distiller = lb.Distiller(nn.Linear(3, 4), None, lb.methods.hard())
    ...     return fit_or_read(Job(distiller, samples, training=lb.Training(epochs=2)), root=root, say=print)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = [train(Path(folder).resolve()) for _ in range(2)]  # doctest: +ELLIPSIS
    student: training in ...
    student: found in ...
    >>> torch.equal(results[0].student.weight, results[1].student.weight)
    True
    """
    kept = _Kept(job, _folder(root, job.address))
    with _held(root, job.address, job.label) as folder:
        say(f"{job.label}: {'found in' if (folder / RESULT).is_file() else 'training in'} {folder}")
        return kept.with_students(replace(job, folder=folder).fit(kept.watching(watch)))


def attempt_or_read(
    jobs: Sequence[Job], *, root: Path | None, watch: Observer = ignore
) -> list[Result | NonFiniteLossError]:
    """Make several trainings on the same batches in one process, or read those that are there: see `attempt_many`.

    jobs: of one training set, validation set, seed and order, no two of one address or one label.
    root: as for `fit_or_read`; None keeps nothing.
    Returns the error of a training whose loss was not finite, which is not kept.
    """
    first = jobs[0]
    kept = {each.label: _Kept(each, None if root is None else _folder(root, each.address)) for each in jobs}

    def look(progress: Progress) -> None:
        kept[progress.label].look(progress)
        watch(progress)

    with ExitStack() as stack:
        if root is not None:
            for each in sorted(jobs, key=lambda each: each.address):  # no two processes wait for each other
                stack.enter_context(_held(root, each.address, each.label))
        outcomes = attempt_many(
            [each.distiller for each in jobs],
            first.train_set,
            first.validation,
            training=[each.training for each in jobs],
            seed=first.seed,
            order=first.order,
            folders=None if root is None else [_folder(root, each.address) for each in jobs],
            labels=[each.label for each in jobs],
            watch=look,
        )
        return [
            each.with_students(outcome) if isinstance(outcome, Result) else cast("NonFiniteLossError", outcome)
            for each, outcome in zip(kept.values(), outcomes, strict=True)
        ]


def fit_estimator_or_read(
    model: nn.Module,
    make: Callable[[SampleSet, int], object],
    samples: SampleSet,
    held_out: SampleSet | None = None,
    *,
    seed: int,
    root: Path,
    code: Mapping[str, Any] | None = None,
    label: str = "estimator",
    say: Say = lambda line: None,
) -> None:
    """Fit an estimator of scikit-learn to samples and keep it in a cache, or read it where the same is there.

    model: the estimator as a module, not fitted yet.  make: (samples, seed), fits it.  The others as for `fit_or_read`.
    held_out: samples that it is measured on as well; the figures are kept beside it.
    """
    identity = identity_of_fit(model, samples, held_out, seed)
    address = first_says(address_of(identity, code=code))

    def made() -> str:
        known = (folder / RESULT).is_file()
        if not known:
            make(samples, seed)
            sets = {"train": samples, "held_out": held_out}
            figures = {name: evaluate(model, part).as_dict() for name, part in sets.items() if part is not None}
            save_result(model, folder, {"identity": identity, "figures": figures})
        figures = _read(model, folder, identity)["figures"]
        part = "train" if held_out is None else "held_out"
        found = f"{figures_of(samples.task).accuracy} {figures[part]['accuracy']:.4f}"
        how = "found in" if known else "fitted by scikit-learn in"
        return f"{label}: {how} {folder}, {found} on its {part.replace('_', '-')} part"

    with _held(root, address, label) as folder:
        line = first_does(made)
        if not is_first():
            _read(model, folder, identity)
    say(line)


def read_if_same(job: Job, folder: Path) -> bool:
    """Fill the student from a folder of `fit` that ended with the very training, if it did.

    A validation set that the training was measured on, but nothing was chosen by, may be another.
    """
    if not (folder / RESULT).is_file():
        return False
    ended, identity = read_sealed(folder / RESULT), job.identity
    found = ended.get("identity")
    if not isinstance(found, dict):
        return False
    if job.training.keep == "last" and job.training.patience is None:
        found, identity = ({**each, "validation": None} for each in (found, identity))
    if found != identity:
        return False
    load_result(job.distiller.student, folder, ended)
    return True


class _Kept:
    """Keeps the student of a training as it is after some of its epochs.  folder: None for in memory."""

    def __init__(self, job: Job, folder: Path | None) -> None:
        self.job, self.folder = job, folder
        self._students: dict[int, nn.Module] = {}

    def look(self, progress: Progress) -> None:
        """Keep the student where this is the end of one of the epochs."""
        if not progress.epoch_ended or progress.epoch not in self.job.along:
            return
        student = self.job.distiller.student
        if self.folder is None:
            self._students[progress.epoch] = copy.deepcopy(student)
        elif is_first():
            save_result(student, self._place(progress.epoch), {"identity": self._identity(progress.epoch)})

    def watching(self, watch: Observer) -> Observer:
        """Return an observer that keeps the student, and looks on as another does."""

        def look(progress: Progress) -> None:
            self.look(progress)
            watch(progress)

        return look if self.job.along else watch

    def with_students(self, result: Result) -> Result:
        """Return a result with the students of the epochs."""
        for epoch in self.job.along if self.folder is not None else ():
            self._students[epoch] = copy.deepcopy(result.student)
            self._read(epoch)
        result.along = {epoch: self._students[epoch] for epoch in self.job.along if epoch in self._students}
        return result

    def _read(self, epoch: int) -> None:
        place = self._place(epoch)
        if not (place / RESULT).is_file():
            raise RunError(
                f"{self.job.label}: it ended before epoch {epoch}, or '{place}' was deleted; name earlier epochs,"
                f" or delete '{self.folder}' to train it again"
            )
        _read(self._students[epoch], place, self._identity(epoch))

    def _place(self, epoch: int) -> Path:
        return (self.folder or Path()) / f"after-epoch-{epoch}"

    def _identity(self, epoch: int) -> dict[str, Any]:
        return {**self.job.identity, "epoch": epoch}


@contextmanager
def _held(root: Path, address: str, label: str) -> Iterator[Path]:
    """Hold a training's folder for the scope, once no other process does; RunError where another user can write."""
    folder = _folder(root, address)
    require_own(folder, root)
    with held_by_first(folder / ".lock", wait=True, busy=f"{label}: another process trains it in '{folder}'"):
        yield folder


def _folder(root: Path, address: str) -> Path:
    return root / "trainings" / address


def _read(model: nn.Module, folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a model from a folder of `save_result`, and return its content; an error where it is of another training."""
    ended = read_sealed(folder / RESULT)
    require_same(ended.get("identity", {}), identity, folder / RESULT)
    load_result(model, folder, ended)
    return ended
