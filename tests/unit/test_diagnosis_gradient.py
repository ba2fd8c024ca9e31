"""The rescaling factor against autograd, its limits, and the geometry of proposition 1."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from limbeck.batch import Batch
from limbeck.diagnosis.proposition import nearness_order
from limbeck.diagnosis.rescaling import log_others, rescaling_factor
from limbeck.errors import InputError
from limbeck.methods import hard, kd
from limbeck.outputs import Outputs
from walk import over


def logits(n=40, classes=7, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (n,), generator=generator)


def test_logits_of_less_precision_are_computed_in_float64():
    student, teacher, labels = logits()
    options = {"temperature": 2.0, "hard_weight": 0.1, "soft_weight": 0.9}
    single = rescaling_factor(student.float(), teacher.float(), labels, **options)
    assert torch.equal(single, rescaling_factor(student.float().double(), teacher.float().double(), labels, **options))


def wrong_class_gradient(objective, student, teacher, labels):
    """Return Σ_{i≠t} ∂L/∂z_i of each example, by autograd through the objective that trains."""
    z = student.clone().requires_grad_(True)
    outputs = {"student": Outputs(z), "teacher": Outputs(teacher)}
    objective(outputs, Batch.of(torch.zeros(len(labels), 1), labels)).total.backward()
    others = torch.ones_like(z, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return torch.stack([row[keep].sum() for row, keep in zip(z.grad, others, strict=True)])


@over(("hard_weight", "soft_weight"), [(0.1, 0.9), (0.0, 1.0), (1.0, 0.0), (0.5, 2.0)])
@over("temperature", [0.5, 1.0, 4.0, 20.0])
@over("classes", [2, 7, 100])
def test_it_is_the_ratio_of_the_gradients(hard_weight, soft_weight, temperature, classes):
    student, teacher, labels = logits(classes=classes)
    found = rescaling_factor(
        student, teacher, labels, temperature=temperature, hard_weight=hard_weight, soft_weight=soft_weight
    )
    both = kd(temperature=temperature, hard_weight=hard_weight, soft_weight=soft_weight)
    ratio = wrong_class_gradient(both, student, teacher, labels) / wrong_class_gradient(
        hard(), student, teacher, labels
    )
    assert torch.allclose(found, ratio, rtol=1e-10, atol=1e-10)


def test_it_is_exact_where_the_student_is_sure():
    """At a gap of 60 nats q_t is 1 in float64; the ratio is that of the sums over the others, by hand."""
    student = torch.tensor([[60.0, 0.0, 1.0]], dtype=torch.float64)
    teacher = torch.tensor([[6.0, 1.0, 0.0]], dtype=torch.float64)
    found = rescaling_factor(student, teacher, torch.tensor([0]), temperature=2.0, hard_weight=0.0, soft_weight=1.0)

    def rest(values, t):
        powers = [math.exp(value / t - values[0] / t) for value in values]
        return sum(powers[1:]) / sum(powers)

    q, soft, target = rest([60, 0, 1], 1), rest([60, 0, 1], 2), rest([6, 1, 0], 2)
    assert found.item() == pytest.approx(2.0 * (soft - target) / q, rel=1e-12)
    assert math.isfinite(found.item())


def test_it_is_never_undefined():
    """A student that is sure beyond float64 of what its teacher doubts is pushed back beyond float64."""
    student = torch.tensor([[1400.0, 0.0], [1400.0, 0.0]])
    teacher = torch.tensor([[3.0, 0.0], [1400.0, 0.0]])
    found = rescaling_factor(student, teacher, torch.tensor([0, 0]), temperature=2.0, hard_weight=0.5, soft_weight=0.5)
    assert found.tolist() == [-math.inf, 0.5]


def test_a_student_that_agrees_is_not_pushed():
    student, _, labels = logits()
    found = rescaling_factor(student, student, labels, temperature=3.0, hard_weight=0.2, soft_weight=0.8)
    assert torch.allclose(found, torch.full_like(found, 0.2), atol=1e-12)


def test_a_teacher_of_hard_labels_at_temperature_1_rescales_nothing():
    student, _, labels = logits()
    certain = torch.zeros_like(student).scatter_(1, labels[:, None], 800.0)
    found = rescaling_factor(student, certain, labels, temperature=1.0, hard_weight=0.3, soft_weight=0.7)
    assert torch.allclose(found, torch.ones_like(found), atol=1e-12)


@given(st.floats(0.3, 30), st.floats(0, 1), st.integers(2, 12), st.integers(0, 999))
def test_properties(temperature, share, classes, seed):
    student, teacher, labels = logits(9, classes, 3.0, seed)
    weights = {"temperature": temperature, "hard_weight": 1 - share, "soft_weight": share}
    found = rescaling_factor(student, teacher, labels, **weights)
    shifted = rescaling_factor(student + 7.0, teacher - 5.0, labels, **weights)
    assert torch.allclose(found, shifted, rtol=1e-9, atol=1e-9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(found[order], rescaling_factor(student[order], teacher[order], labels[order], **weights))
    surer = teacher.scatter_add(1, labels[:, None], torch.ones(9, 1, dtype=torch.float64))
    assert bool((rescaling_factor(student, surer, labels, **weights) >= found - 1e-9).all())


def test_large_sets_are_cut_without_a_trace(monkeypatch):
    import limbeck.evaluation.scores as scores

    student, teacher, labels = logits(300, 5)
    weights = {"temperature": 2.0, "hard_weight": 0.1, "soft_weight": 0.9}
    whole = rescaling_factor(student, teacher, labels, **weights)
    monkeypatch.setattr(scores, "_NUMBERS_A_CHUNK", 64)
    assert torch.equal(rescaling_factor(student, teacher, labels, **weights), whole)


def test_what_is_left_for_the_others():
    student, _, labels = logits(20, 6)
    p = torch.softmax(student, 1).gather(1, labels[:, None]).squeeze(1)
    assert torch.allclose(log_others(student, labels), torch.log1p(-p), rtol=1e-12)


@over(
    ("change", "line"),
    [
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"hard_weight": -1.0}, "hard_weight: found -1.0"),
        ({"labels": torch.tensor([0, 7])}, "labels: found 0 to 7, expected 0 to 2"),
        ({"labels": torch.tensor([0, -100])}, "labels: found -100 to 0"),
        ({"student_logits": torch.zeros(2, 4)}, "they must be the same"),
    ],
)
def test_mistakes(change, line):
    good = {
        "student_logits": torch.zeros(2, 3),
        "teacher_logits": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]),
        "temperature": 1.0,
        "hard_weight": 0.0,
        "soft_weight": 1.0,
    }
    with pytest.raises(InputError, match=line):
        rescaling_factor(**{**good, **change})


# ------------------------------------------------------------------------------------------------------- proposition 1


def test_the_order_is_scipys():
    generator = torch.Generator().manual_seed(1)
    features, vectors = torch.randn(30, 5, generator=generator), torch.randn(8, 5, generator=generator)
    teacher, labels = torch.randn(30, 8, generator=generator), torch.randint(8, (30,), generator=generator)
    values = []
    for h, v, t in zip(features.double().numpy(), teacher.double().numpy(), labels.tolist(), strict=True):
        wrong = [i for i in range(8) if i != t]
        near = [-np.sum((h - vectors[i].double().numpy()) ** 2) for i in wrong]
        values.append(spearmanr(near, v[wrong]).statistic)
    assert nearness_order(features, vectors, teacher, labels) == pytest.approx(np.mean(values), abs=1e-9)


def test_the_optimum_has_the_order_of_the_teacher():
    """A student whose logits are the teacher's, with class vectors of one length, is in its order everywhere."""
    generator = torch.Generator().manual_seed(2)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    features, labels = torch.randn(50, 4, generator=generator), torch.randint(6, (50,), generator=generator)
    assert nearness_order(features, vectors, features @ vectors.T, labels) == 1.0
    assert nearness_order(features, vectors, -(features @ vectors.T), labels) == -1.0


def test_two_classes_have_no_order():
    assert nearness_order(torch.zeros(3, 2), torch.eye(2), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)) is None
