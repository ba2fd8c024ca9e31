"""Contrastive representation distillation: the scores, the constant and the banks."""

import math

import pytest
import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.errors import InputError
from sheet import S, T
from walk import over

I = torch.eye(4, dtype=torch.float64)  # noqa: E741
STUDENT, TEACHER = F.normalize(S, dim=1), F.normalize(T, dim=1)
BANKS = I[[0, 1, 2, 3, 0]], I[[1, 2, 3, 0, 2]]
ROWS = torch.arange(3), torch.tensor([[3, 4], [3, 4], [4, 3]])


def random(n=50, d=8, examples=6, negatives=20):
    generator = torch.Generator().manual_seed(0)
    a, b, m_s, m_t = (
        F.normalize(torch.randn(rows, d, generator=generator, dtype=torch.float64), dim=1)
        for rows in (examples, examples, n, n)
    )
    others = torch.stack([torch.randperm(n - 1, generator=generator)[:negatives] + 1 for _ in range(examples)])
    return [a, b, m_s, m_t, torch.zeros(examples, dtype=torch.int64), others]


def test_values_of_the_specification():
    z_s, z_t = (
        losses.contrast_constant(a, bank, *ROWS, temperature=0.5)
        for a, bank in ((STUDENT, BANKS[1]), (TEACHER, BANKS[0]))
    )
    assert float(z_s) == pytest.approx(10.359679, abs=1e-6)
    assert float(z_t) == pytest.approx(13.590058, abs=1e-6)
    for temperature, expected in ((0.5, 4.724848), (0.07, 18.687660)):
        given = (STUDENT, TEACHER, *BANKS, *ROWS)
        assert float(losses.crd(*given, temperature=temperature)) == pytest.approx(expected, abs=2e-6)
        assert float(published(*given, temperature, 1e-7).mean()) == pytest.approx(expected, abs=1e-6)
    assert float(
        losses.crd(STUDENT, TEACHER, *BANKS, *ROWS, temperature=0.5, constants=(z_s, float(z_t)))
    ) == pytest.approx(4.724848, abs=1e-6)
    expected = torch.tensor([0.839121, 0.0, 0.486519, -0.243259], dtype=torch.float64)
    torch.testing.assert_close(losses.bank_rows(BANKS[0][:3], STUDENT)[0], expected, rtol=0, atol=1e-6)


def published(a, b, m_s, m_t, positives, negatives, temperature, epsilon):
    """The published form, on gathered rows."""
    total, n, m = 0, len(m_s), negatives.shape[1]
    rows = torch.cat([positives[:, None], negatives], 1)
    for own, bank in ((a, m_t), (b, m_s)):
        exponentials = torch.einsum("nkd,nd->nk", bank[rows], own).div(temperature).exp()
        p = exponentials / (n * exponentials.detach().mean())
        noise = m / n
        total = total - (p[:, 0] / (p[:, 0] + noise + epsilon)).log()
        total = total - (noise / (p[:, 1:] + noise + epsilon)).log().sum(1)
    return total


@over("temperature", [0.07, 0.5])
def test_it_is_the_published_form_on_gathered_rows(temperature):
    given = random()
    each = losses.crd(*given, temperature=temperature, reduction="none")
    torch.testing.assert_close(each, published(*given, temperature, 0.0), rtol=1e-12, atol=0)
    torch.testing.assert_close(each, published(*given, temperature, 1e-7), rtol=1e-5, atol=0)


def test_a_part_of_the_banks_that_holds_the_rows_gives_what_the_whole_banks_give():
    a, b, m_s, m_t, positives, others = random()
    part = torch.cat([positives, others.flatten()]).unique()
    places = [torch.searchsorted(part, each) for each in (positives, others)]
    found = losses.crd(a, b, m_s[part], m_t[part], *places, size=50)
    torch.testing.assert_close(found, losses.crd(a, b, m_s, m_t, positives, others), rtol=1e-12, atol=0)
    constant = losses.contrast_constant(a, m_t[part], *places, size=50)
    torch.testing.assert_close(constant, losses.contrast_constant(a, m_t, positives, others), rtol=1e-12, atol=0)
    with pytest.raises(InputError, match="size: found 0"):
        losses.crd(a, b, m_s, m_t, positives, others, size=0)


def test_equal_scores_have_the_value_in_closed_form():
    m, n = 16384, 50000
    a, bank = torch.zeros(1, 4, dtype=torch.float64), torch.ones(n, 4, dtype=torch.float64)
    value = losses.crd(a, a, bank, bank, torch.tensor([0]), torch.arange(1, m + 1)[None])
    side = math.log1p(m) + m * math.log1p(1 / m)
    assert side == pytest.approx(10.704091, abs=1e-6)
    assert float(value) == pytest.approx(2 * side)


def test_the_order_of_negatives_changes_nothing_and_examples_have_their_own_values():
    *given, others = random()
    z = (30.0, 40.0)
    each = losses.crd(*given, others, constants=z, reduction="none")
    torch.testing.assert_close(losses.crd(*given, others.flip(1), constants=z, reduction="none"), each)
    a, b, m_s, m_t, positives = given
    alone = [
        losses.crd(a[[i]], b[[i]], m_s, m_t, positives[[i]], others[[i]], constants=z, reduction="none")
        for i in range(6)
    ]
    torch.testing.assert_close(each, torch.cat(alone), rtol=1e-9, atol=0)


def test_gradients_reach_both_embeddings_and_no_bank_and_lie_in_the_span_of_the_other_bank():
    given = random(d=8)
    span = given[3].clone()
    span[:, 6:] = 0  # the teacher's bank lies in the first six axes
    given[3] = span
    for tensor in given[:4]:
        tensor.requires_grad_()
    losses.crd(*given).backward()
    assert given[0].grad.abs().sum() > 0
    assert given[1].grad.abs().sum() > 0
    assert given[2].grad is None
    assert given[3].grad is None
    assert not given[0].grad[:, 6:].any()
    a, b, *rest = [each.detach() for each in given]
    assert torch.autograd.gradcheck(
        lambda x, y: losses.crd(x, y, *rest, constants=(30.0, 40.0)), (a.requires_grad_(), b.requires_grad_())
    )


@over("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    given = random()
    half = [each.to(dtype) for each in given[:2]]
    single = [each.float() for each in half]
    banks = [each.float() for each in given[2:4]]
    value = losses.crd(*half, *banks, *given[4:])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, losses.crd(*single, *banks, *given[4:]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(losses.crd(*single, *banks, *given[4:]), value)


def test_scores_far_apart_stay_finite():
    a = torch.eye(2, dtype=torch.float32)
    bank = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
    a.requires_grad_()
    value = losses.crd(
        a, a.detach(), bank, bank, torch.tensor([0, 1]), torch.tensor([[2, 3], [3, 2]]), temperature=0.02
    )
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(a.grad).all()


def test_rows_of_a_bank_keep_length_one_and_follow_the_momentum():
    a, b = random()[:2]
    rows = losses.bank_rows(a, b.requires_grad_(), momentum=0.25)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(rows, F.normalize(0.25 * a + 0.75 * b.detach(), dim=1))
    assert not rows.requires_grad
    torch.testing.assert_close(losses.bank_rows(a, b, momentum=1.0), a)
    assert not losses.bank_rows(0 * a, 0 * b).any()


def test_wrong_rows_and_shapes_are_refused():
    a, b, m_s, m_t, positives, others = random()
    with pytest.raises(InputError, match="rows from 0 to 49"):
        losses.crd(a, b, m_s, m_t, positives, others + 1)
    with pytest.raises(InputError, match=r"negatives: found shape \(6, 0\)"):
        losses.crd(a, b, m_s, m_t, positives, others[:, :0])
    with pytest.raises(InputError, match="positives"):
        losses.crd(a, b, m_s, m_t, positives[:2], others)
    with pytest.raises(InputError, match="teacher_bank"):
        losses.crd(a, b, m_s, m_t[:9], positives, others)
    with pytest.raises(InputError, match="temperature"):
        losses.crd(a, b, m_s, m_t, positives, others, temperature=0.0)
    with pytest.raises(InputError, match="momentum"):
        losses.bank_rows(a, b, momentum=1.5)
