"""Calling a user's loss on a case, and reading what it returns."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ForeignExitError, InputError, no_exit, one_line
from limbeck.loss_check.calling import Call
from limbeck.loss_check.fitting import Answer, Case

__all__ = ["Raised", "answer", "drawn"]


class Raised(Exception):
    """A loss raised an exception on a case."""


def drawn(
    shape: tuple[int, ...],
    classes: int,
    temperature: float,
    alpha: float | None,
    *,
    seed: int = 0,
    ignored: bool = False,
) -> Case:
    """Return a case with random logits and labels; with labels of -100 in unequal parts if some are to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(*shape, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(classes, shape, generator=generator)
    if ignored:
        for number, row in enumerate(labels.unsqueeze(0) if len(shape) == 1 else labels):  # each keeps another number
            row[len(row) - 2 - number % (len(row) - 2) :] = -100
    return Case(student, teacher, labels, temperature, alpha)


def answer(
    call: Call,
    case: Case,
    *,
    dtype: torch.dtype = torch.float64,
    without_labels: bool = False,
    teacher_gradient: bool = False,
) -> Answer:
    """Call a loss on a case.  Raised if it raises; InputError if what it returns is no loss."""
    student = case.student.to(dtype, copy=True).requires_grad_()
    teacher = case.teacher.to(dtype, copy=True).requires_grad_(teacher_gradient)
    values: dict[str, Any] = {
        "student": student,
        "teacher": teacher,
        "labels": None if without_labels else case.labels.clone(),
        "T": case.temperature,
        "alpha": case.alpha,
        "mask": case.mask if case.mask is not None else torch.ones_like(case.labels, dtype=torch.bool),
    }
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        with _raised(call):
            returned = call(values)
        loss = _loss(returned, call)
        shape = tuple(loss.shape)
        wanted = [student, *([teacher] if teacher_gradient else [])]
        found: tuple[Tensor | None, ...] = (None,) * len(wanted)
        if loss.requires_grad:
            with _raised(call):
                found = torch.autograd.grad(loss.mean(), wanted, allow_unused=True)
    if shape not in ((), (1,), tuple(case.labels.shape), (case.rows,)):
        raise InputError(
            f"{call.name}: found a result of shape {shape}, expected a scalar, or one loss for each example; reduce it"
        )
    gradient, of_teacher = (*found, None)[:2]
    return Answer(
        float(loss.detach().mean()),
        None if gradient is None else gradient.double(),
        None if of_teacher is None else of_teacher.double(),
        shape,
    )


@contextmanager
def _raised(call: Call) -> Iterator[None]:
    try:
        with no_exit(call.name):
            yield
    except ForeignExitError:
        raise
    except Exception as error:
        raise Raised(f"{type(error).__name__}: {one_line(error)}") from error


def _loss(returned: Any, call: Call) -> Tensor:
    """Return the loss among what a function returns: a tensor, the first of several, or the one called "loss"."""
    if isinstance(returned, Mapping):
        returned = returned.get("loss", next(iter(returned.values()), None))
    elif isinstance(returned, tuple | list) and returned:
        returned = returned[0]
    if isinstance(returned, int | float):
        return torch.tensor(float(returned), dtype=torch.float64)
    if not isinstance(returned, Tensor) or not returned.is_floating_point():
        raise InputError(
            f"{call.name}: found a result of type {type(returned).__name__}, expected a tensor; return the loss"
        )
    return returned
