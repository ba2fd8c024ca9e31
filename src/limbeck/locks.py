"""Waiting for other processes: a file that one of them holds, and what is said while another waits for it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck.errors import RunError, plain

__all__ = ["Waiting", "exclusive"]

_LOG = logging.getLogger("limbeck")
_SILENT, _BETWEEN, _RARELY = 1.0, 5.0, 30.0
"""Seconds before the first line about a wait, between two lines, and between two lines of a long wait."""
_SHORTEST, _LONGEST = 0.001, 0.2
"""Seconds between two looks."""


class Waiting:
    """A wait for another process.  The logger "limbeck" reports it after a second, and then every few seconds.

    Without a handler of its own a warning of this logger is printed on stderr.
    A signal ends the wait, since it is spent in `time.sleep`.  reason: what is said; None for a silent wait.
    """

    def __init__(self, reason: str | None) -> None:
        self.reason = reason
        self._began = time.monotonic()
        self._due, self._nap = self._began + _SILENT, _SHORTEST

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._began

    def pause(self) -> None:
        """Sleep for a moment, and tell of the wait where that is due."""
        time.sleep(self._nap)
        self._nap = min(2 * self._nap, _LONGEST)
        if self.reason is not None and time.monotonic() >= self._due:
            seconds = self.seconds
            _LOG.warning("%s; waiting for it (%.0f s so far)", plain(self.reason), seconds)
            self._due = time.monotonic() + min(_RARELY, max(_BETWEEN, seconds / 10))


@contextmanager
def exclusive(path: Path, *, wait: bool, busy: str) -> Iterator[None]:
    """Hold a lock file for the scope.

    wait: for another process that holds it; otherwise RunError.  busy: what is said in either case.
    """
    lock, waiting = FileLock(path), Waiting(busy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _acquired(lock):
            if not wait:
                raise RunError(busy)
            waiting.pause()
    except OSError as error:
        raise RunError(
            f"cannot write in '{path.parent}' ({error.strerror}); name a folder that can be written"
            " (of the cache: set XDG_CACHE_HOME)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
