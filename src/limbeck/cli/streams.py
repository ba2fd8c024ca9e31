"""Standard streams that cannot break a command: closed, broken, full, or of an encoding that lacks characters."""

import codecs
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["REPLACED", "copied", "lost", "reserved", "results", "steady"]

_PLAIN = {"±": "+/-", "×": "x", "·": "|", "…": "...", "‖": "||", "–": "-", "—": "-", "−": "-", "“": '"', "”": '"'}
_SECONDS_BEFORE_RETRY = 0.01

REPLACED = "limbeck.plain"
"""The handler of errors by which what an encoding lacks is replaced."""


def _in_plain_words(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks: signs by their likeness in ASCII, anything else by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error(REPLACED, _in_plain_words)


class _Steady(io.RawIOBase):
    """A stream that takes whatever is written; what lies below may refuse it, and the reason is kept.

    missing: why nothing lies below.
    """

    def __init__(self, below: io.RawIOBase | None, missing: OSError | None = None) -> None:
        self._below, self._missing = below, missing
        self.lost: OSError | None = None

    def write(self, content: Any, /) -> int:
        data = memoryview(content).cast("B")
        if self._below is None:
            self.lost = self.lost or self._missing
            return len(data)
        written = 0
        while written < len(data):
            try:
                taken = self._below.write(data[written:])
            except OSError as error:
                self.lost = error
                break
            if taken is None:  # another program made the pipe non-blocking, and its reader is slow
                time.sleep(_SECONDS_BEFORE_RETRY)
            written += taken or 0
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return super().fileno() if self._below is None else self._below.fileno()

    def isatty(self) -> bool:
        return self._below is not None and self._below.isatty()


@contextmanager
def steady() -> Iterator[None]:
    """Let nothing that is written to stdout or stderr in the scope raise; at its end both are as they were.

    Descriptors that are closed are opened on nothing first: the next file to be opened would take their number, and
    what a library writes to stderr would go into it.
    """
    before = sys.stdout, sys.stderr
    missing = [_filled(number) for number in range(3)]
    sys.stdout = _over(before[0], missing[1])
    sys.stderr = _over(before[1], missing[2])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


_aside: list[TextIO] = []


@contextmanager
def reserved() -> Iterator[None]:
    """Keep stdout for `results()` alone: what else is printed in the scope, by a user's module say, goes to stderr."""
    _aside.append(sys.stdout)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = _aside.pop()


def results() -> TextIO:
    """Return the stream for results: stdout, also where it is reserved."""
    return _aside[-1] if _aside else sys.stdout


def lost() -> OSError | None:
    """Return why something that was written to stdout did not get there; None where all of it did."""
    raw = _raw(results())
    if raw is None:
        return None
    results().flush()
    return raw.lost


@contextmanager
def copied() -> Iterator[None]:
    """Write to stdout what stands in a file as well, so that nothing is lost where nobody takes it."""
    before = lost()
    yield
    raw = _raw(results())
    if raw is not None:
        results().flush()
        raw.lost = before


def _raw(stream: TextIO) -> _Steady | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Steady) else None


def _filled(number: int) -> OSError | None:
    """Open a descriptor on nothing if it is closed; return the error of one that was."""
    try:
        os.fstat(number)
    except OSError as error:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        return error
    return None


def _over(stream: TextIO | None, missing: OSError | None) -> TextIO:
    """Return a stream that writes where another does; the other itself if it has no raw stream, as a test's has none.

    missing: why there is no other.
    """
    if stream is None:
        return _text(_Steady(None, missing or OSError("closed")), "utf-8", line_buffering=False)
    buffer = getattr(stream, "buffer", None)
    below = buffer if isinstance(buffer, io.RawIOBase) else getattr(buffer, "raw", None)
    if not isinstance(below, io.RawIOBase):
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return _text(_Steady(below), stream.encoding, line_buffering=getattr(stream, "line_buffering", True))


def _text(raw: _Steady, encoding: str, *, line_buffering: bool) -> TextIO:
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding=encoding, errors=REPLACED, line_buffering=line_buffering)
