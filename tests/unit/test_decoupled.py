"""DKD against a reference in float64, against KL, in closed form, and where a reference in single precision breaks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax

from limbeck import losses
from limbeck.errors import InputError
from walk import over

UNLABELLED = -100
INF = math.inf
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def drawn(leading=(6,), classes=5, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    z, v = scale * rng.normal(size=(2, *leading, classes))
    return z, v, rng.integers(0, classes, size=leading)


def reference(z, v, labels, alpha, beta, temperature):
    """One example after the other, with sums of probabilities."""
    values = []
    flat = (x.reshape(-1, z.shape[-1]) for x in (z, v))
    for zi, vi, t, b in zip(*flat, labels.reshape(-1), np.broadcast_to(beta, labels.shape).reshape(-1), strict=True):
        q, p = softmax(zi / temperature), softmax(vi / temperature)
        others = [i for i in range(len(q)) if i != t]
        q_rest, p_rest = math.fsum(q[others]), math.fsum(p[others])
        first = p[t] * math.log(p[t] / q[t]) + p_rest * math.log(p_rest / q_rest)
        second = math.fsum(p[i] / p_rest * math.log((p[i] / p_rest) / (q[i] / q_rest)) for i in others)
        values.append(temperature**2 * (alpha * first + b * second))
    return np.array(values).reshape(labels.shape)


def call(z, v, labels, **options):
    return losses.dkd(torch.as_tensor(z), torch.as_tensor(v), torch.as_tensor(labels), **options)


def gradient(z, v, labels, **options):
    z = torch.tensor(z, requires_grad=True)
    call(z, v, labels, **options).sum().backward()
    return z.grad


@over("temperature", TEMPERATURES)
@over(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0), (0.5, 2.0)])
@over("leading", [(), (6,), (2, 3)])
def test_dkd_equals_its_reference(leading, alpha, beta, temperature):
    z, v, labels = drawn(leading)
    expected = reference(z, v, labels, alpha, beta, temperature)
    given = call(z, v, labels, alpha=alpha, beta=beta, temperature=temperature, reduction="none")
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-11, atol=1e-13)


def test_dkd_without_options_has_the_weights_and_the_temperature_of_the_paper():
    z, v, labels = drawn()
    assert call(z, v, labels).item() == pytest.approx(reference(z, v, labels, 1.0, 8.0, 4.0).mean(), rel=1e-12)


def test_beta_may_be_another_for_each_example():
    z, v, labels = drawn()
    beta = np.linspace(0.0, 5.0, 6)
    given = call(z, v, labels, beta=torch.tensor(beta), reduction="none").numpy()
    np.testing.assert_allclose(given, reference(z, v, labels, 1.0, beta, 4.0), rtol=1e-11)


@over("temperature", TEMPERATURES)
@over("classes", [2, 5, 100])
def test_with_the_rest_weighted_by_what_the_teacher_gives_it_dkd_is_kd(classes, temperature):
    z, v, labels = drawn(classes=classes)
    p = softmax(v / temperature, -1)
    rest = np.array([row[np.arange(classes) != t].sum() for row, t in zip(p, labels, strict=True)])
    options = {"temperature": temperature}
    given = call(z, v, labels, alpha=1.0, beta=torch.tensor(rest), reduction="none", **options).numpy()
    kl = losses.kl(torch.tensor(z), torch.tensor(v), reduction="none", **options).numpy()
    np.testing.assert_allclose(given, temperature**2 * kl, rtol=1e-12, atol=1e-12)
    expected = temperature * (softmax(z / temperature, -1) - p)
    np.testing.assert_allclose(
        gradient(z, v, labels, beta=torch.tensor(rest), reduction="sum", **options), expected, rtol=1e-10, atol=1e-12
    )


@over("temperature", TEMPERATURES)
def test_the_gradient_is_its_closed_form(temperature):
    z, v, labels = drawn()
    expected = np.zeros_like(z)
    for row, t in enumerate(labels):
        q, p = softmax(z[row] / temperature), softmax(v[row] / temperature)
        others = np.arange(5) != t
        q_hat, p_hat = q[others] / q[others].sum(), p[others] / p[others].sum()
        expected[row, t] = 0.7 * (q[t] - p[t])
        expected[row, others] = -0.7 * (q[t] - p[t]) * q_hat + 3.0 * (q_hat - p_hat)
    given = gradient(z, v, labels, alpha=0.7, beta=3.0, temperature=temperature, reduction="sum").numpy()
    np.testing.assert_allclose(given, temperature * expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_keeps_its_size_as_temperature_grows():
    z, v, labels = drawn(classes=10)
    norms = [float(gradient(z, v, labels, beta=2.0, temperature=t).norm()) for t in (1e2, 1e3, 1e4)]
    assert norms[2] == pytest.approx(norms[1], rel=1e-2)
    assert norms[2] > 1e-2
    assert abs(norms[2] / norms[1] - 1) < abs(norms[1] / norms[0] - 1)


def published(z, v, labels, temperature):
    """The formula as it is usually written, with the logarithm of a softmax and a mask of -1000."""
    own = F.one_hot(labels, z.shape[-1]).to(z.dtype)

    def split(logits):
        probs = (logits / temperature).softmax(-1)
        return torch.stack([(probs * own).sum(-1), (probs * (1 - own)).sum(-1)], -1)

    first = (split(v) * (split(v).log() - split(z).log())).sum(-1)
    among = (v / temperature - 1000 * own).softmax(-1)
    second = F.kl_div((z / temperature - 1000 * own).log_softmax(-1), among, reduction="none").sum(-1)
    return temperature**2 * (first + 8 * second)


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float16, 20.0), (torch.float32, 100.0), (torch.float32, 110.0)])
def test_dkd_is_finite_where_the_usual_way_of_writing_it_is_not(dtype, gap):
    labels = torch.tensor([0])
    student = torch.tensor([[gap, 0.0, -1.0, 0.5]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=dtype)
    naive = published(student, teacher, labels, 1.0)
    naive.sum().backward()
    assert not (torch.isfinite(naive).all() and torch.isfinite(student.grad).all())
    student.grad = None
    given = losses.dkd(student, teacher, labels, temperature=1.0)
    given.backward()
    exact, labels = student.detach().double(), labels.numpy()
    wanted = reference(exact.numpy(), teacher.double().numpy(), labels, 1.0, 8.0, 1.0).item()
    assert given.item() == pytest.approx(wanted, rel=1e-5)
    in_double = gradient(exact.numpy(), teacher.double(), labels, temperature=1.0)
    torch.testing.assert_close(student.grad.double(), in_double, rtol=2e-3, atol=1e-3)


def test_a_certain_teacher_still_says_how_the_rest_relate():
    teacher = torch.tensor([[200.0, 1.0, 0.0]])
    given = losses.dkd(torch.zeros(1, 3), teacher, torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0).item()
    p = softmax([1.0, 0.0])
    assert given == pytest.approx((p * np.log(2 * p)).sum(), rel=1e-6)


def test_one_class_or_no_other_that_there_could_be_has_loss_zero_and_no_gradient():
    for classes in (1, 3):
        student = torch.full((1, classes), -INF)
        student[0, 0] = 2.0
        student.requires_grad_()
        value = losses.dkd(student, student.detach(), torch.tensor([0]))
        value.backward()
        assert value.item() == 0
        assert torch.equal(student.grad, torch.zeros_like(student))


def test_classes_that_nobody_can_have_change_neither_value_nor_gradient():
    z, v, labels = drawn()
    wide = [np.concatenate([x, np.full((6, 3), -INF)], -1) for x in (z, v)]
    np.testing.assert_allclose(call(*wide, labels).item(), call(z, v, labels).item(), rtol=1e-12)
    given = gradient(*wide, labels).numpy()
    np.testing.assert_allclose(given[:, :5], gradient(z, v, labels).numpy(), rtol=1e-10, atol=1e-15)
    assert (given[:, 5:] == 0).all()


def test_neither_the_unlabelled_nor_the_masked_count():
    z, v, labels = drawn()
    mask = np.array([True, True, False, True, True, True])
    labels[4] = UNLABELLED
    counted = [0, 1, 3, 5]
    beta = torch.linspace(0.0, 5.0, 6, dtype=torch.float64)
    beta[4] = math.nan
    given = call(z, v, labels, mask=torch.tensor(mask), beta=beta)
    expected = reference(z[counted], v[counted], labels[counted], 1.0, beta[counted].numpy(), 4.0).mean()
    assert given.item() == pytest.approx(expected, rel=1e-12)
    found = gradient(z, v, labels, mask=torch.tensor(mask), beta=2.0)
    assert torch.equal(found[[2, 4]], torch.zeros(2, 5, dtype=torch.float64))
    nobody = torch.full((6,), UNLABELLED)
    assert call(z, v, nobody).item() == 0


@over(
    ("options", "line"),
    [
        ({"alpha": -1.0}, "alpha: found -1.0"),
        ({"beta": -1.0}, "beta: found -1.0"),
        ({"beta": math.nan}, "beta: found nan"),
        ({"beta": torch.ones(5)}, "beta has shape (5,), labels has shape (6,)"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
    ],
    ids=str,
)
def test_bad_options_are_refused_in_one_line(options, line):
    z, v, labels = drawn()
    with pytest.raises(InputError) as caught:
        call(z, v, labels, **options)
    assert str(caught.value).startswith(line)


@over(
    ("labels", "line"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 5]), "labels: found 0 to 5, expected 0 to 4"),
        (torch.tensor([0, 1, 2, 3, 4, -1]), "labels: found -1 to 4, expected 0 to 4"),
        (torch.tensor([0.0] * 6), "labels: found torch.float32, expected torch.int64"),
        (torch.tensor([0]), "labels has shape (1,)"),
    ],
    ids=str,
)
def test_bad_labels_are_refused_in_one_line(labels, line):
    z, v, _ = drawn()
    with pytest.raises(InputError) as caught:
        call(z, v, labels)
    assert str(caught.value).startswith(line)


def test_a_student_that_rules_out_all_other_classes_is_infinitely_far_and_a_teacher_that_does_says_nothing_of_them():
    certain, torn = torch.tensor([[1.0, -torch.inf, -torch.inf]]), torch.tensor([[1.0, 2.0, 0.0]])
    labels = torch.tensor([0])
    assert losses.dkd(certain, torn, labels, alpha=0.0, beta=1.0) == torch.inf
    assert losses.dkd(torn, certain, labels, alpha=0.0, beta=1.0) == 0
    assert losses.dkd(certain, certain, labels, alpha=0.0, beta=1.0) == 0
