"""Losses on rankings: the worked examples, plain references in float64, limits, invariances and gradients."""

import itertools
import math

import numpy as np
import pytest
import torch

from limbeck import losses
from limbeck.errors import InputError
from walk import over

ITEMS = 101


def logs(scores):
    return -np.logaddexp(0.0, -np.asarray(scores, dtype=float))


def reference_weights(own, top, decay, mu, others=None, items=ITEMS):
    """The weights of one example by the formula, in a loop."""
    weights = np.array([math.exp(-place / decay) for place in range(1, top + 1)])
    if others is not None:
        for place in range(top):
            rank = (items - 1) * sum(score > own[place] for score in others) // len(others)
            weights[place] *= math.tanh(mu * max(rank - place, 0))
    return weights / weights.sum() if weights.sum() else weights


def worked():
    """The example of the sheet: four taught items, five drawn ones, and items that are neither."""
    student, teacher = torch.zeros(2, 1, ITEMS, dtype=torch.float64)
    student[0, :9] = torch.tensor([2.0, 0.5, -1.0, 0.0, 1.0, -0.5, 0.2, 3.0, -2.0])
    teacher[0, :4] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    return student, teacher, torch.tensor([[4, 5, 6, 7, 8]])


def drawn(rows=6, items=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, items, generator=generator, dtype=torch.float64)
    samples = torch.randint(items, (rows, 12), generator=generator)
    known = torch.stack([torch.randperm(items, generator=generator)[:4] for _ in range(rows)])
    known[0] = -100
    known[1, 2:] = -100
    return student, teacher, samples, known


def test_the_worked_example_of_ranking_distillation():
    student, teacher, samples = worked()
    settings = {"top": 4, "decay": 2.0}
    assert float(losses.ranking_distillation(student, teacher, **settings)) == pytest.approx(0.478833, abs=1e-6)
    hybrid = losses.ranking_distillation(student, teacher, samples=samples, **settings)
    assert float(hybrid) == pytest.approx(0.484691, abs=1e-6)
    assert reference_weights(None, 4, 2.0, 0.1) == pytest.approx([0.455054, 0.276004, 0.167405, 0.101536], abs=1e-6)
    found = reference_weights([2, 0.5, -1, 0], 4, 2.0, 0.1, [1, -0.5, 0.2, 3, -2])
    assert found == pytest.approx([0.446089, 0.280433, 0.170230, 0.103248], abs=1e-6)


@over("top, decay, mu", [(10, 1.0, 0.1), (3, 4.0, 2.0), (50, 0.5, 0.01)])
def test_ranking_distillation_and_its_gradient_equal_the_formula(top, decay, mu):
    student, teacher, samples, known = drawn()
    student.requires_grad_()
    found = losses.ranking_distillation(
        student, teacher, top=top, decay=decay, mu=mu, samples=samples, known=known, reduction="none"
    )
    found.sum().backward()
    for row in range(len(student)):
        z, v = student[row].detach().numpy(), teacher[row].numpy()
        free = [item for item in np.argsort(-v, kind="stable") if item not in known[row].tolist()][:top]
        weights = reference_weights(z[free], len(free), decay, mu, z[samples[row].numpy()], items=30)
        assert float(found[row].detach()) == pytest.approx(-(weights * logs(z[free])).sum(), abs=1e-12)
        gradient = np.zeros(30)
        gradient[free] = -weights / (1 + np.exp(z[free]))  # with weights that are constants
        np.testing.assert_allclose(student.grad[row].numpy(), gradient, atol=1e-12)


def test_ranking_distillation_reads_the_order_of_the_teacher_and_no_more():
    student, teacher, samples, known = drawn()
    arguments = {"samples": samples, "known": known}
    expected = losses.ranking_distillation(student, teacher, **arguments)
    for same in (3 * teacher - 7, teacher.exp(), teacher.argsort(-1).argsort(-1).double()):
        assert torch.equal(losses.ranking_distillation(student, same, **arguments), expected)
    assert losses.ranking_distillation(student, -teacher, **arguments) != expected


def test_the_limits_of_the_position_weights():
    student, teacher, _, _ = drawn()
    best = teacher.topk(10, -1).indices
    own = -torch.nn.functional.logsigmoid(student.gather(-1, best))
    alike = losses.ranking_distillation(student, teacher, decay=1e9, reduction="none")
    torch.testing.assert_close(alike, own.mean(-1), rtol=1e-7, atol=0)
    first = losses.ranking_distillation(student, teacher, decay=1e-2, reduction="none")
    torch.testing.assert_close(first, own[:, 0], rtol=1e-12, atol=0)


def test_a_student_that_agrees_has_hybrid_weights_of_zero_and_no_gradient():
    teacher = torch.arange(30, 0, -1, dtype=torch.float64)[None]
    student = teacher.clone().requires_grad_()
    samples = torch.arange(30)[None]  # every item once: the estimated place is the place, rounded down
    loss = losses.ranking_distillation(student, teacher, samples=samples)
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


def test_scores_that_overflow_a_sigmoid_have_a_finite_loss_and_gradient():
    student = torch.tensor([[-1e4, 1e4, -2e4]], requires_grad=True)
    teacher = torch.tensor([[3.0, 2.0, 1.0]])
    losses.ranking_distillation(student, teacher, samples=torch.tensor([[1]])).backward()
    assert torch.isfinite(student.grad).all()
    student.requires_grad_(False)
    assert float(losses.ranking_distillation(student, teacher, decay=1e9)) == pytest.approx(1e4)
    assert float(losses.sampled_log_loss(student, torch.tensor([[0]]), torch.tensor([[1]]))) == pytest.approx(2e4)


def test_an_example_whose_every_item_is_known_is_taught_nothing():
    student, teacher = torch.randn(2, 1, 3)
    loss = losses.ranking_distillation(student, teacher, known=torch.tensor([[2, 0, 1]]))
    assert loss == 0


def test_the_sampled_log_loss_and_its_gradient_equal_the_formula():
    student, _, samples, known = drawn()
    known[1] = torch.tensor([3, -100, 9, -100])
    samples[2, 3:] = -100
    student.requires_grad_()
    found = losses.sampled_log_loss(student, known, samples, reduction="none")
    found.sum().backward()
    found = found.detach()
    assert found[0] == 0
    assert float(losses.sampled_log_loss(student.detach(), known, samples)) == pytest.approx(float(found.sum()) / 5)
    for row in range(1, len(student)):
        z = student[row].detach().numpy()
        positives, negatives = ([i for i in part[row].tolist() if i >= 0] for part in (known, samples))
        value = -(logs(z[positives]).sum() + logs(-z[negatives]).sum()) / len(positives)
        assert float(found[row].detach()) == pytest.approx(value, abs=1e-12)
        gradient = np.zeros(30)
        np.add.at(gradient, positives, -1 / (1 + np.exp(z[positives])) / len(positives))
        np.add.at(gradient, negatives, 1 / (1 + np.exp(-z[negatives])) / len(positives))
        np.testing.assert_allclose(student.grad[row].numpy(), gradient, atol=1e-12)


def test_the_log_loss_of_positives_is_over_all_items_that_are_neither_positive_nor_known():
    student, _, _, known = drawn()
    positives = torch.stack([(known[:, 0] + 1) % 30, (known[:, 0] + 2) % 30], -1)
    positives[0] = torch.tensor([7, -100])
    positives[1] = -100
    positives[3, 0] = known[3, 0]  # what is asked for is never left out
    student.requires_grad_()
    found = losses.positives_log_loss(student, positives, known=known, ratio=2.5, reduction="none")
    found.sum().backward()
    assert found[1] == 0
    for row in (0, 2, 3, 4, 5):
        z = student[row].detach().numpy()
        wanted = [item for item in positives[row].tolist() if item >= 0]
        others = [item for item in range(30) if item not in wanted + known[row].tolist()]
        value = -logs(z[wanted]).mean() - 2.5 * logs(-z[others]).mean()
        assert float(found[row].detach()) == pytest.approx(value, abs=1e-12)
        gradient = np.zeros(30)
        gradient[wanted] = -1 / (1 + np.exp(z[wanted])) / len(wanted)
        gradient[others] = 2.5 / (1 + np.exp(-z[others])) / len(others)
        np.testing.assert_allclose(student.grad[row].numpy(), gradient, atol=1e-12)


def test_the_sampled_log_loss_comes_to_that_of_all_items_on_average():
    student, _, _, known = drawn()
    rows = torch.arange(6).repeat_interleave(20_000)
    samples = torch.rand(120_000, 30, generator=torch.Generator().manual_seed(1))
    samples.scatter_(1, known[rows].clamp_min(0), torch.where(known[rows] >= 0, -1.0, samples[:, :1]))
    positives = known.clone()
    positives[0, 0] = 3
    samples[rows == 0, 3] = -1.0
    drawn_items = samples.topk(8, 1).indices
    each = positives >= 0
    few = [int(count) * 2 for count in each.sum(1)]
    keep = torch.arange(8) < torch.tensor(few)[rows][:, None]
    drawn_items = torch.where(keep, drawn_items, -100)
    sampled = losses.sampled_log_loss(student[rows], positives[rows], drawn_items, reduction="none")
    whole = losses.positives_log_loss(student, positives, ratio=2.0, reduction="none")
    torch.testing.assert_close(sampled.view(6, -1).mean(1), whole, rtol=5e-3, atol=5e-3)


def plackett_luce(scores, order):
    probability = 1.0
    for place in range(len(order)):
        remaining = [math.exp(scores[item]) for item in order[place:]]
        probability *= remaining[0] / sum(remaining)
    return probability


def reference_dark_rank(student, teacher, n, alpha, beta, *, soft, rows):
    """The loss of each anchor among some rows, order by order."""
    found = []
    for anchor in rows:
        others = [row for row in rows if row != anchor]
        near = sorted(others, key=lambda row: np.linalg.norm(teacher[anchor] - teacher[row]))[:n]
        scores = [
            {row: -alpha * np.linalg.norm(features[anchor] - features[row]) ** beta for row in near}
            for features in (student, teacher)
        ]
        if not soft:
            found.append(-math.log(plackett_luce(scores[0], near)))
            continue
        q, p = ([plackett_luce(each, order) for order in itertools.permutations(near)] for each in scores)
        found.append(sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)))
    return found


def points(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_worked_example_of_dark_rank():
    settings = {"alpha": 1.0, "beta": 1.0, "normalise": False, "reduction": "none"}
    for soft, value in ((False, 0.720868), (True, 0.376557)):
        found = losses.dark_rank(points(0, 2, 3, 4), points(0, 1, 3, 7), soft=soft, **settings)
        assert float(found[0]) == pytest.approx(value, abs=1e-6)


@over("soft, masked, normalise", [(False, False, True), (True, False, False), (False, True, False), (True, True, True)])
def test_dark_rank_equals_its_formula_anchor_by_anchor(soft, masked, normalise):
    generator = torch.Generator().manual_seed(4)
    student = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    teacher = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False, False, True]) if masked else None
    rows = list(range(7)) if mask is None else mask.nonzero().flatten().tolist()
    settings = {"n": 4, "alpha": 0.7, "beta": 1.5}
    found = losses.dark_rank(student, teacher, soft=soft, normalise=normalise, mask=mask, reduction="none", **settings)
    own, other = student.numpy(), teacher.numpy()
    if normalise:
        own, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, other))
    expected = reference_dark_rank(own, other, soft=soft, rows=rows, **settings)
    np.testing.assert_allclose(found[rows].numpy(), expected, atol=1e-12)
    assert found.sum() == pytest.approx(sum(expected))


@over("soft", [False, True])
def test_the_gradient_of_dark_rank_is_that_of_its_value_and_of_the_student_alone(soft):
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, True, False, True, True])
    assert torch.autograd.gradcheck(
        lambda features: losses.dark_rank(features, teacher.detach(), n=3, soft=soft, mask=mask), (student,)
    )
    losses.dark_rank(student, teacher, soft=soft).backward()
    assert teacher.grad is None


def test_dark_rank_does_not_see_a_rotation_and_is_zero_for_equal_distances_if_soft():
    generator = torch.Generator().manual_seed(2)
    teacher = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    assert float(losses.dark_rank(2 * teacher @ rotation, teacher, soft=True)) == pytest.approx(0, abs=1e-12)
    near, far = losses.dark_rank(teacher, teacher), losses.dark_rank(-(teacher**2), teacher)
    assert near < far


@over("soft", [False, True])
def test_a_single_example_has_no_neighbours_and_no_loss(soft):
    student = torch.ones(1, 3, requires_grad=True)
    loss = losses.dark_rank(student, torch.ones(1, 2), soft=soft)
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@over("soft", [False, True])
def test_examples_that_coincide_have_a_finite_gradient(soft):
    student = torch.zeros(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for beta in (1.0, 3.0):
        losses.dark_rank(student, teacher, beta=beta, soft=soft).backward()
        assert torch.isfinite(student.grad).all()


def test_what_is_wrong_is_refused_in_one_line():
    student, teacher, samples, known = drawn()
    positives = known[:, :2]
    for call, said in (
        (lambda: losses.ranking_distillation(student, teacher, top=0), "top: found 0"),
        (lambda: losses.ranking_distillation(student, teacher, decay=0.0), "decay: found 0"),
        (lambda: losses.ranking_distillation(student, teacher, mu=-1.0), "mu: found -1"),
        (lambda: losses.ranking_distillation(student, teacher[:, :9]), "student_logits"),
        (lambda: losses.ranking_distillation(student, teacher, samples=samples + 20), "samples: found item"),
        (lambda: losses.ranking_distillation(student, teacher, samples=samples[:, :0]), "samples: found none"),
        (lambda: losses.ranking_distillation(student, teacher, known=known[:2]), "known without the last axis"),
        (lambda: losses.sampled_log_loss(student, positives, samples.double()), "negatives: found torch.float64"),
        (lambda: losses.sampled_log_loss(student, positives - 40, samples), "positives: found item"),
        (lambda: losses.positives_log_loss(student, positives[0]), "positives without the last axis"),
        (lambda: losses.dark_rank(student, teacher, n=1), "n: found 1"),
        (lambda: losses.dark_rank(student, teacher, n=6, soft=True), "n: found 6, expected 2 to 5"),
        (lambda: losses.dark_rank(student[0], teacher), "student: found shape"),
        (lambda: losses.dark_rank(student, teacher[:3]), "examples of the student"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
