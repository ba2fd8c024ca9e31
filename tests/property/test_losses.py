"""What holds of the losses for any logits, drawn by hypothesis, against float64 numpy where there is a number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import log_softmax, softmax

from limbeck import losses, targets
from loss_references import reference_kl

UNLABELLED = -100


def floats(bound):
    return st.floats(-bound, bound, allow_subnormal=False)


@st.composite
def pairs(draw, bound=50.0, max_classes=6, min_classes=1):
    """Student and teacher logits of one shape, with any number of leading axes."""
    leading = draw(array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)) if draw(st.booleans()) else ()
    shape = (*leading, draw(st.integers(min_classes, max_classes)))
    return tuple(draw(arrays(np.float64, shape, elements=floats(bound))) for _ in range(2))


@st.composite
def labelled(draw, bound=50.0):
    """Logits, labels of which some may be missing, and a mask."""
    z, v = draw(pairs(bound))
    labels = draw(arrays(np.int64, z.shape[:-1], elements=st.integers(-1, z.shape[-1] - 1)))
    mask = draw(arrays(bool, z.shape[:-1]))
    return z, v, np.where(labels < 0, UNLABELLED, labels), mask


temperatures = st.floats(0.05, 100.0)
SOFT = [losses.kl, losses.soft_cross_entropy, losses.logit_matching]


def gradient(loss, z, v, **options):
    z = torch.tensor(z, requires_grad=True)
    loss(z, torch.tensor(v), **options).backward()
    return z.grad.numpy()


def call(loss, z, v, **options):
    return loss(torch.tensor(z), torch.tensor(v), **options).numpy()


@given(pairs(), temperatures)
def test_kl_equals_its_reference_and_is_not_negative(logits, temperature):
    z, v = logits
    value = call(losses.kl, z, v, temperature=temperature, reduction="none")
    np.testing.assert_allclose(value, reference_kl(z, v, temperature), rtol=1e-9, atol=1e-11 / temperature)
    assert (value >= -1e-12 / min(temperature, 1.0)).all()


@given(pairs(), temperatures)
def test_kl_of_equals_is_exactly_zero(logits, temperature):
    for x in logits:
        assert (call(losses.kl, x, x, temperature=temperature, reduction="none") == 0).all()


@given(pairs(), temperatures)
def test_soft_cross_entropy_is_kl_and_the_entropy_of_the_target(logits, temperature):
    z, v = logits
    log_p = log_softmax(v / temperature, -1)
    expected = reference_kl(z, v, temperature) - (np.exp(log_p) * log_p).sum(-1)
    value = call(losses.soft_cross_entropy, z, v, temperature=temperature, reduction="none")
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-11 / temperature)


@given(pairs(), st.booleans())
def test_logit_matching_equals_its_reference(logits, zero_mean):
    z, v = logits
    difference = z - v - (z - v).mean(-1, keepdims=True) * zero_mean
    value = call(losses.logit_matching, z, v, zero_mean=zero_mean, reduction="none")
    np.testing.assert_allclose(value, 0.5 * np.square(difference).mean(-1), rtol=1e-9, atol=1e-12)


@given(labelled(), temperatures, st.floats(0, 1))
def test_kd_equals_its_reference_whatever_is_missing_or_masked(drawn, temperature, alpha):
    z, v, labels, mask = drawn
    rows = np.where(labels == UNLABELLED, 0, labels)
    hard = -np.take_along_axis(log_softmax(z, -1), rows[..., None], -1)[..., 0]
    counted = mask & (labels != UNLABELLED)
    hard = np.where(counted, hard, 0).sum() / max(counted.sum(), 1)
    soft = np.where(mask, reference_kl(z, v, temperature), 0).sum() / max(mask.sum(), 1)
    value = losses.kd(
        *(torch.tensor(x) for x in (z, v, labels)), temperature=temperature, alpha=alpha, mask=torch.tensor(mask)
    )
    expected = alpha * hard + (1 - alpha) * temperature**2 * soft
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-11 * max(1.0, temperature**2))


@given(pairs(), temperatures)
def test_the_gradient_of_kl_is_q_minus_p_over_temperature_and_sums_to_zero(logits, temperature):
    z, v = logits
    expected = (softmax(z / temperature, -1) - softmax(v / temperature, -1)) / temperature
    for loss in (losses.kl, losses.soft_cross_entropy):
        given_gradient = gradient(loss, z, v, temperature=temperature, reduction="sum")
        np.testing.assert_allclose(given_gradient, expected, rtol=1e-9, atol=1e-13 / temperature)
        np.testing.assert_allclose(given_gradient.sum(-1), 0, atol=1e-13 / temperature)


@given(pairs(bound=5.0, max_classes=10, min_classes=2), st.floats(100.0, 1e4))
def test_at_high_temperature_kd_regresses_zero_mean_logits_within_a_bound_that_falls_as_one_over_temperature(
    logits, temperature
):
    z, v = (x - x.mean(-1, keepdims=True) for x in logits)
    matching = (z - v) / z.shape[-1]
    given_gradient = temperature**2 * gradient(losses.kl, z, v, temperature=temperature, reduction="sum")
    # From |K·q - 1 - z/T| <= 1.2·(M/T)² for zero-mean |z| <= M <= T/10, and the same of the teacher.
    bound = 2.4 * max(np.abs(z).max(), np.abs(v).max()) ** 2 / (temperature * z.shape[-1]) + 1e-14 * temperature
    assert np.abs(given_gradient - matching).max() <= bound
    np.testing.assert_allclose(gradient(losses.logit_matching, z, v, reduction="sum"), matching, atol=1e-13)


@given(pairs(), st.floats(0.1, 10.0), st.floats(0.01, 100.0))
def test_scaling_logits_and_temperature_together_changes_nothing(logits, temperature, factor):
    z, v = logits
    plain = losses.soften(torch.tensor(z), temperature).log_probs
    scaled = losses.soften(torch.tensor(factor * z), factor * temperature).log_probs
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        call(losses.kl, factor * z, factor * v, temperature=factor * temperature),
        call(losses.kl, z, v, temperature=temperature),
        rtol=1e-9,
        atol=1e-10,
    )


@given(pairs(), temperatures)
def test_soften_is_a_distribution_that_keeps_the_order_of_the_logits(logits, temperature):
    z, _ = logits
    p = losses.soften(torch.tensor(z), temperature).log_probs.exp().numpy()
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-12)
    order = np.argsort(z, -1)
    assert (np.diff(np.take_along_axis(p, order, -1)) >= 0).all()


@given(st.floats(0.001, 100.0), pairs(max_classes=5, min_classes=2))
def test_soften_approaches_the_uniform_distribution_and_the_argmax(gap, logits):
    z, _ = logits
    uniform = losses.soften(torch.tensor(z), 1e9).log_probs.exp().numpy()
    np.testing.assert_allclose(uniform, 1 / z.shape[-1], atol=1e-6)
    z[..., 0] = z.max(-1) + gap
    argmax = losses.soften(torch.tensor(z), gap / 60).log_probs.exp().numpy()
    np.testing.assert_allclose(argmax, np.eye(z.shape[-1])[np.zeros(z.shape[:-1], int)], atol=1e-20 + 5e-26, rtol=1e-15)


@given(pairs(), floats(50.0), floats(50.0), temperatures)
def test_a_constant_added_to_all_logits_of_an_example_changes_no_divergence(
    logits, on_student, on_teacher, temperature
):
    z, v = logits
    for loss in (losses.kl, losses.soft_cross_entropy):
        np.testing.assert_allclose(
            call(loss, z + on_student, v + on_teacher, temperature=temperature),
            call(loss, z, v, temperature=temperature),
            rtol=1e-9,
            atol=1e-10 / min(temperature, 1.0),
        )
    np.testing.assert_allclose(
        call(losses.logit_matching, z + on_student, v + on_teacher, zero_mean=True),
        call(losses.logit_matching, z, v, zero_mean=True),
        rtol=1e-9,
        atol=1e-9,
    )


@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_changes_nothing(logits, random):
    z, v = logits
    order = list(range(z.shape[-1]))
    random.shuffle(order)
    for loss in SOFT:
        np.testing.assert_allclose(call(loss, z[..., order], v[..., order]), call(loss, z, v), rtol=1e-12, atol=1e-12)


@given(pairs(), st.integers(1, 8), temperatures)
def test_classes_that_nobody_can_have_change_neither_value_nor_gradient(logits, more, temperature):
    z, v = logits
    pad = np.full((*z.shape[:-1], more), -np.inf)
    for loss, options in (
        (losses.kl, {"temperature": temperature}),
        (losses.soft_cross_entropy, {"temperature": temperature}),
        (losses.logit_matching, {}),
        (losses.logit_matching, {"zero_mean": True}),
    ):
        wide = (np.concatenate([z, pad], -1), np.concatenate([v, pad], -1))
        np.testing.assert_allclose(call(loss, *wide, **options), call(loss, z, v, **options), rtol=1e-9, atol=1e-12)
        wide_gradient = gradient(loss, *wide, **options)
        np.testing.assert_allclose(
            wide_gradient[..., : z.shape[-1]], gradient(loss, z, v, **options), rtol=1e-9, atol=1e-12 / temperature
        )
        assert (wide_gradient[..., z.shape[-1] :] == 0).all()


@given(labelled(), st.integers(1, 3))
def test_a_batch_seen_several_times_and_padding_that_holds_anything_finite_change_no_mean(drawn, times):
    z, v, labels, mask = (x.reshape(-1, *x.shape[drawn[2].ndim :]) for x in drawn)
    padding = np.full((2, z.shape[-1]), 1e4)
    padding[:, 0] = -3.0
    more = (
        np.concatenate([z] * times + [padding]),
        np.concatenate([v] * times + [-padding]),
        np.concatenate([labels] * times + [[0, UNLABELLED]]),
        np.concatenate([mask] * times + [[False, False]]),
    )

    def values(z, v, labels, mask):
        z, v, labels, mask = (torch.tensor(x) for x in (z, v, labels, mask))
        yield losses.kd(z, v, labels, mask=mask).item()
        yield losses.cross_entropy(z, labels, mask=mask).item()
        for loss in SOFT:
            yield loss(z, v, mask=mask).item()

    assert list(values(*more)) == pytest.approx(list(values(z, v, labels, mask)), rel=1e-9, abs=1e-10)


@given(pairs(bound=1e4), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), temperatures)
def test_value_and_gradient_are_finite_in_any_precision_for_logits_up_to_ten_thousand(logits, dtype, temperature):
    z, v = (torch.tensor(x).to(dtype) for x in logits)
    exact = (z.double().numpy(), v.double().numpy())
    labels = torch.zeros(z.shape[:-1], dtype=torch.int64)
    for loss in (*SOFT, lambda z, v: losses.kl(z, v, temperature=temperature), lambda z, v: losses.kd(z, v, labels)):
        z = z.detach().requires_grad_()
        value = loss(z, v)
        value.backward()
        assert math.isfinite(value.item())
        assert torch.isfinite(z.grad).all()
    value = losses.kl(z.detach(), v, temperature=temperature).item()
    unit = 1e-14 if dtype == torch.float64 else 1e-6
    assert value == pytest.approx(
        reference_kl(*exact, temperature).mean(), rel=unit, abs=unit * (1 + 4e4 / temperature)
    )


@given(
    arrays(np.float64, (4, 6), elements=floats(20.0)),
    arrays(np.int64, 4, elements=st.integers(0, 5)),
    st.floats(0.0, 1.0),
)
def test_smoothed_labels_mix_the_labels_with_a_uniform_teacher(z, labels, epsilon):
    z, y = torch.tensor(z), torch.tensor(labels)
    target = targets.smooth_labels(y, 6, epsilon, dtype=torch.float64)
    smoothed = losses.CROSS_ENTROPY.per_example(z, target, 1.0)
    hard = losses.cross_entropy(z, y, reduction="none")
    uniform = losses.soft_cross_entropy(z, torch.zeros_like(z), reduction="none")
    torch.testing.assert_close(smoothed, (1 - epsilon) * hard + epsilon * uniform, rtol=1e-12, atol=1e-12)
    log_q = log_softmax(z.numpy(), -1)
    y_smooth = (1 - epsilon) * np.eye(6)[labels] + epsilon / 6
    np.testing.assert_allclose(smoothed.numpy(), -(y_smooth * log_q).sum(-1), rtol=1e-12, atol=1e-12)


@given(st.floats(0, 1))
def test_alpha_is_the_weight_of_the_labels_and_leaves_the_rest_to_the_teacher(alpha):
    hard, soft = losses.kd_weights(alpha=alpha)
    assert hard == alpha
    assert hard + soft == pytest.approx(1.0)


RELATIVES = {
    "reverse_kl": losses.REVERSE_KL,
    "js": losses.jensen_shannon(0.5),
    "skewed_kl": losses.skewed(0.3),
    "total_variation": losses.TOTAL_VARIATION,
}


@given(pairs(), temperatures, st.sampled_from(sorted(RELATIVES)))
def test_a_divergence_is_not_negative_and_the_same_whatever_constant_or_order_the_logits_have(
    logits, temperature, kind
):
    z, v = (torch.tensor(x) for x in logits)

    def value(z, v):
        return RELATIVES[kind].per_example(z, losses.soften(v, temperature), temperature)

    given_value = value(z, v)
    unit = 1e-10 / min(temperature, 1.0)
    assert (given_value >= -unit).all()
    torch.testing.assert_close(value(z + 7.0, v - 3.0), given_value, rtol=1e-9, atol=unit)
    torch.testing.assert_close(value(z.flip(-1), v.flip(-1)), given_value, rtol=1e-10, atol=unit)
    assert value(z, z).abs().max() <= unit


@given(pairs(), temperatures, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_divergences_keep_their_bounds_and_their_order(logits, temperature, beta, skew):
    z, v = (torch.tensor(x) for x in logits)
    target, slack = losses.soften(v, temperature), 1e-9 / min(temperature, 1.0)

    def value(divergence):
        return divergence.per_example(z, target, temperature)

    kl, variation, mixed = value(losses.KL), value(losses.TOTAL_VARIATION), value(losses.jensen_shannon(beta))
    assert (variation <= 1 + slack).all()
    assert (2 * variation**2 <= kl + slack).all()  # Pinsker
    assert (mixed <= -beta * math.log(beta) - (1 - beta) * math.log1p(-beta) + slack).all()
    assert (mixed <= beta * (1 - beta) * (kl + value(losses.REVERSE_KL)) + slack).all()
    assert (value(losses.skewed(skew)) <= torch.clamp((1 - skew) * kl, max=-math.log(skew)) + slack).all()
