"""Stages: trainings that follow one another on the same student, each a resumable unit of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.arguments import checked, checked_fields
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, one_of
from limbeck.networks import restore_modes, start_training
from limbeck.objective import Objective
from limbeck.teacher import Teacher
from limbeck.training.loop import fit
from limbeck.training.progress import Observer, ignore
from limbeck.training.settings import Training
from limbeck.training.state import Result

__all__ = ["Stage", "check_part", "fit_stages", "training_part"]


@checked_fields
@dataclass(frozen=True)
class Stage:
    """One stage of a training: its objective, its settings, and the part of the student that it trains.

    Attributes:
        name: of the stage and its folder.
        objective: what is minimised.
        training: the settings.
        trainable: paths of the student's modules that are trained, with all below them; None for the whole student.
            The rest stays bit for bit unchanged: it runs in eval mode, so that its statistics are not updated.
        before: a function of the student that gives the network which this stage and those after it train; None for the
            student as it is.  A transform of `limbeck.compress` is such a function.  It must give the same network each
            time, so that an interrupted stage can be resumed.

    Raises:
        InputError: if a field has the wrong type.

    Example:
        >>> import limbeck as lb
        >>> Stage("body", lb.methods.hard(), trainable=["0"]).name
        'body'
    """

    name: str
    objective: Objective
    training: Training = field(default_factory=Training)
    trainable: Sequence[str] | None = None
    before: Callable[[nn.Module], nn.Module] | None = None


@checked
def fit_stages(
    student: nn.Module,
    teacher: Teacher | nn.Module | None,
    stages: Sequence[Stage],
    train_set: Any,
    validation: Any = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    watch: Observer = ignore,
) -> list[Result]:
    """Train a student in stages.

    Args:
        student: the network that learns.
        teacher: as for `fit`; None if no stage reads one.
        stages: in order.
        train_set: in any form that `fit` accepts.
        validation: measured after each epoch; in the same forms.
        seed: of all stages.
        folder: each stage has a folder of its own in it; finished stages are loaded and not run again.
        watch: called with `Progress` every few steps and at the end of each epoch.

    Returns:
        The result of each stage, with the student as the stage left it.  Where a stage begins with a transform, that
        is another network than before.

    Raises:
        InputError: if there is no stage, or a name is repeated.
        ModelError: if a path names no module of the student.

    Example:
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
        >>> student = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> short = lb.Training(epochs=1)
        >>> stages = [Stage("body", lb.methods.hard(), short, trainable=["0"]), Stage("all", lb.methods.hard(), short)]
        >>> [result.steps for result in fit_stages(student, None, stages, samples)]
        [1, 1]
    """
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) != len(names):
        raise InputError(f"stages: found the names {names}, expected at least one stage and each name once")
    results = []
    for number, stage in enumerate(stages):
        student = student if stage.before is None else _transformed(stage, student)
        with training_part(student, stage.trainable, where=f"stage '{stage.name}'"):
            results.append(
                fit(
                    Distiller(student, teacher, stage.objective),
                    train_set,
                    validation,
                    training=stage.training,
                    seed=seed + number,
                    folder=None if folder is None else Path(folder) / f"{number + 1}-{stage.name}",
                    watch=watch,
                    label=stage.name,
                )
            )
    return results


def _transformed(stage: Stage, student: nn.Module) -> nn.Module:
    """Return what a stage makes of the student before it trains."""
    found = None if stage.before is None else stage.before(student)
    if not isinstance(found, nn.Module):
        raise InputError(f"before: stage '{stage.name}' gave {type(found).__name__}, expected a torch.nn.Module")
    return found


@contextmanager
def training_part(student: nn.Module, trainable: Sequence[str] | None, *, where: str) -> Iterator[None]:
    """Let a part of a student learn inside the scope, and leave the rest bit for bit as it is.

    The rest has no gradient and is in eval mode, in which `fit` leaves it, so that its statistics are not updated.

    trainable: paths of modules, with all below them, or of parameters that the student itself has; None for all of it.
    where: how an error begins.
    Raises ModelError if a path names no module.
    """
    wanted = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    check_part(student, trainable, where=where)
    every = student.named_parameters(remove_duplicate=False)  # a tied weight learns where either of its owners does
    learning = {id(parameter) for name, parameter in every if _inside(name, trainable)}
    try:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(id(parameter) in learning and wanted[name])
        with _resting(student, trainable):
            yield
    finally:
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(wanted[name])


def check_part(student: nn.Module, trainable: Sequence[str] | None, *, where: str) -> None:
    """Require paths of a student's modules, or of its own parameters; ModelError for the first that names none."""
    paths = [path for path, _ in student.named_modules(remove_duplicate=False) if path]
    paths += [path for path, _ in student.named_parameters(recurse=False)]
    for path in trainable or ():
        if path not in paths:
            raise ModelError(f"{where}: the student has no module '{path}'; {one_of(path, paths)}")


@contextmanager
def _resting(student: nn.Module, trainable: Sequence[str] | None) -> Iterator[None]:
    """Put the modules that do not learn into eval mode, in which `fit` leaves them."""
    modules = dict(student.named_modules(remove_duplicate=False))
    busy = {
        id(module)
        for path, module in modules.items()
        if _inside(path, trainable) or any(_inside(learning, [path]) for learning in trainable or ())
    }
    with restore_modes(student):
        start_training(student)
        for module in list(student.modules()):
            if id(module) not in busy and module.state_dict():  # dropout between parts that learn goes on
                for resting in module.modules():
                    resting.training = False
        yield


def _inside(path: str, outer: Sequence[str] | None) -> bool:
    return outer is None or any(not above or path == above or path.startswith(f"{above}.") for above in outer)
