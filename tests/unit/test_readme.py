"""The README and the pages of docs are right: their Python, recipes, marked commands and links."""

import importlib.util
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from fuzzing import command
from limbeck import data, methods
from limbeck.config.sections import of_kind

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {"docs/stores.md": "tests/cache/test_document.py"}
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]+) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block, the marker in the comment before it, and the line that its text begins on."""

    language: str
    marker: str
    text: str
    line: int


def blocks(text: str = README) -> list[Block]:
    return [
        Block(m["language"], m["marker"] or "", m["text"], text.count("\n", 0, m.start("text")) + 1)
        for m in BLOCK.finditer(text)
    ]


def having(part: str) -> list[str]:
    """Return the pages with some text in them."""
    return [page for page in PAGES if part in (ROOT / page).read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.thorough if page == "docs/export.md" else ())  # which proves parities
        for page in having("```python")
        if page not in ELSEWHERE
    ],
)
def test_python_blocks_run_in_order_as_one_script(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is left out where its marker says `not run: WHY`; one that `needs: LIBRARY` runs where that is there."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in [block for block in blocks(text) if block.language == "python"]:
        if re.match(r"not run: \w", block.marker):
            continue
        library = block.marker.removeprefix("needs: ") if block.marker.startswith("needs: ") else None
        if library is not None and importlib.util.find_spec(library) is None:
            continue
        with warnings.catch_warnings():
            if library is not None:  # what it warns of is its own affair
                warnings.simplefilter("ignore")
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)


def test_what_is_not_run_asks_for_what_no_page_can_make() -> None:
    left = [block.marker for page in PAGES for block in blocks((ROOT / page).read_text(encoding="utf-8"))]
    reasons = {marker.removeprefix("not run: ") for marker in left if marker.startswith("not run: ")}
    assert reasons <= {"a finished run is read", "networks and data of yours"}


@pytest.mark.parametrize("page", having("<!-- run"))
def test_marked_commands_run_on_the_files_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.marker.startswith("file: "):
            (tmp_path / block.marker.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif (ends := re.fullmatch(r"run(?:: (\d+))?", block.marker)) is not None:  # and the exit code, if it is not 0
            for line in block.text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "limbeck", f"{page}:{block.line}: this test runs limbeck alone"
                code, out, err = command(*arguments)
                assert code == int(ends[1] or 0), f"{page}:{block.line}\n{out}{err}"
                commands += 1
    assert commands


def test_recipe_is_short_and_plain_yaml() -> None:
    (recipe,) = [block for block in blocks() if block.language == "yaml"]
    text = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")
    of_texts = [block for block in blocks(text) if block.language == "yaml"][-1]
    assert len(recipe.text.splitlines()) <= 20
    assert yaml.safe_load(recipe.text)["method"]["name"] == "kd"
    keys = yaml.safe_load(of_texts.text)
    kind, _ = of_kind(keys["data"], data.kinds(), "data")
    assert kind == "sentences"
    assert keys["method"]["name"] in methods.names()


@pytest.mark.parametrize("name", ["demo", "test"])
def test_continuous_integration_finds_its_commands(name: str) -> None:
    (block,) = [block for block in blocks() if block.marker == f"ci:{name}"]
    assert block.text.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert len(block.text.splitlines()) == 1


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    place = ROOT / page
    found = re.findall(r"\]\(([^)]+)\)", place.read_text(encoding="utf-8"))
    links = [link for link in found if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (place.parent / link.split("#")[0]).is_file()] == []


def test_verbs_in_the_table_exist() -> None:
    named = set(re.findall(r"^\| `limbeck (\w+)", README, flags=re.MULTILINE))
    assert named
    code, out, err = command("--help")
    assert code == 0, err
    assert {verb for verb in named if not re.search(rf"\b{verb}\b", out)} == set()
