"""The command line: one file a verb.  Data goes to stdout, everything else to stderr."""

import signal
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from limbeck import __version__
from limbeck.cli.ending import as_errors
from limbeck.cli.streams import lost, steady
from limbeck.errors import Interrupted, LimbeckError, plain

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """Commands whose interruption is told apart from a failure, whatever the version of typer makes of it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with as_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", signal.SIGINT) from None


app = typer.Typer(
    name="limbeck",
    cls=_Group,
    help="Distil large networks into small ones: exactly, measured, from one command.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes = typer.Typer(
    invoke_without_command=True,
    help="The packaged recipes: list (as without a command), show, copy to edit.",
    rich_markup_mode=None,
)
app.add_typer(recipes, name="recipes")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _all_verbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    pass


for _verb in (
    "demo",
    "packaged",
    "check",
    "distill",
    "codistill",
    "evaluate",
    "diagnose",
    "compare",
    "report",
    "reproduce",
    "env",
    "tune",
):
    import_module(f"limbeck.cli.{_verb}")


def main() -> None:
    """Run the command line; a user's mistake ends with one line and its exit code, never with a traceback."""
    with steady():
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
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except LimbeckError as error:
        print(f"limbeck: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("limbeck: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # the machine's refusal, wherever it came from, is no defect
        where = f" '{plain(str(error.filename))}'" if error.filename else ""
        reason = plain(str(error.strerror or error))
        print(f"limbeck: the system refused{where} ({reason}); mend that and repeat", file=sys.stderr)
        return 2
    return 0
