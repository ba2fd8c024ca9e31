"""Every packaged recipe is valid, repeats itself from its resolved form, is described, and runs when shrunk."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from limbeck import recipes
from limbeck.config import Recipe, apply_overrides, load_recipe
from limbeck.data import cifar
from limbeck.evaluation import parameters
from limbeck.experiment.check import rehearse
from limbeck.experiment.run import distill
from limbeck.recipes import find, names
from limbeck.runs import RunFolder
from small_cifar import Small, sheets, write
from small_pictures import small_published

FOLDERS = sorted(path.parent for path in Path(recipes.__file__).parent.glob("*/recipe.yaml"))
PUBLISHED = {"mnist", "fashion_mnist"}
SMALL_MODELS = {"resnet": {"depth": 8, "widths": [8, 8, 8, 8]}}

SMALL = {"teacher_epochs": [], "epochs": 1, "confidence": 0.0, "models": [], "training": "{epochs: 1, batch_size: 256}"}
"""Keys of schemes as they suit trainings of one epoch."""

every_recipe = pytest.mark.parametrize("name", names())


def shrunk(keys: Mapping[str, Any]) -> list[str]:
    """Overrides that make a recipe small: narrow models, one epoch, one seed, a small transfer set, no search."""
    overrides = ["seeds=[0]", "search={}", "refit=false", "expect={}", "training.workers=0"]
    teacher = keys["teacher"]
    for where in ("training", "teacher.training") if teacher.get("model") else ("training",):
        overrides += [f"{where}.epochs=1", f"{where}.warmup=0", f"{where}.patience=null", f"{where}.keep=last"]
        overrides += [f"{where}.batch_size=256", f"{where}.precision=fp32"]
        overrides += [f"{where}.schedule=cosine", f"{where}.milestones=[]"]
    if isinstance(teacher.get("members"), int):
        overrides.append("teacher.members=2")
    if isinstance(teacher.get("members"), list):
        few = {"n_estimators": 3, "iterations": 2}
        trees = [
            {**one["estimator"], **{k: v for k, v in few.items() if k in one["estimator"]}}
            for one in teacher["members"]
        ]
        overrides.append(f"teacher.members={json.dumps([{'estimator': one} for one in trees])}")
    if "estimator" in teacher:
        overrides.append("teacher.estimator.n_estimators=3")
    for where, model in (("teacher", teacher.get("model", {})), ("student", keys["student"]["model"])):
        for layers in ("hidden", "channels"):
            if isinstance(model.get(layers), list):
                overrides.append(f"{where}.model.{layers}={[8] * len(model[layers])}")
        small = SMALL_MODELS.get(model.get("kind"), {})
        overrides += [f"{where}.model.{key}={value}" for key, value in small.items()]
    if not keys["data"]["transfer"]["only"] and keys["data"]["kind"] != "synthetic_text":
        overrides.append("data.transfer.fraction=0.1")
    if stages := keys.get("scheme", {}).get("stages"):
        for retrain in (each for stage in stages for each in (stage["retrain"], *stage["compared"]) if each["epochs"]):
            retrain["epochs"] = 1
        overrides.append(f"scheme.stages={json.dumps(stages)}")
    if keys["data"]["kind"] == "synthetic_text":
        overrides = [each for each in overrides if ".batch_size=" not in each]  # a batch has a row for each lane
        overrides.append("data.lines=200")
    overrides += [f"scheme.{key}={value}" for key, value in SMALL.items() if key in keys.get("scheme", {})]
    return overrides


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_recipes_are_found():
    assert FOLDERS
    assert names() == [folder.name for folder in FOLDERS]
    assert {"cifar100-kd", "digits-kd", "tabular-forest"} <= set(names())
    for name in names():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)


@every_recipe
def test_a_recipe_is_valid_and_bears_the_name_of_its_folder(name):
    assert load_recipe(find(name).recipe).name == name


@pytest.mark.miniature(5)
@every_recipe
def test_a_resolved_recipe_is_its_own_resolved_form_from_any_folder(name, tmp_path):
    first = load_recipe(find(name).recipe).to_yaml()
    again = Recipe.parse(yaml.safe_load(first), tmp_path)
    assert again.to_yaml() == first
    (tmp_path / "resolved.yaml").write_text(first, encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml").to_yaml() == first


@every_recipe
def test_a_recipe_has_a_summary_and_a_card(name):
    packaged = find(name)
    assert 20 < len(packaged.summary) <= 160
    assert packaged.summary == load_recipe(packaged.recipe).keys["summary"]
    card = packaged.card
    assert card.startswith(f"# {name}\n")
    for part in ("**Source**", "https://", "**Data**"):
        assert part in card, part


@pytest.mark.thorough
def test_each_pair_of_the_cifar_tables_is_named_by_two_settings():
    packaged = find("cifar100-kd")
    pairs = re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([\d,]+) → ([\d,]+) \|$", packaged.card, flags=re.MULTILINE)
    assert len(pairs) == 8
    for teacher, student, *counts in pairs:
        recipe = load_recipe(packaged.recipe, [f"teacher.model.kind={teacher}", f"student.model.kind={student}"])
        with torch.device("meta"):
            networks = [each.build((3, 32, 32), 100) for each in (recipe.teacher.model, recipe.student)]
        assert [f"{parameters(network):,}" for network in networks] == counts


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A folder with a set of CIFAR-100's kind, of 400 and 150 images: the real one takes too long here."""
    monkeypatch.setattr(cifar, "_CIFAR100", replace(cifar._CIFAR100, counts=(400, 150)))
    return write(tmp_path / "cifar-100", sheets(Small(cifar._CIFAR100, (400, 150))))


@pytest.mark.miniature(1)
@every_recipe
def test_a_recipe_runs_when_it_is_shrunk(name, tmp_path, monkeypatch, request):
    path = find(name).recipe
    kind = load_recipe(path).keys["data"]["kind"]
    whole = load_recipe(path)
    own = ["validation=0.1"] if kind in PUBLISHED else []
    own += ["data.train=9000", "data.test=400"] if kind == "synthetic" else []
    small_published(monkeypatch)
    if kind == "cifar100":
        own = [f"data.folder={request.getfixturevalue('small_cifar')}", "validation=0.1"]
    recipe = Recipe.parse(apply_overrides(dict(whole.keys), [*shrunk(whole.keys), *own]), path.parent)
    found = rehearse(recipe)
    roles = [model.role for model in found.models]
    assert roles[-1] == "student distilled"
    assert "student alone" in roles
    assert all(value == value for value in found.losses.values())
    folder = RunFolder.create(tmp_path / "runs", name, recipe.to_yaml(), ["test"])
    outcome = distill(recipe, folder)
    assert len(outcome.seeds) == 1
    assert outcome.seeds[0].distilled.examples > 100
    assert 0 < outcome.seeds[0].distilled.accuracy <= 1
    assert json.loads((folder.path / "manifest.json").read_text())["test_reads"]
