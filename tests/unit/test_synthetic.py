"""The synthetic task of Tang et al. (2020): a plain reference, its geometry, its prefixes, what it refuses."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.data import TensorSet, synthetic
from limbeck.data.synthetic import synthetic_task
from limbeck.errors import DataError, InputError
from walk import over

SMALL = {"classes": 12, "groups": 4, "dimensions": 30}


def task(tau=0.6, seed=0, terms=5, frequency=20.0, function=0, **sizes):
    sizes = {**SMALL, **sizes}
    return synthetic_task(tau, sizes["classes"], sizes["groups"], sizes["dimensions"], terms, frequency, function, seed)


def reference_label(x, made) -> int:
    """Compute argmax_k( w_k·x/|x| + Σ_m sin(a_m·(w_k·x/|x|) + b_m) ) number by number."""
    norm = math.sqrt(math.fsum(v * v for v in x))
    best, found = -math.inf, -1
    for label, vector in enumerate(made.vectors.tolist()):
        score = plain = math.fsum(a * b / norm for a, b in zip(vector, x, strict=True))
        for a, b in zip(made.frequencies.tolist(), made.phases.tolist(), strict=True):
            score += math.sin(a * plain + b)
        if score > best:
            best, found = score, label
    return found


@pytest.mark.parametrize("tau", [0.0, 0.4, 0.95])
def test_labels_are_those_of_the_formula(tau):
    data = synthetic(tau=tau, train=60, test=20, terms=5, frequency=20.0, seed=3, **SMALL)
    made = task(tau, seed=3)
    for part in (data.train, data.test):
        batch = part.batch(torch.arange(len(part)), augment=None, seed=0, view=0)
        assert [reference_label(x, made) for x in batch.inputs.tolist()] == batch.labels.tolist()


def test_without_sines_the_task_is_linear_and_of_one_sine_it_is_not():
    inputs = torch.randn(200, 30)
    linear = task(terms=0)
    assert torch.equal(linear.labels(inputs), (inputs.double() @ linear.vectors.T).argmax(1))
    assert not torch.equal(task(terms=1).labels(inputs), linear.labels(inputs))
    assert torch.equal(linear.labels(7.0 * inputs), linear.labels(inputs))


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.9])
def test_class_vectors_have_the_geometry_that_tau_says(tau):
    made = task(tau)
    centres, vectors = made.centres.numpy(), made.vectors.numpy()
    assert made.groups == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    np.testing.assert_allclose(centres @ centres.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)
    own = np.eye(4)[list(made.groups)]
    np.testing.assert_allclose(vectors @ centres.T, tau * own, atol=1e-12)
    rest = (vectors - tau * centres[list(made.groups)]) / math.sqrt(1 - tau**2)
    np.testing.assert_allclose(rest @ centres.T, 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), 1, atol=1e-12)


def test_classes_of_a_group_are_alike_on_average_by_tau_squared():
    made = task(0.7, classes=60, groups=6, dimensions=400)
    cosines = (made.vectors @ made.vectors.T).numpy()
    group = np.array(made.groups)
    together = (group[:, None] == group) & ~np.eye(60, dtype=bool)
    assert cosines[together].mean() == pytest.approx(0.49, abs=0.01)
    assert cosines[group[:, None] != group].mean() == pytest.approx(0, abs=0.01)


def test_tau_moves_the_same_classes_together():
    near, far = task(0.9), task(0.1)
    assert torch.equal(near.centres, far.centres)
    assert torch.equal(near.frequencies, far.frequencies)
    assert torch.equal(near.phases, far.phases)
    rest = [
        (made.vectors - tau * made.centres[torch.tensor(made.groups)]) / (1 - tau**2) ** 0.5
        for made, tau in ((near, 0.9), (far, 0.1))
    ]
    torch.testing.assert_close(rest[0], rest[1])


def test_the_function_has_a_seed_of_its_own():
    first, other, again = task(), task(function=1), task(seed=1)
    assert torch.equal(first.vectors, other.vectors)
    assert not torch.equal(first.frequencies, other.frequencies)
    assert not torch.equal(first.phases, other.phases)
    assert torch.equal(first.frequencies, again.frequencies)
    assert torch.equal(first.phases, again.phases)


def test_frequencies_and_phases_have_their_distributions():
    made = task(terms=4000, frequency=7.0)
    assert stats.kstest(made.frequencies.numpy() / 7.0, "norm").pvalue > 1e-3
    assert stats.kstest(made.phases.numpy() / (2 * math.pi), "uniform").pvalue > 1e-3


def test_inputs_are_standard_normal_and_classes_about_equal():
    data = synthetic(train=4000, test=10, **SMALL)
    assert stats.kstest(data.train.inputs.flatten().numpy()[:50000], "norm").pvalue > 1e-3
    counts = torch.bincount(data.train.labels, minlength=12)
    assert counts.min() > 0.6 * 4000 / 12
    assert counts.max() < 1.5 * 4000 / 12


@over("size", [1, 1023, 1024, 1025, 3000])
def test_a_smaller_set_is_the_beginning_of_a_larger_one(size):
    whole = synthetic(train=3001, test=5, classes=3, groups=1, dimensions=4, seed=5).train
    part = synthetic(train=size, test=2, classes=3, groups=1, dimensions=4, seed=5).train
    assert torch.equal(part.inputs, whole.inputs[:size])
    assert torch.equal(part.labels, whole.labels[:size])


def test_blocks_parts_and_seeds_share_no_sample():
    data = synthetic(train=2048, test=1024, classes=3, groups=1, dimensions=4)
    other = synthetic(train=10, test=10, classes=3, groups=1, dimensions=4, seed=1)
    firsts = [data.train.inputs[0], data.train.inputs[1024], data.test.inputs[0], other.train.inputs[0]]
    assert len({tuple(first.tolist()) for first in firsts}) == 4
    assert not torch.equal(task(seed=0).vectors, task(seed=1).vectors)
    assert data.train.source != data.test.source


def test_the_set_is_the_same_every_time_and_the_global_generator_stays():
    state = torch.get_rng_state()
    first, again = (synthetic(train=50, test=10, **SMALL) for _ in range(2))
    assert first.train.source == again.train.source
    assert first.train.source != synthetic(tau=0.5, train=50, test=10, **SMALL).train.source
    assert torch.equal(state, torch.get_rng_state())


def test_groups_stay_with_the_set():
    train = synthetic(train=200, test=10, **SMALL).train
    expected = (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    rest, held_out = train.split(50, seed=0)
    for part in (train, train.to("cpu"), rest, held_out, train.fraction(0.5, 0), train.without_labels()):
        assert part.groups == expected
    assert TensorSet.of(torch.zeros(2, 3)).groups is None


@pytest.mark.parametrize(("groups", "line"), [([0, 1], "groups for 2"), ([0, -1, 0], "class 1"), ([0, 1.0, 0], "1.0")])
def test_groups_that_fit_no_classes_are_refused(groups, line):
    with pytest.raises((DataError, InputError), match=line) as caught:
        TensorSet.of(torch.zeros(3, 2), torch.arange(3), groups=groups)
    assert "\n" not in str(caught.value)


@over(
    ("keys", "line"),
    [
        ({"tau": 1.0}, "tau: found 1"),
        ({"tau": -0.1}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"classes": 10, "groups": 4}, "groups: found 4, expected a divisor of the 10 classes"),
        ({"dimensions": 10}, "dimensions: found 10 for 10 groups"),
        ({"classes": 1, "groups": 1}, "classes"),
        ({"groups": 0}, "groups"),
        ({"terms": -1}, "terms"),
        ({"frequency": float("inf")}, "frequency"),
        ({"train": 0}, "train"),
        ({"test": 0}, "test"),
        ({"seed": -1}, "seed"),
        ({"function": -1}, "function"),
    ],
)
def test_values_that_make_no_task_are_refused(keys, line):
    with pytest.raises(InputError, match=line) as caught:
        synthetic(**keys)
    assert "\n" not in str(caught.value)


@over("keys", [{"train": 2**40}, {"dimensions": 2**40}, {"terms": 2**50}, {"classes": 10 * 2**38}])
def test_sizes_beyond_memory_are_refused_before_anything_is_made(keys):
    with pytest.raises(DataError, match="bytes, but this machine has"):
        synthetic(**keys)
