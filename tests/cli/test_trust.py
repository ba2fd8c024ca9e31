"""Whose code a run may bring in: reading a run that somebody sent runs none of it, unless it is trusted."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from sealed import resealed

NET = """
from os import system
from pathlib import Path
from torch import nn

Path(MARK).touch()


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
"""
VERBS = {
    "report": ("report", "RUN", "--no-figures"),
    "evaluate": ("evaluate", "RUN", "-q", "--no-cost"),
    "compare": ("compare", "RUN", "RUN-copy"),
    "diagnose": ("diagnose", "RUN", "-q", "--quick", "--no-report"),
    "diagnose-recipe": ("diagnose", "RUN/recipe.yaml", "-q", "--quick", "--no-report"),
    "check": ("check", "RUN/recipe.yaml"),
}


@pytest.fixture
def project(limbeck, tmp_path, monkeypatch):
    """The folder of a project with a finished run, whose code leaves a mark when it is imported."""
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.chdir(place)
    labels = np.arange(48) % 3
    inputs = np.random.default_rng(0).random((48, 1, 4, 4), dtype=np.float32)
    np.savez("own.npz", inputs=inputs, labels=labels)
    Path("net.py").write_text(NET.replace("MARK", repr(str(tmp_path / "mark"))))
    short = {"epochs": 1, "batch_size": 32}
    keys = {
        "name": "tiny",
        "data": {"kind": "npz", "path": "own.npz"},
        "teacher": {"model": {"kind": "mlp", "hidden": [4]}, "training": short},
        "student": {"model": {"factory": "net:net"}},
        "training": short,
        "validation": 8,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(keys))
    answer = limbeck("distill", "recipe.yaml", "-q", "--no-report")
    assert answer.code == 0, answer.err
    (tmp_path / "mark").unlink()
    return place


def run_in(place: Path) -> Path:
    [run] = place.glob("runs/tiny/*")
    return run


def as_teacher(limbeck, verb: str, run: Path, *more: object):
    for name in [name for name in sys.modules if name.startswith("_limbeck_code_")]:
        del sys.modules[name]
    if verb == "compare":
        shutil.copytree(run, f"{run}-copy")
    return limbeck(*[str(word).replace("RUN", str(run)) for word in VERBS[verb]], *more)


def renamed(run: Path, **model: object) -> None:
    """Let a run name another factory, as one who means it would: with digests that fit."""
    keys = yaml.safe_load((run / "recipe.yaml").read_text())
    keys["student"]["model"] = model
    (run / "recipe.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))

    def forged(outcome: dict) -> None:
        from limbeck.config import load_recipe

        outcome["code"] = load_recipe(run / "recipe.yaml").code()

    resealed(run / "outcome.json", forged)


@pytest.mark.thorough
def test_code_of_the_own_project_is_imported(limbeck, project, tmp_path):
    run = run_in(project)
    for verb in VERBS:
        (tmp_path / "mark").unlink(missing_ok=True)
        answer = as_teacher(limbeck, verb, run)
        assert answer.code == 0, answer.err
        assert (tmp_path / "mark").exists()


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("os:system", "which is installed and not yours"),
        ("posix:system", "which is installed and not yours"),
        ("torch.hub:load", "which is installed and not yours"),
        ("limbeck.cli:main", "which is installed and not yours"),
        ("net:system", "whose file is not found"),
    ],
)
def test_a_factory_of_a_library_is_refused_before_it_is_called(limbeck, project, tmp_path, factory, said):
    command = {"command": f"touch {tmp_path / 'pwned'}"} if "system" in factory else {}
    run = run_in(project)
    renamed(run, factory=factory, folder=str(project), arguments=command)
    for verb in VERBS:
        answer = as_teacher(limbeck, verb, run)
        answer.refused(f"found student.model.factory: '{factory}'", said, "--trust", "LIMBECK_TRUST")
        assert not (tmp_path / "pwned").exists()


def elsewhere(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine", run_in(project)


def in_the_run(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    run = run_in(project)
    shutil.move("net.py", run / "net.py")
    renamed(run, factory="net:net", folder=".")
    return project, run


def beside_the_run(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "mine").mkdir()
    shutil.move(run_in(project), tmp_path / "mine" / "gift")
    shutil.move("net.py", tmp_path / "mine" / "net.py")
    renamed(tmp_path / "mine" / "gift", factory="net:net", folder="..")
    return tmp_path / "mine", tmp_path / "mine" / "gift"


def came_with_the_run(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path, run_in(project)


@pytest.mark.thorough
@pytest.mark.parametrize("place", [elsewhere, in_the_run, beside_the_run, came_with_the_run])
def test_code_that_is_not_of_the_own_project_is_not_imported(limbeck, project, tmp_path, monkeypatch, place):
    here, run = place(project, tmp_path)
    monkeypatch.chdir(here)
    (tmp_path / "mark").unlink(missing_ok=True)
    for verb in VERBS:
        as_teacher(limbeck, verb, run).refused("found student.model.factory: 'net:net'", "which lies ", "--trust")
        assert not (tmp_path / "mark").exists()
    for verb in ("evaluate", "check"):
        assert as_teacher(limbeck, verb, run, "--trust").code == 0
        assert (tmp_path / "mark").exists()


def test_runs_below_a_trusted_folder_are_trusted(limbeck, project, tmp_path, monkeypatch):
    here, run = elsewhere(project, tmp_path)
    monkeypatch.chdir(here)
    monkeypatch.setenv("LIMBECK_TRUST", os.pathsep.join([str(tmp_path / "other"), str(project.parent / "pro")]))
    as_teacher(limbeck, "evaluate", run).refused("LIMBECK_TRUST")
    monkeypatch.setenv("LIMBECK_TRUST", os.pathsep.join([str(tmp_path / "other"), str(project / "runs")]))
    assert as_teacher(limbeck, "evaluate", run).code == 0
    answer = as_teacher(limbeck, "evaluate", run, "--trust")
    assert answer.lines[-1].endswith(f"next: limbeck report {run} --trust")


@pytest.mark.thorough
def test_a_recipe_that_a_user_names_runs_its_own_code(limbeck, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_teacher(limbeck, "check", project).code == 0
    assert (tmp_path / "mark").exists()


# -------------------------------------------------------------------------------------------------------- NaN, and JSON


@pytest.mark.miniature(1)
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "found NaN in '2.bias'"), (float("inf"), "an infinity")])
@pytest.mark.parametrize("verb", ["check", "distill"])
def test_weights_that_are_no_numbers_are_refused_when_they_are_read(limbeck, project, verb, value, said):
    from limbeck.models import mlp

    state = {name: tensor.clone() for name, tensor in mlp((1, 4, 4), 3, hidden=(4,)).state_dict().items()}
    last = list(state)[-1]
    state[last] = torch.full_like(state[last], value)
    save_file(state, "t.safetensors")
    answer = limbeck(verb, "recipe.yaml", "teacher.model.checkpoint=t.safetensors")
    answer.refused("teacher.model.checkpoint: ", said.replace("2.bias", last), "expected finite numbers")


def test_json_has_null_where_a_figure_is_not_finite(limbeck, monkeypatch):
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    monkeypatch.setattr(
        "limbeck.runs.environment", lambda: {"rates": [float("nan"), 1.5], "worst": {"nll": float("inf")}}
    )
    found = json.loads(limbeck("env", "--json").out, parse_constant=refuse)
    assert (found["rates"], found["worst"]) == ([None, 1.5], {"nll": None})


@pytest.mark.thorough
def test_a_factory_of_data_is_code_too(limbeck, project, tmp_path):
    run = run_in(project)
    keys = yaml.safe_load((run / "recipe.yaml").read_text())
    keys["data"] = {"factory": "os:system", "arguments": {"command": f"touch {tmp_path / 'pwned'}"}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))

    def forged(outcome: dict) -> None:
        from limbeck.config import load_recipe

        outcome["code"] = load_recipe(run / "recipe.yaml").code()

    resealed(run / "outcome.json", forged)
    for verb in VERBS:
        answer = as_teacher(limbeck, verb, run)
        answer.refused("found data.factory: 'os:system'", "which is installed and not yours", "--trust")
        assert not (tmp_path / "pwned").exists()
