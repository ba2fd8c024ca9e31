"""The losses against references in float64 numpy that share no code with them, closed-form gradients and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from limbeck import losses, targets
from loss_references import (
    DTYPES,
    INF,
    LEADING,
    SOFT,
    UNLABELLED,
    drawn,
    reference_cross_entropy,
    reference_kl,
    reference_reduce,
    reference_soft_cross_entropy,
    tensor,
)
from walk import over, pairs

TEMPERATURES = [0.5, 1.0, 2.0, 4.0, 20.0]


def reference_entropy(v, temperature=1.0):
    p = softmax(v / temperature, axis=-1)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1)


def gradient(loss, z, *rest, **options):
    z = tensor(z, grad=True)
    loss(z, *rest, **options).backward()
    return z.grad.numpy()


# --------------------------------------------------------------------------------------------------------------- values


@over("leading, reduction, masked, name", pairs(LEADING, ["none", "sum", "mean"], [False, True], SOFT))
def test_a_loss_on_soft_targets_equals_its_reference(name, masked, reduction, leading):
    loss, reference, options = SOFT[name]
    z, v, _, mask = drawn(leading)
    counts = mask if masked else np.ones(leading, bool)
    expected = reference_reduce(reference(z, v, **options), counts, reduction)
    given = loss(tensor(z), tensor(v), mask=tensor(mask) if masked else None, reduction=reduction, **options)
    assert given.shape == expected.shape
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=1e-14)


@over("leading, reduction, masked", pairs(LEADING, ["none", "sum", "mean"], [False, True]))
def test_cross_entropy_equals_its_reference_and_counts_neither_the_unlabelled_nor_the_masked(
    masked, reduction, leading
):
    z, _, labels, mask = drawn(leading)
    counts = (labels != UNLABELLED) & (mask if masked else True)
    expected = reference_reduce(reference_cross_entropy(z, labels), counts, reduction)
    given = losses.cross_entropy(
        tensor(z), tensor(labels), mask=tensor(mask) if masked else None, reduction=reduction
    ).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-14)


@over("leading", LEADING[1:])
@over("masked", [False, True])
@over("temperature", TEMPERATURES)
@over(("hard", "soft"), [(0.1, 0.9), (1.0, 0.0), (0.0, 1.0), (0.3, 2.5)])
def test_kd_equals_its_reference(hard, soft, temperature, masked, leading):
    z, v, labels, mask = drawn(leading)
    counts = mask if masked else np.ones(leading, bool)
    hard_term = reference_reduce(reference_cross_entropy(z, labels), counts & (labels != UNLABELLED), "mean")
    soft_term = reference_reduce(reference_kl(z, v, temperature), counts, "mean")
    given = losses.kd(
        tensor(z),
        tensor(v),
        tensor(labels),
        temperature=temperature,
        hard_weight=hard,
        soft_weight=soft,
        mask=tensor(mask) if masked else None,
    )
    assert given.item() == pytest.approx(hard * hard_term + soft * temperature**2 * soft_term, rel=1e-12)


def test_kd_without_options_is_a_tenth_of_hard_labels_and_the_rest_of_soft_targets_at_temperature_4():
    z, v, labels, _ = drawn((6,))
    hard = reference_reduce(reference_cross_entropy(z, labels), labels != UNLABELLED, "mean")
    expected = 0.1 * hard + 0.9 * 16 * reference_kl(z, v, 4.0).mean()
    assert losses.kd(tensor(z), tensor(v), tensor(labels)).item() == pytest.approx(expected, rel=1e-12)


@over("temperature", TEMPERATURES)
def test_soft_cross_entropy_is_kl_and_the_entropy_of_the_target(temperature):
    z, v, *_ = drawn((6,))
    cross = losses.soft_cross_entropy(tensor(z), tensor(v), temperature=temperature, reduction="none")
    kl = losses.kl(tensor(z), tensor(v), temperature=temperature, reduction="none")
    np.testing.assert_allclose((cross - kl).numpy(), reference_entropy(v, temperature), rtol=1e-12)


@over("dtype, temperature, classes, scale", pairs(DTYPES, [0.1, 1.0, 4.0, 1000.0], [1, 2, 10, 1000], [0.0, 1.0, 1e4]))
def test_kl_of_equals_is_exactly_zero_with_exactly_no_gradient_beyond_rounding(scale, classes, temperature, dtype):
    x = (scale * torch.randn(16, classes).clamp(-1, 1)).to(dtype).requires_grad_()
    loss = losses.kl(x, x, temperature=temperature, reduction="none")
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros_like(loss))
    assert x.grad.abs().max() <= 1e-6 / temperature


def test_kl_of_equals_is_exactly_zero_for_strided_logits_and_a_padded_vocabulary():
    x = torch.randn(10, 6).t()
    x[:, 7:] = -INF
    assert losses.kl(x, x.contiguous()) == 0
    assert losses.kl(x, x, temperature=3.0) == 0


def test_the_soft_cross_entropy_of_equals_is_the_entropy_and_not_zero():
    x = torch.zeros(3, 4)
    assert losses.soft_cross_entropy(x, x).item() == pytest.approx(math.log(4))


# ------------------------------------------------------------------------------------------------------------ gradients


@over("temperature", TEMPERATURES)
@over("loss", [losses.kl, losses.soft_cross_entropy])
def test_the_gradient_of_kl_and_of_soft_cross_entropy_is_q_minus_p_over_temperature(loss, temperature):
    z, v, *_ = drawn((6,))
    expected = (softmax(z / temperature, -1) - softmax(v / temperature, -1)) / temperature
    given = gradient(loss, z, tensor(v), temperature=temperature, reduction="sum")
    np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-14)
    given = gradient(loss, z, tensor(v), temperature=temperature, reduction="mean")
    np.testing.assert_allclose(given, expected / 6, rtol=1e-10, atol=1e-14)


@over("temperature", TEMPERATURES)
def test_the_gradient_of_kd_on_soft_targets_is_temperature_times_q_minus_p(temperature):
    z, v, *_ = drawn((6,))
    expected = temperature * (softmax(z / temperature, -1) - softmax(v / temperature, -1)) / 6
    given = gradient(losses.kd, z, tensor(v), temperature=temperature, soft_weight=1.0)
    np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-14)


def test_the_gradient_of_cross_entropy_is_q_minus_y_on_labelled_examples_and_zero_elsewhere():
    z, _, labels, _ = drawn((40,))
    assert UNLABELLED in labels
    labelled = labels != UNLABELLED
    y = np.eye(5)[np.where(labelled, labels, 0)]
    expected = np.where(labelled[:, None], softmax(z, -1) - y, 0.0)
    np.testing.assert_allclose(
        gradient(losses.cross_entropy, z, tensor(labels), reduction="sum"), expected, rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(
        gradient(losses.cross_entropy, z, tensor(labels)), expected / labelled.sum(), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("zero_mean", [False, True])
def test_the_gradient_of_logit_matching_is_the_difference_over_the_number_of_classes(zero_mean):
    z, v, *_ = drawn((6,))
    difference = z - v
    if zero_mean:
        difference = difference - difference.mean(-1, keepdims=True)
    given = gradient(losses.logit_matching, z, tensor(v), zero_mean=zero_mean, reduction="sum")
    np.testing.assert_allclose(given, difference / 5, rtol=1e-12, atol=1e-15)


def test_targets_are_cut_off_from_the_graph():
    logits = torch.randn(2, 3, requires_grad=True)
    assert not losses.soften(logits).log_probs.requires_grad
    assert not targets.uniform(logits).log_probs.requires_grad


# ---------------------------------------------------------------------------------------------------------- temperature


def test_softened_logits_are_the_softmax_of_logits_over_temperature():
    z = np.array([-10.0, -5.0, 0.0, 5.0, 10.0, 15.0])
    for temperature in [0.5, 1.0, 2.0, 10.0, 100.0]:
        given = losses.soften(tensor(z), temperature).log_probs.exp().numpy()
        np.testing.assert_allclose(given, np.exp(z / temperature) / np.exp(z / temperature).sum(), rtol=1e-12)


def test_a_high_temperature_gives_the_uniform_distribution_and_a_low_one_the_argmax():
    logits = torch.tensor([[1.0, 3.0, 2.9, -4.0]])
    torch.testing.assert_close(losses.soften(logits, 1e7).log_probs.exp(), torch.full((1, 4), 0.25))
    torch.testing.assert_close(losses.soften(logits, 1e-4).log_probs.exp(), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    tied = losses.soften(torch.tensor([[2.0, 2.0, 1.0]]), 1e-4).log_probs.exp()
    torch.testing.assert_close(tied, torch.tensor([[0.5, 0.5, 0.0]]))


def test_the_gradient_of_kd_at_small_gaps_stays_as_temperature_grows():
    z, v, *_ = drawn((8,), classes=10, scale=0.1)
    norms = [
        np.linalg.norm(gradient(losses.kd, z, tensor(v), temperature=temperature, soft_weight=1.0))
        for temperature in [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0]
    ]
    assert max(norms) / min(norms) < 1.05
    values = [losses.kd(tensor(z), tensor(v), temperature=t, soft_weight=1.0).item() for t in [4.0, 64.0, 1024.0]]
    assert max(values) / min(values) < 1.05


@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy])
def test_the_gradient_of_kl_itself_falls_with_the_square_of_temperature(loss):
    z, v, *_ = drawn((8,), classes=10, scale=0.1)
    at_100, at_200 = (np.linalg.norm(gradient(loss, z, tensor(v), temperature=t)) for t in (100.0, 200.0))
    assert at_100 / at_200 == pytest.approx(4.0, rel=1e-3)


@over(
    ("labelled", "weights"),
    [
        (True, {"alpha": 0.0}),
        (True, {"soft_weight": 1.0}),
        (True, {"hard_weight": 0.0, "soft_weight": 1.0}),
        (False, {"alpha": 0.0}),
        (False, {"soft_weight": 1.0}),
    ],
    ids=str,
)
def test_kd_keeps_the_square_of_temperature_without_labels_and_without_weight_on_them(labelled, weights):
    z, v, labels, _ = drawn((6,))
    given = losses.kd(tensor(z), tensor(v), tensor(labels) if labelled else None, temperature=4.0, **weights)
    assert given.item() == pytest.approx(16 * reference_kl(z, v, 4.0).mean(), rel=1e-12)


def test_the_soft_term_keeps_its_weight_when_there_are_no_labels():
    z, v, *_ = drawn((6,))
    given = losses.kd(tensor(z), tensor(v), alpha=0.25, temperature=2.0)
    assert given.item() == pytest.approx(0.75 * 4 * reference_kl(z, v, 2.0).mean(), rel=1e-12)


def test_the_high_temperature_limit_of_the_gradient_is_logit_matching_and_its_error_falls_as_one_over_temperature():
    z, v, *_ = drawn((6,), classes=10)
    z, v = z - z.mean(-1, keepdims=True), v - v.mean(-1, keepdims=True)
    matching = gradient(losses.logit_matching, z, tensor(v), reduction="sum")
    np.testing.assert_allclose(matching, (z - v) / 10, rtol=1e-12, atol=1e-15)
    errors = [
        np.abs(t**2 * gradient(losses.kl, z, tensor(v), temperature=t, reduction="sum") - matching).max()
        for t in (1000.0, 2000.0, 4000.0)
    ]
    assert errors[0] < 0.01 * np.abs(matching).max()
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.01)


def test_the_high_temperature_limit_holds_for_any_logits_against_zero_mean_matching():
    z, v, *_ = drawn((6,), classes=10)
    matching = gradient(losses.logit_matching, z + 7.0, tensor(v), zero_mean=True)
    kd = gradient(losses.kd, z + 7.0, tensor(v), temperature=1e5, soft_weight=1.0)
    np.testing.assert_allclose(kd, matching, atol=1e-4 * np.abs(matching).max())


@pytest.mark.parametrize("divergence", [losses.KL, losses.CROSS_ENTROPY], ids=lambda d: d.name)
def test_a_divergence_declares_its_factor_and_does_not_apply_it(divergence):
    z, v, *_ = drawn((6,))
    reference = {"kl": reference_kl, "cross_entropy": reference_soft_cross_entropy}[divergence.name]
    for temperature in TEMPERATURES:
        assert divergence.factor(temperature) == temperature**2
        given = divergence.per_example(tensor(z), losses.soften(tensor(v), temperature), temperature)
        np.testing.assert_allclose(given.numpy(), reference(z, v, temperature), rtol=1e-12)
