"""Targets over few classes: top-k with the mass of the rest, and draws."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from limbeck import Batch, Distiller, methods
from limbeck.errors import InputError
from limbeck.losses import (
    CROSS_ENTROPY,
    KL,
    REVERSE_KL,
    TOTAL_VARIATION,
    Dense,
    Sampled,
    TopK,
    correlation,
    jensen_shannon,
    skewed,
    soften,
)
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.sparse import SampledAnswer, TopKAnswer
from limbeck.terms import LogitMatching, SoftTargets

MERGING = [KL, CROSS_ENTROPY, REVERSE_KL, TOTAL_VARIATION, jensen_shannon(0.3), skewed(0.2)]
Z, V = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64)


def cut(teacher: Tensor, k: int, temperatures: tuple[float, ...] = (1.0,)) -> TopKAnswer:
    """Return the k largest of dense logits, by arithmetic of its own."""
    order = teacher.argsort(-1, descending=True)
    kept, others = order[..., :k], order[..., k:]
    rest = {each: (teacher.gather(-1, others) / each).logsumexp(-1) for each in temperatures}
    return TopKAnswer(kept, teacher.gather(-1, kept), rest, teacher.shape[-1])


def target(teacher: Tensor, k: int, temperature: float = 1.0) -> TopK:
    answer = cut(teacher, k, (temperature,))
    return TopK(answer.ids, *answer.at(temperature))


def test_the_worked_example_of_one_class_and_its_tail() -> None:
    student = Z.clone().requires_grad_()
    loss = KL.per_example(student, target(V, 1), 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.392859, abs=1e-6)
    assert student.grad is not None
    torch.testing.assert_close(
        student.grad, torch.tensor([[0.370386, -0.420512, 0.050126]]).double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("divergence", MERGING, ids=lambda each: each.name)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_a_lower_bound_that_rises_with_k_to_the_dense_value(divergence, temperature) -> None:
    generator = torch.Generator().manual_seed(0)
    z, v = (4 * torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    dense_input, sparse_input = z.clone().requires_grad_(), z.clone().requires_grad_()
    dense = divergence.per_example(dense_input, soften(v, temperature), temperature)
    found = [divergence.per_example(z, target(v, k, temperature), temperature) for k in range(1, 10)]
    for less, more in itertools.pairwise(found):
        assert bool((less <= more + 1e-12).all())
    whole = divergence.per_example(sparse_input, target(v, 9, temperature), temperature)
    torch.testing.assert_close(whole, dense, rtol=1e-12, atol=1e-12)
    dense.sum().backward()
    whole.sum().backward()
    torch.testing.assert_close(sparse_input.grad, dense_input.grad, rtol=1e-9, atol=1e-12)
    assert divergence.topk == "lower bound"


@pytest.mark.parametrize("divergence", MERGING, ids=lambda each: each.name)
def test_its_gradient_is_that_of_finite_differences(divergence) -> None:
    z = torch.tensor([[0.3, -1.2, 0.8, 0.1, -0.4]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[1.3, 0.2, -0.8, 0.5, 2.4]], dtype=torch.float64)
    for temperature in (1.0, 3.0):
        answer = target(v, 2, temperature)
        assert torch.autograd.gradcheck(lambda own, a=answer, t=temperature: divergence.per_example(own, a, t), (z,))


def test_the_gradient_in_closed_form() -> None:
    z = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    v = torch.randn(4, 7, dtype=torch.float64)
    kept = target(v, 3)
    KL.per_example(z, kept, 1.0).sum().backward()
    q, p = z.detach().softmax(-1), v.softmax(-1)
    inside = torch.zeros(4, 7, dtype=torch.bool).scatter(1, kept.ids, value=True)
    p_rest, q_rest = ((each * ~inside).sum(-1, keepdim=True) for each in (p, q))
    torch.testing.assert_close(z.grad, torch.where(inside, q - p, q * (1 - p_rest / q_rest)))


def test_an_answer_cannot_be_softened_at_another_temperature() -> None:
    same_at_one = [torch.tensor([[0.6, 0.2, 0.2]]).log(), torch.tensor([[0.6, 0.39, 0.01]]).log()]
    answers = [cut(each.double(), 1, (1.0, 2.0)) for each in same_at_one]
    assert [round(answer.at(1.0)[1].exp().item(), 6) for answer in answers] == [0.4, 0.4]
    assert [round(answer.at(2.0)[1].exp().item(), 6) for answer in answers] == [0.535898, 0.483291]
    with pytest.raises(InputError, match=r"temperature: found 3.*stored at 1, 2"):
        answers[0].at(3.0)


def test_rounded_logits_are_still_a_distribution() -> None:
    logits = 30 * torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    answer = cut(logits.double(), 5)
    rounded = TopKAnswer(answer.ids, answer.logits.half(), {1.0: answer.rest[1.0].float()}, 40)
    log_probs, log_tail = rounded.at(1.0)
    torch.testing.assert_close(log_probs.exp().sum(-1) + log_tail.exp(), torch.ones(50))


def test_draws_give_the_dense_gradient_on_average_over_all_of_them() -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    entropy = -(p * p.log()).sum()
    z = torch.tensor([[0.4, -0.3, 1.1]], dtype=torch.float64, requires_grad=True)
    for divergence in (KL, CROSS_ENTROPY):
        value, gradient = torch.zeros(1).double(), torch.zeros(1, 3).double()
        for draws in itertools.product(range(3), repeat=4):
            chance = float(p[list(draws)].prod())
            found = divergence.per_example(z, Sampled(torch.tensor([draws]), entropy.reshape(1)), 1.0)
            value += chance * found.detach()
            gradient += chance * torch.autograd.grad(found.sum(), z)[0]
        dense = divergence.per_example(z, Dense(p.log()[None]), 1.0)
        torch.testing.assert_close(value, dense.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(dense.sum(), z)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", [each for each in MERGING if each.sampled is None], ids=lambda each: each.name)
def test_divergences_that_are_not_linear_in_the_target_refuse_draws(divergence) -> None:
    with pytest.raises(InputError, match=r"divergence .*: found a sampled target"):
        divergence.per_example(Z, Sampled(torch.tensor([[0]]), torch.zeros(1)), 1.0)


def test_a_correlation_takes_neither() -> None:
    with pytest.raises(InputError, match="found a top-k target"):
        correlation().per_example(Z, target(V, 1), 1.0)
    with pytest.raises(InputError, match="found a sampled target"):
        correlation().per_example(Z, Sampled(torch.tensor([[0]]), torch.zeros(1)), 1.0)


@pytest.mark.parametrize(
    ("ids", "found"),
    [([[3]], "3 to 3"), ([[-1]], "-1 to -1"), ([[0, 1, 2, 2]], "4 in a row")],
)
def test_wrong_class_numbers_are_refused(ids, found) -> None:
    ids = torch.tensor(ids)
    with pytest.raises(InputError, match=rf"ids: found {found}"):
        KL.per_example(Z, TopK(ids, torch.full(ids.shape, -2.0), torch.zeros(1)), 1.0)


def answering(answer: TopKAnswer | SampledAnswer) -> Outputs:
    return Outputs.cut(answer)


def test_a_term_learns_from_stored_answers_as_from_dense_ones() -> None:
    z, v = torch.randn(5, 6), torch.randn(5, 6)
    mask = torch.tensor([True, True, False, True, True])
    batch = Batch(torch.arange(5), torch.zeros(5, dtype=torch.int64), torch.zeros(5, 2), mask=mask)
    objective = Objective([SoftTargets(temperature=4.0)])
    whole = cut(v.double(), 6, (4.0,))
    dense = objective({"student": Outputs(z), "teacher": Outputs(v)}, batch).total
    torch.testing.assert_close(objective({"student": Outputs(z), "teacher": answering(whole)}, batch).total, dense)
    some = objective({"student": Outputs(z), "teacher": answering(cut(v.double(), 2, (4.0,)))}, batch).total
    assert 0 < float(some) < float(dense)


def test_terms_that_need_dense_answers_say_so() -> None:
    batch, answer = Batch.of(torch.zeros(2, 3)), answering(cut(torch.randn(2, 4).double(), 2))
    with pytest.raises(InputError, match=r"term 'logits': found topk answers of the teacher, expected dense ones"):
        Objective([LogitMatching()])({"student": Outputs(torch.zeros(2, 4)), "teacher": answer}, batch)
    drawn = answering(SampledAnswer(torch.zeros(2, 3, dtype=torch.int64), 1.0, torch.zeros(2), 4))
    objective = Objective([SoftTargets(temperature=1.0, divergence=REVERSE_KL)])
    with pytest.raises(InputError, match="found sampled answers"):
        objective({"student": Outputs(torch.zeros(2, 4)), "teacher": drawn}, batch)


@pytest.mark.parametrize("name", methods.names())
def test_no_method_reads_the_logits_of_an_answer_that_has_none(name) -> None:
    """What takes such an answer gives a finite loss; everything else refuses it."""
    try:
        objective = methods.builder(name)()
    except (InputError, TypeError):  # needs layers
        return
    if "teacher" not in objective.reads():
        return
    answer = answering(cut(torch.randn(4, 6).double(), 3, (1.0, 2.0, 3.0, 4.0, 20.0)))
    batch = Batch.of(torch.randn(4, 3), torch.randint(6, (4,)))
    for term in objective.terms.values():
        if "teacher" not in term.reads:
            continue
        outputs = {"student": Outputs(torch.randn(4, 6)), "teacher": answer}
        if "topk" in term.takes_sparse:
            assert bool(term(outputs, batch, 0)[0].isfinite())
        else:
            with pytest.raises(InputError, match="expected dense ones"):
                term(outputs, batch, 0)


class _Stored(nn.Module):
    """A teacher whose answers are cut."""

    def __init__(self, answer: TopKAnswer) -> None:
        super().__init__()
        self.answer = answer

    def __call__(self, batch: Batch, taps=None) -> Outputs:
        return Outputs.cut(self.answer)

    def fingerprint(self) -> str:
        return ""


def test_a_distiller_trains_with_cut_answers_and_notices_broken_ones() -> None:
    v = torch.randn(4, 5).double()
    batch = Batch.of(torch.randn(4, 3), torch.randint(5, (4,)))
    distiller = Distiller(nn.Linear(3, 5), _Stored(cut(v, 2, (4.0,))), methods.kd())
    distiller.build(batch, classes=5)
    loss = distiller(batch)
    loss.total.backward()
    assert bool(loss.total.isfinite())
    broken = cut(v, 2, (4.0,))
    broken.logits[1] = torch.nan
    with pytest.raises(Exception, match="answers NaN or"):
        Distiller(nn.Linear(3, 5), _Stored(broken), methods.kd()).build(batch, classes=5)
