"""A training that takes turns with others in one process: it keeps the random numbers that are its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.training import Result
from limbeck.training.loop import Moment, Turns
from limbeck.training.state import Run

__all__ = ["Turn"]


class Turn:
    """A training in turns with a state of the framework's generators of its own, which dropout draws from.

    moment: where it stands.  result: of a training that has come to its end.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._numbers: list[Tensor] | None = None
        self.result: Result | None = None
        self.moment, self.run = self._next_of(turns)

    @property
    def running(self) -> bool:
        """Whether there are steps to come."""
        return self.result is None and self.moment is not Moment.ENDED

    def go_on(self) -> None:
        """Go on to the next moment, or to the result."""
        try:
            self.moment, self.run = self._next_of(self._turns)
        except StopIteration as end:
            self.result = end.value

    def save(self) -> None:
        """Write a checkpoint."""
        with self._own_numbers():
            self.run.save()

    def close(self) -> None:
        """Break off, if there is anything to break off."""
        self._turns.close()

    def _next_of(self, turns: Turns) -> tuple[Moment, Run]:
        with self._own_numbers():
            return next(turns)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        cuda = torch.cuda.is_available()
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []):
            if self._numbers is not None:
                torch.set_rng_state(self._numbers[0])
                if cuda:
                    torch.cuda.set_rng_state_all(self._numbers[1:])
            try:
                yield
            finally:
                self._numbers = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if cuda else ())]
