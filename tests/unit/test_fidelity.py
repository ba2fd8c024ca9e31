"""Fidelity against scipy, and its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

import limbeck as lb
from limbeck.errors import InputError
from limbeck.evaluation import fidelity


def pair(n=300, classes=6, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(n, classes, generator=generator)
    student = teacher + noise * torch.randn(n, classes, generator=generator)
    return student, teacher, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize(("n", "classes"), [(300, 6), (7, 2), (2000, 300)])
def test_it_is_what_scipy_computes(n, classes):
    student, teacher, labels = pair(n, classes)
    found = fidelity(student, teacher, labels)
    p, q = softmax(teacher.double().numpy(), axis=1), softmax(student.double().numpy(), axis=1)
    same, wrong = p.argmax(1) == q.argmax(1), p.argmax(1) != labels.numpy()
    assert found.examples == n
    assert found.kl == pytest.approx(rel_entr(p, q).sum(1).mean(), rel=1e-9)
    assert found.agreement == pytest.approx(same.mean())
    assert found.teacher_wrong == wrong.sum()
    assert found.agreement_where_wrong == pytest.approx(same[wrong].mean())


def test_kl_is_the_loss_at_temperature_1():
    student, teacher, _ = pair()
    assert fidelity(student, teacher).kl == pytest.approx(float(lb.losses.kl(student.double(), teacher.double())))


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0, 20), st.integers(0, 999))
def test_properties(n, classes, noise, seed):
    student, teacher, labels = pair(n, classes, noise, seed)
    found = fidelity(student, teacher, labels)
    assert found.kl >= 0
    assert 0 <= found.agreement <= 1
    assert (found.agreement_where_wrong is None) == (found.teacher_wrong == 0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    again = fidelity(student[order] + 5.0, teacher[order] - 5.0, labels[order])
    assert again.kl == pytest.approx(found.kl, abs=1e-4 * (1 + noise))
    itself = fidelity(teacher, teacher, labels)
    assert (itself.kl, itself.agreement) == (0.0, 1.0)


def test_labels_may_be_missing():
    student, teacher, labels = pair()
    plain = fidelity(student, teacher)
    assert (plain.teacher_wrong, plain.agreement_where_wrong) == (0, None)
    labels[::2] = lb.UNLABELLED
    half = fidelity(student, teacher, labels)
    assert (half.agreement, half.kl) == (plain.agreement, plain.kl)
    assert half.teacher_wrong == int((teacher.argmax(1) != labels)[1::2].sum())


def test_classes_that_the_teacher_rules_out_cost_nothing():
    teacher = torch.tensor([[0.0, -torch.inf]])
    assert fidelity(torch.zeros(1, 2), teacher).kl == pytest.approx(np.log(2))


def test_mistakes():
    with pytest.raises(InputError, match="must be the same"):
        fidelity(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="NaN"):
        fidelity(torch.full((2, 3), torch.nan), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"expected \(n, K\)"):
        fidelity(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
