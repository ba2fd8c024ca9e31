"""Recipes whose teacher is stored on disk: students are those of a live teacher, of images and of texts."""

import json
from functools import partial

import pytest
import torch
import yaml
from safetensors.torch import load_file

from faults import command, ended, furnished, started
from launches import free_port, take_place
from limbeck.cache import CachedTeacher
from limbeck.config import Recipe
from limbeck.errors import RecipeError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

SHORT = {"epochs": 3, "batch_size": 32, "learning_rate": 0.1, "checkpoint_seconds": 0.0}
IMAGES = {
    "name": "small",
    "data": {"kind": "npz", "path": "own.npz"},
    "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": SHORT},
    "student": {"model": {"kind": "mlp", "hidden": [4]}},
    "method": {"name": "kd", "temperature": 4.0, "alpha": 0.1},
    "training": SHORT | {"augment": {"noise": 0.1}, "views": 2},
    "validation": 20,
}
NETWORK = {"kind": "lstm_lm", "layers": 1, "tied": False}
TEXT = {
    "name": "small",
    "data": {"kind": "token_stream", "path": "text.txt", "lanes": 4, "length": 8, "test_lanes": 2},
    "teacher": {"model": {**NETWORK, "embedding": 8, "hidden": 12}, "training": SHORT | {"batch_size": 4}},
    "student": {"model": {**NETWORK, "embedding": 6, "hidden": 8}},
    "method": {"name": "kd", "temperature": 1.0, "alpha": 0.2},
    "training": SHORT | {"batch_size": 4},
    "validation": 0.2,
}


def distilled(folder, keys, *settings):
    """Run a recipe in a folder of its own cache; return the student's weights and the outcome."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(keys))
    answer = command(folder, "distill", "recipe.yaml", "-q", "--no-report", "--json", *settings)
    assert answer.code == 0, answer.err
    outcome = json.loads(answer.out)
    from pathlib import Path

    return load_file(folder / Path(outcome["run"]) / "distilled-0" / "student.safetensors"), outcome


def close(one, other, tolerance):
    return all(torch.allclose(one[name].float(), other[name].float(), atol=tolerance) for name in one)


@pytest.fixture
def images(tmp_path):
    return furnished(tmp_path)


@pytest.fixture
def text(tmp_path):
    words = torch.randint(9, (900,), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [" ".join(f"w{number}" for number in words[start : start + 9]) for start in range(0, 900, 9)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.thorough
def test_images_dense_answers_give_the_student_of_the_live_teacher(images):
    live, _ = distilled(images, IMAGES)
    stored, _ = distilled(images, IMAGES, "teacher.store={encoding: dense, path: mine}")
    assert close(live, stored, 1e-5)
    assert CachedTeacher(images / "mine").views == (1, 2)
    sparse, _ = distilled(images, IMAGES, "teacher.store={encoding: topk, k: 3, dtype: fp32}")
    assert close(live, sparse, 1e-4)  # all classes
    rounded, _ = distilled(images, IMAGES, "teacher.store={encoding: quantized, bits: 8}")
    assert close(live, rounded, 0.02)
    assert not close(live, rounded, 1e-6)


@pytest.mark.thorough
def test_texts_are_stored_with_the_state_of_their_stream(text):
    live, _ = distilled(text, TEXT)
    stored, _ = distilled(text, TEXT, "teacher.store={encoding: dense, path: mine}")
    assert close(live, stored, 1e-4)
    top, _ = distilled(text, TEXT, "teacher.store={encoding: topk, k: 99, dtype: fp32}")
    assert close(live, top, 1e-3)
    drawn, _ = distilled(text, TEXT, "teacher.store={encoding: sampled, draws: 400}")
    assert close(live, drawn, 0.1)
    assert not close(live, drawn, 1e-5)
    assert CachedTeacher(text / "mine").store.header.key.lanes == 4


def test_features_that_a_method_reads_are_stored(images):
    keys = IMAGES | {"method": {"name": "hint", "layers": {"stage1": "stage1"}}}
    live, _ = distilled(images, keys)
    stored, _ = distilled(images, keys, "teacher.store={encoding: dense, path: mine}")
    assert close(live, stored, 1e-4)
    assert list(CachedTeacher(images / "mine").store.header.features) == ["stage1"]


@pytest.mark.thorough
def test_two_processes_of_a_launch_share_the_shards_of_a_store(images):
    (images / "recipe.yaml").write_text(yaml.safe_dump(IMAGES))
    build = ("cache", "build", "recipe.yaml", "-q", "--json", "--encoding", "topk", "--path")
    assert command(images, *build, "alone").code == 0
    port = free_port()
    both = [started(images, *build, "together", prepare=partial(take_place, rank, 2, port)) for rank in (0, 1)]
    answers = [ended(*each) for each in both]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert len(json.loads(answers[0].out)) == 1
    assert answers[1].out == ""
    assert named(images / "alone") == named(images / "together")


def named(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_the_key_store_is_resolved(images):
    found = Recipe.parse(IMAGES | {"teacher": IMAGES["teacher"] | {"store": {"encoding": "topk", "path": "x"}}}, images)
    assert found.keys["teacher"]["store"] == {"encoding": "topk", "path": str(images / "x")}
    assert Recipe.parse(found.keys, images).teacher.store == found.teacher.store
    assert Recipe.parse(IMAGES, images).keys["teacher"]["store"] is True
    with pytest.raises(RecipeError, match=r"teacher\.store"):
        Recipe.parse(IMAGES | {"teacher": IMAGES["teacher"] | {"store": "topk"}}, images)
