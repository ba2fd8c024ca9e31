"""The answering rule of generalist and specialists: certificate, other solvers, closed forms, extremes, invariances."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

from limbeck.errors import InputError
from limbeck.teachers.specialists import CERTIFIED, answer, covering
from walk import over

OVERLAPPING = [[0, 1, 2, 3], [2, 3, 4], [5, 1]]
NESTED = [[0, 1, 2, 3], [1, 2], [2]]
IDENTICAL = [[1, 4], [1, 4], [4, 1]]
DISJOINT = [[0, 1], [2, 3], [4, 5]]
EXHAUSTING = [[0, 1, 2, 3], [3, 4, 5, 6], [0, 6, 2]]
HALVES = [[0, 1, 2], [3, 4, 5, 6]]
FULL = [[0, 1, 2, 3, 4, 5, 6], [2, 5]]
FAMILIES = {
    "overlapping": OVERLAPPING,
    "nested": NESTED,
    "identical": IDENTICAL,
    "disjoint": DISJOINT,
    "exhausting": EXHAUSTING,
    "halves": HALVES,
    "full": FULL,
}
CLASSES = 7
every_family = pytest.mark.parametrize("name", FAMILIES)


def width(group, classes=CLASSES):
    return len(group) + (len(group) < classes)


def drawn(groups, size=40, scale=2.0, seed=0, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)

    def logits(columns):
        return scale * torch.randn(size, columns, generator=generator, dtype=torch.float64)

    return logits(classes), [logits(width(group, classes)) for group in groups], [torch.tensor(g) for g in groups]


def objective(q, generalist, specialists, groups):
    """KL(p^g, q) + Σ KL(p^m, q) for one example, in loops; all are probabilities."""
    total = sum(p * math.log(p / q[i]) for i, p in enumerate(generalist) if p > 0)
    for told, group in zip(specialists, groups, strict=True):
        total += sum(p * math.log(p / q[i]) for p, i in zip(told, group, strict=False) if p > 0)
        if len(told) > len(group) and told[-1] > 0:
            total += told[-1] * math.log(told[-1] / sum(q[i] for i in range(len(q)) if i not in group))
    return total


def certificate(log_q, generalist, specialists, groups):
    """max_i r_i - (1 + |A|) of one example, class by class and in log space; the inputs are logits in numpy."""
    slopes = np.zeros(len(log_q))
    log_p = generalist - logsumexp(generalist)
    slopes += np.exp(log_p - log_q)
    for logits, group in zip(specialists, groups, strict=True):
        told = logits - logsumexp(logits)
        rest = [i for i in range(len(log_q)) if i not in group]
        for value, i in zip(told, group, strict=False):
            slopes[i] += np.exp(value - log_q[i])
        if rest:
            slopes[rest] += np.exp(told[-1] - logsumexp(log_q[rest]))
    return slopes.max() - 1 - len(groups)


def certificates(found, generalist, specialists, groups):
    groups = [group.tolist() for group in groups]
    return [
        certificate(found[n], generalist[n].numpy(), [told[n].numpy() for told in specialists], groups)
        for n in range(len(generalist))
    ]


def softmax(x):
    return np.exp(x - logsumexp(x, -1, keepdims=True))


# ------------------------------------------------------------------------------------------------------ the certificate


@pytest.mark.miniature(1)
@every_family
@over("scale", [0.1, 1.0, 5.0, 30.0, 200.0, 600.0])
def test_every_answer_is_certified_and_a_distribution(name, scale):
    generalist, specialists, groups = drawn(FAMILIES[name], scale=scale)
    log_q, gap = answer(generalist, specialists, groups)
    assert log_q.dtype == gap.dtype == torch.float64
    assert gap.max() <= CERTIFIED
    assert (log_q.exp().sum(1) - 1).abs().max() < 1e-12
    assert log_q.isfinite().all()
    if scale < 100:  # below, probabilities smaller than 1e-290 count as that
        np.testing.assert_allclose(certificates(log_q.numpy(), generalist, specialists, groups), gap, atol=1e-11)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_many_active_specialists_are_certified(scale):
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randperm(30, generator=generator)[: 3 + 2 * m].tolist() for m in range(11)]
    generalist, specialists, groups = drawn(sets, size=12, scale=scale, classes=30)
    log_q, gap = answer(generalist, specialists, groups)
    assert gap.max() <= CERTIFIED
    assert max(certificates(log_q.numpy(), generalist, specialists, groups)) <= CERTIFIED


def test_the_certificate_tells_a_wrong_answer():
    generalist, specialists, groups = drawn(OVERLAPPING, size=5)
    right = answer(generalist, specialists, groups).log_probs.numpy()
    wrong = generalist.log_softmax(1).numpy()
    assert max(certificates(right, generalist, specialists, groups)) < 1e-12
    assert min(certificates(wrong, generalist, specialists, groups)) > 1e-3


# ------------------------------------------------------------------------------------------------------- other solvers


@pytest.mark.miniature(1)
@every_family
def test_the_answer_is_what_lbfgs_on_softmax_logits_finds(name):
    generalist, specialists, groups = drawn(FAMILIES[name], size=3)
    found = answer(generalist, specialists, groups).log_probs.exp()
    for n in range(3):
        p, told = generalist[n].softmax(0), [outputs[n].softmax(0) for outputs in specialists]
        z = generalist[n].clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [z], max_iter=400, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()  # noqa: B023 - called at once
            log_q = z.log_softmax(0)  # noqa: B023
            loss = -(p * log_q).sum()  # noqa: B023
            for outputs, group in zip(told, groups, strict=True):  # noqa: B023
                loss = loss - (outputs[: len(group)] * log_q[group]).sum()
                rest = [i for i in range(CLASSES) if i not in group.tolist()]
                if rest:
                    loss = loss - outputs[-1] * log_q[rest].logsumexp(0)
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(found[n], z.detach().softmax(0), atol=1e-8, rtol=1e-6)


@pytest.mark.thorough
@over("name", ["overlapping", "nested", "exhausting", "halves"])
def test_the_answer_is_what_slsqp_finds(name):
    generalist, specialists, groups = drawn(FAMILIES[name], size=3, scale=1.0, seed=4)
    found = answer(generalist, specialists, groups).log_probs.exp().numpy()
    lists = [group.tolist() for group in groups]
    for n in range(3):
        p, told = softmax(generalist[n].numpy()), [softmax(outputs[n].numpy()) for outputs in specialists]
        best = minimize(
            lambda q: objective(q, p, told, lists),  # noqa: B023 - called at once
            np.full(CLASSES, 1 / CLASSES),
            method="SLSQP",
            bounds=[(1e-9, 1)] * CLASSES,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(found[n], best.x, atol=1e-5)
        assert objective(found[n], p, told, lists) <= best.fun + 1e-12


# -------------------------------------------------------------------------------------------------------- closed forms


def test_without_an_active_specialist_the_generalist_answers():
    generalist, specialists, groups = drawn(OVERLAPPING)
    active = torch.zeros(40, 3, dtype=torch.bool)
    log_q, gap = answer(generalist, [torch.full_like(outputs, math.nan) for outputs in specialists], groups, active)
    torch.testing.assert_close(log_q, generalist.log_softmax(1))
    assert not gap.any()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_one_specialist_has_a_closed_form(scale):
    generalist, (outputs,), (group,) = drawn([[4, 0, 2]], scale=scale)
    p, told = generalist.softmax(1), outputs.softmax(1)
    expected = torch.empty_like(p)
    expected[:, group] = (p[:, group] + told[:, :3]) / 2
    rest = [1, 3, 5, 6]
    outside = p[:, rest].sum(1, keepdim=True)
    expected[:, rest] = p[:, rest] / outside * (outside + told[:, 3:]) / 2
    log_q, gap = answer(generalist, [outputs], [group])
    torch.testing.assert_close(log_q, expected.log(), atol=1e-12, rtol=1e-12)
    assert gap.max() < 1e-13


def test_of_full_softmaxes_the_answer_is_the_arithmetic_mean():
    generalist, specialists, groups = drawn([[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]])
    mean = (generalist.softmax(1) + specialists[0].softmax(1) + specialists[1].softmax(1).flip(1)) / 3
    torch.testing.assert_close(answer(generalist, specialists, groups).log_probs, mean.log(), atol=1e-13, rtol=1e-13)


def test_the_geometric_mean_is_what_the_reverse_divergence_asks_for():
    generalist, specialists, _ = drawn([[0, 1, 2, 3, 4, 5, 6]] * 2, size=1)
    logs = [x[0].log_softmax(0).numpy() for x in (generalist, *specialists)]
    mean = softmax(np.mean(logs, 0))
    reverse = minimize(
        lambda z: sum(float(softmax(z) @ (np.log(softmax(z)) - log)) for log in logs), np.zeros(CLASSES), tol=1e-12
    )
    np.testing.assert_allclose(softmax(reverse.x), mean, atol=1e-6)


def test_two_disjoint_specialists_that_agree_with_the_generalist_change_nothing():
    generalist, _, groups = drawn(DISJOINT)
    p = generalist.softmax(1)
    agreeing = [torch.cat([p[:, g], 1 - p[:, g].sum(1, keepdim=True)], 1).log() for g in groups]
    torch.testing.assert_close(answer(generalist, agreeing, groups).log_probs, p.log(), atol=1e-12, rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ extremes


def extreme(size, columns, generator):
    """Logits of which some are far below the others, some missing altogether, and some rows are all but certain."""
    logits = 300 * torch.randn(size, columns, generator=generator, dtype=torch.float64)
    logits[torch.rand(size, columns, generator=generator) < 0.2] = -math.inf
    certain = torch.rand(size, generator=generator) < 0.3
    logits[certain] = -math.inf
    best = torch.randint(columns, (size,), generator=generator)
    logits[torch.arange(size), best] = torch.where(certain, 0.0, 10.0).double()
    return logits


@every_family
def test_exact_zeros_and_probabilities_of_1e_300_are_certified(name):
    generator = torch.Generator().manual_seed(0)
    sets = FAMILIES[name]
    generalist = extreme(400, CLASSES, generator)
    specialists = [extreme(400, width(group), generator) for group in sets]
    log_q, gap = answer(generalist, specialists, [torch.tensor(group) for group in sets])
    assert gap.max() <= CERTIFIED
    assert log_q.isfinite().all()
    assert (log_q.exp().sum(1) - 1).abs().max() < 1e-12


def test_dustbins_of_0_and_1_and_classes_that_only_a_dustbin_wants():
    zero = -math.inf
    generalist = torch.tensor([[0.0, zero, zero], [0.0, zero, zero]])
    told = torch.tensor([[0.0, zero, zero], [zero, zero, 0.0]])  # all on class 0; all on the dustbin, which is class 2
    log_q, gap = answer(generalist, [told], [torch.tensor([0, 1])])
    np.testing.assert_allclose(log_q.exp(), [[1, 0, 0], [0.5, 0, 0.5]], atol=1e-200)
    assert gap.max() < 1e-13


def test_tiny_probabilities_keep_their_digits():
    """With one specialist in agreement, q of a class outside its set stays what the generalist says, at any size."""
    tiny = torch.tensor([[0.0, -1.0, -40.0, -300.0, -600.0]], dtype=torch.float64)
    p = tiny.log_softmax(1)
    told = torch.cat([p[:, :3], p[:, 3:].logsumexp(1, keepdim=True)], 1)
    for groups in ([[0, 1, 2]], [[0, 1, 2], [0, 1, 2]]):
        log_q, _ = answer(tiny, [told] * len(groups), [torch.tensor(group) for group in groups])
        torch.testing.assert_close(log_q, p, atol=1e-10, rtol=0)


def test_halves_that_contradict_each_other_have_a_closed_form():
    """Sets that exhaust the classes leave no cell to start from; each half is decided against the other's dustbin."""
    generalist, specialists, groups = drawn(HALVES, scale=6.0)
    p, (one, two) = generalist.softmax(1), (outputs.softmax(1) for outputs in specialists)
    first = (p[:, :3].sum(1) + one[:, :3].sum(1) + two[:, -1]) / 3
    log_q, gap = answer(generalist, specialists, groups)
    torch.testing.assert_close(log_q[:, :3].exp().sum(1), first, atol=1e-12, rtol=1e-9)
    assert gap.max() <= CERTIFIED


# ----------------------------------------------------------------------------------------------------------- properties


@st.composite
def problems(draw):
    """Groups of any kind over a few classes, and a seed and scale for the outputs."""
    classes = draw(st.integers(2, 8))
    one = st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True)
    groups = draw(st.lists(one, min_size=1, max_size=5))
    return classes, groups, draw(st.integers(0, 2**16)), draw(st.sampled_from([0.3, 2.0, 12.0, 60.0]))


@pytest.mark.thorough
@given(problems())
def test_any_family_of_sets_is_certified(problem):
    classes, sets, seed, scale = problem
    generalist, specialists, groups = drawn(sets, size=6, scale=scale, seed=seed, classes=classes)
    log_q, gap = answer(generalist, specialists, groups)
    assert gap.max() <= CERTIFIED
    assert max(certificates(log_q.numpy(), generalist, specialists, groups)) <= CERTIFIED
    assert (log_q.exp().sum(1) - 1).abs().max() < 1e-12


@pytest.mark.thorough
@given(problems(), st.randoms(use_true_random=False))
def test_neither_the_order_of_specialists_nor_that_of_a_set_matters(problem, random):
    classes, sets, seed, scale = problem
    generalist, specialists, groups = drawn(sets, size=4, scale=scale, seed=seed, classes=classes)
    order = random.sample(range(len(sets)), len(sets))
    turned, moved = [], []
    for m in order:
        inner = random.sample(range(len(groups[m])), len(groups[m]))
        turned.append(groups[m][inner])
        moved.append(specialists[m][:, [*inner, *range(len(inner), specialists[m].shape[1])]])
    here, there = answer(generalist, specialists, groups), answer(generalist, moved, turned)
    torch.testing.assert_close(here.log_probs.exp(), there.log_probs.exp(), atol=1e-8, rtol=1e-6)


@pytest.mark.thorough
@given(problems(), st.integers(1, 6))
def test_the_batch_may_be_cut_anywhere(problem, cut):
    classes, sets, seed, scale = problem
    generalist, specialists, groups = drawn(sets, size=7, scale=scale, seed=seed, classes=classes)
    active = covering(generalist, groups, top=min(2, classes))
    whole = answer(generalist, specialists, groups, active).log_probs
    parts = [
        answer(generalist[rows], [outputs[rows] for outputs in specialists], groups, active[rows]).log_probs
        for rows in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(torch.cat(parts).exp(), whole.exp(), atol=1e-9, rtol=1e-9)


def test_a_large_batch_is_cut_into_rows_that_change_nothing():
    generalist, specialists, groups = drawn(OVERLAPPING, size=5000)
    active = covering(generalist, groups, top=2)
    whole = answer(generalist, specialists, groups, active).log_probs
    last = answer(generalist[-10:], [outputs[-10:] for outputs in specialists], groups, active[-10:]).log_probs
    torch.testing.assert_close(whole[-10:], last, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_of_less_precision_are_taken_as_they_are(dtype):
    generalist, specialists, groups = drawn(OVERLAPPING)
    less = answer(generalist.to(dtype), [outputs.to(dtype) for outputs in specialists], groups)
    same = answer(generalist.to(dtype).double(), [outputs.to(dtype).double() for outputs in specialists], groups)
    assert torch.equal(less.log_probs, same.log_probs)
    assert less.gap.max() <= CERTIFIED


def test_constants_added_to_logits_change_nothing():
    generalist, specialists, groups = drawn(OVERLAPPING)
    moved = answer(generalist + 100, [outputs - 50 for outputs in specialists], groups).log_probs
    torch.testing.assert_close(moved, answer(generalist, specialists, groups).log_probs, atol=1e-11, rtol=0)


def test_more_of_the_generalists_classes_call_more_specialists():
    generalist, _, groups = drawn(DISJOINT)
    counts = [covering(generalist, groups, top=top).sum(1) for top in range(1, CLASSES + 1)]
    assert all((more >= fewer).all() for fewer, more in pairwise(counts))
    assert (counts[-1] == 3).all()
    best = generalist.argmax(1)
    assert torch.equal(counts[0], torch.where(best == 6, 0, 1))


# ------------------------------------------------------------------------------------------------------------ bad input


@over(
    ("change", "line"),
    [
        ({"groups": []}, "groups: found none"),
        ({"groups": [[0, 0]]}, "each class once"),
        ({"groups": [[0, 9]]}, "expected classes 0 to 6"),
        ({"groups": [[]]}, "expected its classes"),
        ({"width": 2}, "expected 40 rows each and \\[3\\] columns"),
        ({"value": math.nan}, "holds NaN"),
        ({"value": math.inf}, "holds NaN, \\+inf"),
        ({"active": torch.ones(3, 1, dtype=torch.bool)}, "active: found torch.bool \\(3, 1\\)"),
        ({"active": torch.ones(40, 1)}, "active: found torch.float32"),
        ({"shape": (7,)}, "expected \\(N, K\\)"),
        ({"dtype": torch.int64}, "of a floating type"),
    ],
)
def test_bad_input_is_one_line(change, line):
    generalist, (outputs,), _ = drawn([[0, 1]])
    if "value" in change:
        outputs[3, 1] = change["value"]
    if "shape" in change:
        generalist = generalist[0]
    if "dtype" in change:
        generalist = generalist.to(change["dtype"])
    groups = [torch.tensor(group, dtype=torch.int64) for group in change.get("groups", [[0, 1]])]
    with pytest.raises(InputError, match=line):
        answer(generalist, [outputs[:, : change.get("width", 3)]], groups, change.get("active"))


@over("top", [0, 8, 1.5, True])
def test_a_count_of_classes_out_of_range_is_one_line(top):
    generalist, _, groups = drawn(DISJOINT)
    with pytest.raises(InputError, match="top: found"):
        covering(generalist, groups, top=top)
