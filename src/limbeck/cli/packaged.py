"""limbeck recipes: list, show and copy the packaged recipes and the rows of papers' tables."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import recipes, showing
from limbeck.cli.showing import say, show_json
from limbeck.errors import RecipeError, command, one_of

__all__ = ["copy", "file_of", "ls", "show"]

_Row = Annotated[str | None, typer.Option("--row", help="a row of a paper's table")]
_Budget = Annotated[str, typer.Option(help="of a paper's table: reduced, or full, the paper's")]


@recipes.callback()
def listed(context: typer.Context) -> None:
    """List the packaged recipes where no command says otherwise."""
    if context.invoked_subcommand is None:
        ls()


@recipes.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """List the packaged recipes, and the papers' tables with their rows' number, with one line each."""
    from limbeck.papers import load_table, tables
    from limbeck.recipes import find, names

    found = [{"name": name, "summary": find(name).summary} for name in names()]
    papers = [load_table(name) for name in tables()]
    if as_json:
        rows = [
            {"name": each.name, "summary": each.summary, "rows": [row.name for row in each.rows]} for each in papers
        ]
        show_json([*found, *rows])
        return
    lines = [*((each["name"], each["summary"]) for each in found)]
    lines += [(each.name, f"{each.summary}; a table of {len(each.rows)} rows") for each in papers]
    width = max(len(name) for name, _ in lines)
    for name, summary in lines:
        showing.show(f"{name:<{width}}  {summary}")


@recipes.command("show")
def show(
    name: Annotated[str, typer.Argument(help="a packaged recipe, or a paper's table")],
    row: _Row = None,
    budget: _Budget = "reduced",
) -> None:
    """Print a recipe and its card; for a paper's table its rows and its card, or with --row the recipe of one row."""
    from limbeck.papers import load_table, tables
    from limbeck.recipes import find

    if row is not None:
        print(_text(name, row, budget), end="")
    elif name not in tables():
        print(_text(name, None, budget))
        print(find(name).card)
    else:
        table = load_table(name)
        width = max(len(each.name) for each in table.rows)
        for each in table.rows:
            showing.show(f"{each.name:<{width}}  {each.title}")
        print()
        print((table.folder / "card.md").read_text(encoding="utf-8"))


@recipes.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="a packaged recipe, or a paper's table, of which --row names a row")],
    target: Annotated[Path, typer.Argument(help="a file, or a folder")] = Path(),
    row: _Row = None,
    budget: _Budget = "reduced",
) -> None:
    """Copy a recipe to a file (or into a folder) to edit it; an existing file is never overwritten."""
    from limbeck.errors import RunError
    from limbeck.records import write_aside

    text = _text(name, row, budget)
    place = target / f"{name if row is None else f'{name}-{row}'}.yaml" if target.is_dir() else target
    if place.exists():
        raise RunError(f"recipes cp: '{place}' exists already; name another file or delete it")
    write_aside(place, text, what="recipes cp")
    say(f"copied to {place} · next: edit it, then {command('limbeck', 'check', place)}")


def file_of(name: str) -> Path:
    """Return the file of a packaged recipe; RecipeError if there is none of that name, or it names a table."""
    from limbeck.papers import tables
    from limbeck.recipes import find, names

    if name in tables():
        copied = command("limbeck", "recipes", "cp", name, "--row", "ROW", "FILE")
        raise RecipeError(f"recipe: '{name}' is a paper's table and its rows are recipes; copy one of them: {copied}")
    if name not in names():
        raise RecipeError(f"recipe: there is no packaged recipe '{name}'; {one_of(name, [*names(), *tables()])}")
    return find(name).recipe


def _text(name: str, row: str | None, budget: str) -> str:
    """Return a packaged recipe, or that of a row of a table."""
    from limbeck.cli.reproduce import check_budget
    from limbeck.config.reading import written
    from limbeck.papers import load_table, tables
    from limbeck.recipes import names

    if row is None or name not in tables():
        if row is not None and name in names():
            raise RecipeError(f"--row: found '{row}', but '{name}' is not a table; leave out --row")
        return file_of(name).read_text(encoding="utf-8")
    check_budget(budget)
    table = load_table(name)
    return written(table.keys(table.row(row), budget))
