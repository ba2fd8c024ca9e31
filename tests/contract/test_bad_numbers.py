"""NaN and infinity: what counts is never turned into a number, and what does not count never reaches a gradient.

The walks are those of the other contract tests: a new loss, target, method or metric is tested by being there.
"""

import contextlib
import inspect
import math

import pytest
import torch
from torch import nn

from limbeck import diagnosis, evaluation, losses, methods, targets
from limbeck.batch import Batch
from limbeck.diagnosis.tail import tail_curve
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError
from limbeck.models.layers import DEEPEST
from limbeck.outputs import Outputs
from limbeck.schemes.own_teacher import ExitHint, ExitLabels, ExitSoftTargets
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, REGRESSION
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher
from limbeck.terms import SoftTargets
from small_features import ON_LAYERS, feature_losses
from walk import over

NAN, INF = math.nan, math.inf
UNLABELLED = -100
K = 4
BAD = [NAN, INF]
EVERYTHING = [NAN, INF, -INF]
bad = over("value", BAD)
anything = over("value", EVERYTHING)


def is_loss(value):
    return inspect.isfunction(value) and bool(
        {"student_logits", "logits", "student_answers"} & set(inspect.signature(value).parameters)
    )


HELPERS = {"soften", "standardise"}
DIVERGENCES = {kind: losses.divergence(kind) for kind in losses.divergences.kinds()}


def as_loss(divergence):
    def loss(student_logits, teacher_logits, *, mask=None):
        per_example = divergence.per_example(student_logits, losses.soften(teacher_logits, 2.0), 2.0)
        return losses.reduce(per_example, mask, "mean")

    return loss


def standardised(student_logits, teacher_logits, *, mask=None):
    return losses.kl(losses.standardise(student_logits), losses.standardise(teacher_logits), mask=mask)


LOSSES = {name: getattr(losses, name) for name in losses.__all__ if name not in HELPERS}
LOSSES = {name: loss for name, loss in LOSSES.items() if is_loss(loss) and name not in feature_losses()}
LOSSES |= {f"divergence {kind}": as_loss(made) for kind, made in DIVERGENCES.items()}
LOSSES["standardised"] = standardised
every_loss = over("name", sorted(LOSSES))


def arguments(name, rows=6):
    """The arguments of a loss by the names of its parameters; its last example is masked, where it takes a mask."""
    generator = torch.Generator().manual_seed(3)
    numbers = "student_answers" in inspect.signature(LOSSES[name]).parameters
    made = {
        "student_logits": torch.randn(rows, K, generator=generator),
        "teacher_logits": torch.randn(rows, K, generator=generator),
        "labels": torch.randn(rows, K, generator=generator) if numbers else torch.arange(rows) % K,
        "confidence": torch.rand(rows, generator=generator),
        "mask": torch.arange(rows) < rows - 1,
    }
    made |= {"logits": made["student_logits"], "student_answers": made["student_logits"]}
    made |= {"teacher_answers": made["teacher_logits"]}
    made |= {"positives": (torch.arange(rows) % K)[:, None], "negatives": ((torch.arange(rows) + 1) % K)[:, None]}
    return {key: made[key] for key in inspect.signature(LOSSES[name]).parameters if key in made}


def sides(chosen):
    return [key for key in chosen if chosen[key].is_floating_point()]


def own(chosen):
    return next(chosen[key] for key in ("student_logits", "logits", "student_answers") if key in chosen)


def test_the_walk_finds_losses_of_every_kind():
    assert {"bounded_squared_error", "confidence_weighted", "dist", "dkd", "intra_class", "kd", "kl"} <= set(LOSSES)
    assert {"divergence correlation", "divergence js", "standardised"} <= set(LOSSES)


@every_loss
@bad
def test_a_bad_number_at_a_counted_place_is_never_a_finite_loss(name, value):
    for key in sides(arguments(name)):
        for place in range(5):
            chosen = arguments(name)
            chosen[key].view(6, -1)[place, 0] = value
            if key == "labels" and math.isnan(value):
                continue  # it says that there is no label
            try:
                found = LOSSES[name](**chosen)
            except LimbeckError:
                continue
            assert not math.isfinite(float(found)), (key, place, found)


@every_loss
def test_a_student_of_nothing_but_bad_numbers_is_never_a_finite_loss_beside_a_flat_teacher(name):
    for value in BAD:
        for flat in sides(arguments(name)):
            chosen = arguments(name)
            chosen[flat].fill_(0.5)
            if own(chosen) is chosen[flat]:
                continue
            own(chosen)[1] = value
            try:
                assert not math.isfinite(float(LOSSES[name](**chosen)))
            except LimbeckError:
                continue


@every_loss
@anything
def test_what_is_masked_may_hold_anything_without_a_trace_in_value_or_gradient(name, value):
    chosen = arguments(name)
    own(chosen).requires_grad_()
    expected = LOSSES[name](**chosen)
    (gradient,) = torch.autograd.grad(expected, own(chosen))
    for key in sides(chosen):
        for columns in (slice(0, 1), slice(None)):
            other = arguments(name)
            other[key].view(6, -1)[5, columns] = value
            if key == "confidence":
                other["labels"][5] = 0
            own(other).requires_grad_()
            found = LOSSES[name](**other)
            assert torch.equal(found, expected), key
            assert torch.equal(torch.autograd.grad(found, own(other))[0], gradient), key


@over("name", sorted(name for name in LOSSES if "labels" in arguments(name)))
@anything
def test_what_has_no_label_may_hold_anything_where_the_loss_is_of_labels(name, value):
    if name == "kd":
        pytest.skip("its soft term counts what has no label")
    gradients = []
    for filling in (0.5, value):
        chosen = arguments(name)
        chosen["labels"][2] = NAN if chosen["labels"].is_floating_point() else UNLABELLED
        for key in sides(chosen):
            if key != "labels":
                chosen[key].view(6, -1)[2] = filling
        own(chosen).requires_grad_()
        gradients.append(torch.autograd.grad(LOSSES[name](**chosen), own(chosen))[0])
    assert torch.equal(*gradients)


# -------------------------------------------------------------------------------------------------------------- targets


NEEDED = {
    "geometric": {"parts": (targets.Softmax(), targets.SmoothedLabels(0.3))},
    "mixture": {"parts": (targets.TrueClass(), targets.Softmax()), "weights": (0.3, 0.7)},
    "rel": {"groups": {"a": [0, 1], "b": [2, 3]}},
    "subset": {"classes": (3, 0)},
}
every_target = over("kind", targets.names())


def term_on(kind, student, teacher, labels, mask=None, cosines=None):
    target = targets.builder(kind)(**NEEDED.get(kind, {}))
    cosines = torch.eye(K) if cosines is None else cosines
    outputs = {"student": Outputs(student), "teacher": Outputs(teacher, class_cosines=cosines)}
    return SoftTargets(target=target, temperature=2.0)(outputs, Batch.of(torch.zeros(6, 1), labels, mask=mask), 0)[0]


def drawn(kind):
    generator = torch.Generator().manual_seed(1)
    width = 2 if kind == "subset" else K
    student, teacher = torch.randn(6, width, generator=generator), torch.randn(6, K, generator=generator)
    return student.requires_grad_(), teacher, torch.arange(6) % width


@every_target
@bad
def test_a_bad_number_of_the_teacher_is_never_a_finite_target(kind, value):
    target = targets.builder(kind)(**NEEDED.get(kind, {}))
    student, teacher, labels = drawn(kind)
    cosines = torch.eye(K)
    if target.reads_class_cosines:
        cosines[1, 2] = cosines[2, 1] = NAN
    elif target.reads_teacher:
        teacher[1, 2] = value
    else:
        with torch.no_grad():
            student[1, 1] = value
    try:
        found = term_on(kind, student, teacher, labels, cosines=cosines)
    except LimbeckError:
        return
    assert not math.isfinite(float(found.detach()))


@every_target
@anything
def test_what_a_target_does_not_count_may_hold_anything(kind, value):
    gradients = []
    for filling in (0.5, value):
        student, teacher, labels = drawn(kind)
        with torch.no_grad():
            student[5], teacher[5] = filling, filling
        found = term_on(kind, student, teacher, labels, torch.arange(6) < 5)
        gradients.append((found, torch.autograd.grad(found, student)[0]))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_a_target_that_cannot_be_made_of_an_example_is_refused_only_where_it_counts():
    student, teacher, labels = drawn("subset")
    teacher[5, [3, 0]] = -INF
    assert math.isfinite(float(term_on("subset", student, teacher, labels, torch.arange(6) < 5).detach()))
    with pytest.raises(InputError, match="none of the 2 any probability"):
        term_on("subset", student, teacher, labels)


# -------------------------------------------------------------------------------------------------------------- methods


class Answering(nn.Module):
    """A network that answers what it holds, in as many heads as a method needs."""

    def __init__(self, answer, heads=()):
        super().__init__()
        self.answer, self.heads = nn.Parameter(answer.clone()), heads

    def forward(self, inputs):
        answer = self.answer + 0.0 * inputs  # which some methods differentiate by
        return Outputs(answer, heads=dict.fromkeys(self.heads, answer))


class Vectors(ModelTeacher):
    def class_vectors(self, classes=None):
        return torch.eye(K)


GIVEN = {"class_subset": {"classes": (3, 1)}, "kd_rel": {"groups": (0, 0, 1, 2)}}
ON_LOGITS = [name for name in methods.names() if name not in {*ON_LAYERS, "activation_regularization"}]
CONFIGURED = {name: methods.builder(name)(**GIVEN.get(name, {})) for name in ON_LOGITS}
CONFIGURED |= {
    "hard, smoothed": methods.hard(label_smoothing=0.1),
    "deit, soft": methods.deit(decision=False),
    "dist alone": methods.dist(hard_weight=0.0),
    "bounded alone": methods.bounded_regression(hard_weight=0.0),
    "kd, standardised": methods.kd(standardise=True, hard_weight=0.0, soft_weight=1.0),
    "logits without mean": methods.logit_matching(zero_mean=True),
} | {
    f"kd, {kind}": methods.kd(hard_weight=0.0, soft_weight=1.0, divergence=divergence)
    for kind, divergence in DIVERGENCES.items()
}
every_method = over("name", sorted(CONFIGURED))


def trained_on(name, student, teacher, labels, mask=None):
    """The loss of a method and its gradient by the student's answers."""
    heads = ("class", "distillation") if name.startswith("deit") else ()
    task = REGRESSION if name.startswith("bounded") else CLASSIFICATION
    model = Answering(student, heads)
    batch = Batch.of(torch.zeros(len(student), 1), labels, mask=mask, task=task)
    loss = Distiller(model, Vectors(Answering(teacher)), CONFIGURED[name])(batch, 0).total
    loss.backward()
    return loss.detach(), model.answer.grad


def rows_for(name):
    generator = torch.Generator().manual_seed(2)
    width = 2 if name == "class_subset" else K
    student, teacher = torch.randn(6, width, generator=generator), torch.randn(6, K, generator=generator)
    labels = torch.randn(6, K, generator=generator) if name.startswith("bounded") else torch.arange(6) % 2
    return student, teacher, labels


@every_method
@bad
def test_a_bad_number_of_student_or_teacher_is_never_a_finite_loss_of_a_method(name, value):
    reads = CONFIGURED[name].reads()
    for who in (0, 1) if "teacher" in reads else (0,):
        rows = rows_for(name)
        rows[who][2, 1] = value
        if name == "kd_sim" and who == 1:
            continue  # of the teacher it reads the last layer alone
        try:
            assert not math.isfinite(float(trained_on(name, *rows)[0])), who
        except LimbeckError:
            continue


@pytest.mark.thorough
@every_method
@anything
@over("hidden", ["masked", "unlabelled"])
def test_what_a_method_does_not_count_may_hold_anything(name, value, hidden):
    if hidden == "unlabelled" and any(int(term.count(_nothing(name))) for term in CONFIGURED[name].terms.values()):
        pytest.skip("it learns from what has no label")
    found = []
    for filling in (0.5, value):
        student, teacher, labels = rows_for(name)
        student[4], teacher[4] = filling, filling
        mask = torch.arange(6) != 4 if hidden == "masked" else None
        if hidden == "unlabelled":
            labels[4] = NAN if labels.is_floating_point() else UNLABELLED
        found.append(trained_on(name, student, teacher, labels, mask))
    assert math.isfinite(float(found[1][0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def _nothing(name):
    return Batch.of(torch.zeros(1, 1), task=REGRESSION if name.startswith("bounded") else CLASSIFICATION)


@anything
@over("divergence", sorted(DIVERGENCES))
def test_places_that_are_not_counted_may_hold_anything_in_a_dense_task(divergence, value):
    objective = methods.kd(hard_weight=1.0, soft_weight=1.0, divergence=DIVERGENCES[divergence])
    found = []
    for filling in (0.5, value):
        generator = torch.Generator().manual_seed(4)
        student, teacher = torch.randn(2, 2, K, 2, 3, generator=generator)
        labels = torch.randint(K, (2, 2, 3), generator=generator)
        mask = torch.ones(2, 2, 3, dtype=torch.bool)
        mask[1, 0, 2] = False
        student[1, :, 0, 2], teacher[1, :, 0, 2] = filling, filling
        model = Answering(student)
        batch = Batch.of(torch.zeros(2, 1), labels, mask=mask, task=DENSE)
        loss = Distiller(model, ModelTeacher(Answering(teacher)), objective)(batch).total
        loss.backward()
        found.append((loss.detach(), model.answer.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@anything
@over("mean", ["arithmetic", "geometric"])
def test_an_ensemble_may_answer_anything_where_nothing_is_counted(mean, value):
    found = []
    for filling in (0.5, value):
        student, teacher, labels = rows_for("kd")
        student[4], teacher[4] = filling, filling
        members = [ModelTeacher(Answering(teacher)), ModelTeacher(Answering(teacher.flip(1)))]
        model = Answering(student)
        batch = Batch.of(torch.zeros(6, 1), labels, mask=torch.arange(6) != 4)
        try:
            Distiller(model, EnsembleTeacher(members, mean=mean), methods.kd())(batch).total.backward()
        except InputError:
            assert mean == "geometric"  # an ensemble answers at T = 1 before anybody asks what counts
            assert value == -INF
            return
        found.append(model.answer.grad)
    assert torch.equal(*found)


@anything
@over("made", [ExitHint, ExitSoftTargets, ExitLabels])
def test_exits_of_a_network_may_answer_anything_where_nothing_is_counted(made, value):
    found = []
    for filling in (0.5, value):
        generator = torch.Generator().manual_seed(7)
        own, deepest = torch.randn(2, 6, K, generator=generator, dtype=torch.float64)
        own[4], deepest[4] = filling, filling
        own.requires_grad_()
        outputs = Outputs(deepest, features={"exit_1": own, DEEPEST: deepest}, heads={"exit_1": own})
        term = made("exit_1", 1.0, temperature=2.0) if made is ExitSoftTargets else made("exit_1", 1.0)
        batch = Batch.of(torch.zeros(6, 1), torch.arange(6) % K, mask=torch.arange(6) != 4)
        total = term.sum({"student": outputs}, batch, 0)
        assert total.dtype == torch.float64
        found.append((total, torch.autograd.grad(total, own)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_hint_of_an_exit_is_computed_in_float64_where_the_features_are():
    own, deepest = 1.0 + 1e-12 * torch.randn(2, 3, K, dtype=torch.float64)
    outputs = {"student": Outputs(deepest, features={"exit_1": own, DEEPEST: deepest})}
    found = ExitHint("exit_1", 1.0).sum(outputs, Batch.of(torch.zeros(3, 1)), 0)
    torch.testing.assert_close(found, (own - deepest).square().sum(), rtol=1e-12, atol=0)


# -------------------------------------------------------------------------------------------------------------- metrics


def of_task(task, bad_value):
    generator = torch.Generator().manual_seed(5)
    shape, labels = {
        CLASSIFICATION: ((6, K), torch.arange(6) % K),
        BINARY: ((6, 2), torch.arange(6) % 2),
        MULTILABEL: ((6, 3, 2), torch.ones(6, 3, dtype=torch.int64)),
        DENSE: ((6, 2, 2, K), torch.ones(6, 2, 2, dtype=torch.int64)),
        REGRESSION: ((6, 2), torch.ones(6, 2)),
    }[task]
    answers = torch.randn(shape, generator=generator)
    answers[(3, *[0] * (len(shape) - 1))] = bad_value
    return answers, labels


@bad
@over("task", [CLASSIFICATION, BINARY, MULTILABEL, DENSE, REGRESSION])
def test_no_figure_is_told_of_a_bad_number_and_one_without_a_label_is_none(task, value):
    answers, labels = of_task(task, value)
    with pytest.raises(InputError, match=r"found NaN or infinity, expected numbers; look at the model or its data$"):
        evaluation.measure(answers, labels, task)
    labels[3] = NAN if task == REGRESSION else UNLABELLED
    assert math.isfinite(evaluation.measure(answers, labels, task).nll)


def test_a_class_that_is_ruled_out_is_a_value_and_no_bad_number():
    answers, labels = of_task(CLASSIFICATION, -INF)
    assert evaluation.measure(answers, labels).nll == pytest.approx(
        float(losses.cross_entropy(answers.double(), labels)), rel=1e-12
    )


ROWS = torch.randn(6, K, generator=torch.Generator().manual_seed(6))
RIGHT = torch.arange(6) % K
METRICS = {
    "assess": lambda a, b: evaluation.assess(a, RIGHT, resamples=10).nll,
    "brier": lambda a, b: evaluation.brier(a, RIGHT),
    "churn": lambda a, b: evaluation.churn(a, b).changed,
    "churn the other way": lambda a, b: evaluation.churn(b, a).changed,
    "early_exit": lambda a, b: evaluation.early_exit([b, a, b], 0.99)[0].double().mean(),
    "early_exit at the last": lambda a, b: evaluation.early_exit([b, a], 2.0)[0].double().mean(),
    "ece": lambda a, b: evaluation.ece(a, RIGHT),
    "fidelity": lambda a, b: evaluation.fidelity(a, b).kl,
    "fidelity of the teacher": lambda a, b: evaluation.fidelity(b, a).kl,
    "fit_bias": lambda a, b: evaluation.fit_bias(a, RIGHT, [1]),
    "fit_temperature": lambda a, b: evaluation.fit_temperature(a, RIGHT).temperature,
    "score": lambda a, b: evaluation.score(a, RIGHT).nll.mean(),
    "top_k_accuracy": lambda a, b: evaluation.top_k_accuracy(a, RIGHT, 2),
    "class_correlation": lambda a, b: diagnosis.class_correlation(a)[0, 1],
    "other_classes": lambda a, b: diagnosis.other_classes(a, RIGHT).margin,
    "seconded": lambda a, b: diagnosis.seconded(a, b, RIGHT),
    "seconded, second": lambda a, b: diagnosis.seconded(b, a, RIGHT),
    "tail_curve": lambda a, b: sum(tail_curve(a, b).values()),
}


@over("name", METRICS)
@bad
def test_a_metric_refuses_a_bad_number_or_gives_none(name, value):
    assert math.isfinite(float(METRICS[name](ROWS, ROWS.flip(0))))
    broken = ROWS.clone()
    broken[2, 1] = value
    with contextlib.suppress(LimbeckError):
        assert not math.isfinite(float(METRICS[name](broken, ROWS.flip(0))))


# ---------------------------------------------------------------------------------------------------------------- means


@over("mean", ["arithmetic", "geometric"])
@anything
def test_a_member_of_weight_0_counts_nowhere_and_the_mean_is_a_distribution(mean, value):
    counted, other, ignored = torch.randn(3, 5, K, dtype=torch.float64)
    ruled_out = counted.clone()
    ruled_out[:, 1] = -INF
    ignored[:, 2] = value
    members = [nn.Module(), nn.Module(), nn.Module()]
    for member, answer in zip(members, (ruled_out, other, ignored), strict=True):
        member.forward = lambda inputs, answer=answer: answer
    found = MeanOfModels(members, weights=(0.25, 0.75, 0.0), mean=mean)(torch.zeros(5, 1))
    p, q = ruled_out.softmax(-1), other.softmax(-1)
    expected = 0.25 * p + 0.75 * q if mean == "arithmetic" else p**0.25 * q**0.75
    torch.testing.assert_close(found.exp(), expected / expected.sum(-1, keepdim=True), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


def test_numbers_of_a_member_of_weight_0_count_nowhere():
    members = [ModelTeacher(Answering(torch.full((2, 1), each))) for each in (1.0, NAN, 3.0)]
    batch = Batch.of(torch.zeros(2, 1), torch.zeros(2, 1), task=REGRESSION)
    found = EnsembleTeacher(members, weights=(0.25, 0.0, 0.75))(batch).logits
    assert torch.equal(found, torch.full((2, 1), 2.5))
