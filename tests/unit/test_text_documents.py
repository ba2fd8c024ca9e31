"""The page on data of texts: its recipes are valid, and its keys are those that there are."""

import inspect
import re
from pathlib import Path

import yaml

from limbeck import data
from limbeck.config import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "text-data.md").read_text(encoding="utf-8")


def test_every_recipe_of_the_page_is_valid():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        Recipe.parse({"name": "r", **yaml.safe_load(block), "student": {"model": {"kind": "transformer"}}})


def test_every_key_stands_on_the_page():
    for kind in ("sentences", "token_stream", "chat"):
        keys = set(inspect.signature(data.kinds()[kind]).parameters)
        assert {key for key in keys if f"`{key}" not in PAGE and f"{key}:" not in PAGE} == set(), kind
