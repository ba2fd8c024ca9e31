"""Estimators of scikit-learn as tensors: they answer as scikit-learn does, are kept without a pickle, and teach."""

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.config import Recipe
from limbeck.data import TensorSet, digits
from limbeck.errors import CheckpointError, ModelError, RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.tasks import BINARY, MULTILABEL, REGRESSION
from limbeck.teachers import ModelTeacher, estimators, store
from limbeck.training import load_weights, save_weights
from walk import over

SMALL = {
    "random_forest": {"n_estimators": 9},
    "extra_trees": {"n_estimators": 9},
    "gradient_boosting": {"iterations": 4, "leaves": 6, "min_samples_leaf": 5},
    "logistic_regression": {},
}
every_estimator = pytest.mark.parametrize("name", estimators.kinds())


def made(name, shape, outputs, **keys):
    return estimators.kinds()[name](shape, outputs, **{**SMALL[name], **keys})


def samples_of(size=120, classes=3, seed=1, **more):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=generator)
    return TensorSet.of(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long(), classes=classes, **more)


def of_scikit(model, samples, seed=0):
    """What scikit-learn itself answers, fitted in float64: probabilities or numbers."""
    rows, labels = samples.inputs.numpy(), samples.labels.numpy()
    own = model.unfitted(samples.task, seed).fit(rows, labels)
    return own, rows


def test_every_estimator_is_tried_here():
    assert set(SMALL) == set(estimators.kinds())


@pytest.mark.miniature(3)
@every_estimator
@over("classes", [2, 3])
def test_its_tensors_answer_as_scikit_learn_does(name, classes):
    samples = samples_of()
    if classes == 2:
        samples = TensorSet.of(samples.inputs, (samples.inputs[:, 0] > 0).long(), classes=2)
    model = made(name, (4,), classes)
    model.fit(samples, seed=3)
    own, _ = of_scikit(model, samples, seed=3)
    unseen = torch.randn(200, 4, generator=torch.Generator().manual_seed(9))
    found = model(unseen).double().softmax(-1)
    torch.testing.assert_close(found, torch.from_numpy(own.predict_proba(unseen.numpy())).double(), rtol=0, atol=2e-5)
    assert sum(parameter.numel() for parameter in model.parameters()) > 4
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_row_on_a_threshold_goes_where_scikit_learn_sends_it():
    """Thresholds lie half-way between float32 values; what is exactly on one, or next to it, must not change sides."""
    values = torch.linspace(0, 1, 64)[:, None].expand(-1, 4).contiguous()
    samples = TensorSet.of(values, torch.arange(64) % 2)
    for name in ("random_forest", "extra_trees", "gradient_boosting"):
        model = made(name, (4,), 2)
        model.fit(samples, seed=0)
        own, _ = of_scikit(model, samples)
        at = model.threshold.detach().unique()
        near = torch.cat([at, torch.nextafter(at, torch.tensor(9.0)), torch.nextafter(at, torch.tensor(-9.0))])
        rows = near[:, None].expand(-1, 4).contiguous()
        expected = torch.from_numpy(own.predict_proba(rows.numpy()))
        torch.testing.assert_close(model(rows).double().softmax(-1), expected, rtol=0, atol=2e-5)


def test_trees_are_walked_as_a_loop_walks_them():
    samples = samples_of()
    model = made("random_forest", (4,), 3)
    model.fit(samples, seed=0)
    inner = len(model.feature)
    for row in samples.inputs[:10]:
        total = torch.zeros(3, dtype=torch.float64)
        for root in model.root.tolist():
            node = root
            while node < inner:
                goes_left = float(row[model.feature[node]]) <= float(model.threshold[node])
                node = int(model.left[node] if goes_left else model.right[node])
            total += model.value[node - inner].double()
        expected = (total / len(model.root)).clamp_min(1e-6).log()
        torch.testing.assert_close(model(row[None])[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_class_that_no_tree_knows_has_the_floor_and_scores_refuse_it():
    samples = samples_of(classes=5)
    forest = made("random_forest", (4,), 5, floor=1e-3)
    forest.fit(samples, seed=0)
    assert torch.allclose(forest(samples.inputs)[:, 3:], torch.tensor(1e-3).log())
    for name in ("gradient_boosting", "logistic_regression"):
        with pytest.raises(ModelError, match="has none of '3'"):
            made(name, (4,), 5).fit(samples, seed=0)


@every_estimator
def test_one_logit_of_a_binary_task_is_the_odds_of_two_classes(name):
    inputs = torch.randn(80, 4)
    labels = (inputs[:, 0] + 0.3 * torch.randn(80) > 0).long()
    one, two = made(name, (4,), 1), made(name, (4,), 2)
    one.fit(TensorSet.of(inputs, labels, task=BINARY), seed=0)
    two.fit(TensorSet.of(inputs, labels, classes=2), seed=0)
    logits = two(inputs)
    torch.testing.assert_close(one(inputs), logits[:, 1:] - logits[:, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "numbers"), [("random_forest", 2), ("extra_trees", 1), ("gradient_boosting", 1)])
def test_a_regression_predicts_numbers(name, numbers):
    inputs = torch.randn(100, 4)
    samples = TensorSet.of(inputs, inputs[:, :numbers] * 50, task=REGRESSION)
    model = made(name, (4,), numbers)
    model.fit(samples, seed=0)
    labels = samples.labels.numpy()
    own = model.unfitted(REGRESSION, 0).fit(inputs.numpy(), labels if numbers > 1 else labels[:, 0])
    expected = torch.from_numpy(own.predict(inputs.numpy())).reshape(100, -1)
    torch.testing.assert_close(model(inputs).double(), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_fitted_is_said_before():
    several = TensorSet.of(torch.randn(6, 4), torch.ones(6, 3), task=MULTILABEL)
    numbers = TensorSet.of(torch.randn(6, 4), torch.randn(6, 2), task=REGRESSION)
    assert "task multilabel" in made("random_forest", (4,), 3).complaint(several)
    assert "predicts one number" in made("gradient_boosting", (4,), 2).complaint(numbers)
    assert "task regression" in made("logistic_regression", (4,), 2).complaint(numbers)
    assert "no sample" in made("random_forest", (4,), 3).complaint(samples_of().without_labels())
    assert made("random_forest", (4,), 2).complaint(numbers) is None


@pytest.mark.miniature(3)
@every_estimator
def test_it_is_the_same_for_a_seed_and_read_back_as_it_was(name, tmp_path):
    samples = samples_of()
    first, again = made(name, (4,), 3), made(name, (4,), 3)
    first.fit(samples, seed=5)
    again.fit(samples, seed=5)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    save_weights(first, tmp_path / "one.safetensors")
    read = nn.ModuleDict({"inner": made(name, (4,), 3)})
    load_weights(read["inner"], tmp_path / "one.safetensors")
    assert torch.equal(read["inner"](samples.inputs), first(samples.inputs))
    save_weights(read, tmp_path / "within.safetensors")
    fresh = nn.ModuleDict({"inner": made(name, (4,), 3)})
    load_weights(fresh, tmp_path / "within.safetensors")
    assert torch.equal(fresh["inner"](samples.inputs), first(samples.inputs))


@over(
    ("key", "change", "said"),
    [
        ("left", torch.zeros_like, "not below it"),
        ("right", lambda right: right + 10**6, "not below it"),
        ("feature", lambda feature: feature + 4, "an attribute that rows of 4 do not have"),
        ("root", lambda root: root - 1, "root is no node"),
        ("value", lambda value: value[:, :2], "hold 2 values, expected 3"),
        ("threshold", lambda threshold: threshold[1:], "different lengths"),
        ("value", lambda value: value[:, 0], "another architecture"),
    ],
)
def test_tensors_of_a_file_that_make_no_forest_are_refused(key, change, said, tmp_path):
    model = made("random_forest", (4,), 3)
    model.fit(samples_of(), seed=0)
    state = {**model.state_dict()}
    state[key] = change(state[key])
    from safetensors.torch import save_file

    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=said):
        load_weights(made("random_forest", (4,), 3), tmp_path / "bad.safetensors")


def test_it_is_asked_like_any_network():
    data = digits()
    model = made("extra_trees", (1, 8, 8), 10)
    untrained = predict(model, data.test)
    assert torch.equal(untrained, torch.zeros_like(untrained))
    model.fit(data.train, seed=0)
    assert evaluate(model, data.test).accuracy > 0.85
    assert store(ModelTeacher(model), data.train).logits.shape == (len(data.train), 10)
    with pytest.raises(ModelError, match="rows of 3 numbers, expected 64"):
        model(torch.zeros(2, 3))


def test_too_few_iterations_of_logistic_regression_are_said():
    with pytest.raises(ModelError, match="1 are too few"):
        made("logistic_regression", (4,), 3, iterations=1).fit(samples_of(), seed=0)


def test_tensors_that_do_not_answer_alike_are_never_kept(monkeypatch):
    model = made("random_forest", (4,), 3)
    monkeypatch.setattr(type(model), "_plant", lambda self, trees, values: None)
    with pytest.raises(ModelError, match=r"do not answer as RandomForestClassifier of scikit-learn"):
        model.fit(samples_of(), seed=0)


# -------------------------------------------------------------------------------------------------------------- recipes

KEYS = {
    "name": "tiny",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"estimator": {"kind": "extra_trees", "n_estimators": 8}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "training": {"epochs": 1},
}


def carried_out(keys, tmp_path, said=None):
    recipe = Recipe.parse(keys)
    folder = RunFolder.create(tmp_path / "runs", recipe.name, recipe.to_yaml(), ["test"])
    say = (lambda line: None) if said is None else said.append
    outcome = distill(recipe, folder, cache=tmp_path / "cache", say=say)
    keep_outcome(folder, outcome)
    return folder.path, outcome


@pytest.mark.thorough
def test_a_recipe_fits_it_once_and_a_finished_run_reads_it_back(tmp_path):
    said = []
    path, outcome = carried_out(KEYS, tmp_path, said)
    assert any("fitted by scikit-learn" in line and "held-out part" in line for line in said)
    again = []
    _, second = carried_out(KEYS, tmp_path, again)
    assert any("found in" in line for line in again)
    assert second.seeds[0].metrics == outcome.seeds[0].metrics
    run = FinishedRun.read(path)
    assert evaluate(run.teacher(0), run.parts.test) == outcome.seeds[0].teacher
    assert run.recipe.keys["teacher"]["estimator"]["max_features"] == "sqrt"
    assert not {"training", "method"} & set(run.recipe.keys["teacher"])


@pytest.mark.thorough
def test_estimators_and_networks_teach_together(tmp_path):
    members = [
        {"estimator": {"kind": "gradient_boosting", "iterations": 2}},
        {"model": {"kind": "mlp", "hidden": [8]}, "training": {"epochs": 1}},
        {"estimator": {"kind": "logistic_regression"}},
    ]
    path, outcome = carried_out({**KEYS, "teacher": {"members": members, "seed": None}}, tmp_path)
    assert {"teacher", "member", "alone", "distilled"} == set(outcome.seeds[0].metrics)
    assert evaluate(FinishedRun.read(path).teacher(0), FinishedRun.read(path).parts.test) == outcome.seeds[0].teacher


def test_several_forests_differ_by_their_seed(tmp_path):
    teacher = {"estimator": {"kind": "extra_trees", "n_estimators": 3}, "members": 2}
    path, outcome = carried_out({**KEYS, "teacher": teacher}, tmp_path)
    first, second = FinishedRun.read(path).teacher(0).members
    assert not torch.equal(first.threshold[:5], second.threshold[:5])
    assert outcome.seeds[0].teacher != outcome.seeds[0].metrics["member"]


@over(
    ("teacher", "said"),
    [
        ({"estimator": {}}, "teacher.estimator.kind: is missing; one of: extra_trees"),
        ({"estimator": {"kind": "random_forrest"}}, "teacher.estimator.kind: found 'random_forrest'; did you mean"),
        ({"estimator": {"kind": ["x"]}}, "teacher.estimator.kind: found"),
        ({"estimator": {"kind": "random_forest", "n_estimator": 3}}, "did you mean 'n_estimators'"),
        ({"estimator": {"kind": "random_forest", "n_estimators": 0}}, "teacher.estimator.n_estimators: found 0"),
        ({"estimator": {"kind": "random_forest", "floor": 0.0}}, "teacher.estimator.floor: found 0.0"),
        ({"estimator": {"kind": "random_forest", "max_features": "some"}}, "teacher.estimator.max_features: found"),
        ({"estimator": {"kind": "random_forest", "checkpoint": 3}}, "teacher.estimator.checkpoint: found 3"),
        ({"estimator": {"kind": "gradient_boosting", "leaves": 1}}, "teacher.estimator.leaves: found 1"),
        ({"estimator": {"kind": "extra_trees"}, "model": {"kind": "mlp"}}, "found together with model"),
        (
            {"estimator": {"kind": "extra_trees"}, "training": {"epochs": 3}},
            "teacher.training: is an option of networks",
        ),
        (
            {"estimator": {"kind": "extra_trees"}, "method": {"name": "label_smoothing"}},
            "teacher.method: is an option of networks",
        ),
        (
            {"estimator": {"kind": "extra_trees"}, "members": [{"model": {"kind": "mlp"}}]},
            "found a list of networks together with estimator",
        ),
        ({"members": [{}]}, "teacher.members[0].model: is missing"),
        ({"members": [{"estimator": {"kind": "x"}}]}, "teacher.members[0].estimator.kind: found 'x'"),
    ],
)
def test_each_mistake_in_a_recipe_is_one_line(teacher, said):
    with pytest.raises(RecipeError) as caught:
        Recipe.parse({**KEYS, "teacher": teacher})
    assert said in str(caught.value)


def test_schemes_that_need_a_network_say_so(tmp_path):
    for scheme, said in (
        ({"name": "specialists"}, "no network; name a model"),
        ({"name": "early_stopping", "teacher_epochs": [1]}, "fitted by scikit-learn"),
    ):
        with pytest.raises(RecipeError, match=said):
            carried_out({**KEYS, "scheme": scheme}, tmp_path)


def test_a_task_that_an_estimator_has_not_is_refused_before_anything_runs(tmp_path):
    np.savez(tmp_path / "set.npz", inputs=np.eye(40, 3), labels=np.eye(2)[np.arange(40) % 2])
    data = {"kind": "npz", "path": str(tmp_path / "set.npz"), "task": "multilabel"}
    with pytest.raises(RecipeError, match=r"teacher\.estimator: extra_trees is for samples with one label an example"):
        carried_out({**KEYS, "data": data}, tmp_path)
