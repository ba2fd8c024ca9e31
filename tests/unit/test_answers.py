"""Black boxes in a recipe: what their files may hold, what is refused, and what they teach."""

import contextlib

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from limbeck.config import Recipe
from limbeck.data import TensorSet, bundled, digits
from limbeck.errors import CheckpointError, DataError, LimbeckError, ModelError, RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.vetting import vet
from limbeck.randomness import fingerprints
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.teachers import ArrayTeacher
from limbeck.teachers.answers import LookedUpAnswers
from limbeck.training import load_weights, save_weights
from walk import over

SIZE, CLASSES = 150, 3  # of iris


def probabilities(size=SIZE, classes=CLASSES, seed=0):
    raw = np.random.default_rng(seed).random((size, classes)) ** 3 + 1e-6
    return (raw / raw.sum(1, keepdims=True)).astype("float32")


def written(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def keys_of(path, **more):
    return {
        "name": "box",
        "data": {"kind": "bundled", "name": "iris"},
        "teacher": {"arrays": path},
        "student": {"model": {"kind": "mlp", "hidden": [8]}},
        "method": {"name": "kd", "temperature": 2},
        "training": {"epochs": 2, "batch_size": 16},
        **more,
    }


def carried_out(keys, tmp_path):
    recipe = Recipe.parse(keys)
    folder = RunFolder.create(tmp_path / "runs", recipe.name, recipe.to_yaml(), ["test"])
    outcome = distill(recipe, folder, cache=tmp_path / "cache")
    keep_outcome(folder, outcome)
    return folder.path, outcome


def whole(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


def read_answers(table, data=None):
    data = data or bundled("iris")
    model = LookedUpAnswers((4,), CLASSES, "box.npz")
    index = torch.arange(len(table))
    model.fill([(part, ArrayTeacher.of_probabilities(table, part, index=index)) for part in (data.train, data.test)])
    return model, data


# --------------------------------------------------------------------------------------------------------------- module


def test_each_sample_is_answered_by_its_own_row_whatever_the_batch():
    table = torch.from_numpy(probabilities())
    model, data = read_answers(table)
    for part in (data.train, data.test):
        shuffled = part.subset(torch.randperm(len(part), generator=torch.Generator().manual_seed(0)))
        expected = table[shuffled.index].log()
        twins = (expected.exp() - predict(model, shuffled).exp()).abs().max(1).values > 1e-5
        rows = shuffled.inputs[shuffled.index]
        for place in torch.where(twins)[0].tolist():  # iris has samples that are alike: they have the mean
            assert int((rows[place] == data.train.inputs).all(1).sum()) > 1
        assert int(twins.sum()) < 6
        torch.testing.assert_close(predict(model, shuffled, batch_size=7), predict(model, shuffled))


def test_samples_that_are_alike_have_the_mean_of_their_answers():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    samples = TensorSet.of(rows, classes=2)
    table = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.4, 0.6]])
    model = LookedUpAnswers((2,), 2, "")
    model.fill([(samples, ArrayTeacher.of_probabilities(table, samples))])
    torch.testing.assert_close(model(rows).exp(), torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.6, 0.4]]))


def test_an_impossible_class_has_no_probability_at_any_temperature_and_a_finite_logit():
    samples = TensorSet.of(torch.rand(3, 2), classes=3)
    model = LookedUpAnswers((2,), 3, "")
    model.fill([(samples, ArrayTeacher.of_labels(torch.tensor([2, 0, 1]), samples))])
    logits = model(samples.inputs)
    assert torch.isfinite(logits).all()
    for temperature in (1.0, 4.0, 20.0):
        assert torch.equal((logits / temperature).softmax(1), torch.eye(3)[[2, 0, 1]])


def test_a_sample_that_was_never_answered_is_refused():
    model, _ = read_answers(torch.from_numpy(probabilities()))
    with pytest.raises(ModelError, match="2 of 3 samples were never answered"):
        model(torch.cat([whole(bundled("iris").train).inputs[:1], torch.rand(2, 4)]))


def test_it_is_kept_and_read_back_and_a_damaged_one_is_refused(tmp_path):
    model, data = read_answers(torch.from_numpy(probabilities()))
    save_weights(model, tmp_path / "t.safetensors")
    again = LookedUpAnswers((4,), CLASSES, "")
    load_weights(again, tmp_path / "t.safetensors")
    assert torch.equal(predict(again, data.test), predict(model, data.test))
    for change in (lambda s: s | {"key": s["key"].flip(0)}, lambda s: s | {"logits": s["logits"][1:]}):
        save_file({k: v.clone() for k, v in change(dict(model.state_dict())).items()}, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match="no answers to this data"):
            load_weights(LookedUpAnswers((4,), CLASSES, ""), tmp_path / "bad.safetensors")


def test_a_fingerprint_tells_contents_apart():
    rows = torch.randn(2000, 7)
    assert len(fingerprints(rows).unique()) == 2000
    assert torch.equal(fingerprints(rows.view(2000, 7, 1)), fingerprints(rows))
    changed = rows.clone()
    changed[5, 3] = torch.nextafter(changed[5, 3], torch.tensor(9.0))
    assert torch.where(fingerprints(changed) != fingerprints(rows))[0].tolist() == [5]
    assert torch.equal(torch.cat([fingerprints(part) for part in rows.split(33)]), fingerprints(rows))


# --------------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.miniature(2)
@pytest.mark.parametrize("form", ["probabilities", "labels", "top", "index", "safetensors"])
def test_a_recipe_learns_from_each_form_of_a_file(form, tmp_path):
    table = probabilities()
    path = tmp_path / "box.npz"
    order = np.argsort(-table, 1)[:, :2]
    if form == "safetensors":
        path = tmp_path / "box.safetensors"
        save_file({"probabilities": torch.from_numpy(table)}, path)
    elif form == "labels":
        written(path, labels=table.argmax(1))
    elif form == "top":
        written(path, top_ids=order, top_probabilities=np.take_along_axis(table, order, 1))
    elif form == "index":
        back = np.arange(SIZE)[::-1].copy()
        written(path, probabilities=table[back], index=back)
    else:
        written(path, probabilities=table)
    folder, outcome = carried_out(keys_of(str(path)), tmp_path)
    data = bundled("iris")
    right = (table.argmax(1)[data.test.index.numpy()] == data.test.labels.numpy()).mean()
    assert outcome.seeds[0].teacher.accuracy == pytest.approx(right, abs=0.07)  # but for samples that are alike
    run = FinishedRun.read(folder)
    path.unlink()
    assert evaluate(run.teacher(0), run.parts.test) == outcome.seeds[0].teacher
    assert run.recipe.keys["teacher"]["view"] == "clean"
    assert outcome.parameters["teacher"] == 0


def test_a_set_with_a_test_part_of_its_own_has_further_arrays(tmp_path):
    table = probabilities(24)
    inputs, labels = np.random.default_rng(0).random((24, 4)).astype("float32"), np.arange(24) % CLASSES
    data = written(
        tmp_path / "set.npz", inputs=inputs[:18], labels=labels[:18], test_inputs=inputs[18:], test_labels=labels[18:]
    )
    keys = keys_of("", data={"kind": "npz", "path": data})
    both = written(tmp_path / "b.npz", probabilities=table[:18], test_labels=labels[18:])
    _, outcome = carried_out({**keys, "teacher": {"arrays": both}}, tmp_path)
    assert outcome.seeds[0].teacher.errors == 0
    for name, arrays, said in (
        ("no test", {"probabilities": table[:18]}, "found no answers to the test set"),
        ("short", {"probabilities": table[:17], "test_labels": labels[18:]}, "found 17 rows for the 18 samples"),
        ("test short", {"probabilities": table[:18], "test_labels": labels[:5]}, "test_*, answers: found 5 rows"),
        ("odd", {"probabilities": table[:18], "test_labls": labels[18:]}, "unknown array 'labls'"),
    ):
        path = written(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(DataError) as caught:
            vet(Recipe.parse({**keys, "teacher": {"arrays": path}}))
        assert said in str(caught.value)
        assert path in str(caught.value)


def test_answers_teach_students_of_augmented_samples_too(tmp_path):
    data = digits()
    path = written(tmp_path / "d.npz", labels=torch.zeros(1797, dtype=torch.int64).numpy())
    augment = {"epochs": 1, "augment": {"shift": 1}}
    _, outcome = carried_out(keys_of(path, data={"kind": "digits"}, training=augment), tmp_path)
    assert outcome.seeds[0].teacher.accuracy == pytest.approx(float((data.test.labels == 0).float().mean()))


def test_a_binary_task_and_classes_kept_alone(tmp_path):
    inputs, labels = np.random.default_rng(0).random((40, 4)).astype("float32"), np.arange(40) % 2
    data = written(tmp_path / "set.npz", inputs=inputs, labels=labels)
    path = written(tmp_path / "b.npz", labels=labels)
    keys = keys_of(path, data={"kind": "npz", "path": data, "task": "binary"})
    assert carried_out(keys, tmp_path)[1].seeds[0].teacher.errors == 0
    table = written(tmp_path / "t.npz", probabilities=probabilities())
    _, outcome = carried_out(keys_of(table, classes=[0, 2]), tmp_path)
    assert outcome.seeds[0].teacher.examples == 20


def test_a_box_and_a_forest_teach_together(tmp_path):
    path = written(tmp_path / "b.npz", probabilities=probabilities())
    members = [{"arrays": path}, {"estimator": {"kind": "random_forest", "n_estimators": 3}}]
    folder, outcome = carried_out(keys_of(path, teacher={"members": members}), tmp_path)
    run = FinishedRun.read(folder)
    assert evaluate(run.teacher(0), run.parts.test) == outcome.seeds[0].teacher
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["teacher"]["members"][0]["arrays"]["path"] == path


BAD = probabilities()
BAD_SUM, BAD_NAN, BAD_SIGN = BAD.copy(), BAD.copy(), BAD.copy()
BAD_SUM[7] *= 0.5
BAD_NAN[3, 1] = np.nan
BAD_SIGN[2, 0] = -0.1


@over(
    ("arrays", "said"),
    [
        ({"probabilities": BAD[:149]}, "149 answers for the 150 samples of 'iris', expected one each"),
        ({"probabilities": BAD_SUM}, "row 7 sums to 0.5"),
        ({"probabilities": BAD_NAN}, "row 3 holds nan"),
        ({"probabilities": BAD_SIGN}, "row 2 holds -0.1"),
        ({"probabilities": probabilities(SIZE, 4)}, "found 4 classes"),
        ({"labels": np.full(SIZE, 3)}, "labels: found 3 to 3, expected 0 to 2"),
        ({"labels": BAD}, "labels: found"),
        ({"top_ids": np.zeros((SIZE, 2), int), "top_probabilities": BAD[:, :2]}, "names a class more than once"),
        ({"top_ids": np.zeros((SIZE, 1), int) + 5, "top_probabilities": BAD[:, :1]}, "top_ids: found 5 to 5"),
        ({"top_ids": np.zeros((SIZE, 1), int)}, "found the arrays top_ids, expected labels"),
        ({"probabilites": BAD}, "unknown array 'probabilites'; did you mean 'probabilities'"),
        ({"probabilities": BAD, "index": np.arange(SIZE) + 1}, "it has no answer to 1 of the"),
        ({"probabilities": BAD, "index": np.zeros(SIZE, int)}, "found a position more than once"),
        ({"probabilities": BAD[:9], "index": np.arange(9)}, "it has no answer to"),
        ({"probabilities": BAD, "test_labels": np.zeros(3, int)}, "is one set that is split"),
        ({"probabilities": BAD, "source": np.array("other")}, "has answers to another set"),
        ({"probabilities": np.array(["x"] * SIZE)}, "expected numbers"),
        ({}, "found the arrays none"),
    ],
)
def test_each_mistake_in_a_file_is_one_line_before_anything_runs(arrays, said, tmp_path):
    path = written(tmp_path / "bad.npz", **arrays)
    with pytest.raises(LimbeckError) as caught:
        vet(Recipe.parse(keys_of(path)))
    assert said in str(caught.value)
    assert "bad.npz" in str(caught.value)


@pytest.mark.thorough
@settings(max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from(["labels", "probabilities", "top_ids", "top_probabilities", "index", "source", "test_labels"]),
        st.tuples(
            st.lists(st.sampled_from([0, 1, 2, 3, SIZE]), max_size=3), st.sampled_from("fiub?"), st.integers(-1, 200)
        ),
        max_size=4,
    )
)
def test_no_arrays_end_in_anything_but_answers_or_an_error_of_ours(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("fuzz") / "any.npz"
    np.savez(
        path,
        **{
            name: np.full(shape, value % 2 if kind == "?" else value % 100).astype(
                {"f": "float32", "i": "int64", "u": "uint8", "b": "int8", "?": "bool"}[kind]
            )
            for name, (shape, kind, value) in arrays.items()
        },
    )
    with contextlib.suppress(LimbeckError):
        LookedUpAnswers((4,), CLASSES, str(path)).read(bundled("iris"))


def test_rows_are_divided_by_their_sum_where_that_is_asked_for(tmp_path):
    path = written(tmp_path / "b.npz", probabilities=probabilities() * 7)
    vet(Recipe.parse(keys_of(path, teacher={"arrays": {"path": path, "renormalise": True}})))


@over(
    ("more", "said"),
    [
        ({"teacher": {"arrays": "gone.npz"}}, "gone.npz: cannot be read"),
        ({"teacher": {"arrays": "box.csv"}}, "found a file of type '.csv', expected .npz or .safetensors"),
        ({"teacher": {"arrays": 3}}, "teacher.arrays: found 3, expected keys; its keys are path, renormalise"),
        ({"teacher": {"arrays": {}}}, "teacher.arrays.path: is missing"),
        ({"teacher": {"arrays": {"path": "x", "renormalize": True}}}, "did you mean 'renormalise'"),
        ({"teacher": {"arrays": "a\0b"}}, "teacher.arrays.path: found"),
        ({"teacher": {"arrays": "box.npz", "model": {"kind": "mlp"}}}, "found together with model"),
        ({"teacher": {"arrays": "box.npz", "training": {"epochs": 3}}}, "has no effect for arrays"),
        (
            {"teacher": {"members": [{"arrays": "b", "estimator": {"kind": "extra_trees"}}]}},
            "found together with estimator",
        ),
        ({"data": {"kind": "bundled", "name": "diabetes"}}, "the labels are numbers to predict"),
        ({"data": {"kind": "bundled", "name": "iris", "transfer": {"synthetic": "munge"}}}, "has no answers to"),
        ({"scheme": {"name": "specialists"}}, "no network; name a model"),
        ({"scheme": {"name": "early_stopping", "teacher_epochs": [1]}}, "read from a file"),
    ],
)
def test_each_mistake_in_a_recipe_is_one_line(more, said, tmp_path):
    path = written(tmp_path / "box.npz", probabilities=probabilities())
    with pytest.raises(LimbeckError) as caught:
        vet(Recipe.parse(keys_of(path, **more), tmp_path))
    assert said in str(caught.value)
    assert isinstance(caught.value, RecipeError | DataError)


def test_a_relative_path_is_of_the_recipes_folder(tmp_path):
    written(tmp_path / "box.npz", probabilities=probabilities())
    recipe = Recipe.parse(keys_of("box.npz"), tmp_path)
    vet(recipe)
    vet(Recipe.parse(yaml.safe_load(recipe.to_yaml()), tmp_path / "elsewhere"))
