"""limbeck predict: tables, arrays and images in, CSV or npz out, without the run's data."""

import contextlib
import csv
import io
import os
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import limbeck as lb
from limbeck.cli import main
from limbeck.data import bundled
from limbeck.errors import InputError


@pytest.fixture
def run_of(tmp_path, limbeck):
    """Distill a recipe; return the run's folder."""

    def distilled(**keys):
        recipe = {
            "name": "r",
            "student": {"model": {"kind": "mlp", "hidden": [6]}},
            "training": {"epochs": 1, "batch_size": 16},
            **keys,
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        assert limbeck("distill", "r.yaml", "--quiet", "--no-report").code == 0
        return next((tmp_path / "runs" / "r").iterdir())

    return distilled


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_table_is_answered_row_by_row(run_of, limbeck, tmp_path):
    run = run_of(data={"kind": "bundled", "name": "wine"})
    names = [column.name for column in bundled("wine").train.columns.columns]
    lines = [",".join(["id", *names]), *(",".join(["x", *["1.5"] * len(names)]) for _ in range(3))]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    answer = limbeck("predict", run, "new.csv")
    assert (answer.code, answer.err) == (0, "")
    found = rows_of(answer.out)
    assert [row["input"] for row in found] == ["1", "2", "3"]
    assert list(found[0]) == ["input", "prediction", "p(class_0)", "p(class_1)", "p(class_2)"]
    assert sum(float(found[0][f"p({name})"]) for name in ("class_0", "class_1", "class_2")) == pytest.approx(
        1, abs=1e-5
    )
    assert limbeck("predict", run, "new.csv", "--out", "a.csv").code == 0
    assert (tmp_path / "a.csv").read_text() == answer.out
    limbeck("predict", run, "new.csv", "--out", "a.csv").refused("--out: 'a.csv' exists")
    limbeck("predict", run, "new.csv", "--out", "a.txt").refused("--out: found 'a.txt'")
    np.savez(tmp_path / "x.npz", inputs=np.ones((1, 13)))
    limbeck("predict", run, "x.npz", "--delimiter", ";").refused("--delimiter: found beside 'x.npz'")
    limbeck("predict", run, "new.csv", "--key", "x").refused("--key: found beside 'new.csv'")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    limbeck("predict", run, "x.png").refused("inputs: found images", "is a table")
    (tmp_path / "new.csv").write_text("alcohol\n1\n")
    limbeck("predict", run, "new.csv").refused("found no column")


@pytest.mark.thorough
def test_a_table_is_parted_as_the_runs_own(run_of, limbeck, tmp_path):
    table = "age;town;y\n" + "\n".join(f"{20 + n % 7};{'AB'[n % 2]};{'no' if n % 3 else 'yes'}" for n in range(60))
    (tmp_path / "t.csv").write_text(table)
    run = run_of(data={"kind": "table", "path": "t.csv", "label": "y", "delimiter": ";"})
    (tmp_path / "NEW.CSV").write_text("town;age\nB;21\n")
    (tmp_path / "other.csv").write_text("town,age\nB,21\n")
    first, second = limbeck("predict", run, "NEW.CSV"), limbeck("predict", run, "other.csv", "--delimiter", ",")
    assert (first.code, first.out) == (second.code, second.out) == (0, first.out)


@pytest.mark.thorough
def test_arrays_are_answered_into_arrays(run_of, limbeck, tmp_path):
    run = run_of(data={"kind": "digits"})
    np.savez(tmp_path / "x.npz", pixels=np.zeros((5, 1, 8, 8), np.float32), other=np.zeros(2))
    limbeck("predict", run, "x.npz").refused("has no array 'inputs'", "--key")
    assert limbeck("predict", run, "x.npz", "--key", "pixels", "--role", "teacher", "--out", "y.npz").code == 0
    found = np.load(tmp_path / "y.npz")
    assert found["probabilities"].shape == (5, 10)
    assert found["predictions"].tolist() == [str(found["probabilities"][0].argmax())] * 5
    limbeck("predict", run, "gone.npz").refused("INPUT: found no file 'gone.npz'")
    limbeck("predict", run, "x.npz", "x.npz").refused("INPUT: found 2 files")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    limbeck("predict", run, "x.csv").refused("inputs: found rows by columns' names", "is no table")
    np.savez(tmp_path / "z.npz", inputs=np.float32(1))
    limbeck("predict", run, "z.npz").refused("INPUT: 'z.npz' holds a single number")


@pytest.mark.thorough
def test_images_are_answered_one_by_one(run_of, limbeck, tmp_path, monkeypatch):
    for number in range(12):
        place = tmp_path / "pets" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 9, 9)).save(place / f"{number}.png")
    run = run_of(data={"kind": "images", "folder": "pets", "size": [8, 8]})
    whole = rows_of(limbeck("predict", run, "pets", "--batch-size", "5").out)
    assert [row["input"] for row in whole][:2] == ["pets/cat/1.png", "pets/cat/11.png"]
    assert len(whole) == 12
    single = rows_of(limbeck("predict", run, "pets/dog/0.png", "pets/cat/1.png").out)
    assert [row["prediction"] for row in single] == [
        next(row["prediction"] for row in whole if row["input"] == each["input"]) for each in single
    ]
    foreign = tmp_path / os.fsdecode(b"\xff.png")
    foreign.write_bytes((tmp_path / "pets" / "dog" / "0.png").read_bytes())
    assert limbeck("predict", run, foreign.name, "--out", "foreign.csv").code == 0
    assert b"\n\xff.png," in (tmp_path / "foreign.csv").read_bytes()
    piped = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    (tmp_path / "é.png").write_bytes(foreign.read_bytes())
    monkeypatch.setattr(sys, "argv", ["limbeck", "predict", str(run), "é.png"])
    with contextlib.redirect_stdout(piped), pytest.raises(SystemExit):
        main()
    piped.flush()
    assert "\né.png,".encode() in piped.buffer.getvalue()
    (tmp_path / "empty").mkdir()
    limbeck("predict", run, "empty").refused("contains no images")
    limbeck("predict", run, "r.yaml").refused("INPUT: found 'r.yaml'")


@pytest.mark.thorough
def test_users_are_given_their_first_items_without_the_known_ones(run_of, limbeck, tmp_path):
    taken = {user: [(3 * user + 7 * turn) % 20 for turn in range(5)] for user in range(12)}
    lines = [f"u{user},item {item}" for user, items in taken.items() for item in items]
    (tmp_path / "taken.csv").write_text("\n".join(["user,item", *lines]))
    run = run_of(
        data={"kind": "interactions", "path": "taken.csv"},
        teacher={"model": {"kind": "two_tower", "width": 6}, "training": {"epochs": 2}},
        student={"model": {"kind": "two_tower", "width": 3}},
        method={"name": "ranking_distillation", "samples": 5},
        validation={"last": 1},
    )
    (tmp_path / "users.csv").write_text("user\nu3\nu11\nu3\n")
    rows = rows_of(limbeck("predict", run, "users.csv").out)
    assert [row["input"] for row in rows] == ["u3", "u11", "u3"]
    student = lb.load(run)
    firsts = student.predict(["u3", "u11", "u3"])
    assert [row["prediction"].split(";") for row in rows] == [list(first) for first in firsts]
    scores = student.logits(["u3"])[0]
    names = student.class_names
    best = sorted(range(20), key=lambda item: -float(scores[item]))
    assert list(firsts[0]) == [names[item] for item in best[:10]]
    known = ";".join(names[item] for item in (best[0], best[4]))
    (tmp_path / "some.csv").write_text(f"user,known\nu3,{known}\nu11,\n")
    left, whole = (row["prediction"].split(";") for row in rows_of(limbeck("predict", run, "some.csv").out))
    assert left == [names[item] for item in best[:12] if item not in (best[0], best[4])]
    assert whole == list(firsts[1])
    assert limbeck("predict", run, "some.csv", "--out", "y.npz").code == 0
    assert np.load(tmp_path / "y.npz")["predictions"].tolist() == [";".join(left), ";".join(whole)]
    (tmp_path / "other.csv").write_text("user\nu33\n")
    limbeck("predict", run, "other.csv").refused("inputs: found user 'u33'", "did you mean 'u3'?")
    (tmp_path / "other.csv").write_text("user,known\nu3,shoe\n")
    limbeck("predict", run, "other.csv").refused("inputs: known: found item 'shoe'")
    (tmp_path / "other.csv").write_text("name,known\n,item 3\nu3,\n")
    limbeck("predict", run, "other.csv").refused("inputs: found a row without 'name'")
    with pytest.raises(InputError, match="predict_proba: scores of items order them"):
        student.predict_proba(["u3"])
