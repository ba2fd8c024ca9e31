"""What lies in the cache is believed only where its digests fit, and where nobody else could have written it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.config import Recipe
from limbeck.diagnosis.recipes import subject_of_recipe
from limbeck.errors import CheckpointError, RunError
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.own import require_own

SHORT = {"epochs": 2, "learning_rate": 0.1}


def recipe(**teacher: object) -> Recipe:
    kept = teacher or {"model": {"kind": "mlp", "hidden": [4]}, "training": SHORT}
    student = {"model": {"kind": "mlp", "hidden": [3]}}
    return Recipe.parse(
        {"name": "own", "data": {"kind": "bundled", "name": "iris"}, "teacher": kept, "student": student}, Path()
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "limbeck"


def taught(cache: Path, **teacher: object) -> nn.Module:
    named = recipe(**teacher)
    return trained_teacher(named, prepare(named), 0, cache=cache).model


# ------------------------------------------------------------------------------------------------------------ digests


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


ESTIMATOR = {"estimator": {"kind": "logistic_regression"}}


@pytest.mark.parametrize("teacher", [{}, ESTIMATOR], ids=["network", "estimator"])
def test_a_teacher_is_not_read_where_its_digest_differs(cache, teacher):
    first = taught(cache, **teacher)
    [weights] = cache.glob("trainings/*/*.safetensors")
    again = taught(cache, **teacher)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    flipped(weights)
    with pytest.raises(CheckpointError, match=r"is damaged \(wrong checksum\); delete"):
        taught(cache, **teacher)


def test_a_diagnosis_finds_the_teacher_that_a_run_trained(cache):
    taught(cache)
    said: list[str] = []
    subject_of_recipe(recipe(), say=said.append, cache=cache)
    assert said[0].startswith("teacher: found in ")


# -------------------------------------------------------------------------------------------------------------- owners

OTHER = 12345
root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(
    ("change", "named", "mend"),
    [
        (lambda cache: cache.parent.chmod(0o777), "home", "chmod go-w"),
        (lambda cache: cache.chmod(0o777), "limbeck", "chmod -R go-w"),
        (lambda cache: (cache.chmod(0o755), (cache / "trainings").chmod(0o757)), "trainings", "chmod -R go-w"),
    ],
    ids=["above", "cache", "within"],
)
def test_a_cache_that_others_can_write_is_refused(cache, change, named, mend):
    taught(cache)
    change(cache)
    with pytest.raises(RunError, match=rf"{named}', which other users can write \(mode 7\d7\)") as caught:
        taught(cache)
    assert mend in str(caught.value)
    assert "set XDG_CACHE_HOME" in str(caught.value)


@root
@pytest.mark.parametrize(
    "place", ["home", "home/limbeck", "home/limbeck/trainings/*", "home/limbeck/trainings/*/*.json"]
)
def test_files_of_another_user_are_refused_even_for_root(cache, tmp_path, place):
    taught(cache)
    [path] = tmp_path.glob(place)
    os.chown(path, OTHER, OTHER)
    with pytest.raises(RunError, match=rf"which belongs to user {OTHER}; expected files of your own \(user 0\)"):
        taught(cache)


@root
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.parent.chmod(0o1777),
        lambda cache: (cache / "trainings").chmod(0o777),  # which nobody else can reach
        lambda cache: os.chown(cache / "trainings", -1, 0),
    ],
    ids=["sticky", "closed", "group"],
)
def test_a_cache_that_nobody_else_can_change_is_read(cache, change: Callable[[Path], object]):
    taught(cache)
    change(cache)
    taught(cache)


@root
@pytest.mark.parametrize(("group", "fine"), [(0, True), (OTHER, False)])
def test_a_group_is_others_unless_it_is_the_users_own(tmp_path, group, fine):
    top = tmp_path / "limbeck"
    top.mkdir()
    top.chmod(0o775)
    os.chown(top, -1, group)
    if fine:
        require_own(top / "trainings", top)
        return
    with pytest.raises(RunError, match=r"\(mode 775\)"):
        require_own(top / "trainings", top)


def test_a_new_cache_is_closed_to_others(cache):
    taught(cache)
    assert os.name == "nt" or cache.stat().st_mode & 0o077 == 0
