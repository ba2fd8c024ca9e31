"""Processes that read samples ahead: started, never forked, and kept from epoch to epoch."""

import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from limbeck.errors import InputError, LimbeckError, one_line

__all__ = ["Workers"]

_Fetched = TypeVar("_Fetched")
_METHOD = "spawn"
"""A fork copies the locks of threads that it does not copy, of a library's thread pool, say, and cannot use CUDA."""


class Workers(Generic[_Fetched]):
    """Call a function on positions in worker processes, which compute answers ahead of their use.

    The processes start with the first epoch and end when this object is no longer used.  Each imports the main module,
    so a script calls `fit` under `if __name__ == "__main__":`.  Where CUDA is available, answers lie in pinned memory.

    Args:
        function: of positions and what else `fetch` is given; it can be pickled.
        count: of processes; 0 calls the function here.

    Example:
        >>> list(Workers(lambda positions, factor: factor * sum(positions), 0).fetch([[1, 2], [3]], 10))
        [30, 30]
    """

    def __init__(self, function: Callable[..., _Fetched], count: int) -> None:
        self.function, self.count = function, count
        self._idle: list[_Pool] = []

    def fetch(self, parts: Sequence[Any], *more: Any) -> Generator[_Fetched]:
        """Yield what the function gives for each part and `more`, in order.

        Several may be fetched at a time, each by processes of its own.
        Raises what the function raises, and InputError where it cannot be sent to another process, or one ends early.
        """
        if not (self.count and parts):
            for part in parts:
                yield self.function(part, *more)
            return
        pool = self._idle.pop() if self._idle else _Pool(self.function, self.count)
        try:
            for answer in pool.fetch([(part, *more) for part in parts]):
                if isinstance(answer, LimbeckError):
                    raise answer
                yield answer
        finally:
            if not pool.broken:
                self._idle.append(pool)


class _Pool:
    """Processes that serve one epoch at a time.  broken: whether some of them have ended."""

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        self.count, self.broken = count, False
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            _Remote(function),
            sampler=self._order,
            batch_size=None,
            num_workers=count,
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            multiprocessing_context=_METHOD,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it draws from the framework's, and dropout would depend on workers
        )

    def fetch(self, parts: list[tuple[Any, ...]]) -> Iterator[Any]:
        self._order.parts = parts
        try:
            yield from self._begun()
        except RuntimeError as error:
            self.broken = True
            if "exited unexpectedly" not in str(error):
                raise
            raise InputError(
                f"workers: found {self.count}, but a worker process ended before it answered ({one_line(error)}); call"
                " fit under if __name__ == '__main__': and define the dataset in a module, since each worker imports"
                " both, or set workers=0"
            ) from error

    def _begun(self) -> Iterator[Any]:
        """Return the answers of processes that have begun; InputError where the function cannot be sent to them."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise InputError(
                "workers: found a script that trains when it is imported, as each worker process does; call fit under"
                " if __name__ == '__main__':"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's longer word on the same
                return iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.broken = True
            raise InputError(
                f"workers: found {self.count}, but the set's function or dataset cannot be sent to another process "
                f"({one_line(error)}); define it at the top level of a module, or set workers=0"
            ) from error


class _Order:
    """What the processes are asked for in the epoch that begins next."""

    def __init__(self) -> None:
        self.parts: list[tuple[Any, ...]] = []

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


class _Remote(Dataset[Any]):
    """A function as worker processes see it; errors travel back as values: torch makes tracebacks of raised ones."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __getitem__(self, asked: tuple[Any, ...]) -> Any:
        try:
            return self.function(*asked)
        except LimbeckError as error:
            return error


def _begin(_number: int) -> None:
    """Leave an interruption from the keyboard to the process that trains: it still finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(value: Any) -> Any:
    return value
