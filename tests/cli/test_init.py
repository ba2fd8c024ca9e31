"""limbeck init: it looks at data of each kind and writes a recipe that check accepts; one is carried out."""

import csv
import json
import random
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from fuzzing import command
from limbeck import models
from limbeck.config import load_recipe
from limbeck.drafts import look
from limbeck.drafts.guesses import facts_of, label_of
from small_tokenizers import word_pieces
from walk import over

DRAW = random.Random(0)


def a_table(folder):
    rows = [["id", "age", "city", "since", "income", "churn"]]
    for number in range(240):
        income = "" if number % 20 == 0 else f"{DRAW.gauss(30, 5):.2f}"
        since = f"20{number // 12:02d}-{number % 12 + 1:02d}-17"
        city, churn = DRAW.choice(["Rome", "Oslo"]), DRAW.choice(["yes", "no"])
        rows.append([number, DRAW.randint(18, 80), city, since, income, churn])
    return written(folder / "customers.csv", rows)


def written(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def amounts(folder):
    rows = [["rooms", "price"], *([DRAW.randint(1, 9), f"{DRAW.gauss(200, 50):.1f}"] for _ in range(120))]
    return written(folder / "houses.csv", rows, ";")


def texts(folder):
    words = ["good", "bad", "film", "plot", "slow", "fine", "odd"]
    rows = [["text", "label"]]
    rows += [[" ".join(DRAW.choices(words, k=6)) + f" {number}", DRAW.choice(["pos", "neg"])] for number in range(80)]
    return written(folder / "reviews.csv", rows)


def objects(folder):
    path = folder / "reviews.jsonl"
    rows = [{"review": f"this is text number {number}", "stars": DRAW.choice(["one", "two"])} for number in range(80)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def running_text(folder):
    path = folder / "book.txt"
    lines = [" ".join(DRAW.choices(["the", "cat", "sat", "on", "a", "mat"], k=9)) for _ in range(400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def images(folder):
    noise = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(20):
            pixels = noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / name / f"{number}.png")
    return folder / "pets"


def arrays(folder):
    noise = np.random.default_rng(0)
    x, y = noise.normal(size=(90, 6)).astype("float32"), noise.integers(0, 3, 90)
    np.savez(folder / "rows.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return folder / "rows.npz"


def pixels(folder):
    noise = np.random.default_rng(0)
    inputs, labels = noise.integers(0, 256, (60, 1, 12, 12), dtype=np.uint8), noise.integers(0, 2, (60, 12, 12))
    np.savez(folder / "maps.npz", inputs=inputs, labels=labels)
    return folder / "maps.npz"


def parquet(folder):
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    noise = np.random.default_rng(0)
    columns = {"vector": noise.normal(size=(60, 5)).tolist(), "label": noise.integers(0, 2, 60).tolist()}
    files.write_table(arrow.table(columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def built_in(folder):
    return "digits"


KINDS = {
    a_table: {"kind": "table", "label": "churn", "drop": ["id"], "missing": "impute"},
    amounts: {"kind": "table", "label": "price", "delimiter": ";", "task": "regression"},
    texts: {"kind": "sentences", "text": "text", "label": "label"},
    objects: {"kind": "sentences", "text": "review", "label": "stars"},
    running_text: {"kind": "token_stream"},
    images: {"kind": "images", "size": [20, 24]},
    arrays: {"kind": "npz", "inputs": "x_train", "labels": "y_train", "test_inputs": "x_test"},
    pixels: {"kind": "npz", "task": "dense"},
    parquet: {"kind": "parquet", "inputs": "vector", "label": "label"},
    built_in: {"kind": "digits"},
}


FURTHER = (objects, pixels, parquet, built_in)  # which differ from others in the look alone


@pytest.mark.parametrize("made", KINDS, ids=lambda made: made.__name__)
def test_data_of_each_kind_is_looked_at(made, tmp_path):
    looked = look(str(made(tmp_path)))
    assert KINDS[made].items() <= looked.keys.items()
    assert looked.facts


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "made", [pytest.param(each, marks=[pytest.mark.slow] * (each in FURTHER), id=each.__name__) for each in KINDS]
)
def test_a_recipe_for_data_of_each_kind_passes_the_check(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = made(tmp_path)
    code, out, err = command("init", "first.yaml", "--data", str(place))
    assert (code, out) == (0, "first.yaml\n"), err
    assert "next: limbeck check first.yaml" in err
    keys = yaml.safe_load((tmp_path / "first.yaml").read_text(encoding="utf-8"))
    assert KINDS[made].items() <= keys["data"].items()
    assert keys["name"] == "first"
    code, out, err = command("check", "first.yaml")
    assert code == 0, err


@over(
    ("columns", "label"),
    [
        ({"label": ["a", "b", "a"], "kind": ["x", "y", "y"]}, "label"),
        ({"Target": ["1", "2", "1"], "price": ["1", "2", "3"]}, "Target"),
        ({"price": ["1", "2", "3"], "rooms": ["1", "2", "3"]}, "price"),
        ({"a": ["1", "2", "1"], "b": ["x", "y", "y"], "id": ["1", "2", "3"]}, "b"),
        ({"is_class": ["x", "y", "y"], "b": ["x", "y", "y"]}, "is_class"),
        ({"b": ["x", "y", "y"], "day": ["2026-01-01", "2026-01-02", "2026-01-03"]}, "b"),
        ({"b": ["x", "x", "x"]}, None),
    ],
    ids=str,
)
def test_the_label_is_guessed(columns, label):
    assert label_of(facts_of(columns)) == label


@pytest.mark.thorough
def test_a_recipe_is_carried_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_table(tmp_path)
    code, _, err = command("init", "--data", "customers.csv", "--aim", "quick", "--size", "tenth")
    assert code == 0, err
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "path: customers.csv" in text  # as seen from the recipe
    assert "# 240 rows and 6 columns; the label is 'churn', 2 classes." in text
    code, out, err = command("distill", "recipe.yaml", "training.epochs=2", "teacher.estimator.n_estimators=10")
    assert code == 0, err
    assert "distilled" in out


@over(
    ("options", "found"),
    [
        (["--from-model", "random_forest"], {"estimator": {"kind": "random_forest"}}),
        (["--from-model", "own.nets:large"], {"model": {"factory": "own.nets:large"}, "training": "none"}),
    ],
    ids=str,
)
def test_a_teacher_that_is_given(options, found, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "customers.csv").write_bytes(a_table(tmp_path).read_bytes())
    place = tmp_path / "own" / f"{len(options[1])}.yaml"
    code, _, err = command("init", str(place), "--data", str(tmp_path / "customers.csv"), *options)
    assert code == 0, err
    keys = yaml.safe_load(place.read_text(encoding="utf-8"))
    assert keys["teacher"] == found
    assert keys["data"]["path"] == str(tmp_path / "customers.csv")  # which does not lie below the recipe


def test_weights_of_a_network_teach_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.safetensors").write_bytes(b"")
    code, _, err = command("init", "--data", "digits", "--from-model", "mlp:large.safetensors")
    assert code == 0, err
    teacher = load_recipe(tmp_path / "recipe.yaml").teacher
    assert teacher.members[0].given
    assert teacher.model.checkpoint == "large.safetensors"


def test_a_pretrained_network_is_fine_tuned_and_gives_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"model_type": "bert", "vocab_size": 45, "max_position_embeddings": 70, **sizes}
    models.builder("config")((16,), 2, vocabulary=45, config=config, head="none").save_pretrained(tmp_path / "encoder")
    word_pieces(tmp_path / "encoder")
    code, _, err = command("init", "--data", "reviews.csv", "--from-model", "encoder")
    assert code == 0, err
    keys = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    assert keys["teacher"]["model"] == {"kind": "pretrained", "folder": "encoder", "head": "classification"}
    assert keys["teacher"]["training"]["learning_rate"] == 5e-5
    assert keys["data"]["tokenizer"] == {"folder": "encoder"}


@pytest.mark.slow
def test_a_recipe_with_a_pretrained_network_passes_the_check(tmp_path, monkeypatch):
    test_a_pretrained_network_is_fine_tuned_and_gives_its_tokenizer(tmp_path, monkeypatch)
    code, _, err = command("check", "recipe.yaml")
    assert code == 0, err


def test_what_matters_decides_seeds_and_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = {}
    for aim in ("accuracy", "quick", "proof"):
        assert command("init", f"{aim}.yaml", "--data", "digits", "--aim", aim)[0] == 0
        recipes[aim] = load_recipe(tmp_path / f"{aim}.yaml")
    assert recipes["quick"].training.epochs < recipes["accuracy"].training.epochs == recipes["proof"].training.epochs
    assert (len(recipes["accuracy"].seeds), len(recipes["proof"].seeds)) == (1, 5)
    assert recipes["proof"].alone_budget is not None


def test_a_terminal_is_asked_five_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_table(tmp_path)
    answers = iter(["customers.csv", "city", "random_forest", "half", "quick"])
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda question, **_: asked.append(question) or next(answers))
    code, _, err = command("init")
    assert code == 0, err
    assert [question[:2] for question in asked] == ["1.", "2.", "3.", "4.", "5."]
    keys = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    assert keys["data"]["label"] == "city"
    assert keys["teacher"] == {"estimator": {"kind": "random_forest"}}


def test_no_file_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
    code, _, err = command("init", "--data", "digits")
    assert code == 2
    assert "'recipe.yaml' exists already" in err
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == "mine"


@over(
    ("options", "said"),
    [
        ([], "--data: found none"),
        (["--data", "digit"], "there is no file or folder 'digit'; did you mean 'digits'?"),
        (["--data", "."], "'.' has no images; expected a folder of images for each class"),
        (["--data", "customers.csv", "--label", "chrun"], "there is no column 'chrun'"),
        (["--data", "customers.csv", "--label", "churn", "--size", "tiny"], "size: found 'tiny'"),
        (["--data", "customers.csv", "--from-model", "resnet65"], "did you mean 'resnet"),
        (["--data", "customers.csv", "--from-model", "resnet56:none.pt"], "there is no file 'none.pt'"),
        (["--data", "customers.csv", "--from-model", "customers.csv"], "expected KIND:FILE"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_and_leaves_no_file(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "." not in options:
        a_table(tmp_path)
    code, out, err = command("init", "new.yaml", *options)
    assert (code in (1, 2), out) == (True, "")
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "new.yaml").exists()
