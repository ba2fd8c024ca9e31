"""Churn between two trainings against numpy, and its limits."""

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.evaluation import churn
from walk import over


def test_it_is_what_numpy_finds():
    draw = torch.Generator().manual_seed(0)
    first, second = (3 * torch.randn(50, 7, generator=draw) for _ in range(2))
    p, q = (np.exp(each.double().numpy()) for each in (first, second))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    found = churn(first, second)
    assert found.difference == pytest.approx(sum(abs(a - b) for a, b in zip(p.flat, q.flat, strict=True)) / 350)
    assert found.changed == sum(int(a.argmax() != b.argmax()) for a, b in zip(p, q, strict=True)) / 50
    assert churn(second, first) == found


def test_its_limits():
    same = torch.randn(5, 3)
    assert (churn(same, same).difference, churn(same, same + 2.0).changed) == (0.0, 0.0)
    one, other = 1e4 * torch.eye(2), 1e4 * (1 - torch.eye(2))
    assert (churn(one, other).difference, churn(one, other).changed) == (1.0, 1.0)
    assert np.isfinite(churn(one.half(), other.half()).difference)
    with pytest.raises(InputError, match=r"^first has shape \(2, 2\), second has shape \(5, 3\)"):
        churn(one, same)


def test_of_two_classes_it_is_the_papers_difference_and_of_more_a_part_of_the_total_variation():
    draw = torch.Generator().manual_seed(1)
    one, other = (torch.randn(40, generator=draw, dtype=torch.float64) for _ in range(2))
    pair = [torch.stack([torch.zeros(40), each], dim=1) for each in (one, other)]
    difference = float((one.sigmoid() - other.sigmoid()).abs().mean())
    assert churn(*pair).difference == pytest.approx(difference, abs=1e-15)
    many = [torch.randn(40, 6, generator=draw, dtype=torch.float64) for _ in range(2)]
    variation = 1 - torch.minimum(*(each.softmax(1) for each in many)).sum(1)
    assert churn(*many).difference == pytest.approx(float(variation.mean()) * 2 / 6)


@over("shape", [(4, 1), (0, 3), (4,), (2, 3, 4)])
def test_what_is_no_set_of_answers_is_refused(shape):
    with pytest.raises(InputError) as caught:
        churn(torch.zeros(shape), torch.zeros(shape))
    assert str(caught.value) == (f"churn: found logits {shape}, expected (N, K): at least one example and two classes")
