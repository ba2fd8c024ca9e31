"""Targets of a subset of classes, means and mixtures, against references with loops, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import losses, targets
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.outputs import Members, Outputs
from target_references import UNLABELLED, labels_of, logits_of, probabilities, same, softmax
from walk import over

# -------------------------------------------------------------------------------------------------- a subset of classes


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_restricted_target_is_the_softmax_of_the_chosen_logits(temperature):
    logits, chosen = logits_of(), [4, 0, 3]
    found = targets.restrict(losses.soften(logits, temperature), chosen)
    same(probabilities(found), [softmax([row[i] for i in chosen], temperature) for row in logits.tolist()])
    everything = targets.restrict(losses.soften(logits, temperature), range(6))
    same(probabilities(everything), probabilities(losses.soften(logits, temperature)))


def test_labels_become_positions_in_the_subset():
    labels = torch.tensor([[2, 0, 1], [UNLABELLED, 2, 2]])
    assert targets.label_positions(labels, [2, 1], 3).tolist() == [[0, UNLABELLED, 1], [UNLABELLED, 0, 0]]
    assert torch.equal(targets.label_positions(labels, range(3), 3), labels)


@over(
    ("classes", "line"),
    [
        ([], "classes: found none, expected at least one class"),
        ([0, 6], "classes: found 6, expected numbers from 0 to 5"),
        ([-1], "classes: found -1, expected numbers from 0 to 5"),
        ([0, 0], "classes: 0 occurs more than once, expected each class once"),
        (
            ["cat"],
            "classes: found ['cat'], expected a whole number or a tensor, or an array or list of numbers",
        ),
        ([True], "classes: found True, expected numbers from 0 to 5"),
    ],
)
def test_a_subset_that_is_none_is_refused(classes, line):
    for call in (
        lambda: targets.restrict(losses.soften(logits_of()), classes),
        lambda: targets.label_positions(labels_of(), classes, 6),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == line


def test_a_teacher_that_rules_the_subset_out_is_refused():
    certain = Dense(torch.tensor([[0.5, 0.5, 0.0]]).log())
    with pytest.raises(InputError, match="the teacher gives none of the 1 any probability"):
        targets.restrict(certain, [2])


def test_targets_of_a_subset_are_composed_from_the_inside():
    outputs, chosen = Outputs(logits_of()), (4, 0, 3)
    inner = Outputs(outputs.logits[:, list(chosen)])
    batch = Batch.of(torch.zeros(7, 1), labels_of(classes=3))
    for whole, part in (
        (targets.TopK(k=2, of=targets.Restricted(chosen)), targets.TopK(k=2)),
        (targets.TrueClass(targets.Restricted(chosen)), targets.TrueClass()),
        (targets.Permuted(1, targets.Restricted(chosen)), targets.Permuted(1)),
    ):
        same(whole(outputs, batch, 3.0).log_probs, part(inner, batch, 3.0).log_probs)
    with pytest.raises(InputError, match="put the subset inside"):
        targets.Restricted(chosen, targets.TrueClass())
    assert targets.TopK(k=3, of=targets.Restricted(chosen)).settled(Legend(tuple("abc")))
    with pytest.raises(InputError, match="k: found 4, expected 1 to 3"):
        targets.TopK(k=4, of=targets.Restricted(chosen)).settled(Legend(tuple("abc")))


# --------------------------------------------------------------------------------------------------- means and mixtures


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
def test_means_are_their_formulas(weights):
    parts = [losses.soften(logits_of(seed=seed), 3.0) for seed in range(3)]
    each = weights or [1 / 3] * 3
    tables = [probabilities(part).tolist() for part in parts]
    arithmetic = [
        [sum(w * table[n][i] for w, table in zip(each, tables, strict=True)) for i in range(6)] for n in range(7)
    ]
    products = [
        [math.prod(table[n][i] ** w for w, table in zip(each, tables, strict=True)) for i in range(6)] for n in range(7)
    ]
    same(probabilities(targets.mixture(parts, weights)), arithmetic)
    same(probabilities(targets.geometric_mean(parts, weights)), [[x / sum(row) for x in row] for row in products])


def test_the_geometric_mean_of_softened_logits_is_the_softened_mean_of_the_logits():
    members = torch.stack([logits_of(seed=seed) for seed in range(3)])
    found = targets.geometric_mean([losses.soften(member, 3.0) for member in members])
    same(found.log_probs, losses.soften(members.mean(0), 3.0).log_probs)


@settings(max_examples=30)
@given(st.integers(1, 5), st.floats(0.2, 30), st.integers(0, 1000))
def test_a_mean_of_equal_targets_is_that_target_and_adds_up_to_one(count, temperature, seed):
    one = losses.soften(logits_of(seed=seed, scale=20.0), temperature)
    for mean in (targets.mixture, targets.geometric_mean):
        same(mean([one] * count).log_probs, one.log_probs)
    others = [losses.soften(logits_of(seed=seed + i, scale=20.0), temperature) for i in range(count)]
    for mean in (targets.mixture, targets.geometric_mean):
        same(probabilities(mean(others)).sum(1), torch.ones(7))


def test_impossible_classes_in_means():
    certain, unsure = (Dense(torch.tensor([row], dtype=torch.float64).log()) for row in ([1.0, 0.0], [0.5, 0.5]))
    same(probabilities(targets.mixture([certain, unsure])), [[0.75, 0.25]])
    same(probabilities(targets.geometric_mean([certain, unsure])), [[1.0, 0.0]])
    same(probabilities(targets.geometric_mean([certain, unsure], [0.0, 1.0])), [[0.5, 0.5]])
    other = Dense(certain.log_probs.flip(1))
    with pytest.raises(InputError, match="rule out every class between them"):
        targets.geometric_mean([certain, other])


@over(
    ("weights", "line"),
    [
        ([0.5, 0.6], "weights: found [0.5, 0.6], which sum to 1.1, expected 1"),
        ([1.5, -0.5], "weights: found -0.5, expected a finite number that is 0 or above"),
        ([1.0], "weights: found [1.0], 1 in all, expected 2"),
        ([math.inf, 0.0], "weights: found inf, expected a finite number that is 0 or above"),
    ],
)
def test_weights_that_are_none_are_refused(weights, line):
    one = losses.soften(logits_of())
    for call in (
        lambda: targets.mixture([one, one], weights),
        lambda: targets.geometric_mean([one, one], weights),
        lambda: targets.Mixture((targets.Softmax(), targets.Uniform()), tuple(weights)),
        lambda: targets.GeometricMean((targets.Softmax(), targets.Uniform()), tuple(weights)),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == line


def test_weights_that_add_up_to_one_only_nearly_still_give_distributions():
    parts = [losses.soften(logits_of(seed=seed)) for seed in range(3)]
    for mean in (targets.mixture, targets.geometric_mean):
        same(probabilities(mean(parts, [0.3333333] * 3)).sum(1), torch.ones(7))
        same(mean(parts, [0.3333333] * 3).log_probs, mean(parts).log_probs)


def test_a_mixture_needs_two_parts_of_one_shape():
    for kind in (targets.Mixture, targets.GeometricMean):
        with pytest.raises(InputError, match="parts: found 1, expected two targets or more"):
            kind((targets.Softmax(),))
    with pytest.raises(InputError, match="targets: found none"):
        targets.mixture([])
    with pytest.raises(InputError, match=r"the first target has shape \(7, 6\), target 2 has shape \(7, 5\)"):
        targets.mixture([losses.soften(logits_of()), losses.soften(logits_of(7, 5))])


def test_an_ensemble_at_a_temperature_is_the_mean_of_its_softened_members():
    members = torch.stack([logits_of(seed=seed) for seed in range(3)])
    weights = (0.2, 0.5, 0.3)
    for mean, expected in (
        ("arithmetic", sum(w * torch.softmax(m / 5.0, 1) for w, m in zip(weights, members, strict=True))),
        ("geometric", torch.softmax(sum(w * m for w, m in zip(weights, members, strict=True)) / 5.0, 1)),
    ):
        outputs = Outputs(torch.zeros(7, 6, dtype=torch.float64), members=Members(members, weights, mean))
        same(probabilities(targets.softened(outputs, 5.0)), expected)
