"""What there is to say of data and models is said where a recipe is checked and run."""

import json

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Images of two classes, of which a few are of a type that is not read."""
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (4, 4), (100 * place, number, 0)).save(tmp_path / "own" / name / f"{number}.png")
    (tmp_path / "own" / "dog" / "x.tif").write_bytes(b"")
    (tmp_path / "own" / "eel").mkdir()
    (tmp_path / "recipe.yaml").write_text(
        "name: noted\ndata: {kind: images, folder: own, size: [4, 4]}\nstudent: {model: {kind: mlp, hidden: [4]}}\n"
        "training: {epochs: 1, batch_size: 8}\nvalidation: 4\n"
    )
    return tmp_path


TIF = "images of other types are left out (1 .tif); convert them to png or jpeg"
EMPTY = "1 of 3 classes have no images: 'eel'; add some, or remove the folders"


def test_check_and_distill_say_what_was_left_out_of_the_data(limbeck, folder):
    answer = limbeck("check", "recipe.yaml")
    lines = " ".join(answer.out.split())
    assert answer.code == 0
    assert lines.index("note data: ") < lines.index(TIF) < lines.index("method")
    assert EMPTY in lines
    notes = json.loads(limbeck("check", "recipe.yaml", "--json").out)["notes"]
    assert [note.partition("own: ")[2] for note in notes] == [TIF, EMPTY]
    answer = limbeck("distill", "recipe.yaml", "--no-report")
    assert answer.code == 0
    assert TIF in " ".join(answer.err.split())
    assert TIF in " ".join(answer.out.split())
    assert "DataWarning" not in answer.err
    (result,) = folder.glob("runs/noted/*/outcome.json")
    assert json.loads(result.read_text())["notes"][:2] == notes


@pytest.mark.thorough
def test_a_set_of_which_there_is_nothing_to_say_has_no_notes(limbeck, folder):
    (folder / "own" / "dog" / "x.tif").unlink()
    (folder / "own" / "eel").rmdir()
    assert json.loads(limbeck("check", "recipe.yaml", "--json").out)["notes"] == []


SOFT = """
from torch import nn

def soft(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))
"""


@pytest.mark.filterwarnings("default::limbeck.errors.ModelWarning")
def test_a_model_that_answers_probabilities_is_noted_once(limbeck, tmp_path):
    (tmp_path / "soft_net.py").write_text(SOFT)
    (tmp_path / "recipe.yaml").write_text(
        "name: soft\ndata: {kind: digits, transfer: {fraction: 0.1}}\nseeds: [0, 1]\n"
        "student: {model: {factory: 'soft_net:soft'}}\nmethod: {name: hard}\n"
        "training: {epochs: 1, batch_size: 64}\n"
    )
    for verb in ("check", "distill"):
        answer = limbeck(verb, "recipe.yaml")
        assert answer.code == 0, answer.err
        notes = [line for line in answer.err.splitlines() if line.startswith("note: ")]
        assert len(notes) == 1, answer.err
        assert notes[0].startswith("note: model: each of its first answers")
        assert "Warning" not in answer.err
