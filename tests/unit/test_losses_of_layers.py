"""Losses on maps and vectors of a layer: review, factors, class activation maps, reconstruction, weights."""

import pytest
import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.errors import InputError
from sheet import S, T, s, t, t2, u, v
from walk import over

WS = torch.tensor([[1, -1], [0, 2], [1, 1]], dtype=torch.float64)
WT = torch.tensor([[1, 0, -1], [2, 1, 0], [0, -1, 1]], dtype=torch.float64)


def cams():
    return losses.class_activation_maps(s, WS), losses.class_activation_maps(t, WT)


def gradients(label=0):
    """Of a network that pools and is linear: W_yc/(H·W) at each position."""
    return [(W[label] / 4)[None, :, None, None].expand(x.shape) for W, x in ((WS, s), (WT, t))]


def without_the_first_channel(maps):
    return maps * torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]


EXAMPLES = {
    "hcl 4x4": (lambda: losses.hcl(u(2, 2, 4, 4), v(2, 2, 4, 4)), 0.393646),
    "hcl 2x2": (lambda: losses.hcl(s, t2), 0.481522),
    "hcl 8x8": (lambda: losses.hcl(u(2, 2, 8, 8), v(2, 2, 8, 8)), 0.408599),
    "review": (lambda: losses.review_kd([s, u(2, 2, 4, 4)], [t2, v(2, 2, 4, 4)]), 0.481522 + 0.393646),
    "factors": (lambda: losses.factor_transfer(s, t2), 0.354767),
    "factors, attention": (lambda: losses.factor_transfer(s, t2, of="attention"), 0.246204),
    "cat": (lambda: losses.cat_kd(*cams()), 2.262639),
    "cat, normalised": (lambda: losses.cat_kd(*cams(), normalise=True), 0.444316),
    "cat, size 1": (lambda: losses.cat_kd(*cams(), size=1), 0.471169),
    "grad-cam": (lambda: losses.grad_cam(s, t, *gradients()), 0.229608),
    "mgd": (lambda: losses.mgd(s, t2), 5.460556),
    "mgd, masked": (lambda: losses.mgd(without_the_first_channel(s), t2), 3.980556),
    "ttm": (lambda: losses.wttm(S, T, weighted=False), 0.409213),
    "wttm": (lambda: losses.wttm(S, T), 1.381348),
    "simkd": (lambda: losses.simkd(s, t2), 0.682569),
    "weights": (
        lambda: losses.weight_matching(
            torch.tensor([[1.0, 2, 0], [0, 1, 1]]),
            torch.tensor([[1.0, 0, 2], [0, 3, 0], [1, 1, 1]]),
            rows=torch.eye(3, 2),
        ),
        16.0 / 9,
    ),
}


@over("example", sorted(EXAMPLES))
def test_the_value_of_the_specification(example):
    compute, expected = EXAMPLES[example]
    assert float(compute()) == pytest.approx(expected, abs=1e-6)


def test_unlike_shapes_are_refused_in_a_line_that_names_them():
    for loss in (losses.hcl, losses.simkd, losses.mgd, losses.factor_transfer):
        with pytest.raises(InputError, match=r"student.*\(2, 2, 2, 2\).*teacher.*\(2, 3, 2, 2\)"):
            loss(s, t)
    with pytest.raises(InputError, match=r"weight: found shape \(3, 3\), expected \(K, 2\)"):
        losses.class_activation_maps(s, WT)
    with pytest.raises(InputError, match="gradient of the student"):
        losses.grad_cam(s, t, gradients()[1], gradients()[1])
    with pytest.raises(InputError, match="teacher: found 1 layers, expected 2"):
        losses.review_kd([s, s], [t2])
    with pytest.raises(InputError, match="a vector for each example"):
        losses.vkd(s, t2)
    with pytest.raises(InputError, match=r"rows: found shape \(2, 2\), expected \(3, 2\)"):
        losses.weight_matching(torch.ones(2, 3), torch.ones(3, 3), rows=torch.eye(2))


# ---------------------------------------------------------------------------------------------- review, factors


@over("shape", [(2, 3, 1, 1), (2, 3, 2, 2), (2, 3, 7, 7), (2, 1, 9, 3), (2, 2, 1, 6)])
def test_hcl_of_a_constant_difference_is_its_square_at_any_size(shape):
    maps = u(*shape)
    assert float(losses.hcl(maps + 1.5, maps)) == pytest.approx(2.25)


def test_hcl_of_one_position_is_the_mean_squared_error_and_an_alternating_difference_is_damped():
    student, teacher = u(3, 4, 1, 1), v(3, 4, 1, 1)
    torch.testing.assert_close(losses.hcl(student, teacher), F.mse_loss(student, teacher))
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1.0
    assert float(losses.hcl(board.expand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))) == pytest.approx(1 / 1.875)


def test_hcl_weighs_the_sizes_that_are_smaller_than_the_map_in_the_order_used():
    difference = u(2, 3, 6, 6) - v(2, 3, 6, 6)
    sizes = {6: 1.0, 4: 0.5, 2: 0.25, 1: 0.125}
    value = sum(w * F.adaptive_avg_pool2d(difference, size).square().mean() for size, w in sizes.items())
    torch.testing.assert_close(losses.hcl(u(2, 3, 6, 6), v(2, 3, 6, 6)), value / 1.875, rtol=1e-12, atol=0)


def test_factors_are_compared_by_their_direction_within_the_bound():
    student, teacher = u(3, 4, 3, 5), v(3, 4, 3, 5)
    value = losses.factor_transfer(student, teacher)
    torch.testing.assert_close(losses.factor_transfer(7.0 * student, 0.01 * teacher), value, rtol=1e-9, atol=0)
    assert value < 2 / 60**0.5
    dead = torch.cat([student[:1] * 0, student[1:]]).requires_grad_()
    each = losses.factor_transfer(dead, teacher, reduction="none")
    each.sum().backward()
    assert each[0] == 0
    assert not dead.grad[0].any()


# ------------------------------------------------------------------------------------- class activation maps


def test_the_mean_of_a_class_activation_map_and_the_bias_is_the_logit():
    bias = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    logits = F.linear(t.mean((2, 3)), WT, bias)
    torch.testing.assert_close(cams()[1].mean((2, 3)) + bias, logits, rtol=1e-12, atol=1e-12)


def test_of_one_position_it_is_logit_matching_without_the_biases():
    z, v_ = F.linear(s.mean((2, 3)), WS), F.linear(t.mean((2, 3)), WT)
    torch.testing.assert_close(losses.cat_kd(*cams(), size=1), F.mse_loss(z, v_), rtol=1e-12, atol=0)


def test_a_class_seen_nowhere_has_value_and_gradient_zero_once_normalised():
    own, other = u(1, 3, 4, 4).clone(), v(1, 3, 4, 4)
    own[:, 1] = 0
    own.requires_grad_()
    losses.cat_kd(own, other, normalise=True).backward()
    assert not own.grad[:, 1].any()
    assert own.grad[:, 0].any()
    rest = losses.cat_kd(own[:, ::2], other[:, ::2], normalise=True)
    torch.testing.assert_close(losses.cat_kd(own, other, normalise=True), rest * 2 / 3)


def test_grad_cam_of_a_pooled_linear_head_is_the_rectified_class_activation_map():
    own, other = (F.normalize(maps[:, 0].relu().flatten(1), dim=1) for maps in cams())
    expected = (own - other).abs().mean()
    torch.testing.assert_close(losses.grad_cam(s, t, *gradients()), expected, rtol=1e-9, atol=0)
    scaled = losses.grad_cam(3.0 * s, t, 5.0 * gradients()[0], gradients()[1])
    torch.testing.assert_close(scaled, expected, rtol=1e-9, atol=0)


def test_grad_cam_can_be_differentiated_by_the_gradient_too():
    own = (s + 0.5).requires_grad_()
    weights = gradients()[0].clone().requires_grad_()
    losses.grad_cam(own, t, weights, gradients()[1]).backward()
    assert weights.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------- reconstruction


def test_mgd_is_a_sum_and_simkd_a_mean_over_an_example():
    torch.testing.assert_close(losses.mgd(s, t2), 8 * losses.simkd(s, t2), rtol=1e-12, atol=0)


def test_srrl_adds_the_errors_of_features_and_of_logits():
    z, v_ = S @ WS.new_ones(4, 2), T @ WS.new_ones(4, 2)
    expected = F.mse_loss(S, T) + F.mse_loss(z, v_)
    torch.testing.assert_close(losses.srrl(S, T, z, v_), expected, rtol=1e-12, atol=0)


def test_vkd_compares_with_the_standardised_teacher_whatever_its_scale_and_shift():
    target = (T - T.mean(1, keepdim=True)) / (T.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(losses.vkd(S, T), F.smooth_l1_loss(S, target), rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.vkd(S, 1e3 * T + 5), losses.vkd(S, 1e3 * T), rtol=1e-9, atol=0)
    assert losses.vkd(target, T) < 1e-20


# --------------------------------------------------------------------------------------------------- weights


def test_weights_of_equal_widths_are_compared_as_they_are_and_kernels_position_by_position():
    student, teacher = u(2, 3, 3, 3), v(4, 5, 3, 3)
    rows, columns = u(4, 2, 1, 1).flatten(1), v(3, 5, 1, 1).flatten(1)
    expected = torch.einsum("pa,abhw,bq->pqhw", rows, student, columns) - teacher
    value = losses.weight_matching(student, teacher, rows=rows, columns=columns)
    torch.testing.assert_close(value, expected.square().mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(losses.weight_matching(s, t2), F.mse_loss(s, t2), rtol=1e-12, atol=0)


def test_free_maps_teach_nothing_and_orthonormal_ones_the_spectrum():
    """The negative controls of weight matching: the floors of the specification."""
    student = torch.tensor([[1.0, 2, 0], [0, 1, 1]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0, 2], [0, 3, 0], [1, 1, 1]], dtype=torch.float64)
    left, own, right = torch.linalg.svd(student)
    u_t, spectrum, v_t = torch.linalg.svd(teacher)
    free = losses.weight_matching(
        student, teacher, rows=u_t[:, :2] @ torch.diag(spectrum[:2] / own) @ left.T, columns=right.T @ v_t
    )
    assert float(9 * free) == pytest.approx(0.134882, abs=1e-6)
    bound = losses.weight_matching(student, teacher, rows=u_t[:, :2] @ left.T, columns=right.T @ v_t)
    assert float(9 * bound) == pytest.approx(3.070300, abs=2e-6)
