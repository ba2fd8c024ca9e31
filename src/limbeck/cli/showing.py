"""What the commands print: tables and progress lines."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limbeck.cli.course import Overall, duration
from limbeck.cli.streams import REPLACED, results
from limbeck.errors import plain

if TYPE_CHECKING:
    from limbeck.evaluation import Interval
    from limbeck.runs import RunFolder
    from limbeck.training.progress import Observer, Progress

__all__ = [
    "Data",
    "Trust",
    "figure",
    "over_seeds",
    "reading",
    "say",
    "show",
    "show_json",
    "show_pairs",
    "table",
    "telling",
    "watching",
]

_SECONDS_BETWEEN_LINES = 5.0
_WIDTH_WITHOUT_A_TERMINAL = 160


Trust = Annotated[bool, typer.Option("--trust", help="import factories from outside of your project")]
Data = Annotated[Path | None, typer.Option("--data", help="the new place of the run's data, if it was moved")]


def reading(trust: bool, data: Path | None) -> list[object]:
    """Return the options by which a further command reads the same run."""
    return [*(["--trust"] if trust else []), *([] if data is None else ["--data", data])]


def show(*items: str | Table) -> None:
    """Print data to stdout, tables and lines; where there is no terminal lines are not broken, and tables are wide."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDTH_WITHOUT_A_TERMINAL, highlight=False)
    for item in items:
        if isinstance(item, str):
            console.print(_text(item), soft_wrap=not terminal)
        else:
            console.print(item)


def show_json(content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print data to stdout as JSON, in ASCII whatever the encoding; what is not finite is null."""
    from limbeck.records import as_json

    print(as_json(content), file=results())


def say(line: str) -> None:
    """Tell the user something on stderr."""
    print(plain(line), file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table; the first column is text, the others are numbers."""
    result = Table(title=_text(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        result.add_column(_text(column), justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        result.add_row(*map(_text, row))
    return result


def show_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with what there is to say of each, in two columns; where there is no terminal each in one line."""
    if sys.stdout.isatty():
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for pair in pairs:
            grid.add_row(*map(_text, pair))
        show(grid)
        return
    width = max((len(name) for name, _ in pairs), default=0)
    show(*(f"{name:<{width}}  {text}" for name, text in pairs))


def _text(text: str) -> Text:
    """Return a text for stdout, without markup, in characters that its encoding has: what replaces one may be wider."""
    lines = "\n".join(plain(line) for line in text.split("\n"))
    encoding = sys.stdout.encoding or "utf-8"
    return Text(lines.encode(encoding, REPLACED).decode(encoding))


def figure(value: "Interval | None", pattern: str = "") -> str:
    """Return a mean with its 95 % interval, of two seeds both values; without a pattern as a share in percent."""
    if value is None:
        return ""
    if pattern:
        return value.written(pattern)
    mean, *width = value.written("{:.1f}", 100).split(" ± ")
    return " ± ".join([f"{mean} %", *width])


def over_seeds(count: int) -> str:
    """Say what stands behind the figures of a table.

    >>> over_seeds(1), over_seeds(2), over_seeds(5)
    ('one seed, so no interval', 'the values of two seeds', 'mean ± 95 % t-interval over 5 seeds')
    """
    if count < 3:
        return "one seed, so no interval" if count == 1 else "the values of two seeds"
    return f"mean ± 95 % t-interval over {count} seeds"


def describe(progress: "Progress") -> str:
    """Return a progress line, what is wanted most first: a narrow terminal cuts off its end."""
    pieces = [progress.label, f"epoch {progress.epoch}/{progress.epochs}"]
    if progress.metrics:
        errors = progress.metrics["errors"]
        shown = f"{errors:.0f}" if errors == round(errors) else f"{errors:.4g}"
        pieces.append(f"held-out {progress.measured} {shown}")
    if progress.seconds_left is not None and progress.step < progress.steps:
        pieces.append(f"{duration(progress.seconds_left)} left")
    pieces.append(" ".join(f"{name} {value:.3g}" for name, value in progress.losses.items()))
    if progress.samples_per_second:
        pieces.append(f"{progress.samples_per_second:,.0f} samples/s")
    pieces.append(f"step {progress.step}/{progress.steps}")
    return " · ".join(piece for piece in pieces if piece)


def telling(folder: "RunFolder", *, quiet: bool) -> Callable[[str], None]:
    """Return what writes a line into the log of a run and, unless it is to be quiet, on stderr."""

    def tell(line: str) -> None:
        folder.log(line)
        if not quiet:
            say(line)

    return tell


@contextmanager
def watching(*, quiet: bool = False, overall: Overall | None = None) -> Iterator["Observer"]:
    """Show progress on stderr for the scope: live lines on a terminal, otherwise a plain line every few seconds.

    overall: what knows how far the command has come in all; on a terminal that is a line of its own.
    """
    if quiet:
        yield lambda progress: None
        return
    console = Console(stderr=True, highlight=False, force_terminal=sys.stderr.isatty())
    terminal = console.is_terminal and not console.is_dumb_terminal
    live = Live(Text(""), console=console, refresh_per_second=8, transient=True) if terminal else None
    spoken = time.monotonic()
    shown: set[str] = set()

    def watch(progress: "Progress") -> None:
        nonlocal spoken
        now = time.monotonic()
        lines = [describe(progress)]
        if overall is not None:
            overall.look(progress, now)
            lines = [line for line in (overall.said(now), *lines) if line]
        ended = progress.step == progress.steps and progress.epoch_ended
        if live is not None:
            texts = (Text(plain(line), no_wrap=True, overflow="ellipsis") for line in lines)
            live.update(Group(*texts), refresh=ended or progress.label not in shown)  # so that short ones are seen
            shown.add(progress.label)
        elif ended or now - spoken >= _SECONDS_BETWEEN_LINES:
            spoken = now
            say(" · ".join(lines))

    with live or nullcontext():
        yield watch
