"""What the commands print: tables and progress lines."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from limbeck.evaluation import Interval
    from limbeck.training.progress import Observer, Progress

__all__ = ["data_console", "duration", "interval", "percent", "say", "table", "watching"]

_SECONDS_BETWEEN_LINES = 5.0


def data_console() -> Console:
    """Return the console for data: stdout; as wide as the terminal, or unbounded where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def say(line: str) -> None:
    """Tell the user something on stderr."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table; the first column is text, the others are numbers."""
    result = Table(title=Text(plain(title)), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        result.add_column(Text(plain(column)), justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        result.add_row(*(Text(plain(cell)) for cell in row))
    return result


def plain(text: str) -> str:
    r"""Return a text as a terminal may show it: what is no character of it, such as an escape, is written out.

    >>> plain("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def interval(value: "Interval", pattern: str = "{:.1f}") -> str:
    """Return a mean with its 95 % interval."""
    mean = pattern.format(value.mean)
    return mean if value.half_width is None else f"{mean} ± {pattern.format(value.half_width)}"


def percent(value: "Interval") -> str:
    """Return a share with its 95 % interval, in percent."""
    mean = f"{100 * value.mean:.1f} %"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:.1f}"


def duration(seconds: float) -> str:
    """Return a time in words, such as 1 h 02 min.

    >>> duration(3.2), duration(75), duration(3720)
    ('3 s', '1 min 15 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def describe(progress: "Progress") -> str:
    """Return a progress line, what is wanted most first: a narrow terminal cuts off its end."""
    pieces = [progress.label, f"epoch {progress.epoch}/{progress.epochs}"]
    if progress.metrics:
        errors = progress.metrics["errors"]
        pieces.append(f"held-out errors {errors:.0f}" if errors == round(errors) else f"held-out error {errors:.4g}")
    if progress.seconds_left is not None:
        pieces.append(f"{duration(progress.seconds_left)} left")
    pieces.append(" ".join(f"{name} {value:.3g}" for name, value in progress.losses.items()))
    if progress.samples_per_second:
        pieces.append(f"{progress.samples_per_second:,.0f} samples/s")
    pieces.append(f"step {progress.step}/{progress.steps}")
    return " · ".join(piece for piece in pieces if piece)


@contextmanager
def watching(*, quiet: bool = False) -> Iterator["Observer"]:
    """Show progress on stderr for the scope: one live line on a terminal, otherwise a plain line every few seconds."""
    if quiet:
        yield lambda progress: None
        return
    console = Console(stderr=True, highlight=False)
    shown: dict[str, Progress] = {}

    def merge(progress: "Progress") -> "Progress":
        before = shown.get("last")
        if progress.epoch_ended and before is not None and before.label == progress.label:
            from dataclasses import replace

            speed, left = before.samples_per_second, before.seconds_left
            return replace(progress, samples_per_second=speed, seconds_left=left)
        return progress

    if console.is_terminal:
        with Live(Text(""), console=console, refresh_per_second=8, transient=True) as live:

            def update(progress: "Progress") -> None:
                progress = merge(progress)
                shown["last"] = progress
                live.update(Text(describe(progress), no_wrap=True, overflow="ellipsis"))

            yield update
        return
    began = time.monotonic()
    spoken = [began]

    def speak(progress: "Progress") -> None:
        progress = merge(progress)
        shown["last"] = progress
        ended = progress.step == progress.steps
        if time.monotonic() - spoken[0] >= _SECONDS_BETWEEN_LINES or (ended and progress.epoch_ended):
            spoken[0] = time.monotonic()
            say(describe(progress))

    yield speak
