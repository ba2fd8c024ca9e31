"""Every packaged table: valid recipes, a card, recorded results that agree with it, and rows that run when shrunk."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import Recipe
from limbeck.errors import RecipeError
from limbeck.papers import Row, Table, expected, load_table, markdown, reproduce, tables
from limbeck.papers.table import BUDGETS
from limbeck.tokenizers import Words

_PAGE = Path(__file__).parents[2] / "docs" / "reproductions.md"


@pytest.fixture(autouse=True, scope="module")
def encoder(tmp_path_factory):
    """Set the variables that tables name: a small pretrained encoder with its tokenizer, and a folder of data."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoder")
    words = Words(unknown=True).fit(["a small film"])
    words.save(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_MINILM", str(folder))
        if "LIMBECK_DATA" not in os.environ:
            patch.setenv("LIMBECK_DATA", str(tmp_path_factory.mktemp("data")))
        yield


every_table = pytest.mark.parametrize("name", tables())


def shrunk(table: Table, row: Row, folder: Path) -> Row:
    """The row with narrow networks, one epoch, few samples, and the first candidate of its search.

    folder: for files of data.
    """
    keys: dict[str, Any] = table.recipe(row, "reduced").keys
    grid = keys["search"][0] if isinstance(keys["search"], list) else keys["search"]
    settings: list[tuple[str, Any]] = [
        ("data.first", 200),
        ("validation", {"last": 60}),
        ("search", {path: values[:1] for path, values in grid.items()}),
        ("training.epochs", 1),
    ]
    for where in ("teacher", "student"):
        model = keys[where].get("model")
        if model is not None and "hidden" in model:
            wide = model["hidden"]
            settings.append((f"{where}.model.hidden", 8 if isinstance(wide, int) else [8] * len(wide)))
        if model is not None and model.get("kind") == "resnet":
            settings += [(f"{where}.model.depth", 8), (f"{where}.model.widths", [8, 8, 8, 8])]
        if model is not None and model.get("kind") == "cnn":
            settings.append((f"{where}.model.channels", [8] * len(model["channels"])))
    members = keys["teacher"].get("members")
    if isinstance(members, int):
        settings.append(("teacher.members", min(members, 2)))
    if isinstance(members, list):
        few = {"estimator": {"kind": "extra_trees", "n_estimators": 3}}, {"model": {"kind": "mlp", "hidden": [8]}}
        settings += [("teacher.members", list(few)), ("teacher.training.epochs", 1)]
    model = keys["student"]["model"]
    if model["kind"] == "mixture":
        settings += [("student.model", {"kind": "mixture", "expert": {"kind": "mlp", "hidden": [8]}, "experts": 2})]
    if keys.get("scheme", {}).get("name") == "specialists":
        groups = {"count": 2, "smallest": 2, "largest": 5}
        settings += [(f"scheme.groups.{key}", value) for key, value in groups.items()]
        settings += [("scheme.training.epochs", 1)]
    if "only_classes" in keys["data"]:
        settings.append(("data.only_classes", [0, 1, 2, 3]))
    if keys["data"]["kind"] == "interactions":
        settings = [each for each in settings if each[0] not in ("data.first", "validation")]
        settings += [("data", {"kind": "synthetic_interactions", "users": 40, "items": 30, "each": 8})]
    if keys["data"]["kind"] == "seq2seq":
        file = folder / "lines.tsv"
        words = ("dog", "cat", "sat", "red", "old", "up")
        file.write_text(
            "sentence\n" + "".join(f"{one} {two} {three}\n" for one in words for two in words for three in words)
        )
        settings = [each for each in settings if not each[0].startswith("data.")]
        settings += [("data.path", str(file)), ("data.train", None), ("data.test", None), ("data.most", None)]
        settings += [(f"{where}.model.width", 8) for where in ("teacher", "student")]
        settings += [("scheme.later_epochs", 1)] if keys["scheme"]["name"] == "sequence" else []
    if keys["data"]["kind"] == "ptb":
        settings = [each for each in settings if each[0] not in ("data.first", "validation")]
        settings += [("data", {"kind": "synthetic_text", "lines": 200, "words": 80, "lanes": 16}), ("validation", 0.2)]
    if keys["data"]["kind"] == "synthetic":
        settings += [("data.train", 300), ("data.test", 100)]
    if keys["data"]["transfer"]["first"] is not None:
        settings.append(("data.transfer.first", 100))
    if "data" in keys["teacher"]:
        settings.append(("teacher.data.first", 100))
    if "training" in keys["teacher"]:
        settings += [("teacher.training.epochs", 1), ("teacher.training.warmup", 0.0)]
    return replace(row, settings={budget: [*row.settings[budget], *settings] for budget in BUDGETS})


@pytest.mark.miniature(1)
@every_table
def test_a_table_has_valid_recipes_at_both_budgets_and_a_card(name):
    table = load_table(name)
    assert table.name == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
    assert "(" in table.title
    assert 20 < len(table.summary) <= 160
    for budget in BUDGETS:
        seeds = table.seeds[budget]
        assert seeds
        assert len(set(seeds)) == len(seeds)
        for row in table.rows:
            assert row.figures
            keys = table.keys(row, budget)
            if budget == "full":  # the search is the same, and dear to read
                keys["search"] = {}
            Recipe.parse(keys)
    card = (table.folder / "card.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    for part in ("**Source**", "https://", "**Data**"):
        assert part in card, part


@pytest.mark.miniature(11)
@every_table
def test_what_is_recorded_is_of_known_rows_and_agrees_with_itself(name):
    table = load_table(name)
    recorded = expected(table)
    known = {row.name: row for row in table.rows}
    assert set(recorded.get("rows", {})) <= set(known)
    for row, entry in recorded.get("rows", {}).items():
        figures = [figure.name for figure in known[row].figures]
        assert entry["title"] == known[row].title
        assert entry["paper"] == {figure.name: figure.paper for figure in known[row].figures}
        for budget in set(entry) - {"title", "paper"}:
            ours = entry[budget]
            assert ours["recipe"] == table.digest(known[row], budget), f"{row}: of another recipe; run it again"
            assert list(ours["ours"]) == figures
            for figure in figures:
                values = [seed[figure] for seed in ours["seeds"].values()]
                assert ours["ours"][figure]["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)
                assert (ours["ours"][figure]["sd"] is None) == (len(values) == 1)


@pytest.mark.miniature(9)
@every_table
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_page_of_reproductions_shows_what_is_recorded(name, budget):
    page = _PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- table: {name} {budget} -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    assert found, f"docs/reproductions.md has no table of {name} at the {budget} budget"
    table = load_table(name)
    assert found.group(1) == markdown(table, expected(table), budget), "run python docs/refresh.py"


@every_table
@pytest.mark.slow
def test_every_row_runs_when_it_is_shrunk(name, stripes, tmp_path):
    table = load_table(name)
    if table.base["data"]["kind"] == "glue" and not (Path(os.environ["LIMBECK_DATA"]) / "glue").is_dir():
        pytest.skip("LIMBECK_DATA has no published sentences")
    small = replace(
        table, rows=tuple(shrunk(table, row, tmp_path) for row in table.rows), seeds={"reduced": (0,), "full": (0,)}
    )
    found = reproduce(small)
    for row in table.rows:
        assert list(found[row.name][0]) == [figure.name for figure in row.figures]
        assert all(value == value for value in found[row.name][0].values()), row.name
    json.dumps(found)


def test_a_table_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(RecipeError, match="there is no paper 'muller-2019'; did you mean 'muller2019'"):
        load_table("muller-2019")
