"""A lock file: what one process holds, no other does."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.errors import RunError

__all__ = ["exclusive"]


@contextmanager
def exclusive(path: Path, *, wait: bool, busy: str) -> Iterator[None]:
    """Hold a lock file for the scope.  wait: for another process to let go; otherwise RunError with the line `busy`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise RunError(
            f"cannot write in '{path.parent}' ({error.strerror}); name a folder that can be written"
            " (of the cache: set XDG_CACHE_HOME)"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RunError(busy) from None
        yield
