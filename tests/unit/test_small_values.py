"""Divergences of a student that is nearly its teacher, and gradients where a spread or a probability is tiny.

The references are of more than float64, and their terms do not cancel.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from limbeck import losses, targets
from limbeck.errors import InputError
from limbeck.losses.logspace import js, kl, reverse_kl, rows, skewed_kl, total_variation
from walk import over

EPS = [1e-1, 1e-2, 1e-3, 1e-4]
TEMPERATURES = [1.0, 4.0, 20.0]
CLASSES = [2, 3, 10, 1000, 32000]


def logs(z, v, temperature):
    """log q, log p and the gap between them, of which the part that all classes share is exact."""
    z, v = (np.asarray(x, dtype=np.longdouble) / temperature for x in (z, v))
    log_q, log_p = log_softmax(z, -1), log_softmax(v, -1)
    step = z - v
    return log_q, log_p, step - np.log1p((np.exp(log_p) * np.expm1(step)).sum(-1, keepdims=True))


def excess(gap):
    small = np.abs(gap) < 1e-3
    near = gap**2 / 2 * (1 + gap / 3 * (1 + gap / 4 * (1 + gap / 5 * (1 + gap / 6))))
    return np.where(small, near, np.expm1(gap) - gap)


def reference(kind, z, v, temperature):
    log_q, log_p, gap = logs(z, v, temperature)
    p, q = np.exp(log_p), np.exp(log_q)
    if kind == "kl":
        terms = p * excess(gap)
    elif kind == "reverse_kl":
        terms = q * excess(-gap)
    elif kind == "total_variation":
        terms = p * np.abs(np.expm1(gap)) / 2
    else:
        share = {"js": 0.5, "skewed_kl": 0.1}[kind]
        from_p = np.log1p((1 - share) * np.expm1(gap))
        terms = p * excess(from_p)
        if kind == "js":
            terms = share * terms + (1 - share) * q * excess(np.log1p(share * np.expm1(-gap)))
    return terms.sum(-1).astype(float)


def drawn(classes, scale, eps, examples=None, seed=0):
    rng = np.random.default_rng(seed)
    examples = examples or max(2, min(32, 20000 // classes))
    teacher = (scale * rng.normal(size=(examples, classes))).astype(np.float32)
    return (teacher + eps * rng.normal(size=teacher.shape)).astype(np.float32), teacher


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js", "skewed_kl", "total_variation"])
@pytest.mark.parametrize("classes", CLASSES)
def test_a_small_divergence_is_not_negative_and_right_in_single_precision(kind, classes):
    few = classes > 100
    for temperature in (1.0, 20.0) if few else TEMPERATURES:
        for scale in (3.0,) if few else (0.3, 3.0, 8.0):
            for eps in (1e-1, 1e-4) if few else EPS:
                z, v = drawn(classes, scale, eps)
                options = {"temperature": temperature, "reduction": "none"}
                found = getattr(losses, kind)(torch.tensor(z), torch.tensor(v), **options).double().numpy()
                expected = reference(kind, z, v, temperature)
                assert (found >= 0).all(), (temperature, scale, eps, found.min())
                assert abs(found.mean() / expected.mean() - 1) <= 0.05, (temperature, scale, eps)


@over("kind", ["kl", "reverse_kl", "js", "skewed_kl", "total_variation"])
@over("gap", [2.0, 6.0, 10.0, 14.0, 16.0])
def test_a_small_divergence_from_a_teacher_that_is_sure_is_right_although_its_probability_rounds(kind, gap):
    teacher = np.array([[gap, 0.0], [gap, 0.25]], dtype=np.float32)
    student = teacher + np.array([[0.0, 2.0**-13], [0.0, -(2.0**-13)]], dtype=np.float32)
    found = getattr(losses, kind)(torch.tensor(student), torch.tensor(teacher), reduction="none").double().numpy()
    np.testing.assert_allclose(found, reference(kind, student, teacher, 1.0), rtol=0.1)


@over("formula", [kl, reverse_kl, js(0.3), skewed_kl(0.2), total_variation])
def test_no_rounding_makes_a_divergence_negative_wherever_the_gap_stands(formula):
    rng = np.random.default_rng(1)
    gaps = np.concatenate([10.0 ** rng.uniform(-9, 1, 4000), [1 / 16, 0.0625001, 0.0624999, 1.0, 1e-30, 0.0]])
    for dtype in (torch.float32, torch.float64):
        v = torch.tensor(3 * rng.normal(size=(len(gaps), 3)), dtype=dtype)
        z = v.clone()
        z[:, 1] += torch.tensor(gaps * rng.choice([-1, 1], len(gaps)), dtype=dtype)
        found = rows(z, v.log_softmax(-1), formula)
        assert (found >= 0).all()
        assert (found[gaps > 1e-6] > 0).all()
        assert found[-1] == 0


@over("kind", ["kl", "reverse_kl", "js", "skewed_kl", "total_variation"])
def test_a_gradient_of_a_small_divergence_is_that_of_double_precision(kind):
    for classes in (2, 10, 1000):
        for eps in (1e-1, 1e-3):
            for temperature in (1.0, 4.0):
                z, v = drawn(classes, 2.0, eps, examples=8)
                gradients = []
                for dtype in (torch.float32, torch.float64):
                    student = torch.tensor(z, dtype=dtype, requires_grad=True)
                    getattr(losses, kind)(student, torch.tensor(v, dtype=dtype), temperature=temperature).backward()
                    gradients.append(student.grad.double())
                off = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
                assert off < (0.2 if kind == "total_variation" else 2e-3), (classes, eps, temperature, float(off))


@pytest.mark.thorough
def test_second_derivatives_of_the_divergences_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    for divergence in map(losses.divergence, ("kl", "reverse_kl", "js", "skewed_kl", "cross_entropy", "correlation")):
        target = losses.soften(teacher, 2.0)
        assert torch.autograd.gradgradcheck(
            lambda z, made=divergence, target=target: made.per_example(z, target, 2.0),
            (student.clone().requires_grad_(),),
        )


def test_the_parts_of_dkd_are_not_negative_and_small_ones_are_right():
    for classes in (2, 3, 10, 1000):
        for eps in EPS:
            z, v = drawn(classes, 3.0, eps)
            labels = torch.arange(len(z)) % classes
            for parts in ({"alpha": 1.0, "beta": 0.0}, {"alpha": 0.0, "beta": 1.0}):
                if classes == 2 and parts["alpha"] == 0:
                    continue  # the rest is one class: 0
                options = {"temperature": 4.0, "reduction": "none", **parts}
                found = losses.dkd(torch.tensor(z), torch.tensor(v), labels, **options).double().numpy()
                z_split, v_split = ((_split(x / 4.0, labels.numpy())) for x in (z, v))
                index = 0 if parts["alpha"] else 1
                expected = 16 * reference("kl", z_split[index], v_split[index], 1.0)
                assert (found >= 0).all()
                assert abs(found.mean() / expected.mean() - 1) <= 0.1, (classes, eps, parts)


def _split(scaled, labels):
    """Logits of the true class against all others together, and of the others among themselves."""
    scaled = scaled.astype(np.longdouble)
    true = np.take_along_axis(scaled, labels[:, None], 1)
    rest = np.array([np.delete(row, label) for row, label in zip(scaled, labels, strict=True)])
    largest = rest.max(1, keepdims=True)
    return np.concatenate([true, largest + np.log(np.exp(rest - largest).sum(1, keepdims=True))], 1), rest


def test_a_correlation_that_is_nearly_one_is_not_above_it():
    for eps in EPS:
        z, v = drawn(10, 1.0, eps)
        found = losses.inter_class(torch.tensor(z), torch.tensor(v), temperature=4.0, reduction="none")
        exact = losses.inter_class(
            torch.tensor(z, dtype=torch.float64),
            torch.tensor(v, dtype=torch.float64),
            temperature=4.0,
            reduction="none",
        )
        assert (found >= 0).all()
        torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0)


# ------------------------------------------------------------------------------------------------ tiny spreads and sums

GAPS = [1.0, 10.0, 30.0, 60.0, 80.0, 86.0, 88.0, 90.0, 95.0, 100.0, 104.0, 110.0, 200.0, 1000.0]


def gradients_of(loss, z, v):
    found = []
    for dtype in (torch.float32, torch.float64):
        student = z.detach().clone().to(dtype).requires_grad_()
        loss(student, v.to(dtype)).backward()
        found.append(student.grad.double())
    return found


@pytest.mark.thorough
@over("gap", GAPS)
@over("name", ["intra_class", "inter_class", "dist", "kl", "js", "reverse_kl", "dkd", "standardised"])
def test_a_class_that_the_student_has_given_up_leaves_the_gradient_as_it_is_in_double_precision(name, gap):
    z = torch.tensor([[0.0, 0, -gap], [1, 0, -gap], [0, 1, -gap - 1]])
    v = torch.tensor([[2.0, 1, 0], [0, 2, 1], [1, 0, 2]])
    if name == "dkd":
        loss = lambda z, v: losses.dkd(z, v, torch.tensor([0, 1, 2]), temperature=1.0)  # noqa: E731
    elif name == "standardised":
        loss = lambda z, v: losses.kl(losses.standardise(z), losses.standardise(v))  # noqa: E731
    else:
        loss = getattr(losses, name)
    found, expected = gradients_of(loss, z, v)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6 * float(expected.abs().max()))


@over("spread", [10.0**-power for power in (0, 1, 2, 3, 4, 8, 15, 20, 23, 25, 30)])
@over("centre", [0.0, 1.0])
def test_a_z_score_of_logits_with_a_tiny_spread_has_the_gradient_of_double_precision(spread, centre):
    z = centre + spread * torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
    if centre and spread < 1e-5:
        return  # of these float32 holds nothing but the centre
    direction = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]])
    found, expected = gradients_of(lambda z, v: (losses.standardise(z) * v).sum(), z, direction)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))


@over("temperature", [1.0, 1e2, 1e3, 1e4])
@over("name", ["intra_class", "inter_class", "dist"])
def test_a_correlation_of_nearly_uniform_distributions_has_the_gradient_of_double_precision(name, temperature):
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 8, 5, generator=generator)
    found, expected = gradients_of(lambda z, v: getattr(losses, name)(z, v, temperature=temperature), z, v)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=5e-3 * float(expected.abs().max()))


@over("size", [1.0, 1e-20, 1e-30, 1e-38, 1e-44])
def test_small_confidences_weigh_as_their_ratios_do(size):
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
    labels, shares = torch.tensor([0, 1, -100]), torch.tensor([1.0, 3.0, 5.0])
    found = losses.confidence_weighted(logits, labels, size * shares)
    expected = losses.confidence_weighted(logits, labels, shares)
    torch.testing.assert_close(found, expected, rtol=0.15 if size < 1e-40 else 1e-6, atol=0)


@over("size", [1e-3, 1e-15, 1e-25, 1e-40])
def test_vectors_of_any_length_have_their_cosines(size):
    vectors = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0, 0.96, 0.0], [0.96, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(targets.class_cosines(size * vectors), expected, rtol=1e-3, atol=1e-6)


def test_weights_that_are_all_0_are_refused_in_one_line():
    z = torch.zeros(2, 3)
    labels = torch.tensor([0, 1])
    for call, line in (
        (lambda: losses.dist(z, z, inter_weight=0.0, intra_weight=0.0), "inter_weight, intra_weight: both are 0, "),
        (lambda: losses.dkd(z, z, labels, alpha=0.0, beta=0.0), "alpha, beta: both are 0, "),
        (lambda: losses.kd(z, z, hard_weight=1.0), "labels: found None, but soft_weight is 0"),
        (lambda: losses.kd(z, z, labels, hard_weight=0.0, soft_weight=0.0), "hard_weight, soft_weight: both are 0, "),
        (lambda: losses.confidence_weighted(z, labels, torch.zeros(2)), "confidence: found 0 for every counted"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(line)
    assert losses.confidence_weighted(z, torch.full((2,), -100), torch.zeros(2)) == 0
    assert math.isnan(losses.confidence_weighted(z, labels, torch.tensor([math.nan, 1.0])))
