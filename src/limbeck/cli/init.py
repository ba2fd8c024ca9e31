"""limbeck init: a first recipe for one's own data."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import say, show, show_json
from limbeck.errors import InputError, RunError, command

if TYPE_CHECKING:
    from limbeck.drafts import Looked

__all__ = ["init"]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="the recipe that is written")] = Path("recipe.yaml"),
    place: Annotated[str | None, typer.Option("--data", help="a file or folder, or a name such as digits")] = None,
    label: Annotated[str | None, typer.Option("--label", help="the column or array to predict")] = None,
    teacher: Annotated[
        str | None,
        typer.Option("--from-model", help="KIND:FILE of weights, package.module:function, a folder, or a kind"),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="of the student: half, quarter or tenth")] = None,
    aim: Annotated[str | None, typer.Option("--aim", help="what matters: accuracy, quick or proof")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found and the recipe as JSON")] = False,
) -> None:
    """Look at data and write a first recipe for it; on a terminal, ask for what no option says."""
    from limbeck.config import Recipe
    from limbeck.drafts import AIMS, SIZES, Wishes, draft, look, recipe_text
    from limbeck.drafts.drafting import name_of
    from limbeck.drafts.writing import seen_from
    from limbeck.records import write_aside

    if file.exists():
        raise RunError(f"init: '{file}' exists already; name another file or delete it")
    if not file.parent.is_dir():
        raise RunError(f"init: there is no folder '{file.parent}'; make it, or name another file")
    asking = sys.stdin.isatty() and not as_json
    if place is None:
        if not asking:
            raise InputError("--data: found none; expected a file, a folder or a name such as digits. Add --data PATH")
        place = _ask("1. Where is your data? (a file, a folder of images, or a name such as digits)", "digits")
    looked = look(place, label=label)
    _tell(looked)
    if asking:
        if label is None and len(looked.labels) > 1:
            chosen = _ask("2. Which column is to be predicted?", str(looked.keys["label"]))
            looked = look(place, label=chosen)
        teacher = _ask("3. Which teacher? (enter to train one)", "") if teacher is None else teacher
        size = _ask(f"4. How large may the student be? ({', '.join(SIZES)})", "quarter") if size is None else size
        aim = _ask(f"5. What matters? ({', '.join(AIMS)})", "accuracy") if aim is None else aim
    found = draft(looked, Wishes(teacher or "", size or "quarter", aim or "accuracy"), name_of(file))
    keys = seen_from(found.keys, file)
    Recipe.parse(keys, file.parent)  # a draft that it refuses is not written
    write_aside(file, recipe_text(found, file), what="init")
    if as_json:
        show_json({"file": str(file), "found": list(looked.facts), "recipe": keys})
    else:
        show(str(file))
    say(f"next: {command('limbeck', 'check', file)}, then {command('limbeck', 'distill', file)}")


def _ask(question: str, usual: str) -> str:
    return str(typer.prompt(question, default=usual, err=True, show_default=bool(usual))).strip()


def _tell(looked: "Looked") -> None:
    for fact in looked.facts:
        say(f"found: {fact}")
