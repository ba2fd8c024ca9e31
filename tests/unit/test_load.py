"""A trained model loads without the data of its run, and answers raw inputs as it answers the run's own sets."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import limbeck as lb
from limbeck.config import Recipe
from limbeck.data import Description, TensorSet
from limbeck.errors import DataError, DataWarning, InputError, LimbeckError, ModelError, RunError
from limbeck.evaluation import predict
from limbeck.experiment.parts import Parts
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.signature import read_signature, write_signature
from limbeck.records import sealed, unsealed
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 0.05}
TABLE = "age,town,income,y\n" + "\n".join(
    f"{20 + n % 7},{'ABC'[n % 3]},{n * 10},{'no' if n % 3 else 'yes'}" for n in range(60)
)


def carried_out(tmp_path, **keys):
    """Carry a recipe out; return the folder and what each role answered the test set."""
    keys = {"student": {"model": {"kind": "mlp", "hidden": [6]}}, "training": QUICK, **keys}
    recipe = Recipe.parse({"name": "r", **keys}, tmp_path)
    folder = RunFolder.create(tmp_path / "runs", "r", recipe.to_yaml(), ["test"])
    keep_outcome(folder, distill(recipe, folder, cache=tmp_path / "cache"))
    run = FinishedRun.read(folder.path)
    return run, {role: predict(run.model(role, 0), run.parts.test) for role in run.roles}


def arrays(task):
    """Raw arrays of a task, small, with their labels."""
    draw = np.random.default_rng(0)
    inputs = draw.integers(0, 256, (48, 1, 8, 8), dtype=np.uint8) if task == "dense" else draw.normal(size=(48, 5))
    labels = {
        "classification": draw.integers(0, 3, 48),
        "binary": draw.integers(0, 2, 48),
        "multilabel": draw.integers(0, 2, (48, 4)),
        "dense": draw.integers(0, 3, (48, 8, 8)),
        "regression": draw.normal(size=(48, 2)),
    }[task]
    return inputs.astype(np.uint8 if task == "dense" else np.float32), labels


@pytest.mark.miniature(1)
@pytest.mark.parametrize("task", ["classification", "binary", "multilabel", "dense", "regression"])
def test_each_task_is_answered_without_the_data(tmp_path, task):
    inputs, labels = arrays(task)
    np.savez(
        tmp_path / "d.npz", inputs=inputs[:40], labels=labels[:40], test_inputs=inputs[40:], test_labels=labels[40:]
    )
    method = {"name": "bounded_regression"} if task == "regression" else {"name": "kd"}
    kind = {"kind": "fcn", "channels": [4]} if task == "dense" else {"kind": "mlp", "hidden": [6]}
    run, answered = carried_out(
        tmp_path, data={"kind": "npz", "path": "d.npz", "task": task}, method=method, student={"model": kind}
    )
    (tmp_path / "d.npz").unlink()
    student, logits = lb.load(run.folder), answered["distilled"]
    assert torch.equal(student.logits(inputs[40:]), logits)
    torch.testing.assert_close(student.logits(inputs[40:].tolist(), batch_size=3), logits)
    assert student.task.name == task
    assert student.input_shape == tuple(inputs.shape[1:])
    predicted = student.predict(inputs[40:])
    if task == "regression":
        assert torch.equal(predicted, logits)
        with pytest.raises(InputError, match="predict_proba: a regression"):
            student.predict_proba(inputs[40:])
        return
    sure = student.predict_proba(inputs[40:])
    if task == "multilabel":
        torch.testing.assert_close(sure, logits.double().softmax(-1)[..., 1].float())
        assert predicted == [tuple(str(n) for n in range(4) if row[n] > 0.5) for row in sure.tolist()]
    else:
        torch.testing.assert_close(sure.sum(-1), torch.ones(sure.shape[:-1]))
        expected = sure.argmax(-1)
        assert torch.equal(predicted, expected) if task == "dense" else predicted == list(map(str, expected.tolist()))


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "keys",
    [
        {"teacher": {"model": {"kind": "mlp", "hidden": [6]}, "members": 2, "training": QUICK}},
        {"classes": [3, 1, 7]},
        {"scheme": {"name": "own_teacher", "exits": ["stage1"], "hint_weight": 0.0}, "method": {"name": "hard"}},
        {"scheme": {"name": "specialists", "groups": {"named": [[1, 2], [7, 8]]}, "training": {"epochs": 1}}},
        {"scheme": {"name": "mutual", "peers": 2}},
        {"refit": True, "teacher": {"estimator": {"kind": "random_forest", "n_estimators": 3}}},
    ],
    ids=["ensemble", "classes", "exits", "specialists", "peers", "forest"],
)
def test_each_role_is_answered_without_the_data(tmp_path, monkeypatch, keys):
    run, answered = carried_out(tmp_path, data={"kind": "digits"}, **keys)
    raw = run.parts.test.gather(torch.arange(len(run.parts.test)))
    monkeypatch.setattr(Recipe, "load_data", None)
    for role, logits in answered.items():
        model = lb.load(run.folder, role)
        assert torch.equal(model.logits(raw), logits), role
        assert len(model.class_names) == logits.shape[1]


def test_rows_are_matched_by_the_columns_names(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    data = {"kind": "table", "path": "t.csv", "label": "y", "missing": "impute"}
    run, answered = carried_out(tmp_path, data=data)
    test = run.parts.test
    (tmp_path / "t.csv").unlink()
    student = lb.load(run.folder)
    lines = TABLE.splitlines()
    rows = [dict(zip(lines[0].split(","), lines[1 + place].split(","), strict=True)) for place in test.index.tolist()]
    assert torch.equal(student.logits(rows), answered["distilled"])
    turned = {name: [row[name] for row in rows] for name in ("income", "town", "age")}
    assert torch.equal(student.logits(turned), answered["distilled"])
    assert set(student.predict(rows)) <= {"no", "yes"}
    with pytest.warns(DataWarning, match=r"column 'town': 1 of 2 rows have a category .* \('Z'\)"):
        unknown = student.logits([{**rows[0], "town": "Z"}, rows[1]])
    assert not torch.equal(unknown[0], answered["distilled"][0])
    assert torch.equal(unknown[1], answered["distilled"][1])
    student.logits([{**rows[0], "town": None, "age": ""}])  # imputed as in training, and no unknown category
    for wrong, said in [
        ([{"town": "A", "age": 3}], "found no column 'income'"),
        ({"town": ["A"], "age": [3]}, "found no column 'income'"),
        ({"town": ["A"], "age": [3, 4], "income": [1]}, "different lengths"),
        ({"town": ["A"], "age": 3, "income": [1]}, "found 3 as column 'age'"),
        (np.zeros((2, 3)), "'town' is nominal"),
        ([{**rows[0], "age": "old"}], "column 'age': found"),
    ]:
        with pytest.raises(DataError, match=said):
            student.predict(wrong)


class _Absent:
    """A value that is neither equal to anything nor unequal, as NA of pandas is."""

    def __ne__(self, other):
        return self

    __eq__, __hash__ = __ne__, object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


@pytest.mark.thorough
def test_cells_that_hold_nothing_are_missing_and_numbers_beyond_float32_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    data = {"kind": "table", "path": "t.csv", "label": "y", "missing": "impute"}
    student = lb.load(carried_out(tmp_path, data=data)[0].folder)
    row = {"age": 21, "town": "A", "income": 30}
    for nothing in (None, "", float("nan"), np.float32("nan"), _Absent()):
        for name in row:
            assert torch.equal(student.logits([{**row, name: nothing}]), student.logits([{**row, name: None}]))
    with pytest.raises(
        DataError, match=r"row 1: column 'income': found 1e\+300, which is outside the range of float32"
    ):
        student.logits([row, {**row, "income": 1e300}])


def test_samples_that_are_nearly_alike_are_answered(tmp_path):
    inputs, labels = arrays("classification")
    np.savez(tmp_path / "d.npz", inputs=inputs, labels=labels)
    student = lb.load(carried_out(tmp_path, data={"kind": "npz", "path": "d.npz"})[0].folder)
    near = np.stack([inputs[0], inputs[0]]).astype(np.float64)
    near[1] += 1e-9
    assert torch.equal(student.logits(near)[0], student.logits(inputs[:1])[0])
    for wrong, said in [
        (torch.zeros(2, 5, dtype=torch.complex64), "found torch.complex64"),
        (torch.zeros(2, 5).to_sparse(), "expected a dense tensor"),
        (torch.zeros(2, 5, device="meta"), "expected a dense tensor"),
    ]:
        with pytest.raises(DataError, match=said):
            student.logits(wrong)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_raw_images_are_pooled_as_the_data_was(tmp_path, dtype):
    inputs = np.random.default_rng(0).integers(0, 256, (48, 1, 8, 9)).astype(dtype)
    labels = np.arange(48) % 3
    np.savez(
        tmp_path / "d.npz", inputs=inputs[:40], labels=labels[:40], test_inputs=inputs[40:], test_labels=labels[40:]
    )
    run, answered = carried_out(tmp_path, data={"kind": "npz", "path": "d.npz", "pool": 2})
    student = lb.load(run.folder)
    assert (student.input_shape, student.description.input_shape) == ((1, 8, 9), (1, 4, 4))
    assert torch.equal(student.logits(inputs[40:]), answered["distilled"])
    with pytest.raises(DataError, match=r"found shape \(2, 1, 4, 4\); expected \(n, 1, 8, 9\)"):
        student.logits(np.zeros((2, 1, 4, 4), dtype))


def test_images_are_read_as_the_folder_was(tmp_path):
    draw = np.random.default_rng(1)
    for number in range(20):
        place = tmp_path / "pets" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    run, answered = carried_out(tmp_path, data={"kind": "images", "folder": "pets", "size": [8, 8]})
    student = lb.load(run.folder)
    paths = sorted((tmp_path / "pets").glob("*/*.png"), key=lambda path: (path.parent.name, path.name))
    shown = [paths[place] for place in run.parts.test.index.tolist()]
    assert torch.equal(student.logits(shown), answered["distilled"])
    assert torch.equal(student.logits([Image.open(path) for path in shown]), answered["distilled"])
    assert set(student.predict(shown)) <= {"cat", "dog"}
    closed = Image.new("L", (8, 8))
    closed.close()
    for wrong, said in [
        (torch.rand(2, 3, 8, 8), "whole numbers from 0 to 255"),
        (np.zeros((2, 8, 8, 3), np.uint8), "Channels come first"),
        (np.zeros((3, 8, 8), np.uint8), r"inputs\[None\]"),
        (tmp_path / "pets", "cannot be read"),
        (Image.new("I;16", (8, 8)), "has pixels of mode I;16"),
        (Image.new("L", (40_000, 1)), "is 40000 x 1 pixels"),
        (closed, "an image cannot be read"),
    ]:
        with pytest.raises(DataError, match=said):
            student.predict(wrong)


@pytest.mark.thorough
def test_what_is_asked_for_must_be_there(tmp_path):
    run, _ = carried_out(tmp_path, data={"kind": "digits"})
    for wrong, said in [
        ({"role": "distiled"}, "role: found 'distiled'; did you mean 'distilled'"),
        ({"seed": 3}, "seed: found 3"),
        ({"device": "cda"}, "device: found 'cda'"),
    ]:
        with pytest.raises(LimbeckError, match=said):
            lb.load(run.folder, **wrong)
    student = lb.load(run.folder)
    assert not student.model.training
    with pytest.raises(DataError, match=r"found shape \(2, 64\); expected \(n, 1, 8, 8\)"):
        student.predict(torch.zeros(2, 64))
    with pytest.raises(DataError, match="NaN"):
        student.predict(torch.full((2, 1, 8, 8), torch.nan))
    (run.folder / "signature.json").write_text("{}")
    with pytest.raises(LimbeckError, match=r"signature\.json' is damaged"):
        lb.load(run.folder)


@pytest.mark.thorough
def test_answers_that_were_made_elsewhere_are_no_model(tmp_path):
    probabilities = np.full((1797, 10), 0.1)
    np.savez(tmp_path / "a.npz", probabilities=probabilities)
    run, _ = carried_out(tmp_path, data={"kind": "digits"}, teacher={"arrays": "a.npz"})
    assert lb.load(run.folder).predict(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ModelError, match="role: 'teacher'"):
        lb.load(run.folder, "teacher")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_a_description_gives_the_batches_of_its_set(dtype):
    scale = {} if dtype == torch.int64 else {"mean": [0.2, 0.3], "std": [0.5, 0.7]}
    inputs = torch.randint(0, 256, (6, 2, 3)).to(dtype)
    samples = TensorSet.of(inputs, torch.arange(6) % 2, class_names=["a", "b"], groups=[0, 0], **scale)
    described = Description.of(samples)
    raw, notes = described.read(inputs)
    assert notes == ()
    own, other = (
        each.batch(torch.tensor([4, 1]), augment=None, seed=0, view=0).inputs
        for each in (samples, described.samples(raw))
    )
    assert torch.equal(own, other)
    assert described.blank().legend.names == samples.legend.names


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "Tensor"}, {"input_shape": [-1]}, {"class_names": ["a"]}, {"classes": "3"}],
)
def test_a_signature_that_describes_no_set_is_damaged(tmp_path, wrong):
    folder = RunFolder.create(tmp_path, "r", "", ["test"])
    samples = TensorSet.of(torch.zeros(4, 2), torch.arange(4) % 2)
    write_signature(folder, Parts(samples, None, samples, samples, samples))
    assert read_signature(folder.path).students == Description.of(samples)
    content = unsealed(json.loads((folder.path / "signature.json").read_text()))
    content["students"].update(wrong)
    folder.write_json("signature.json", sealed(content))
    with pytest.raises(RunError, match=r"signature\.json' is damaged"):
        read_signature(folder.path)
