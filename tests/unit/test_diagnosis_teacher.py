"""What is read off a teacher's outputs, against scipy and numpy, and on outputs whose nature is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from scipy.stats import pearsonr, skew, spearmanr

from limbeck.diagnosis.blocks import blocks, found_blocks, rand_index
from limbeck.diagnosis.confidence import confidence, entropy
from limbeck.diagnosis.correlation import pearson, spearman, spearman_rows
from limbeck.diagnosis.relations import (
    class_correlation,
    class_profiles,
    off_diagonal,
    other_classes,
    seconded,
    seconded_classes,
)
from limbeck.errors import InputError


def drawn(n=600, classes=6, seed=0, *, margin=6.0, relations=1.5, noise=1.0):
    """Return logits and labels: a margin, relations that hold for a class, and noise of each example."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    profile = relations * torch.randn(classes, classes, generator=generator)
    logits = profile[labels] + noise * torch.randn(n, classes, generator=generator)
    logits.scatter_(1, labels[:, None], margin)
    return logits.double(), labels


# -------------------------------------------------------------------------------------------------------- correlations


@given(st.integers(2, 30), st.integers(0, 999), st.integers(1, 5))
def test_correlations_are_scipys(n, seed, levels):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(levels * 3, (n,), generator=generator).double()
    second = torch.randn(n, generator=generator).double()
    if len(first.unique()) == 1:
        assert pearson(first, second) is None
        assert spearman(first, second) is None
        return
    assert pearson(first, second) == pytest.approx(pearsonr(first.numpy(), second.numpy()).statistic, abs=1e-9)
    expected = spearmanr(first.numpy(), second.numpy()).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=1e-9)
    assert spearman_rows(first[None], second[None]).item() == pytest.approx(expected, abs=1e-9)


def test_class_correlation_is_numpys():
    logits, _ = drawn()
    for temperature in (1.0, 10.0):
        powers = np.exp(logits.numpy() / temperature)
        expected = np.corrcoef((powers / powers.sum(1, keepdims=True)).T)
        assert np.allclose(class_correlation(logits, temperature).numpy(), expected, atol=1e-10)
    flat = class_correlation(torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], 1))
    assert bool(flat[-1, :-1].isnan().all())
    assert float(flat[-1, -1]) == 1.0


# ---------------------------------------------------------------------------------------------------------- confidence


def test_confidence_is_what_numpy_says():
    logits, labels = drawn(noise=3.0)
    found = confidence(logits, labels)
    powers = np.exp(logits.numpy())
    p = powers / powers.sum(1, keepdims=True)
    true = p[np.arange(len(labels)), labels.numpy()]
    assert found.accuracy == pytest.approx((p.argmax(1) == labels.numpy()).mean())
    assert found.mean == pytest.approx(true.mean())
    assert found.true_class == pytest.approx(tuple(np.quantile(true, [0.05, 0.25, 0.5, 0.75, 0.95])))
    assert found.skewness == pytest.approx(skew(true))
    assert found.overconfidence == pytest.approx(p.max(1).mean() - found.accuracy)
    assert found.histogram == pytest.approx(np.histogram(true, 20, (0, 1))[0] / len(true))
    assert dict(found.entropies)[1.0] == pytest.approx(scipy_entropy(p, axis=1).mean())
    assert [value for _, value in found.entropies] == sorted(value for _, value in found.entropies)


def test_entropy_of_what_is_certain_or_ruled_out():
    assert entropy(torch.tensor([[0.0, -torch.inf]])).item() == 0.0
    assert entropy(torch.zeros(1, 8), 3.0).item() == pytest.approx(math.log(8))


# --------------------------------------------------------------------------------------------------- the other classes


def test_what_is_said_beside_the_label():
    logits, labels = drawn(n=120, margin=3.0)
    found = other_classes(logits, labels)
    margins, squares = [], []
    for row, t in zip(logits.numpy(), labels.tolist(), strict=True):
        if row.argmax() != t:
            continue
        others = np.delete(row, t)
        margins.append(row[t] - others.mean())
        squares += list((others - others.mean()) ** 2)
    assert len(margins) < 120
    assert found.margin == pytest.approx(np.median(margins))
    assert found.tightness == pytest.approx((np.quantile(margins, 0.95) - np.median(margins)) / np.median(margins))
    assert found.spread == pytest.approx(math.sqrt(np.mean(squares)))
    assert found.evenness == pytest.approx(found.spread / found.margin)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.4])
def test_the_smoothing_of_a_teacher_at_its_optimum_is_read_off(epsilon):
    labels = torch.arange(50) % 5
    p = torch.full((50, 5), epsilon / 5, dtype=torch.float64).scatter_(1, labels[:, None], 1 - epsilon + epsilon / 5)
    found = other_classes(p.log(), labels)
    assert found.epsilon == pytest.approx(epsilon)
    assert found.evenness == pytest.approx(0.0, abs=1e-9)
    assert found.tightness == pytest.approx(0.0, abs=1e-9)


def test_relations_are_reliable_and_noise_is_not():
    logits, labels = drawn(n=3000, classes=10)
    found = other_classes(logits, labels)
    assert found.reliability > 0.97
    assert found.class_share == pytest.approx(1.5**2 / (1.5**2 + 1.0), abs=0.12)
    noise, labels = drawn(n=3000, classes=10, relations=0.0)
    found = other_classes(noise, labels)
    assert abs(found.reliability) < 0.35
    assert found.class_share == pytest.approx(0.0, abs=0.01)


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 99))
def test_scale_and_shift_of_the_logits(scale, shift, seed):
    logits, labels = drawn(n=60, seed=seed)
    one, two = other_classes(logits, labels), other_classes(scale * logits + shift, labels)
    assert two.margin == pytest.approx(scale * one.margin, rel=1e-6)
    for name in ("evenness", "tightness", "reliability", "class_share"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-6, abs=1e-9)


def test_two_classes_have_no_relations():
    logits, labels = drawn(classes=2)
    found = other_classes(logits, labels)
    assert (found.reliability, found.class_share, found.spread) == (None, None, 0.0)
    assert seconded(logits, logits, labels) is None


def test_profiles_of_the_classes():
    logits, labels = drawn(n=90, classes=5)
    found = class_profiles(logits, labels)
    for t in range(5):
        rows = [np.delete(row, t) for row in logits[labels == t].numpy()]
        assert np.delete(found[t].numpy(), t) == pytest.approx(np.mean([row - row.mean() for row in rows], axis=0))
        assert float(found[t, t]) == 0.0
    assert bool(class_profiles(torch.cat([logits, logits[:, :1]], 1), labels)[5].isnan().all())


def test_which_classes_are_alike_is_seconded():
    logits, labels = drawn(n=400, classes=8)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    assert seconded_classes(logits, 3 * logits + noise, labels) > 0.95
    other, _ = drawn(n=400, classes=8, seed=5)
    assert abs(seconded_classes(logits, other, labels)) < 0.5
    right = logits.argmax(1) == labels
    assert not bool(right.all())
    profiles = [class_profiles(each[right], labels[right]).numpy()[~np.eye(8, dtype=bool)] for each in (logits, other)]
    assert seconded_classes(logits, other, labels) == pytest.approx(pearsonr(*profiles).statistic)
    assert seconded_classes(logits[:, :2], logits[:, :2], labels % 2) is None


def test_what_another_model_seconds():
    logits, labels = drawn(n=400, classes=8)
    generator = torch.Generator().manual_seed(1)
    similar = logits + 0.5 * torch.randn(logits.shape, generator=generator)
    other = torch.randn(logits.shape, generator=generator).double()
    assert seconded(logits, similar, labels) > 0.9
    assert abs(seconded(logits, other, labels)) < 0.1
    values = [
        spearmanr(np.delete(a, t), np.delete(b, t)).statistic
        for a, b, t in zip(logits.numpy(), similar.numpy(), labels.tolist(), strict=True)
        if a.argmax() == t
    ]
    assert seconded(logits, similar, labels) == pytest.approx(np.mean(values), abs=1e-9)


def test_what_is_said_where_the_prediction_is_wrong_does_not_count():
    logits, labels = drawn(n=300, classes=8, noise=0.3, margin=9.0)
    wrong = torch.arange(300) % 3 == 0
    told = torch.where(wrong, (labels + 1) % 8, labels)  # a third of the examples predict the class beside their own
    logits.scatter_(1, labels[:, None], 6.0).scatter_(1, told[:, None], 9.0)
    right, chosen = logits[~wrong], labels[~wrong]
    assert other_classes(logits, labels) == other_classes(right, chosen)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    noise.scatter_(1, told[:, None], 9.0)  # nothing but the predictions is the same
    for measure in (seconded, seconded_classes):
        assert measure(logits, noise, labels) == measure(right, noise[~wrong], chosen)
    assert abs(seconded(logits, noise, labels)) < 0.1
    nowhere = other_classes(logits, (labels + 4) % 8)
    assert math.isfinite(nowhere.spread)


# -------------------------------------------------------------------------------------------------------------- blocks


def blocky(groups, strength=0.5, noise=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    own = torch.tensor(groups)
    matrix = noise * torch.randn(len(own), len(own), generator=generator)
    matrix = (matrix + matrix.T) / 2 + strength * (own[:, None] == own[None, :])
    return matrix.fill_diagonal_(1.0)


GROUPS = [i // 4 for i in range(16)]


def test_given_blocks_are_scored():
    matrix = blocky(GROUPS)
    found = blocks(matrix, GROUPS)
    same = torch.tensor(GROUPS)[:, None] == torch.tensor(GROUPS)[None, :]
    pairs, alike = off_diagonal(matrix), off_diagonal(same)
    assert found.within == pytest.approx(float(pairs[alike].mean()))
    assert found.between == pytest.approx(float(pairs[~alike].mean()))
    assert found.score == pytest.approx((found.within - found.between) / float(pairs.double().std(correction=0)))
    assert found.p_value == 0.001
    assert blocks(matrix, [f * 7 + 3 for f in GROUPS]) == found


def test_the_permutation_test_is_honest():
    p = [blocks(blocky(GROUPS, 0.0, seed=seed), GROUPS, permutations=99).p_value for seed in range(100)]
    assert 0.4 < float(np.mean(p)) < 0.6
    assert sum(value <= 0.1 for value in p) <= 20


def test_blocks_are_found_without_a_hierarchy():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    matrix = blocky(GROUPS)[order][:, order]
    found = found_blocks(matrix)
    assert rand_index(found.groups, [GROUPS[i] for i in order.tolist()]) == 1.0
    assert found.p_value == 0.005


@pytest.mark.thorough
def test_the_search_for_blocks_does_not_find_them_in_noise():
    p = [found_blocks(blocky(GROUPS, 0.0, seed=seed), permutations=19).p_value for seed in range(30)]
    assert sum(value <= 0.05 for value in p) <= 5
    assert found_blocks(torch.eye(3)) is None


def test_rand_index():
    assert rand_index([0, 1, 0, 1], [1, 0, 1, 0]) == 1.0
    assert rand_index([0, 0, 1, 1], [0, 1, 0, 1]) < 0.1


def test_mistakes():
    with pytest.raises(InputError, match="found 3 for 4 classes"):
        blocks(torch.eye(4), [0, 0, 1])
    for groups in ([0, 0, 0, 0], [0, 1, 2, 3]):
        with pytest.raises(InputError, match="expected 2 or more, two of them in one group"):
            blocks(torch.eye(4), groups)
    with pytest.raises(InputError, match="not symmetric"):
        blocks(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), [0, 0])
    with pytest.raises(InputError, match="expected at least one, each from 0 to 2"):
        other_classes(torch.zeros(2, 3), torch.tensor([0, 3]))
