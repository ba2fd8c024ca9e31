"""How a command's work ends: what limbeck does not raise itself, as errors; and the end, in the run's log."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from limbeck.errors import (
    Interrupted,
    LimbeckError,
    MemoryLimitError,
    UnwrittenError,
    lacks_memory,
    no_exit,
    one_line,
)

if TYPE_CHECKING:
    from limbeck.runs import RunFolder

__all__ = ["as_errors", "recorded"]


@contextmanager
def as_errors() -> Iterator[None]:
    """Turn memory that is not there, and an end of the program that other code asks for, into errors of one line."""
    try:
        with no_exit():
            yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise MemoryLimitError(
            f"memory: found too little ({one_line(error)}); lower training.batch_size, or use a smaller model"
            " or a part of the data"
        ) from error


@contextmanager
def recorded(folder: "RunFolder", *, log: bool = True) -> Iterator[None]:
    """Write the reason of a command's failure into the run's log; of one that a signal stopped, tell how to go on.

    log: False in a process that does not write in the folder.
    """

    def note(line: str) -> None:
        with suppress(LimbeckError):  # the disk may be full, the folder gone: the first reason is the one to tell
            if log:
                folder.log(line)

    from limbeck.ranks import Lost

    try:
        with as_errors():
            yield
    except Lost as error:
        note(f"stopped: {error}")
        raise Lost(f"{error}; go on: {folder.again}", error.exit_code) from None
    except (Interrupted, KeyboardInterrupt) as error:
        note(f"stopped: {str(error) or 'interrupted'}")
        number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(f"{str(error) or 'interrupted'}; go on: {folder.again}", number) from None
    except UnwrittenError as error:
        note(f"stopped: {error.found}")
        raise UnwrittenError(error.found, f"fix that and resume with: {folder.again}") from None
    except LimbeckError as error:
        note(f"stopped: {error}")
        raise
    except Exception:
        note(f"stopped:\n{traceback.format_exc()}")
        raise
