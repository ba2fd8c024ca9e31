"""Defensive distillation: the hot teacher's loss, the attack, and the masking of its gradient."""

import math

import pytest
import torch
from torch import nn

from limbeck.batch import UNLABELLED, Batch
from limbeck.data import LazySet, TensorSet
from limbeck.errors import DataError, InputError, ModelError, RecipeError
from limbeck.evaluation import fgsm, robustness, value_range
from limbeck.losses import cross_entropy
from limbeck.outputs import Outputs
from limbeck.records import plain_values
from limbeck.results.finished import FinishedRun
from limbeck.schemes.defensive import LabelsAtTemperature
from walk import over

METHOD = {"name": "kd", "temperature": 20, "alpha": 0.0}
SCHEME = {"name": "defensive", "epsilons": [0.05, 0.2]}


def linear(scale=1.0):
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight *= scale
    return model


# ------------------------------------------------------------------------------------------------------------- the loss


def test_labels_at_a_temperature_have_a_gradient_of_the_size_of_T_1():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, UNLABELLED, 3])
    from limbeck.objective import Objective

    objective = Objective([LabelsAtTemperature(7.0)])
    loss = objective({"student": Outputs(logits)}, Batch.of(torch.zeros(5, 1), labels)).total
    known = labels != UNLABELLED
    torch.testing.assert_close(loss, 7 * cross_entropy(logits[known] / 7, labels[known]))
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = (logits / 7).softmax(-1).detach()
    wanted[known] -= nn.functional.one_hot(labels[known], 4)
    wanted[~known] = 0
    torch.testing.assert_close(gradient, wanted / 4)


# ----------------------------------------------------------------------------------------------------------- the attack


def test_the_attack_moves_each_value_by_epsilon_against_the_label():
    model, inputs, labels = linear(), torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    weight = model.weight.tolist()
    moved, still = fgsm(model, inputs, labels, 0.01)
    assert not still.any()
    for row in range(4):
        shares = model(inputs[row]).detach().softmax(-1).tolist()
        for value in range(6):
            slope = sum((shares[k] - (k == int(labels[row]))) * weight[k][value] for k in range(3))
            wanted = float(inputs[row, value]) + math.copysign(0.01, slope)
            assert float(moved[row, value]) == pytest.approx(wanted, abs=1e-6)
    with torch.no_grad():
        assert cross_entropy(model(moved), labels) > cross_entropy(model(inputs), labels)
    assert torch.equal(fgsm(model, inputs, labels, 0.0)[0], inputs)


def test_an_attack_on_a_sample_does_not_depend_on_its_neighbours():
    inputs, labels = torch.rand(60, 6) * torch.arange(1.0, 7.0), torch.randint(3, (60,))
    samples = TensorSet.of(inputs, labels, classes=3)
    bounds = value_range(samples)
    whole, _ = fgsm(linear(), inputs, labels, 0.3, bounds=bounds)
    for row in range(0, 60, 7):
        alone, _ = fgsm(linear(), inputs[row : row + 1], labels[row : row + 1], 0.3, bounds=bounds)
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-6)
    assert torch.equal(whole.amin(0) >= inputs.amin(0), torch.ones(6, dtype=torch.bool))
    assert (whole.amax(0) <= inputs.amax(0)).all()
    assert ((whole == inputs.amin(0)) | (whole == inputs.amax(0))).any()
    half = samples.subset(torch.arange(7))
    for first, second in zip(value_range(half), bounds, strict=True):
        assert torch.equal(first, second)
    [one], [all_of_them] = robustness(linear(), half, [0.3]), robustness(linear(), half, [0.3], bounds=bounds)
    assert one == all_of_them


def test_the_range_is_by_channel_of_what_the_model_sees_and_black_to_white_for_images():
    images = torch.randint(100, 120, (4, 2, 3, 3), dtype=torch.uint8)
    samples = TensorSet.of(images, torch.arange(4) % 2, mean=[0.5, 0.25], std=[0.25, 0.5])
    low, high = value_range(samples)
    assert low.shape == high.shape == (2, 1, 1)
    torch.testing.assert_close(low.flatten(), torch.tensor([-2.0, -0.5]))
    torch.testing.assert_close(high.flatten(), torch.tensor([2.0, 1.5]))
    rows = TensorSet.of(torch.tensor([[0.0, 5.0], [1.0, 9.0]]), torch.tensor([0, 1]), mean=[0.0, 1.0], std=[1.0, 2.0])
    assert [each.tolist() for each in value_range(rows)] == [[0.0, 2.0], [1.0, 4.0]]
    lazy = LazySet.of([(torch.full((2, 2), float(number)), number) for number in range(3)])
    assert [each.flatten().tolist() for each in value_range(lazy)] == [[0.0, 0.0], [2.0, 2.0]]


def test_what_lies_beyond_the_range_is_not_moved_further_than_epsilon():
    inputs = torch.tensor([[9.0] * 6, [-9.0] * 6])
    moved, _ = fgsm(linear(), inputs, torch.tensor([0, 1]), 0.1, bounds=(torch.zeros(6), torch.ones(6)))
    assert (moved - inputs).abs().max() <= 0.1 + 1e-6
    assert moved[0].max() <= 9.0
    assert moved[1].min() >= -9.0


def test_an_attack_on_a_network_that_answers_nan_is_refused():
    broken = linear(math.nan)
    with pytest.raises(ModelError, match=r"^fgsm: the gradient with respect to the inputs is NaN or infinite"):
        fgsm(broken, torch.zeros(1, 6), torch.tensor([0]), 0.1)
    with pytest.raises(InputError, match=r"^logits: found NaN or infinity"):
        robustness(broken, TensorSet.of(torch.zeros(1, 6), torch.tensor([0]), classes=3), [0.1], attacked=linear())


def test_large_logits_mask_the_gradient_and_dividing_them_unmasks_it():
    samples = TensorSet.of(torch.rand(60, 6), torch.randint(3, (60,)), classes=3)
    model = linear()
    labels = model(samples.inputs).argmax(-1)
    samples = TensorSet.of(samples.inputs, labels, classes=3)
    large = linear(3000.0)
    with torch.no_grad():
        large.bias *= 3000.0
    [plain] = robustness(model, samples, [0.3])
    [masked] = robustness(large, samples, [0.3])
    [unmasked] = robustness(large, samples, [0.3], temperature=3000.0)
    assert plain.still == unmasked.still == 0
    assert masked.still > 0.5
    assert masked.accuracy > plain.accuracy
    assert unmasked.accuracy == pytest.approx(plain.accuracy, abs=0.05)
    [through] = robustness(large, samples, [0.3], attacked=model)
    assert through.accuracy == pytest.approx(plain.accuracy, abs=0.05)


def test_unlabelled_samples_are_not_attacked_and_the_mode_is_put_back():
    labels = torch.tensor([0, UNLABELLED, 1, 2])
    samples = TensorSet.of(torch.rand(4, 6), labels, classes=3)
    model = nn.Sequential(linear(), nn.Dropout(0.9))
    model.train()
    [found] = robustness(model, samples, [1e-9])
    right = (model.eval()(samples.inputs).argmax(-1) == labels)[labels != UNLABELLED].float().mean()
    assert found.accuracy == pytest.approx(float(right))
    model.train()
    robustness(model, samples, [0.1])
    assert model.training
    assert model[1].training


@over(
    ("call", "error", "said"),
    [
        (lambda: fgsm(linear(), torch.zeros(1, 6), torch.tensor([0]), -1.0), InputError, "epsilon: found -1.0"),
        (
            lambda: fgsm(linear(), torch.zeros(1, 6), torch.tensor([0]), 1.0, temperature=0.0),
            InputError,
            "temperature: found 0.0",
        ),
        (
            lambda: robustness(linear(), TensorSet.of(torch.zeros(2, 6), classes=3), [0.1]),
            DataError,
            "robustness: the set has no labels",
        ),
        (
            lambda: robustness(
                linear(), TensorSet.of(torch.zeros(2, 6, dtype=torch.int64), torch.tensor([0, 1]), classes=3), [0.1]
            ),
            DataError,
            "robustness: found inputs that are not floating point",
        ),
    ],
    ids=["epsilon", "temperature", "labels", "inputs"],
)
def test_the_attack_refuses(call, error, said):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(said)


# ------------------------------------------------------------------------------------------------------------- a recipe


@pytest.mark.thorough
def test_a_recipe_gives_the_claim_and_its_caveat(tiny, tmp_path, killed_everywhere, same_weights):
    from limbeck.cli.distill import run as command
    from limbeck.runs import RunFolder

    recipe = tiny(scheme=SCHEME, method=METHOD, training={"epochs": 8, "batch_size": 64})
    folder = RunFolder.create(tmp_path / "runs", "defensive", recipe.to_yaml(), ["test"])
    outcome = command(recipe, folder, quiet=True)
    assert list(outcome.roles) == ["teacher", "alone", "hot_teacher", "distilled"]
    found = outcome.figures[0]
    assert list(found) == [
        "alone",
        "distilled",
        "distilled, logits divided by T",
        "distilled, attacked through the student alone",
    ]
    assert [[point["epsilon"] for point in points] for points in found.values()] == [[0.05, 0.2]] * 4
    run = FinishedRun.read(folder.path)
    again = robustness(run.model("distilled", 0), run.parts.test, [0.05, 0.2], temperature=20.0)
    assert plain_values(again) == found["distilled, logits divided by T"]
    assert len(outcome.notes) == 4
    hot = run.model("hot_teacher", 0)
    inputs = run.parts.test.batch(torch.arange(50), augment=None, seed=0, view=0).inputs
    with torch.no_grad():
        ratio = hot(inputs).std() / run.model("alone", 0)(inputs).std()
    assert float(ratio) > 3  # at T = 1 the logits are much larger
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "hot_teacher-0", "distilled-0"]
    same_weights(folder.path, killed, trained)


def test_the_student_alone_at_equal_compute_is_attacked_too(tiny, tmp_path):
    from limbeck.cli.distill import run as command
    from limbeck.runs import RunFolder

    recipe = tiny(scheme=SCHEME, method=METHOD, training={"epochs": 2, "batch_size": 128}, alone_budget=True)
    folder = RunFolder.create(tmp_path / "runs", "defensive", recipe.to_yaml(), ["test"])
    outcome = command(recipe, folder, quiet=True)
    run = FinishedRun.read(folder.path)
    longer = robustness(run.model("alone_budget", 0), run.parts.test, [0.05, 0.2])
    assert outcome.figures[0]["alone, equal compute"] == plain_values(longer)
    assert any(note.startswith("Under attack, alone, equal compute: ") for note in outcome.notes)


def test_wrong_keys_and_methods_are_one_line(tiny, refusal):
    for keys, said in (
        ({"epsilons": []}, "scheme.epsilons: found none"),
        ({"epsilons": [0.0]}, "scheme.epsilons: found 0.0"),
    ):
        with pytest.raises(RecipeError) as caught:
            tiny(scheme={"name": "defensive", **keys}, method=METHOD)
        assert str(caught.value).startswith(said)
    assert refusal(tiny(scheme=SCHEME, method={"name": "hard"})).startswith(
        "scheme.name: defensive needs a method with"
    )
    warm = {"name": "kd", "temperature": {"kind": "linear", "start": 8.0, "end": 1.0, "steps": 5}}
    assert refusal(tiny(scheme=SCHEME, method=warm)).startswith("scheme.name: defensive needs a method with")
