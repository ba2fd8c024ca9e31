"""The command line: one file a verb.  Data goes to stdout, everything else to stderr."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from limbeck import __version__
from limbeck.cli.ending import as_errors
from limbeck.cli.streams import lost, reserved, steady
from limbeck.errors import DataWarning, InputError, Interrupted, LimbeckError, ModelWarning, RunError, plain

__all__ = ["app", "main"]

_TOGETHER = ("cache", "distill", "codistill")  # verbs that several processes carry out together
_ANYWHERE = ("env", "explain", "init", "recipes")  # verbs that train nothing, and need not know of other processes


_SECTIONS = {
    "Start": ("demo", "init", "recipes", "explain", "check", "layers"),
    "Run": ("distill", "tune", "diagnose", "compress", "codistill"),
    "Look": ("report", "compare", "evaluate"),
    "Ship": ("predict", "export"),
}
"""Verbs under their headings in `limbeck --help`; the others are under "More"."""


class _Group(TyperGroup):
    """Commands whose interruption is told apart from a failure, whatever the version of typer makes of it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs under their headings, each with the first sentence of its help."""
        named = [verb for verbs in _SECTIONS.values() for verb in verbs]
        more = tuple(verb for verb in self.list_commands(ctx) if verb not in named)
        for heading, verbs in {**_SECTIONS, "More": more}.items():
            rows = []
            for verb in verbs:
                command = self.get_command(ctx, verb)
                if command is not None and not command.hidden:
                    rows.append(
                        (verb, " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip("."))
                    )
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            with as_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", signal.SIGINT) from None


app = typer.Typer(
    name="limbeck",
    cls=_Group,
    help="Distill large networks into small ones: exactly, measured, from one command.  New here?  Run: limbeck demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes = typer.Typer(
    invoke_without_command=True,
    help="List (the default), show or copy the packaged recipes.",
    rich_markup_mode=None,
)
app.add_typer(recipes, name="recipes")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _all_verbs(
    context: typer.Context,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    _meet(context.invoked_subcommand)


def _meet(verb: str | None) -> None:
    """Meet the other processes of a launch, or refuse a launch that is broken or of a verb for one process."""
    if verb in _ANYWHERE or {"RANK", "WORLD_SIZE", "LOCAL_RANK"}.isdisjoint(os.environ):
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns of what limbeck does on purpose
    from limbeck.ranks import heed_launcher, join, launched

    if (launch := launched()) is not None and verb not in _TOGETHER:
        raise InputError(
            f"{verb}: found WORLD_SIZE={launch.world}, expected one process; start it without torchrun, or unset RANK, "
            "WORLD_SIZE and LOCAL_RANK"
        )
    join()
    heed_launcher()


for _verb in (
    "demo",
    "packaged",
    "explain",
    "init",
    "predict",
    "cache",
    "check",
    "check_loss",
    "layers",
    "distill",
    "codistill",
    "compress",
    "evaluate",
    "diagnose",
    "compare",
    "export",
    "report",
    "reproduce",
    "env",
    "tune",
):
    import_module(f"limbeck.cli.{_verb}")


def _said(error: LimbeckError) -> int:
    """Say why the command ends, and return its exit code; of several processes that train together one says it."""

    def say(line: str) -> None:
        print(f"limbeck: {line}", file=sys.stderr)

    ranks = sys.modules.get("limbeck.ranks")  # with torch, which this verb may not have come to
    if ranks is None:
        say(str(error))
        return error.exit_code
    code: int = ranks.end_together(error, say)
    return code


def _leave() -> None:
    ranks = sys.modules.get("limbeck.ranks")
    if ranks is not None:
        ranks.leave()


def _noted(
    said: set[str], others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any
) -> None:
    """Show a warning: one of limbeck's once, as a line without the place in the code, and `others` as Python does."""
    from limbeck.cli.showing import say

    if issubclass(category, (DataWarning, ModelWarning)):
        if str(message) not in said:
            said.add(str(message))
            say(f"note: {message}")
    else:
        others(message, category, *where)


def main() -> None:
    """Run the command line; a user's mistake ends with one line and its exit code, never with a traceback."""
    with warnings.catch_warnings(), steady():
        warnings.showwarning = partial(_noted, set(), warnings.showwarning)
        with reserved() if "--json" in sys.argv else nullcontext():
            code = _ended()
        reason = None if code else lost()
        if reason is not None:
            code = 1
            if not isinstance(reason, BrokenPipeError):  # a reader that has left, such as head, has what it wanted
                said = f"stdout: the result was not written ({reason.strerror or reason})"
                print(f"limbeck: {said}; open stdout or name a file that can be written", file=sys.stderr)
    sys.exit(code)


def _ended() -> int:
    """Run the command line and return its exit code."""
    try:
        app(prog_name="limbeck")
    except SystemExit as end:
        _leave()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except LimbeckError as error:
        return _said(error)
    except KeyboardInterrupt:
        return _said(Interrupted("interrupted", signal.SIGINT))
    except OSError as error:  # the machine's refusal, wherever it came from, is no defect
        where = f" '{plain(str(error.filename))}'" if error.filename else ""
        reason = plain(str(error.strerror or error))
        return _said(RunError(f"the system refused{where} ({reason}); fix that and run the command again"))
    return 0
