"""Targets without a teacher, and the terms that hold a target, against references with loops, in float64."""

import math

import pytest
import torch

from limbeck import losses, methods, targets
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.outputs import Outputs
from limbeck.terms import HardLabels, SoftTargets
from target_references import NAMES, UNLABELLED, labels_of, logits_of, probabilities, same, softmax
from walk import over

# ------------------------------------------------------------------------------------------------ labels and no teacher


def test_the_virtual_teacher_is_its_formula():
    labels = labels_of()
    for temperature in (0.5, 1.0, 20.0):
        expected = []
        for label in labels.tolist():
            powers = [(0.95 if i == label else 0.05 / 5) ** (1 / temperature) for i in range(6)]
            expected.append([power / sum(powers) for power in powers])
        found = targets.virtual_teacher(labels, 6, 0.95, temperature, dtype=torch.float64)
        same(probabilities(found), expected)


@pytest.mark.parametrize("classes", [2, 6, 100])
def test_the_virtual_teacher_can_be_softened_as_the_papers_code_does(classes):
    labels = torch.tensor([1, 0])
    for softening in (0.5, 20.0):
        given = torch.full((2, classes), 0.01 / (classes - 1), dtype=torch.float64)
        given[[0, 1], labels] = 0.99
        expected = torch.softmax(given / softening, 1)
        for temperature in (1.0, 4.0):
            found = targets.virtual_teacher(
                labels, classes, 0.99, temperature, softening=softening, dtype=torch.float64
            )
            same(probabilities(found), expected)
            target = targets.VirtualTeacher(0.99, softening)
            outputs = Outputs(torch.zeros(2, classes, dtype=torch.float64))
            same(probabilities(target(outputs, Batch.of(torch.zeros(2, 1), labels), temperature)), expected)
    assert float((expected - 1 / classes).abs().max()) < 0.02  # at 20 it says hardly more than the uniform target


def test_the_loss_of_the_papers_code_is_reachable():
    """(1-α)·CE + α·m·KLDivLoss(log_softmax(z), softmax(ρ/τ)), its mean being over samples and classes."""
    torch.manual_seed(0)
    student, labels, alpha, multiplier = torch.randn(7, 5, dtype=torch.float64), torch.randint(5, (7,)), 0.1, 50.0
    rho = torch.full((7, 5), 0.01 / 4, dtype=torch.float64).scatter(1, labels[:, None], 0.99)
    soft = torch.nn.functional.kl_div(student.log_softmax(1), (rho / 20).softmax(1), reduction="sum") / (7 * 5)
    expected = (1 - alpha) * torch.nn.functional.cross_entropy(student, labels) + alpha * multiplier * soft
    objective = methods.tf_kd(1.0, hard_weight=1 - alpha, soft_weight=alpha * multiplier / 5, softening=20.0)
    found = objective({"student": Outputs(student)}, Batch.of(torch.zeros(7, 1), labels), 0)
    assert float(found.total) == pytest.approx(float(expected), rel=1e-12)


@over("softening", [0.0, -1.0, math.nan, "high", True])
def test_a_softening_is_above_0(softening):
    for call in (
        lambda: targets.virtual_teacher(torch.tensor([0]), 3, 0.99, softening=softening),
        lambda: targets.VirtualTeacher(0.99, softening),
    ):
        with pytest.raises(InputError, match=r"^softening: found"):
            call()


@over("confidence", [0.89, 1.0, -1.0, math.nan, "high", True])
def test_a_virtual_teacher_is_sure_and_not_certain(confidence):
    for call in (
        lambda: targets.virtual_teacher(torch.tensor([0]), 3, confidence),
        lambda: targets.VirtualTeacher(confidence),
    ):
        with pytest.raises(InputError, match=r"^confidence: found"):
            call()


@over("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_the_uniform_target_at_temperature_one_is_label_smoothing(epsilon):
    labels = labels_of()
    batch = Batch.of(torch.zeros(7, 1), labels)
    values, gradients = [], []
    for method in (
        methods.label_smoothing(epsilon),
        methods.kd(
            temperature=1.0,
            hard_weight=1 - epsilon,
            soft_weight=epsilon,
            target=targets.Uniform(),
            divergence=losses.CROSS_ENTROPY,
        ),
        methods.kd(
            1.0,
            hard_weight=0.0,
            soft_weight=1.0,
            target=targets.SmoothedLabels(epsilon),
            divergence=losses.CROSS_ENTROPY,
        ),
    ):
        student = logits_of().requires_grad_()
        total = method({"student": Outputs(student)}, batch).total
        values.append(total.detach())
        gradients.append(torch.autograd.grad(total, student)[0])
    for value, gradient in zip(values[1:], gradients[1:], strict=True):
        torch.testing.assert_close(value, values[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-12, atol=1e-14)


@over(("epsilon", "classes"), [(0.1, 2), (0.1, 10), (0.01, 100), (0.5, 5)])
def test_under_label_smoothing_the_true_logit_leads_by_its_margin(epsilon, classes):
    """He 2019: log(K(1-ε)/ε + 1), reached by optimisation from anywhere."""
    margin = math.log(classes * (1 - epsilon) / epsilon + 1)
    logits = logits_of(1, classes).requires_grad_()
    batch = Batch.of(torch.zeros(1, 1), torch.tensor([1]))
    method = methods.label_smoothing(epsilon)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = method({"student": Outputs(logits)}, batch).total
        loss.backward()
        return loss

    optimizer.step(closure)
    leads = (logits[0, 1] - logits.detach()[0])[torch.arange(classes) != 1]
    torch.testing.assert_close(leads, torch.full_like(leads, margin), rtol=1e-4, atol=1e-4)
    at_optimum = torch.zeros(1, classes, dtype=torch.float64)
    at_optimum[0, 1] = margin
    target = targets.smooth_labels(torch.tensor([1]), classes, epsilon, dtype=torch.float64)
    same(torch.log_softmax(at_optimum, 1), target.log_probs)


def test_a_label_out_of_range_is_named():
    plain = losses.soften(logits_of(2))
    cosines = targets.class_cosines(logits_of(6, 4))
    for call in (
        lambda labels: targets.true_class(plain, labels),
        lambda labels: targets.similar_classes(cosines, labels),
        lambda labels: targets.related_classes(labels, [0] * 6),
        lambda labels: targets.virtual_teacher(labels, 6),
        lambda labels: targets.smooth_labels(labels, 6, 0.1),
    ):
        with pytest.raises(InputError, match="labels: found 1 to 6, expected 0 to 5"):
            call(torch.tensor([6, 1]))
        with pytest.raises(InputError, match=r"labels: found torch\.int32"):
            call(torch.tensor([1, 1], dtype=torch.int32))


# ---------------------------------------------------------------------------------------------------- the terms of them


def test_a_term_settles_its_target_anew_for_each_set_and_says_what_it_settled():
    named = {"pets": ["cat", "dog"], "wheels": ["car", "van", "bus"]}
    term = SoftTargets(target=targets.RelatedClasses(named))
    term.settle(Legend(NAMES))
    assert term.target.groups == (0, 0, 1, 1, 1)
    assert "groups=(0, 0, 1, 1, 1)" in repr(term)
    term.settle(Legend(tuple(reversed(NAMES))))
    assert term.target.groups == (1, 1, 1, 0, 0)


def test_a_target_that_needs_labels_is_refused_on_a_set_without():
    for target in (
        targets.TrueClass(),
        targets.SimilarClasses(),
        targets.RelatedClasses([0, 1]),
        targets.VirtualTeacher(),
        targets.SmoothedLabels(),
        targets.Mixture((targets.Softmax(), targets.TrueClass())),
        targets.TopK(k=1, of=targets.TrueClass()),
    ):
        with pytest.raises(InputError, match=f"^target {target.kind}: needs the true class, but no sample has"):
            SoftTargets(target=target).settle(Legend(("a", "b"), labelled=False))
    for target in (targets.Softmax(), targets.TopK(k=1), targets.Permuted(), targets.Uniform()):
        SoftTargets(target=target).settle(Legend(("a", "b"), labelled=False))


def test_the_settings_of_a_target_tell_two_terms_apart():
    terms = [
        SoftTargets(target=target)
        for target in (
            targets.Softmax(),
            targets.TopK(k=2),
            targets.TopK(k=3),
            targets.TopK(share=0.2),
            targets.SimilarClasses(power=0.4),
            targets.SimilarClasses(tau=0.4),
            targets.Permuted(seed=1),
            targets.Permuted(seed=2),
            targets.TrueClass(targets.TopK(k=2)),
            targets.Mixture((targets.Softmax(), targets.Uniform()), (0.5, 0.5)),
            targets.Mixture((targets.Softmax(), targets.Uniform()), (0.4, 0.6)),
        )
    ]
    assert len({repr(term) for term in terms}) == len(terms)


def test_a_target_of_other_classes_than_the_students_is_refused():
    outputs = {"student": Outputs(torch.zeros(2, 3)), "teacher": Outputs(torch.zeros(2, 5))}
    batch = Batch.of(torch.zeros(2, 1), torch.tensor([0, 1]))
    with pytest.raises(
        Exception, match=r"logits: student \(2, 3\), teacher \(2, 5\); give both models the same classes"
    ):
        SoftTargets()(outputs, batch, 0)
    SoftTargets(target=targets.Restricted((0, 1, 4)))(outputs, batch, 0)


def test_confidence_weighting_is_its_formula():
    student, teacher, labels = logits_of(seed=3), logits_of(), labels_of()
    labels[2] = UNLABELLED
    mask = torch.arange(7) != 4
    batch = Batch.of(torch.zeros(7, 1), labels, mask=mask)
    outputs = {"student": Outputs(student.requires_grad_()), "teacher": Outputs(teacher)}
    counted = [n for n in range(7) if n not in (2, 4)]
    largest = {n: max(softmax(teacher[n].tolist(), 1.0)) for n in counted}
    expected = sum(
        largest[n] / sum(largest.values()) * -math.log(softmax(student[n].tolist(), 1.0)[labels[n]]) for n in counted
    )
    loss = methods.cwtm()(outputs, batch)
    same(loss.total.detach(), expected)
    assert int(loss.parts["hard"].count) == 5
    (gradient,) = torch.autograd.grad(loss.total, student)
    q = torch.softmax(student.detach(), 1)
    for n in range(7):
        row = torch.zeros(6, dtype=torch.float64)
        if n in counted:
            row = largest[n] / sum(largest.values()) * (q[n] - torch.eye(6, dtype=torch.float64)[labels[n]])
        same(gradient[n], row)
    assert methods.cwtm().terms["hard"].relates_examples
    assert not HardLabels().relates_examples


@over("cut", [[0, 3], [0, 7], [0, 0], [0, 5]])
def test_confidence_weighting_over_ranks_is_that_of_the_whole_batch(monkeypatch, cut):
    student, teacher, labels = logits_of(seed=3).requires_grad_(), logits_of(), labels_of()
    labels[2] = UNLABELLED
    term = methods.cwtm().terms["hard"]

    def loss_of(rows):
        outputs = {"student": Outputs(student[rows]), "teacher": Outputs(teacher[rows])}
        return term(outputs, Batch.of(torch.zeros(len(labels[rows]), 1), labels[rows]), 0)

    value, count = loss_of(slice(0, 7))
    (gradient,) = torch.autograd.grad(value / count, student)
    parts = [slice(cut[0], cut[1]), slice(cut[1], 7)]
    seen = []
    monkeypatch.setattr("limbeck.ranks.all_rows", lambda rows: seen.append(rows) or rows)
    for part in parts:
        loss_of(part)
    everyone = torch.cat(seen)
    monkeypatch.setattr("limbeck.ranks.all_rows", lambda rows: everyone)
    sums = [loss_of(part)[0] for part in parts]
    same(sum(sums).detach() / count, value.detach() / count)
    (shared,) = torch.autograd.grad(sum(sums) / count, student)
    same(shared, gradient)


def test_a_teacher_alike_everywhere_makes_confidence_weighting_the_plain_loss():
    batch = Batch.of(torch.zeros(7, 1), labels_of())
    outputs = {"student": Outputs(logits_of()), "teacher": Outputs(torch.zeros(7, 6, dtype=torch.float64))}
    same(methods.cwtm()(outputs, batch).total, methods.hard()(outputs, batch).total)
