"""What limbeck says when something is wrong: one line that names what, where, what is allowed and the mend.

Every error that a user can cause derives from `LimbeckError`; the command line prints its one line and ends with its
`exit_code`.  Anything else that escapes is a defect of limbeck.
"""

import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import PurePath

__all__ = [
    "CheckpointError",
    "DataError",
    "DataWarning",
    "ExportError",
    "ForeignExitError",
    "InputError",
    "Interrupted",
    "LimbeckError",
    "MemoryLimitError",
    "ModelError",
    "ModelWarning",
    "NonFiniteAnswerError",
    "NonFiniteLossError",
    "RecipeError",
    "RunError",
    "UnwrittenError",
    "command",
    "lacks_memory",
    "nearest",
    "no_exit",
    "one_line",
    "one_of",
    "plain",
    "silenced",
    "warn",
]


_LONGEST = 1000
"""Of a line; what is longer is cut in the middle, for the place stands first and the mend last."""

_MOST_COMPARED, _LONGEST_COMPARED = 2000, 100
"""Names that are compared with a misspelt one, and their letters: the time to compare two grows with their product."""


class LimbeckError(Exception):
    """Base of all errors that a user can cause; the message is one line.

    Example:
        >>> from limbeck.errors import InputError
        >>> issubclass(InputError, LimbeckError)
        True
    """

    exit_code = 2

    def __str__(self) -> str:
        line = plain(" ".join(part.strip() for part in super().__str__().splitlines()))
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} ... {line[-295:]}"


class InputError(LimbeckError, ValueError):
    """A value handed to a function lies outside what the function allows."""


class RecipeError(LimbeckError):
    """A recipe that cannot be run as written."""


class DataError(LimbeckError):
    """Data that is missing, damaged, or not what was declared."""


class DataWarning(UserWarning):
    """What was left out, or looks damaged, when data was read; `Splits.notes` holds the same lines."""


class ModelError(LimbeckError):
    """A model that cannot be built, called, or fitted to its data or its teacher."""


class ModelWarning(UserWarning):
    """What a model answers can be used, and is hardly what was meant."""


class CheckpointError(LimbeckError):
    """A checkpoint that is missing, damaged, or belongs to something else."""


class RunError(LimbeckError):
    """A run folder that cannot be written, resumed or found."""


_REPEAT = "free space or name another folder, then run the same command again"


class UnwrittenError(RunError):
    """A run folder that could not be written; what was saved before is good.

    found: what happened.  mend: what to do; a caller that knows the command replaces it.
    """

    def __init__(self, found: str, mend: str = _REPEAT) -> None:
        super().__init__(f"{found}; {mend}")
        self.found = found


class NonFiniteLossError(LimbeckError):
    """Training stopped because a term of the loss became NaN or infinite."""

    exit_code = 1


class MemoryLimitError(LimbeckError, MemoryError):
    """Memory that the machine does not give."""

    exit_code = 1


class ForeignExitError(LimbeckError):
    """Code that is not limbeck's, such as a factory's module, wanted to end the program in the middle of its work."""

    exit_code = 1


class ExportError(LimbeckError):
    """An exported model cannot be read back, or answers otherwise than the model that was exported."""

    exit_code = 1


class NonFiniteAnswerError(ModelError, NonFiniteLossError):
    """A model answers NaN or +inf before any training, so that each loss would be so."""

    exit_code = 2


class Interrupted(LimbeckError):
    """A signal stopped the run after its state was saved; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(error: Exception) -> str:
    r"""Return an exception's reason on one line; of what pydantic refused, the place of the first.

    >>> one_line(ValueError("no such\n thing"))
    'no such thing'
    """
    if hasattr(error, "errors") and (first := next(iter(error.errors()), None)):
        return f"{'.'.join(map(str, first['loc'][:3])) or 'all of it'}: {first['msg']}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def plain(text: str) -> str:
    r"""Return a text as a terminal may show it: escapes, controls and direction marks are written out.

    >>> plain("a\x1b[31m \u202eb")
    'a\\x1b[31m \\u202eb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command(*words: object) -> str:
    r"""Return a command that can be pasted into a shell: quoted where that is needed, and `plain`.

    >>> command("limbeck", "report", "my runs/x")
    "limbeck report 'my runs/x'"
    >>> command("limbeck", "report", "x\x1b'")
    "limbeck report $'x\\033\\''"
    """
    return " ".join(_quoted(word) for word in words)


def _quoted(given: object) -> str:
    word = str(given)
    if isinstance(given, PurePath) and word.startswith("-"):
        word = f"./{word}"  # else it would be read as an option
    if word.isprintable():
        return shlex.quote(word)
    letters = []
    for letter in word:
        if letter in "'\\":
            letters.append(f"\\{letter}")
        elif letter.isprintable():
            letters.append(letter)
        else:  # three octal digits, for a hexadecimal number would swallow the digit that follows it
            letters += [f"\\{byte:03o}" for byte in os.fsencode(letter)]
    return f"$'{''.join(letters)}'"


_LACKING = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed", "bad allocation")
"""What allocators say that found no memory: of the C library, C++, torch on CPUs, CUDA and MPS, and cuBLAS."""


@contextmanager
def no_exit(whose: str = "") -> Iterator[None]:
    """Run code that is not limbeck's; ForeignExitError where it wants to end the program, by whatever is no Exception.

    An interruption by the user is let through.

    >>> with no_exit("teacher.factory: 'net:build'"):
    ...     raise SystemExit(0)
    Traceback (most recent call last):
    limbeck.errors.ForeignExitError: teacher.factory: 'net:build' tried to end the program (SystemExit: 0) in '...
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]  # quit() is a frozen one
        raise ForeignExitError(
            f"{whose or 'a module'} tried to end the program ({type(error).__name__}: {error}) in '{last.filename}',"
            f" line {last.lineno}; raise an error instead, or return"
        ) from error


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had, in the words of whichever allocator refused it.

    >>> lacks_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    if isinstance(error, MemoryError):
        return not isinstance(error, MemoryLimitError)
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in _LACKING)


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name closest to `name`, or None when nothing is close.

    >>> nearest("temprature", ["temperature", "alpha"])
    'temperature'
    """
    names = [text for text in islice(map(str, valid), _MOST_COMPARED) if len(text) <= _LONGEST_COMPARED]
    matches = get_close_matches(str(name)[: 2 * _LONGEST_COMPARED], names, n=1, cutoff=0.6)
    return matches[0] if matches else None


_LISTED = 24  # names in an error line


def one_of(name: str, valid: Iterable[str]) -> str:
    """Return the tail of an error line: the nearest valid name, or the valid names, the first of them if they are many.

    >>> one_of("temprature", ["alpha", "temperature"])
    "did you mean 'temperature'?"
    >>> one_of("x", ["beta", "alpha"]), one_of("x", [])
    ('one of: alpha, beta', 'it takes none')
    >>> one_of("x", [f"name{number}" for number in range(100, 200)]).endswith(", name123 and 76 more")
    True
    """
    valid = list(valid)
    close = nearest(name, valid)
    if not valid:
        return "it takes none"
    if close:
        return f"did you mean '{close}'?"
    listed = sorted(valid)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"one of: {', '.join(listed[:_LISTED])}{more}"


@contextmanager
def silenced() -> Iterator[None]:
    """Keep back what libraries log and warn of inside the scope, such as an optional part that cannot be imported."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's own that called into limbeck, however deep it was noticed."""
    depth, frame = 2, sys._getframe(1)  # noqa: SLF001 - it has no public name
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("limbeck", "torch"):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth)
