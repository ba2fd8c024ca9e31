"""A training that takes turns with others in one process: it keeps the random numbers that are its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.training.loop import Moment, Turns
from limbeck.training.state import Result

__all__ = ["Turn"]


class Turn:
    """A training in turns with a state of the framework's generators of its own, which dropout draws from.

    moment: where it stands.  run: its state.  result: of a training that has come to its end.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._numbers: list[Tensor] | None = None
        self.result: Result | None = None
        with self._own_numbers():
            self.moment, self.run = next(turns)

    @property
    def running(self) -> bool:
        """Whether there are steps to come."""
        return self.result is None and self.moment is not Moment.ENDED

    def go_on(self) -> None:
        """Go on to the next moment, or to the result."""
        with self._own_numbers():
            self._go_on()

    def step(self) -> None:
        """Go on until another step is made, or to the result where there is none to make."""
        with self._own_numbers():
            self._go_on()
            while self.result is None and self.moment is not Moment.UPDATED:
                self._go_on()

    def save(self) -> None:
        """Write a checkpoint."""
        with self._own_numbers():
            self.run.save()

    def close(self) -> None:
        """Break off, if there is anything to break off."""
        with self._own_numbers():  # which the training's end sets back to what they were when it began
            self._turns.close()

    def _go_on(self) -> None:
        try:
            self.moment, self.run = next(self._turns)
        except StopIteration as end:
            self.result = end.value

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        before = _numbers()
        if self._numbers is not None:
            _put_back(self._numbers)
        try:
            yield
        finally:
            self._numbers = _numbers()
            _put_back(before)


def _numbers() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def _put_back(numbers: list[Tensor]) -> None:
    torch.set_rng_state(numbers[0])
    if len(numbers) > 1:
        torch.cuda.set_rng_state_all(numbers[1:])
