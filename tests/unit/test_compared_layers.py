"""The layers that a run compares: what is measured of them, and how evaluation and report show it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.config import Recipe
from limbeck.evaluation import MinibatchCKA, attention_map, sparsity_difference
from limbeck.experiment.building import build_student
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.layers import Layers
from limbeck.report import build
from limbeck.report.gather import gather
from limbeck.report.layers import layers_section
from limbeck.results import representations
from limbeck.results.assessment import assess_run
from limbeck.results.finished import FinishedRun
from limbeck.results.representations import attention_maps, compare_layers, compared_layers
from limbeck.runs import RunFolder

CPU = torch.device("cpu")
PAIRS = {"stage1": "stage2", "stage2": "stage2", "pool": "pool"}


def resnet(*widths: int) -> dict:
    return {"model": {"kind": "resnet", "depth": 8, "widths": list(widths)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a run on small images whose students are trained for one epoch."""
    root = tmp_path_factory.mktemp("layers")
    inputs = np.random.default_rng(0).integers(0, 256, size=(150, 1, 8, 8), dtype="uint8")
    np.savez(root / "dots.npz", inputs=inputs, labels=np.arange(150) % 3, class_names=np.array(["a", "b", "c"]))
    keys = {
        "name": "layers",
        "data": {"kind": "npz", "path": "dots.npz"},
        "teacher": {**resnet(4, 4, 4, 8), "training": {"epochs": 2}},
        "student": resnet(4, 4, 4, 6),
        "method": [
            {"name": "attention_transfer", "layers": {"stage1": "stage2", "stage2": "stage2"}},
            {"name": "hint", "layers": {"stage2": "stage2", "pool": "pool"}, "weight": 1.0, "hard_weight": 0},
        ],
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.1},
        "seeds": [0, 1],
    }
    recipe = Recipe.parse(keys, root)
    run = RunFolder.create(root / "runs", "layers", recipe.to_yaml(), ["limbeck"])
    keep_outcome(run, distill(recipe, run, cache=root / "cache"))
    return run.path


@pytest.fixture
def run(folder):
    return FinishedRun.read(folder)


def features(model, samples, place):
    batch = samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)
    with torch.no_grad(), lb.capture(model.eval(), {"here": place}) as found:
        model(batch.inputs)
    return found["here"]


def test_the_layers_of_every_student_are_measured_against_the_teachers(run):
    test = run.parts.test
    found = {each.student: each for each in compare_layers(run, test, CPU)}
    assert list(found) == list(PAIRS)
    for own, other in PAIRS.items():
        layer = found[own]
        assert (layer.teacher, layer.examples) == (other, len(test))
        assert list(layer.cka) == ["initial", "alone", "distilled"]
        cka, sparsity = [], []
        for seed in run.seeds:
            model = build_student(run.recipe, run.parts, seed)
            for role in layer.cka:
                student = model if role == "initial" else run.student(role, seed)
                sides = features(student, test, own), features(run.teacher(seed), test, other)
                value = MinibatchCKA()
                value.add(*sides)
                cka.append((role, value.value))
                if sides[0].shape == sides[1].shape:
                    sparsity.append((role, sparsity_difference(*sides)))
        for role, interval in layer.cka.items():
            assert interval.n == 2
            assert interval.mean == pytest.approx(np.mean([value for of, value in cka if of == role]), abs=1e-6)
        for role, interval in layer.sparsity.items():
            assert interval.mean == pytest.approx(np.mean([value for of, value in sparsity if of == role]), abs=1e-6)
        assert list(layer.sparsity) == (list(layer.cka) if own == "stage2" else [])
        assert len({interval.mean for interval in layer.cka.values()}) == 3
    assert (found["stage1"].student_shape, found["stage1"].teacher_shape) == ((4, 8, 8), (4, 4, 4))


def test_attention_maps_are_those_of_the_first_seed_where_layers_have_maps(run):
    some = run.parts.test.subset(torch.tensor([3, 1]))
    found = attention_maps(run, some, CPU)
    assert [each.student for each in found] == ["stage1", "stage2"]
    maps = found[0].maps
    assert list(maps) == ["teacher", "initial", "alone", "distilled"]
    distilled, teacher = run.student("distilled", run.seeds[0]), run.teacher(run.seeds[0])
    assert torch.allclose(maps["distilled"], attention_map(features(distilled, some, "stage1")), atol=1e-6)
    assert torch.allclose(maps["teacher"], attention_map(features(teacher, some, "stage2")), atol=1e-6)


def test_samples_are_read_in_parts_of_the_same_size(run, monkeypatch):
    monkeypatch.setattr(representations, "_AT_ONCE", 12)
    whole = MinibatchCKA()
    test, seed = run.parts.test, run.seeds[0]
    sides = [features(model, test, "pool") for model in (run.student("alone", seed), run.teacher(seed))]
    for student, teacher in zip(*(each.tensor_split(-(-len(test) // 12)) for each in sides), strict=True):
        whole.add(student, teacher)
    one = FinishedRun(run.folder, run.recipe, run.outcome, run.signature)
    monkeypatch.setattr(FinishedRun, "seeds", (seed,))
    assert compare_layers(one, test, CPU)[2].cka["alone"].mean == pytest.approx(whole.value, abs=1e-6)


@pytest.mark.thorough
def test_the_page_shows_the_layers_in_numbers_and_pictures(run):
    text = build([run.folder], files=False).read_text(encoding="utf-8")
    section = text[text.index('id="run1-layers"') : text.index('id="run1-trusted"')]
    assert "compared layers are more similar to the teacher&#39;s than in the student trained alone" in section
    assert section.count("<img") == 2 * 4 * 5  # pairs with maps, examples, columns
    assert 'alt="Before"' in section
    assert "labelled a" in section
    shown = layers_section(gather(run.folder))
    cka, sparsity = (chart for chart, _ in shown.charts)
    assert [name for name, _ in cka.rows] == ["stage1 – stage2", "stage2", "pool"]
    assert [entry.series for entry in cka.rows[0][1]] == [
        "Student before training",
        "Student alone",
        "Student distilled",
    ]
    assert [name for name, _ in sparsity.rows] == ["stage2"]  # the only pair of one shape


@pytest.mark.thorough
def test_evaluation_measures_the_layers(run):
    found = assess_run(run, with_cost=False)
    kept = found.as_dict()["layers"]
    assert [each.student for each in kept] == list(PAIRS)


@pytest.mark.thorough
def test_a_run_that_compares_no_layers_shows_none(folder, monkeypatch):
    assert compared_layers(lb.methods.kd()) is None
    monkeypatch.setattr(representations, "compared_layers", lambda objective: None)
    plain = FinishedRun.read(folder)
    assert compare_layers(plain, plain.parts.test, CPU) == ()
    assert attention_maps(plain, plain.parts.test, CPU) == ()
    gathered = gather(folder)
    assert gathered.layers is None
    assert layers_section(gathered) is None
    assert "layers" not in assess_run(plain, with_cost=False).as_dict()
    assert "run1-layers" not in Path(build([folder], files=False)).read_text(encoding="utf-8")


@pytest.mark.thorough
def test_a_layer_that_is_not_there_is_left_out_and_told(run, monkeypatch):
    monkeypatch.setattr(representations, "compared_layers", lambda objective: Layers.of("stage9"))
    gathered, said = gather(run.folder), []
    assert gathered.layers is None
    [note] = [each for each in gathered.notes if "layers" in each]
    assert "no module 'stage9'" in note
    assert assess_run(run, with_cost=False, say=said.append).layers == ()
    assert any("the compared layers are left out" in line for line in said)
