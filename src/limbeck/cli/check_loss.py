"""limbeck check-loss: what is wrong with a distillation loss of the user's own, in words."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.checks import shown
from limbeck.cli import app
from limbeck.cli.showing import say, show, show_json, table
from limbeck.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from limbeck.loss_check import LossReport

__all__ = ["check_loss"]

_MISSED = 3


@app.command("check-loss")
def check_loss(
    loss: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:FUNCTION", help="a function, or a module's class")],
    call: Annotated[
        str | None,
        typer.Option(help='how it is called, if the names do not say: "student, teacher, labels, T, alpha"'),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="count warnings as mistakes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Compare a distillation loss of your own with the reference, and say what is wrong with it.

    The module is imported, from the current folder or from where Python finds it, and the loss is called.
    """
    from limbeck.identity import Factory
    from limbeck.loss_check import check_loss as checked

    class Loss(Factory):
        """A function that the command line names, and no recipe."""

        key = "LOSS"

    if not re.fullmatch(r"[\w.]+:[\w.]+", loss):
        raise InputError(f"LOSS: found {shown(loss)}, expected package.module:function")
    with Loss("", loss, Path.cwd(), InputError).imported() as function:
        report = checked(function, call)
    if as_json:
        show_json(report.as_dict())
    else:
        show(_measured(report), *(f"{each.level:8} {each.line}" for each in report.findings))
        if report.right and not report.warnings:
            show("no mistake found")
    say(f"called as {report.called}")
    if not report.right or (strict and report.warnings):
        raise typer.Exit(_MISSED)


def _measured(report: "LossReport") -> "Table":
    rows = [
        [f"{each.temperature:g}", *(f"{value:.4g}" for value in (each.value, each.reference)), f"{each.gradient:.3f}",
         f"{each.cosine:.4f}"]
        for each in report.measured
    ]  # fmt: skip
    columns = ["T", "your loss", "reference", "gradient / reference", "cosine of gradients"]
    return table(f"{report.loss} beside limbeck.losses.kd", columns, rows)
