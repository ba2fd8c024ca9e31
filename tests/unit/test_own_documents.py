"""The pages on data and teachers of one's own: their recipes are valid."""

import re
from pathlib import Path

import pytest
import yaml

from limbeck.config import Recipe

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    return [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]


@pytest.mark.parametrize(("page", "count"), [("your-data.md", 4), ("teachers.md", 5)])
def test_the_recipes_of_a_page_are_valid(page, count):
    found = blocks(page)
    assert len(found) == count
    for block in found:
        small = {"name": "r", "data": {"kind": "digits"}, "student": {"model": {"kind": "mlp"}}}
        Recipe.parse({**small, **block})


def test_each_kind_of_the_table_is_one():
    rows = re.findall(r"^\| .* \| `(data: .*)` \|$", (DOCS / "your-data.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 9
    for row in rows:
        Recipe.parse({"name": "r", "student": {"model": {"kind": "mlp"}}, **yaml.safe_load(row)})
