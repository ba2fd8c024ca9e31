"""The losses in any precision, over wide logits, masks and smoothed labels, against references in float64 numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax

from limbeck import losses, targets
from loss_references import (
    DTYPES,
    INF,
    LEADING,
    NAN,
    SOFT,
    UNLABELLED,
    drawn,
    reference_cross_entropy,
    reference_kl,
    reference_reduce,
    tensor,
)
from walk import over, pairs

# -------------------------------------------------------------------------------------------- precision and wide logits


@over("dtype, scale, name", pairs(DTYPES, [1.0, 30.0, 1e4], [*SOFT, "cross_entropy"]))
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


@over("name", [*SOFT, "kd", "cross_entropy"])
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


@over("name", [*SOFT, "kd"])
@over("who", ["student", "teacher"])
def test_a_nan_in_the_logits_is_never_a_finite_loss(who, name):
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    {"student": student, "teacher": teacher}[who][1, 2] = NAN
    loss = losses.kd if name == "kd" else SOFT[name][0]
    student.requires_grad_()
    found = loss(student, teacher)
    found.backward()
    assert torch.isnan(found)
    assert torch.isnan(student.grad[1]).any(), "a finite gradient would hide it where no loss is read"


def test_a_term_of_weight_0_is_not_computed():
    hard_only = losses.kd(torch.tensor([[-INF, 0.0]]), torch.zeros(1, 2), torch.tensor([1]), alpha=1.0)
    assert hard_only == 0
    out_of_range = torch.tensor([7])
    assert losses.kd(torch.zeros(1, 2), torch.zeros(1, 2), out_of_range, alpha=0.0) == 0


# ------------------------------------------------------------------------------------------------ what the mean is over


@over("name", [*SOFT, "kd", "cross_entropy"])
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


@over("leading", LEADING)
@over("epsilon", [0.0, 0.1, 0.4, 1.0])
def test_smoothed_labels_equal_their_reference(epsilon, leading):
    _, _, labels, _ = drawn(leading)
    labelled = (labels != UNLABELLED)[..., None]
    expected = np.where(labelled, np.eye(5)[np.where(labels < 0, 0, labels)] * (1 - epsilon) + epsilon / 5, 0.2)
    given = targets.smooth_labels(tensor(labels), 5, epsilon, dtype=torch.float64).log_probs.exp()
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(given.sum(-1).numpy(), 1.0, rtol=1e-12)


@over("epsilon", [0.0, 0.1, 0.4, 1.0])
def test_label_smoothing_is_distillation_at_temperature_1_from_a_uniform_teacher(epsilon):
    z = tensor(drawn((6,))[0])
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    smoothed = losses.CROSS_ENTROPY.per_example(
        z, targets.smooth_labels(labels, 5, epsilon, dtype=torch.float64), 1.0
    ).mean()
    hard = losses.cross_entropy(z, labels)
    from_uniform = losses.soft_cross_entropy(z, torch.zeros_like(z), temperature=1.0)
    assert smoothed.item() == pytest.approx(((1 - epsilon) * hard + epsilon * from_uniform).item(), abs=1e-12)
    as_target = losses.CROSS_ENTROPY.per_example(z, targets.uniform(z), 1.0).mean()
    assert as_target.item() == pytest.approx(from_uniform.item(), abs=1e-12)
    mixed = np.log((1 - epsilon) * np.eye(5)[labels.numpy()] + epsilon / 5 + 1e-300)
    assert losses.soft_cross_entropy(z, tensor(mixed)).item() == pytest.approx(smoothed.item(), abs=1e-12)
    torch_says = F.cross_entropy(z, labels, label_smoothing=epsilon).item()
    assert smoothed.item() == pytest.approx(torch_says, abs=1e-12)


@over("classes", [2, 10])
@over("epsilon", [0.05, 0.1, 0.5])
def test_at_the_optimum_of_smoothed_labels_the_true_logit_leads_by_the_known_margin(epsilon, classes):
    labels = torch.arange(classes)
    logits = torch.zeros(classes, classes, dtype=torch.float64, requires_grad=True)
    target = targets.smooth_labels(labels, classes, epsilon, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = losses.CROSS_ENTROPY.per_example(logits, target, 1.0).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    true = logits.detach().diagonal()
    others = logits.detach()[~torch.eye(classes, dtype=torch.bool)].reshape(classes, classes - 1)
    margin = math.log(classes * (1 - epsilon) / epsilon + 1)
    np.testing.assert_allclose((true[:, None] - others).numpy(), margin, atol=1e-6)


def test_the_uniform_target_is_uniform_in_the_precision_that_losses_are_computed_in():
    for dtype in DTYPES:
        target = targets.uniform(torch.randn(2, 3, 4, dtype=dtype)).log_probs
        assert target.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(target.exp(), torch.full((2, 3, 4), 0.25, dtype=target.dtype))
