"""Weights of classes: the mean over examples weighed by their class, however a step is divided."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import limbeck as lb
from limbeck.batch import Batch, Mix
from limbeck.config import Recipe
from limbeck.data import TensorSet
from limbeck.errors import InputError, RecipeError
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.tasks import DENSE, REGRESSION
from limbeck.terms import HardLabels
from limbeck.training.class_weights import class_weighted
from walk import over

torch.manual_seed(0)
INPUTS, LABELS = torch.randn(30, 4), torch.tensor([0] * 20 + [1] * 8 + [2] * 2)
SAMPLES = TensorSet.of(INPUTS, LABELS, class_names=["a", "b", "c"])
NETWORK = nn.Linear(4, 3)
WEIGHTS = (0.1, 0.5, 2.0)


def loss_of(term: HardLabels, batch: Batch, logits: torch.Tensor, weights=WEIGHTS):
    objective = Objective([term])
    samples = TensorSet.of(torch.zeros(3, 1), torch.arange(3))
    with class_weighted(objective, lb.Training(class_weights=weights), samples):
        return objective({"student": Outputs(logits)}, batch)


def test_the_loss_is_the_mean_weighed_by_class():
    logits, labels = torch.randn(7, 3, requires_grad=True), torch.tensor([0, 2, 1, 1, -100, 0, 2])
    found = loss_of(HardLabels(), Batch.of(torch.zeros(7, 1), labels), logits)
    expected = cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS))
    torch.testing.assert_close(found.total, expected)
    assert found.total.dtype == torch.float32
    assert torch.equal(found.parts["hard"].count, torch.tensor((1 + 20 + 5 + 5 + 1 + 20) * 1.0, dtype=torch.float64))


def test_its_gradient_is_the_closed_form():
    """∂L/∂z = w_y / Σw · (softmax(z) - onehot(y)), in float64."""
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    loss_of(HardLabels(), Batch.of(torch.zeros(6, 1), labels), logits).total.backward()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[labels]
    slope = logits.detach().softmax(-1) - nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(logits.grad, (weights / weights.sum()).unsqueeze(-1) * slope, rtol=1e-12, atol=1e-15)


def test_equal_weights_are_none_and_a_large_one_leaves_its_class_alone():
    logits, labels = torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    batch = Batch.of(torch.zeros(8, 1), labels)
    plain = Objective([HardLabels()])({"student": Outputs(logits)}, batch).total
    torch.testing.assert_close(loss_of(HardLabels(), batch, logits, (7.0, 7.0, 7.0)).total, plain)
    alone = cross_entropy(logits[labels == 1], labels[labels == 1])
    torch.testing.assert_close(loss_of(HardLabels(), batch, logits, (1.0, 1e12, 1.0)).total, alone)


def test_places_of_class_maps_and_smoothed_labels_are_weighed():
    logits, labels = torch.randn(2, 4, 4, 3), torch.randint(0, 3, (2, 4, 4))
    batch = Batch(torch.arange(2), torch.zeros(2), torch.zeros(2, 1, 4, 4), labels, task=DENSE)
    expected = cross_entropy(logits.movedim(-1, 1), labels, weight=torch.tensor(WEIGHTS))
    torch.testing.assert_close(loss_of(HardLabels(), batch, logits).total, expected)
    flat, targets = logits.flatten(0, 2), labels.flatten()
    found = loss_of(HardLabels(label_smoothing=0.2), Batch.of(torch.zeros(32, 1), targets), flat)
    each = cross_entropy(flat, targets, label_smoothing=0.2, reduction="none")
    weights = torch.tensor(WEIGHTS)[targets]
    torch.testing.assert_close(found.total, (weights * each).sum() / weights.sum())


def test_a_mixed_sample_has_the_weights_of_both_classes():
    logits, own, other, share = torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.3, 0.6])
    batch = Batch.of(torch.zeros(2, 1), own)
    batch = Batch(**{**vars(batch), "mix": Mix(torch.arange(2), other, share)})
    weights = torch.tensor(WEIGHTS)
    each = share * weights[own] * cross_entropy(logits, own, reduction="none")
    each = each + (1 - share) * weights[other] * cross_entropy(logits, other, reduction="none")
    divisor = share * weights[own] + (1 - share) * weights[other]
    torch.testing.assert_close(loss_of(HardLabels(), batch, logits).total, each.sum() / divisor.sum())


def trained(**settings) -> torch.Tensor:
    student, teacher = copy.deepcopy(NETWORK), nn.Linear(4, 3)
    with torch.no_grad():
        teacher.weight.copy_(torch.arange(12.0).reshape(3, 4) / 12)
        teacher.bias.zero_()
    method = settings.pop("method", lb.methods.kd(alpha=0.5))
    lb.fit(student, SAMPLES, teacher=teacher, method=method, epochs=2, batch_size=10, seed=1, **settings)
    return student.weight.detach()


def test_parts_of_a_step_come_to_the_whole_step():
    whole = trained(class_weights=WEIGHTS)
    torch.testing.assert_close(trained(class_weights=WEIGHTS, accumulate=5), whole)
    assert not torch.allclose(trained(), whole, atol=1e-3)


def test_balanced_is_in_inverse_proportion_to_the_counts():
    whole = trained(class_weights="balanced")
    torch.testing.assert_close(trained(class_weights=(1 / 20, 1 / 8, 1 / 2)), whole)
    torch.testing.assert_close(trained(class_weights={"b": 2.5, "c": 10.0}), whole)


def test_an_objective_is_afterwards_as_it_was():
    method = lb.methods.kd(alpha=0.5)
    trained(method=method, class_weights="balanced")
    assert not [name for name in vars(method.terms["hard"]) if "weights" in name]


@over(
    ("settings", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, "class_weights: found 2 weights; expected 3, one for each class"),
        ({"class_weights": (1.0, 2.0, 0.0)}, "class_weights: found 0.0, expected a finite number above 0"),
        ({"class_weights": {"d": 2.0}}, "class_weights: there is no class 'd'"),
        ({"class_weights": "even"}, "class_weights: found 'even'"),
        ({"class_weights": "balanced", "method": lb.methods.kd(alpha=0.0)}, "none of which compares with labels"),
    ],
)
def test_what_is_no_weight_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        trained(**settings)
    assert message in str(caught.value)


def test_numbers_to_predict_have_no_classes():
    samples = TensorSet.of(INPUTS, INPUTS[:, :1], task=REGRESSION)
    with pytest.raises(InputError, match="class_weights: weigh examples of one class, and the labels are numbers"):
        lb.fit(nn.Linear(4, 1), samples, method=lb.methods.hard(), epochs=1, class_weights=(1.0,))


@pytest.mark.parametrize("given", ["balanced", [1, 2.5], {"a": 2}])
def test_a_recipe_names_them(given):
    mlp = {"model": {"kind": "mlp"}}
    keys = {"name": "r", "data": {"kind": "digits"}, "student": mlp, "training": {"class_weights": given}}
    recipe = Recipe.parse(keys)
    assert recipe.keys["training"]["class_weights"] == given
    with pytest.raises(RecipeError, match=r"^training\.class_weights: found True, expected 'balanced' or"):
        Recipe.parse({**keys, "training": {"class_weights": True}})
