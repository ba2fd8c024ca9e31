"""DKD, DIST and standardised logits as methods: their terms against the pure losses, and what they compose with."""

import dataclasses

import pytest
import torch
from torch import nn

from limbeck import losses, methods, targets
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.config import sections
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, RecipeError
from limbeck.methods.dist import IntraClass
from limbeck.outputs import Members, Outputs
from limbeck.teachers import ModelTeacher
from limbeck.terms import SoftTargets
from limbeck.training import fit
from walk import over

LEGEND = Legend(("a", "b", "c", "d"))


def drawn(size=8, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3.0 * torch.randn(2, size, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    labels[1] = UNLABELLED
    return student, teacher, labels


def run(objective, student, teacher, labels=None, mask=None, step=0):
    batch = Batch.of(torch.zeros(len(student), 1), labels, mask=mask)
    teacher = teacher if isinstance(teacher, Outputs) else Outputs(teacher)
    return objective({"student": Outputs(student), "teacher": teacher}, batch, step)


def ensemble(*members, mean="arithmetic"):
    weights = (1.0 / len(members),) * len(members)
    mixed = targets.mixture([losses.soften(each) for each in members], weights)
    return Outputs(mixed.log_probs, members=Members(torch.stack(members), weights, mean))


# ----------------------------------------------------------------------------------------------------------------- DKD


def test_dkd_is_hard_labels_and_the_decoupled_loss_over_labelled_examples():
    student, teacher, labels = drawn()
    mask = torch.tensor([True] * 6 + [False] * 2)
    objective = methods.dkd(temperature=3.0, alpha=0.5, beta=2.0, hard_weight=0.7, soft_weight=0.4)
    loss = run(objective, student, teacher, labels, mask)
    soft = losses.dkd(student, teacher, labels, alpha=0.5, beta=2.0, temperature=3.0, mask=mask)
    hard = losses.cross_entropy(student, labels, mask=mask)
    assert loss.total.item() == pytest.approx((0.7 * hard + 0.4 * soft).item(), rel=1e-12)
    assert int(loss.parts["dkd"].count) == 5
    assert loss.parts["dkd"].mean == pytest.approx(soft.item(), rel=1e-12)


def test_dkd_may_rise_over_its_first_steps_as_its_published_recipe_does():
    section = sections.parse(
        methods.dkd, {"soft_weight": {"kind": "linear", "start": 0, "end": 1, "steps": 20}}, "method"
    )
    objective = section.build()
    student, teacher, labels = drawn()
    assert sorted(run(objective, student, teacher, labels, step=0).parts) == ["hard"]
    assert run(objective, student, teacher, labels, step=5).parts["dkd"].weight == 0.25
    assert run(objective, student, teacher, labels, step=50).parts["dkd"].weight == 1.0


def test_dkd_of_an_ensemble_learns_the_mean_of_its_members_distributions_at_the_temperature():
    student, teacher, labels = drawn()
    other = drawn(seed=5)[1]
    mixed = targets.mixture([losses.soften(each, 4.0) for each in (teacher, other)], (0.5, 0.5)).log_probs
    loss = run(methods.dkd(hard_weight=0.0), student, ensemble(teacher, other), labels)
    expected = losses.dkd(student, 4.0 * mixed, labels)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_dkd_composes_with_targets_and_standardised_logits():
    student, teacher, labels = drawn()
    loss = run(methods.dkd(hard_weight=0.0, target=targets.TopK(k=2), standardise=True), student, teacher, labels)
    z, v = losses.standardise(student), losses.standardise(teacher)
    topk = targets.top_k(losses.soften(v, 4.0), 2).log_probs
    assert loss.total.item() == pytest.approx(losses.dkd(z, 4.0 * topk, labels).item(), rel=1e-12)


def test_dkd_refuses_a_set_without_labels_in_one_line():
    with pytest.raises(InputError, match=r"^term 'dkd' needs the true class, but no sample has"):
        methods.dkd().settle(dataclasses.replace(LEGEND, labelled=False))
    methods.dkd().settle(LEGEND)


@over(
    ("values", "line"),
    [
        ({"beta": -1}, "method.beta: found -1.0"),
        ({"alpha": "x"}, "method.alpha: found 'x', expected a number"),
        ({"hard_weight": -1}, "method.hard_weight: found -1.0"),
        ({"bta": 1}, "method.bta: there is no such key; did you mean 'beta'?"),
    ],
    ids=str,
)
def test_a_recipe_with_wrong_keys_for_dkd_is_refused_in_one_line(values, line):
    with pytest.raises(RecipeError) as caught:
        sections.parse(methods.dkd, values, "method").build()
    assert str(caught.value).startswith(line)


# ---------------------------------------------------------------------------------------------------------------- DIST


@over("tau_squared", [False, True])
@over("masked", [False, True])
def test_dist_is_hard_labels_and_both_correlations(masked, tau_squared):
    student, teacher, labels = drawn()
    mask = torch.tensor([True] * 6 + [False] * 2) if masked else None
    objective = methods.dist(temperature=2.0, inter_weight=0.5, intra_weight=3.0, tau_squared=tau_squared)
    loss = run(objective, student, teacher, labels, mask)
    options = {"temperature": 2.0, "mask": mask}
    soft = losses.dist(student, teacher, inter_weight=0.5, intra_weight=3.0, tau_squared=tau_squared, **options)
    expected = losses.cross_entropy(student, labels, mask=mask) + soft
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    factor = 4 if tau_squared else 1
    intra = losses.intra_class(student, teacher, **options).item()
    assert loss.parts["intra"].mean == pytest.approx(factor * intra, rel=1e-12)


def test_only_the_intra_class_term_relates_examples_and_says_so():
    terms = methods.dist().terms
    assert {name for name, term in terms.items() if term.relates_examples} == {"intra"}
    assert not any(term.relates_examples for term in methods.kd().terms.values())


def test_the_gradient_of_the_intra_class_term_is_that_of_the_loss_over_the_batch():
    student, teacher, _ = drawn()
    student.requires_grad_()
    batch = Batch.of(torch.zeros(8, 1))
    term = IntraClass(temperature=2.0)
    term({"student": Outputs(student), "teacher": Outputs(teacher)}, batch, 0)[0].backward()
    given, student.grad = student.grad, None
    (8 * losses.intra_class(student, teacher, temperature=2.0)).backward()
    torch.testing.assert_close(given, student.grad)


def test_a_weight_of_zero_leaves_a_term_of_dist_out_and_no_weight_at_all_is_refused():
    assert sorted(methods.dist(inter_weight=0.0).terms) == ["hard", "intra"]
    with pytest.raises(InputError, match="at least one term"):
        methods.dist(inter_weight=0.0, intra_weight=0.0, hard_weight=0.0)


# ------------------------------------------------------------------------------------------------------ standardisation


def test_standardised_kd_is_the_divergence_of_z_scores_with_the_weights_of_the_paper():
    student, teacher, labels = drawn()
    loss = run(methods.logit_standardisation(), student, teacher, labels)
    z, v = losses.standardise(student), losses.standardise(teacher)
    expected = 0.1 * losses.cross_entropy(student, labels) + 9 * 4 * losses.kl(z, v, temperature=2.0)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    plain = run(
        methods.kd(temperature=2.0, hard_weight=0.1, soft_weight=9.0, standardise=True), student, teacher, labels
    )
    assert plain.total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_student_whose_logits_are_those_of_the_teacher_but_for_scale_and_shift_has_nothing_to_learn():
    _, teacher, labels = drawn()
    loss = run(methods.logit_standardisation(hard_weight=0.0), 0.01 * teacher + 3.0, teacher, labels)
    assert loss.total.item() == pytest.approx(0.0, abs=1e-9)
    assert run(methods.kd(soft_weight=1.0), 0.01 * teacher + 3.0, teacher, labels).total.item() > 0.1


@over("divergence", ["reverse_kl", "js", "total_variation", "correlation"])
def test_standardisation_composes_with_every_divergence_and_target(divergence):
    student, teacher, labels = drawn()
    made = losses.divergence(divergence)
    term = SoftTargets(temperature=2.0, divergence=made, target=targets.TopK(k=2), transform=losses.Standardise())
    batch = Batch.of(torch.zeros(8, 1), labels)
    given, _ = term({"student": Outputs(student), "teacher": Outputs(teacher)}, batch, 0)
    target = targets.top_k(losses.soften(losses.standardise(teacher), 2.0), 2)
    expected = made.factor(2.0) * made.per_example(losses.standardise(student), target, 2.0).sum()
    assert given.item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_is_no_divergence_is_refused_with_one_that_is():
    with pytest.raises(
        InputError, match=r"^divergence: found 'js', expected a Divergence; use one such as losses.divergence\('js'"
    ):
        methods.kd(divergence="js")


def test_of_an_ensemble_each_member_is_standardised():
    student, teacher, labels = drawn()
    other = 20.0 * drawn(seed=5)[1]
    scored = [losses.soften(losses.standardise(each), 2.0) for each in (teacher, other)]
    mixed = targets.mixture(scored, (0.5, 0.5))
    loss = run(
        methods.logit_standardisation(hard_weight=0.0, soft_weight=1.0), student, ensemble(teacher, other), labels
    )
    expected = 4 * losses.KL.per_example(losses.standardise(student), mixed, 2.0).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("method", [methods.kd, methods.dkd, methods.dist])
def test_an_objective_says_whether_it_standardises(method):
    assert "transform=None" in repr(method())
    assert repr(method(standardise=True)).count("transform=Standardise(eps=1e-07)") == len(method().terms) - 1


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.miniature(1)
@pytest.mark.parametrize("name", ["dkd", "dist", "logit_standardisation"])
def test_a_student_trained_by_the_method_comes_nearer_to_its_teacher(name):
    torch.manual_seed(0)
    inputs = torch.randn(96, 6)
    teacher, student = nn.Linear(6, 4), nn.Linear(6, 4)
    with torch.no_grad():
        teacher.weight.mul_(3.0)
    labels = teacher(inputs).argmax(-1)
    samples = TensorSet.of(inputs, labels, classes=4)

    def agreement():
        return float((student(inputs).argmax(-1) == labels).float().mean())

    before = agreement()
    distiller = Distiller(student, ModelTeacher(teacher), methods.builder(name)())
    result = fit(distiller, samples, epochs=15, batch_size=24, learning_rate=0.05)
    assert agreement() > max(before, 0.85)
    totals = [line["train"]["total"] for line in result.history]
    assert totals[-1] < 0.8 * totals[0]
