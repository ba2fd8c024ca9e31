"""The losses against references in float64 numpy that share no code with them, closed-form gradients and limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax

from limbeck import losses
from limbeck.errors import InputError

UNLABELLED = -100
INF = math.inf
NAN = math.nan
LEADING = [(), (1,), (7,), (2, 3), (2, 3, 4)]
TEMPERATURES = [0.5, 1.0, 2.0, 4.0, 20.0]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def reference_kl(z, v, temperature=1.0):
    log_p, log_q = log_softmax(v / temperature, axis=-1), log_softmax(z / temperature, axis=-1)
    present = np.exp(log_p) > 0
    return np.where(present, np.exp(log_p) * np.where(present, log_p - log_q, 0.0), 0.0).sum(-1)


def reference_entropy(v, temperature=1.0):
    p = softmax(v / temperature, axis=-1)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1)


def reference_soft_cross_entropy(z, v, temperature=1.0):
    p = softmax(v / temperature, axis=-1)
    return -np.where(p > 0, p * np.where(p > 0, log_softmax(z / temperature, axis=-1), 0.0), 0.0).sum(-1)


def reference_cross_entropy(z, labels):
    rows = np.where(labels == UNLABELLED, 0, labels)
    return np.where(
        labels == UNLABELLED, 0.0, -np.take_along_axis(log_softmax(z, axis=-1), rows[..., None], -1)[..., 0]
    )


def reference_logit_matching(z, v, zero_mean=False):
    if zero_mean:
        z, v = z - z.mean(-1, keepdims=True), v - v.mean(-1, keepdims=True)
    return 0.5 * ((z - v) ** 2).sum(-1) / z.shape[-1]


def reference_reduce(per_example, counts, reduction):
    per_example = np.where(counts, per_example, 0.0)
    if reduction == "none":
        return per_example
    return per_example.sum() if reduction == "sum" else per_example.sum() / max(counts.sum(), 1)


def drawn(leading, classes=5, scale=3.0, seed=0):
    """Student and teacher logits, labels of which some are missing, and a mask that hides some."""
    rng = np.random.default_rng(seed)
    z, v = scale * rng.normal(size=(2, *leading, classes))
    labels = np.asarray(rng.integers(0, classes, size=leading))
    labels = np.where(rng.random(leading) < 0.3, UNLABELLED, labels)
    mask = np.asarray(rng.random(leading) < 0.7)
    return z, v, labels, mask


def tensor(array, *, grad=False, dtype=None):
    return torch.tensor(array, dtype=dtype).requires_grad_(grad)


def gradient(loss, z, *rest, **options):
    z = tensor(z, grad=True)
    loss(z, *rest, **options).backward()
    return z.grad.numpy()


SOFT = {
    "kl": (losses.kl, reference_kl, {"temperature": 2.5}),
    "soft_cross_entropy": (losses.soft_cross_entropy, reference_soft_cross_entropy, {"temperature": 2.5}),
    "logit_matching": (losses.logit_matching, reference_logit_matching, {}),
    "logit_matching, zero mean": (losses.logit_matching, reference_logit_matching, {"zero_mean": True}),
}


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SOFT)
def test_a_loss_on_soft_targets_equals_its_reference(name, masked, reduction, leading):
    loss, reference, options = SOFT[name]
    z, v, _, mask = drawn(leading)
    counts = mask if masked else np.ones(leading, bool)
    expected = reference_reduce(reference(z, v, **options), counts, reduction)
    given = loss(tensor(z), tensor(v), mask=tensor(mask) if masked else None, reduction=reduction, **options)
    assert given.shape == expected.shape
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("masked", [False, True])
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


@pytest.mark.parametrize("leading", LEADING[1:], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("hard", "soft"), [(0.1, 0.9), (1.0, 0.0), (0.0, 1.0), (0.3, 2.5)])
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


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_cross_entropy_is_kl_and_the_entropy_of_the_target(temperature):
    z, v, *_ = drawn((6,))
    cross = losses.soft_cross_entropy(tensor(z), tensor(v), temperature=temperature, reduction="none")
    kl = losses.kl(tensor(z), tensor(v), temperature=temperature, reduction="none")
    np.testing.assert_allclose((cross - kl).numpy(), reference_entropy(v, temperature), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
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


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", [losses.kl, losses.soft_cross_entropy])
def test_the_gradient_of_kl_and_of_soft_cross_entropy_is_q_minus_p_over_temperature(loss, temperature):
    z, v, *_ = drawn((6,))
    expected = (softmax(z / temperature, -1) - softmax(v / temperature, -1)) / temperature
    given = gradient(loss, z, tensor(v), temperature=temperature, reduction="sum")
    np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-14)
    given = gradient(loss, z, tensor(v), temperature=temperature, reduction="mean")
    np.testing.assert_allclose(given, expected / 6, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("leading", [(4,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", [*SOFT, "cross_entropy", "kd"])
def test_the_value_and_the_gradient_of_a_loss_belong_together(name, leading, masked):
    z, v, labels, mask = drawn(leading)
    v, labels, mask = tensor(v), tensor(labels), tensor(mask) if masked else None

    def value(z):
        if name == "cross_entropy":
            return losses.cross_entropy(z, labels, mask=mask)
        if name == "kd":
            return losses.kd(z, v, labels, temperature=3.0, alpha=0.3, mask=mask)
        loss, _, options = SOFT[name]
        return loss(z, v, mask=mask, **options)

    assert torch.autograd.gradcheck(value, (tensor(z, grad=True),))


@pytest.mark.parametrize("name", [*SOFT, "kd"])
def test_no_gradient_reaches_the_teacher(name):
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    (losses.kd if name == "kd" else SOFT[name][0])(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_targets_are_cut_off_from_the_graph():
    logits = torch.randn(2, 3, requires_grad=True)
    assert not losses.soften(logits).log_probs.requires_grad
    assert not losses.uniform(logits).log_probs.requires_grad


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


@pytest.mark.parametrize(
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


# -------------------------------------------------------------------------------------------- precision and wide logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", [*SOFT, "cross_entropy"])
def test_a_loss_in_any_precision_agrees_with_the_reference_on_the_rounded_logits(name, scale, dtype):
    z, v, labels, _ = drawn((16,), classes=10, scale=1.0)
    z, v = (tensor(np.clip(x, -1, 1) * scale, dtype=dtype) for x in (z, v))
    exact_z, exact_v = z.double().numpy(), v.double().numpy()
    z.requires_grad_()
    if name == "cross_entropy":
        given = losses.cross_entropy(z, tensor(labels), reduction="none")
        expected = reference_cross_entropy(exact_z, labels)
    else:
        loss, reference, options = SOFT[name]
        given, expected = loss(z, v, reduction="none", **options), reference(exact_z, exact_v, **options)
    given.sum().backward()
    assert given.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert z.grad.dtype == dtype
    assert torch.isfinite(given).all()
    assert torch.isfinite(z.grad).all()
    unit = 1e-15 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(given.detach().numpy(), expected, rtol=4 * unit, atol=4 * unit * (1 + scale))


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float16, 20.0), (torch.float32, 100.0), (torch.float16, 6e4)])
def test_a_wide_gap_gives_its_own_size_and_a_finite_gradient(dtype, gap):
    student = torch.tensor([[0.0, gap]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[gap, 0.0]], dtype=dtype)
    loss = losses.kd(student, teacher, torch.tensor([0]), temperature=1.0, alpha=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(gap, rel=1e-3)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0]], dtype=dtype))


@pytest.mark.parametrize("name", [*SOFT, "kd", "cross_entropy"])
def test_a_vocabulary_padded_with_minus_infinity_changes_neither_value_nor_gradient(name):
    z, v, labels, _ = drawn((6,))
    y = tensor(labels)

    def loss(z, v):
        if name == "cross_entropy":
            return losses.cross_entropy(z, y)
        return losses.kd(z, v, y) if name == "kd" else SOFT[name][0](z, v, **SOFT[name][2])

    plain, padded = tensor(z, grad=True), tensor(z, grad=True)
    wide = F.pad(padded, (0, 5), value=-INF)
    expected, given = loss(plain, tensor(v)), loss(wide, F.pad(tensor(v), (0, 5), value=-INF))
    expected.backward()
    given.backward()
    assert given.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(padded.grad, plain.grad, rtol=1e-12, atol=1e-14)


def test_a_narrower_student_padded_with_zeros_would_be_another_loss():
    z, v, *_ = drawn((6,))
    wide = losses.kl(F.pad(tensor(z), (0, 5)), F.pad(tensor(v), (0, 5), value=-INF))
    assert abs(wide.item() - reference_kl(z, v).mean()) > 0.01


def test_a_class_that_only_the_teacher_rules_out_is_learnt_and_one_that_only_the_student_rules_out_is_infinite():
    z, v = torch.zeros(1, 3, requires_grad=True), torch.tensor([[0.0, 0.0, -INF]])
    loss = losses.kl(z, v)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1.5))
    torch.testing.assert_close(z.grad, torch.tensor([[-1 / 6, -1 / 6, 1 / 3]]))
    assert losses.kl(v, z) == INF


@pytest.mark.parametrize("name", [*SOFT, "kd"])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_nan_in_the_logits_is_never_a_finite_loss(who, name):
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    {"student": student, "teacher": teacher}[who][1, 2] = NAN
    loss = losses.kd if name == "kd" else SOFT[name][0]
    assert torch.isnan(loss(student, teacher))


def test_a_term_of_weight_0_is_not_computed():
    hard_only = losses.kd(torch.tensor([[-INF, 0.0]]), torch.zeros(1, 2), torch.tensor([1]), alpha=1.0)
    assert hard_only == 0
    out_of_range = torch.tensor([7])
    assert losses.kd(torch.zeros(1, 2), torch.zeros(1, 2), out_of_range, alpha=0.0) == 0


# ------------------------------------------------------------------------------------------------ what the mean is over


@pytest.mark.parametrize("name", [*SOFT, "kd", "cross_entropy"])
def test_a_batch_seen_twice_has_the_same_mean(name):
    z, v, labels, mask = drawn((6,))

    def loss(times):
        double = [tensor(np.concatenate([x] * times)) for x in (z, v, labels, mask)]
        if name == "cross_entropy":
            return losses.cross_entropy(double[0], double[2], mask=double[3])
        if name == "kd":
            return losses.kd(*double[:3], mask=double[3])
        return SOFT[name][0](*double[:2], mask=double[3], **SOFT[name][2])

    assert loss(2).item() == pytest.approx(loss(1).item(), rel=1e-12)


def test_the_mean_of_kl_is_over_examples_and_not_over_classes():
    z, v, *_ = drawn((6,), classes=50)
    assert losses.kl(tensor(z), tensor(v)).item() == pytest.approx(reference_kl(z, v).sum() / 6, rel=1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reduce_counts_what_the_mask_leaves(reduction):
    values, mask = np.arange(6.0).reshape(2, 3), np.array([[True, False, True], [False, True, False]])
    given = losses.reduce(tensor(values), tensor(mask), reduction)
    np.testing.assert_allclose(given.numpy(), reference_reduce(values, mask, reduction))


def test_the_mean_over_nothing_is_zero_with_a_zero_gradient():
    z = torch.randn(3, 4, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.bool)
    loss = losses.kd(z, torch.randn(3, 4), torch.tensor([0, 1, 2]), mask=nothing)
    loss.backward()
    assert loss == 0
    assert torch.equal(z.grad, torch.zeros(3, 4))


def test_a_masked_example_counts_zero_even_where_its_loss_is_infinite():
    z, v = torch.tensor([[0.0, 0.0], [-INF, 0.0]], requires_grad=True), torch.zeros(2, 2)
    mask = torch.tensor([True, False])
    for reduction in ("none", "sum", "mean"):
        z.grad = None
        loss = losses.kl(z, v, mask=mask, reduction=reduction).sum()
        loss = loss + losses.cross_entropy(z, torch.tensor([0, 0]), mask=mask, reduction=reduction).sum()
        loss.backward()
        assert loss.item() == pytest.approx(math.log(2))
        assert torch.equal(z.grad, torch.tensor([[-0.5, 0.5], [0.0, 0.0]]))
    assert losses.kl(z, v) == INF


def test_unlabelled_examples_count_in_the_soft_term_only():
    z, v, *_ = drawn((4,))
    labels = torch.tensor([1, UNLABELLED, UNLABELLED, UNLABELLED])
    given = losses.kd(tensor(z), tensor(v), labels, temperature=2.0, hard_weight=1.0, soft_weight=1.0).item()
    assert given == pytest.approx(-log_softmax(z, -1)[0, 1] + 4 * reference_kl(z, v, 2.0).mean(), rel=1e-12)


# ------------------------------------------------------------------------------------------------------ label smoothing


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4, 1.0])
def test_smoothed_labels_equal_their_reference(epsilon, leading):
    _, _, labels, _ = drawn(leading)
    labelled = (labels != UNLABELLED)[..., None]
    expected = np.where(labelled, np.eye(5)[np.where(labels < 0, 0, labels)] * (1 - epsilon) + epsilon / 5, 0.2)
    given = losses.smooth_labels(tensor(labels), 5, epsilon, dtype=torch.float64).log_probs.exp()
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(given.sum(-1).numpy(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4, 1.0])
def test_label_smoothing_is_distillation_at_temperature_1_from_a_uniform_teacher(epsilon):
    z = tensor(drawn((6,))[0])
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    smoothed = losses.CROSS_ENTROPY.per_example(
        z, losses.smooth_labels(labels, 5, epsilon, dtype=torch.float64), 1.0
    ).mean()
    hard = losses.cross_entropy(z, labels)
    from_uniform = losses.soft_cross_entropy(z, torch.zeros_like(z), temperature=1.0)
    assert smoothed.item() == pytest.approx(((1 - epsilon) * hard + epsilon * from_uniform).item(), abs=1e-12)
    as_target = losses.CROSS_ENTROPY.per_example(z, losses.uniform(z), 1.0).mean()
    assert as_target.item() == pytest.approx(from_uniform.item(), abs=1e-12)
    mixed = np.log((1 - epsilon) * np.eye(5)[labels.numpy()] + epsilon / 5 + 1e-300)
    assert losses.soft_cross_entropy(z, tensor(mixed)).item() == pytest.approx(smoothed.item(), abs=1e-12)
    torch_says = F.cross_entropy(z, labels, label_smoothing=epsilon).item()
    assert smoothed.item() == pytest.approx(torch_says, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_at_the_optimum_of_smoothed_labels_the_true_logit_leads_by_the_known_margin(epsilon, classes):
    labels = torch.arange(classes)
    logits = torch.zeros(classes, classes, dtype=torch.float64, requires_grad=True)
    target = losses.smooth_labels(labels, classes, epsilon, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = losses.CROSS_ENTROPY.per_example(logits, target, 1.0).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    true = logits.detach().diagonal()
    others = logits.detach()[~torch.eye(classes, dtype=torch.bool)].reshape(classes, classes - 1)
    margin = math.log(classes * (1 - epsilon) / epsilon + 1)
    np.testing.assert_allclose((true[:, None] - others).numpy(), margin, atol=1e-6)


def test_the_uniform_target_is_uniform_in_the_precision_that_losses_are_computed_in():
    for dtype in DTYPES:
        target = losses.uniform(torch.randn(2, 3, 4, dtype=dtype)).log_probs
        assert target.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(target.exp(), torch.full((2, 3, 4), 0.25, dtype=target.dtype))


# -------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.1, 0.9)),
        ({"alpha": 0.25}, (0.25, 0.75)),
        ({"alpha": 0}, (0, 1)),
        ({"alpha": 1}, (1, 0)),
        ({"hard_weight": 2.0}, (2.0, 0.0)),
        ({"soft_weight": 3}, (0.0, 3)),
        ({"hard_weight": 0.5, "soft_weight": 4.0}, (0.5, 4.0)),
        ({"hard_weight": 0, "soft_weight": 4.0}, (0, 4.0)),
    ],
    ids=str,
)
def test_weights_are_two_numbers_or_alpha(given, expected):
    assert losses.kd_weights(**given) == pytest.approx(expected)


# --------------------------------------------------------------------------------------------------------------- errors

Z, Y = torch.zeros(2, 3), torch.tensor([0, 1])
NO_POSITIVE = [0, 0.0, -1.0, NAN, INF, -INF, "4", None, True, 10**400, torch.tensor([[1.0], [2.0]])]
NO_WEIGHT = [-0.1, NAN, INF, -INF, "1", True]
NO_SHARE = [-0.1, 1.1, NAN, INF, "0.5", True]


def cases():
    for value in NO_POSITIVE:
        shown = str(value)[:12]
        yield pytest.param("temperature", lambda t=value: losses.kl(Z, Z, temperature=t), id=f"kl {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.soft_cross_entropy(Z, Z, temperature=t), id=f"soft {shown}"
        )
        yield pytest.param("temperature", lambda t=value: losses.kd(Z, Z, Y, temperature=t), id=f"kd {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.kd(Z, Z, Y, temperature=t, alpha=1), id=f"kd hard {shown}"
        )
        yield pytest.param("temperature", lambda t=value: losses.soften(Z, t), id=f"soften {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.KL.per_example(Z, losses.soften(Z), t), id=f"KL {shown}"
        )
    for value in NO_WEIGHT:
        for key in ("hard_weight", "soft_weight"):
            yield pytest.param(key, lambda k=key, w=value: losses.kd(Z, Z, Y, **{k: w}), id=f"kd {key} {value}")
            yield pytest.param(key, lambda k=key, w=value: losses.kd_weights(**{k: w}), id=f"kd_weights {key} {value}")
    for value in NO_SHARE:
        yield pytest.param("alpha", lambda a=value: losses.kd(Z, Z, Y, alpha=a), id=f"alpha {value}")
        yield pytest.param("epsilon", lambda e=value: losses.smooth_labels(Y, 3, e), id=f"epsilon {value}")
    yield pytest.param("alpha", lambda: losses.kd(Z, Z, Y, alpha=0.5, hard_weight=1.0), id="alpha and hard_weight")
    yield pytest.param("alpha", lambda: losses.kd(Z, Z, Y, alpha=0.5, soft_weight=1.0), id="alpha and soft_weight")
    yield pytest.param("hard_weight", lambda: losses.kd_weights(None, 0.0, 0.0), id="both weights 0")
    yield pytest.param("hard_weight", lambda: losses.kd_weights(hard_weight=0.0), id="the only weight 0")
    for label in (3, 30, -1, -99, -101):
        bad = torch.tensor([0, label])
        yield pytest.param("labels", lambda y=bad: losses.cross_entropy(Z, y), id=f"cross_entropy label {label}")
        yield pytest.param("labels", lambda y=bad: losses.kd(Z, Z, y), id=f"kd label {label}")
        yield pytest.param("labels", lambda y=bad: losses.smooth_labels(y, 3, 0.1), id=f"smooth_labels label {label}")
    for dtype in (torch.float32, torch.int32, torch.uint8, torch.bool):
        bad = Y.to(dtype)
        yield pytest.param("labels", lambda y=bad: losses.cross_entropy(Z, y), id=f"cross_entropy {dtype}")
        yield pytest.param("labels", lambda y=bad: losses.smooth_labels(y, 3, 0.1), id=f"smooth_labels {dtype}")
    yield pytest.param("labels", lambda: losses.cross_entropy(Z, Y[:1]), id="too few labels")
    yield pytest.param("labels", lambda: losses.cross_entropy(Z, Z), id="labels as probabilities")
    yield pytest.param("classes", lambda: losses.smooth_labels(Y, 0, 0.1), id="no classes")
    for name, loss in (("kl", losses.kl), ("logits", losses.logit_matching), ("kd", losses.kd)):
        yield pytest.param("teacher_logits", lambda f=loss: f(Z, torch.zeros(2, 4)), id=f"{name} other classes")
        yield pytest.param("teacher_logits", lambda f=loss: f(Z, torch.zeros(1, 3)), id=f"{name} would broadcast")
        for mask in (torch.ones(1), torch.ones(2, 1), torch.ones(())):
            yield pytest.param("mask", lambda f=loss, m=mask: f(Z, Z, mask=m.bool()), id=f"{name} {mask.shape}")
        for dtype in (torch.int64, torch.float32):
            yield pytest.param("mask", lambda f=loss, d=dtype: f(Z, Z, mask=torch.ones(2).to(d)), id=f"{name} {dtype}")
    for mask in (torch.ones(1).bool(), torch.ones(2, 1).bool(), torch.ones(2).long()):
        yield pytest.param(
            "mask", lambda m=mask: losses.cross_entropy(Z, Y, mask=m), id=f"CE {mask.shape} {mask.dtype}"
        )
    yield pytest.param("target", lambda: losses.KL.per_example(Z, losses.uniform(Z[:, :2]), 1.0), id="other target")
    for loss in (losses.kl, losses.logit_matching):
        yield pytest.param("reduction", lambda f=loss: f(Z, Z, reduction="batchmean"), id=f"{loss.__name__} reduction")
    yield pytest.param("reduction", lambda: losses.cross_entropy(Z, Y, reduction="average"), id="CE reduction")


@pytest.mark.parametrize(("key", "call"), list(cases()))
def test_a_value_that_is_not_allowed_is_refused_in_one_line_that_names_it(key, call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert key in message
    assert "\n" not in message
    assert len(message) < 250


def test_a_label_out_of_range_is_shown_with_the_range_that_is_allowed():
    with pytest.raises(InputError, match=r"labels: found 1 to 7, expected 0 to 2"):
        losses.cross_entropy(torch.zeros(3, 3), torch.tensor([1, 7, UNLABELLED]))


def test_a_smoothing_that_is_too_small_to_be_shared_out_leaves_the_labels_as_they_are():
    smoothed = losses.smooth_labels(torch.tensor([1]), 6, 5e-324, dtype=torch.float64)
    torch.testing.assert_close(smoothed.log_probs, losses.smooth_labels(torch.tensor([1]), 6, 0.0).log_probs.double())
