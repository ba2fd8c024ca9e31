"""DIST's correlations against scipy's, in closed form and at their limits; and logits without their scale."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import pearsonr

from limbeck import losses
from limbeck.errors import InputError
from walk import over, pairs

INF = math.inf
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def drawn(shape=(8, 5), scale=3.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(2, *shape))


def tensors(*arrays):
    return tuple(torch.tensor(array) for array in arrays)


def gradient(loss, z, v, **options):
    z = torch.tensor(z, requires_grad=True)
    loss(z, torch.tensor(v), **options).sum().backward()
    return z.grad.numpy()


def probabilities(z, v, temperature):
    return softmax(z / temperature, -1), softmax(v / temperature, -1)


# ---------------------------------------------------------------------------------------------------------------- DIST


@over("temperature", TEMPERATURES)
@over("shape", [(5,), (8, 5), (2, 3, 5)])
def test_the_inter_class_loss_is_one_minus_scipys_correlation_of_each_example(shape, temperature):
    z, v = drawn(shape)
    q, p = (x.reshape(-1, 5) for x in probabilities(z, v, temperature))
    expected = np.array([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)]).reshape(shape[:-1])
    given = losses.inter_class(*tensors(z, v), temperature=temperature, reduction="none").numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-13)


@over("temperature, shape, masked", pairs(TEMPERATURES, [(8, 5), (2, 4, 5)], [False, True]))
def test_the_intra_class_loss_is_one_minus_scipys_correlation_of_each_class_over_the_batch(masked, shape, temperature):
    z, v = drawn(shape)
    mask = np.arange(8).reshape(shape[:-1]) % 3 > 0
    q, p = (x.reshape(-1, 5) for x in probabilities(z, v, temperature))
    if masked:
        q, p = q[mask.reshape(-1)], p[mask.reshape(-1)]
    expected = np.mean([1 - pearsonr(q[:, i], p[:, i]).statistic for i in range(5)])
    given = losses.intra_class(*tensors(z, v), temperature=temperature, mask=torch.tensor(mask) if masked else None)
    assert given.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("tau_squared", [False, True])
def test_dist_is_the_weighted_sum_of_both_and_the_published_factor_an_option(tau_squared):
    z, v = tensors(*drawn())
    inter, intra = losses.inter_class(z, v, temperature=4.0), losses.intra_class(z, v, temperature=4.0)
    given = losses.dist(z, v, temperature=4.0, inter_weight=0.5, intra_weight=3.0, tau_squared=tau_squared)
    assert given.item() == pytest.approx((16 if tau_squared else 1) * (0.5 * inter + 3 * intra).item(), rel=1e-12)
    assert losses.dist(z, v).item() == pytest.approx(
        2 * sum(loss(z, v).item() for loss in (losses.inter_class, losses.intra_class))
    )


def closed_form(q, p, axis):
    """∂(1 - r)/∂q for each row along an axis: -(p' - r·q'·|p'|/|q'|)/(|p'||q'|), then back through the softmax."""
    q_c, p_c = q - q.mean(axis, keepdims=True), p - p.mean(axis, keepdims=True)
    q_n, p_n = (np.sqrt((x**2).sum(axis, keepdims=True)) for x in (q_c, p_c))
    r = (q_c * p_c).sum(axis, keepdims=True) / (q_n * p_n)
    return -(p_c / p_n - r * q_c / q_n) / q_n


@over("temperature", TEMPERATURES)
@over(("loss", "axis"), [(losses.inter_class, 1), (losses.intra_class, 0)])
def test_the_gradient_is_its_closed_form(loss, axis, temperature):
    z, v = drawn()
    q, p = probabilities(z, v, temperature)
    by_q = closed_form(q, p, axis) / (8 if axis == 1 else 5)
    expected = q * (by_q - (q * by_q).sum(-1, keepdims=True)) / temperature
    np.testing.assert_allclose(gradient(loss, z, v, temperature=temperature), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("loss", [losses.inter_class, losses.intra_class])
def test_the_gradient_does_not_shrink_as_temperature_grows_and_goes_to_that_of_the_logits(loss):
    z, v = drawn(scale=1.0)
    norms = [np.linalg.norm(gradient(loss, z, v, temperature=t)) for t in (1e2, 1e3, 1e4)]
    assert norms[2] == pytest.approx(norms[1], rel=1e-2)
    assert norms[2] > 1e-2
    by_logits = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(z, v, strict=True)])
    assert losses.inter_class(*tensors(z, v), temperature=1e5).item() == pytest.approx(by_logits, rel=1e-3)


def test_the_divergence_named_correlation_is_the_inter_class_loss_and_declares_no_factor_or_the_published_one():
    z, v = tensors(*drawn())
    made = losses.divergence("correlation")
    given = made.per_example(z, losses.soften(v, 3.0), 3.0)
    torch.testing.assert_close(given, losses.inter_class(z, v, temperature=3.0, reduction="none"))
    assert made.factor(3.0) == 1
    assert losses.divergence("correlation", tau_squared=True).factor(3.0) == 9


def test_a_scaled_or_shifted_distribution_has_correlation_one_and_a_turned_one_minus_one():
    p = softmax(drawn()[0], -1)
    nearer = np.log(0.5 * p + 0.5 / 5)
    assert losses.inter_class(*tensors(nearer, np.log(p))).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.intra_class(*tensors(nearer, np.log(p))).item() == pytest.approx(0.0, abs=1e-12)
    turned = np.log((1 - p) / 4)
    assert losses.inter_class(*tensors(turned, np.log(p))).item() == pytest.approx(2.0, abs=1e-12)
    assert losses.intra_class(*tensors(turned, np.log(p))).item() == pytest.approx(2.0, abs=1e-12)


@over("dtype", DTYPES)
@over("value", [0.0, 0.1, -7.3, 1e4])
def test_what_does_not_vary_has_loss_one_and_no_gradient(value, dtype):
    for size in range(2, 12):  # of some, the mean is not exactly the value
        constant = torch.full((size, size), value, dtype=dtype)
        varied = torch.randn(size, size, dtype=torch.float32).to(dtype)
        alike = varied[:1].expand(size, size)  # the same for all examples, another for each class
        pairs = {losses.inter_class: (constant,), losses.intra_class: (constant, alike)}
        for loss, without in pairs.items():
            for flat in without:
                for student, teacher in ((flat, varied), (varied, flat), (flat, flat)):
                    student = student.clone().requires_grad_()
                    given = loss(student, teacher)
                    given.backward()
                    assert given.item() == pytest.approx(1.0)
                    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_single_example_has_an_intra_class_loss_of_one_and_none_at_all_of_zero():
    z, v = tensors(*drawn((1, 5)))
    assert losses.intra_class(z, v).item() == 1
    assert losses.intra_class(z[:0], v[:0]).item() == 0
    assert losses.intra_class(z, v, mask=torch.tensor([False])).item() == 0


@pytest.mark.parametrize("loss", [losses.inter_class, losses.intra_class])
def test_classes_that_nobody_can_have_change_neither_value_nor_gradient(loss):
    z, v = drawn()
    wide = [np.concatenate([x, np.full((8, 3), -INF)], -1) for x in (z, v)]
    assert loss(*tensors(*wide)).item() == pytest.approx(loss(*tensors(z, v)).item(), rel=1e-12)
    given = gradient(loss, *wide)
    np.testing.assert_allclose(given[:, :5], gradient(loss, z, v), rtol=1e-10, atol=1e-15)
    assert (given[:, 5:] == 0).all()


def test_negative_weights_are_refused():
    z, v = tensors(*drawn())
    with pytest.raises(InputError, match=r"^inter_weight: found -1"):
        losses.dist(z, v, inter_weight=-1.0)
    with pytest.raises(InputError, match=r"^intra_weight: found nan"):
        losses.dist(z, v, intra_weight=math.nan)


# ------------------------------------------------------------------------------------------------------ standardisation


@pytest.mark.parametrize("shape", [(5,), (8, 5), (2, 3, 5)], ids=str)
def test_standardised_logits_are_the_z_scores_of_each_example(shape):
    z = drawn(shape)[0]
    expected = (z - z.mean(-1, keepdims=True)) / (np.std(z, -1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(losses.standardise(torch.tensor(z)).numpy(), expected, rtol=1e-12)


def test_scale_and_shift_of_the_logits_are_gone():
    z = torch.tensor(drawn()[0])
    torch.testing.assert_close(losses.standardise(300.0 * z + 12.0), losses.standardise(z), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.standardise(-z), -losses.standardise(z))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(losses.standardise(z, eps=1.0), losses.standardise(z))


def test_the_gradient_of_a_z_score_is_without_mean_and_without_the_z_score_itself():
    z = torch.tensor(drawn()[0], requires_grad=True)
    given = losses.standardise(z, eps=1e-30)
    direction = torch.randn(8, 5, dtype=torch.float64)
    (given * direction).sum().backward()
    scored = given.detach()
    free = direction - direction.mean(-1, keepdim=True) - scored * (scored * direction).mean(-1, keepdim=True)
    torch.testing.assert_close(z.grad, free / z.detach().std(-1, correction=0, keepdim=True), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(losses.standardise, (z,))


@over("dtype", DTYPES)
@over("value", [0.0, 0.1, -7.3, 1e4])
def test_logits_that_are_all_the_same_become_zero_and_keep_the_gradient_of_the_difference_from_the_mean(value, dtype):
    for classes in range(2, 12):
        z = torch.full((3, classes), value, dtype=dtype, requires_grad=True)
        given = losses.standardise(z)
        direction = torch.arange(classes) / 8.0
        (given * direction).sum().backward()
        assert given.abs().max() <= 1e-6 * max(abs(value), 1.0)
        torch.testing.assert_close(z.grad.float(), (direction - direction.mean()).expand(3, -1), rtol=1e-2, atol=1e-2)


@over("dtype", DTYPES)
def test_half_precision_is_computed_in_single_and_wide_logits_stay_finite(dtype):
    z = torch.tensor([[1e4, -1e4, 0.0, 5e3, -1.0]]).to(dtype).requires_grad_()
    given = losses.standardise(z)
    given[0, 0].backward()
    assert given.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(given).all()
    assert torch.isfinite(z.grad).all()


def test_a_class_that_nobody_can_have_stays_so_and_counts_nowhere():
    z = torch.tensor(drawn()[0])
    wide = torch.nn.functional.pad(z, (0, 3), value=-INF).requires_grad_()
    given = losses.standardise(wide)
    torch.testing.assert_close(given[:, :5], losses.standardise(z))
    assert torch.isneginf(given[:, 5:]).all()
    losses.kl(given, torch.nn.functional.pad(torch.zeros(8, 5), (0, 3), value=-INF)).backward()
    assert torch.isfinite(wide.grad).all()
    assert (wide.grad[:, 5:] == 0).all()


@over("eps", [0.0, -1.0, math.nan, "x"])
def test_eps_must_be_above_zero(eps):
    with pytest.raises(InputError, match=r"^eps: found "):
        losses.standardise(torch.zeros(2, 3), eps)
