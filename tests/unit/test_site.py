"""The site of the documentation: every page is in its navigation, and every public name on a page."""

import re
from pathlib import Path

import yaml

import limbeck as lb

ROOT = Path(__file__).parents[2]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav):
    """Return the pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in pages(each)]


def test_every_page_is_in_the_navigation_once():
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = pages(SITE["nav"])
    assert sorted(listed) == sorted(there)


def test_every_room_with_public_names_has_a_page():
    rooms = {name for name in lb.__all__ if getattr(lb, name).__class__.__name__ == "module"}
    named = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")}
    assert set(named) == rooms | {"index"}
    wanted = {name: "::: limbeck" if name == "index" else f"::: limbeck.{name}" for name in named}
    assert {name for name, text in named.items() if wanted[name] not in text.splitlines()} == set()


def test_no_page_asks_another_server():
    assert SITE["theme"]["font"] is False
    assert "repo_url" not in SITE  # with it the theme asks for the number of stars
    files = [*(ROOT / "docs").glob("site.*"), ROOT / "mkdocs.yml"]
    assert [file.name for file in files if re.search(r"https?://(?!github)", file.read_text(encoding="utf-8"))] == []
