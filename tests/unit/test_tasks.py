"""Beyond one label of many classes: the losses of one logit, several labels, numbers, and a label for each pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from torch import nn

from limbeck import losses, methods, targets
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, run_model
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, REGRESSION, TASKS, task_named
from task_losses import NAN, Fixed, drawn, loss_of
from walk import over

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def kl_of_bernoullis(p, q):
    terms = [a * math.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0]
    return math.fsum(terms)


# --------------------------------------------------------------------------------------------------------------- binary


@over("temperature", TEMPERATURES)
def test_one_logit_is_two_classes_with_logits_zero_and_z_in_loss_and_gradient(temperature):
    (z, v), labels = torch.tensor(drawn((6,))), torch.tensor([0, 1, UNLABELLED, 1, 0, 1])
    objective = methods.kd(temperature=temperature, hard_weight=0.3, soft_weight=0.7)
    one, by_one = loss_of(objective, z.unsqueeze(1), v.unsqueeze(1), labels, task=BINARY)
    pairs = [torch.stack([torch.zeros_like(x), x], -1) for x in (z, v)]
    two, by_two = loss_of(objective, *pairs, labels, task=CLASSIFICATION)
    assert one.total.item() == two.total.item()
    torch.testing.assert_close(by_one.squeeze(1), by_two[:, 1], rtol=1e-12, atol=1e-15)
    for name in ("hard", "soft"):
        assert one.parts[name].mean == two.parts[name].mean


@over("temperature", TEMPERATURES)
def test_the_binary_loss_is_cross_entropy_and_t_squared_kl_of_sigmoids_with_their_closed_gradients(temperature):
    z, v = drawn((6,))
    y = np.array([0, 1, 1, 1, 0, 0])
    objective = methods.kd(temperature=temperature, hard_weight=0.3, soft_weight=0.7)
    loss, given = loss_of(objective, torch.tensor(z)[:, None], torch.tensor(v)[:, None], torch.tensor(y), task=BINARY)
    hard = np.mean([-math.log(expit(a) if b else expit(-a)) for a, b in zip(z, y, strict=True)])
    q, p = expit(z / temperature), expit(v / temperature)
    soft = temperature**2 * np.mean([kl_of_bernoullis(a, b) for a, b in zip(p, q, strict=True)])
    assert loss.parts["hard"].mean == pytest.approx(hard, rel=1e-12)
    assert loss.parts["soft"].mean == pytest.approx(soft, rel=1e-9)
    expected = (0.3 * (expit(z) - y) + 0.7 * temperature * (q - p)) / 6
    np.testing.assert_allclose(given.squeeze(1).numpy(), expected, rtol=1e-9, atol=1e-14)


def test_the_gradient_of_binary_distillation_keeps_its_size_as_temperature_grows():
    z, v = (torch.tensor(x)[:, None] for x in drawn((6,)))
    norms = [float(loss_of(methods.kd(t, soft_weight=1.0), z, v, task=BINARY)[1].norm()) for t in (1e2, 1e3, 1e4)]
    assert norms[2] == pytest.approx(norms[1], rel=1e-4)
    matching = loss_of(methods.logit_matching(zero_mean=True), z, v, task=BINARY)[1]
    assert norms[2] == pytest.approx(float(matching.norm()), rel=1e-4)


def test_in_a_binary_task_the_teachers_confidence_in_the_true_class_is_all_it_says():
    z, v = (torch.tensor(x)[:, None] for x in drawn((6,)))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    plain, _ = loss_of(methods.kd(4.0, soft_weight=1.0), z, v, labels, task=BINARY)
    for target in (targets.TrueClass(), targets.TopK(k=1), targets.TopK(k=2)):
        other, _ = loss_of(methods.kd(4.0, soft_weight=1.0, target=target), z, v, labels, task=BINARY)
        assert other.total.item() == pytest.approx(plain.total.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((6, 2), r"^task binary: the model answers .*, expected one logit an example, \(N, 1\)"),
        ((6, 1, 1), r"^task binary: the model answers .*, expected one logit an example, \(N, 1\)"),
        ((), r"^model: answers a single number, expected logits \(N, K\)"),
    ],
    ids=str,
)
def test_a_binary_model_answers_one_logit(shape, said):
    with pytest.raises(ModelError, match=said):
        run_model(Fixed(torch.zeros(shape)), torch.zeros(6, 1), task=BINARY)
    assert run_model(Fixed(torch.ones(6)), torch.zeros(6, 1), task=BINARY).logits.tolist() == [[0.0, 1.0]] * 6


# ----------------------------------------------------------------------------------------------------------- multilabel


def multilabel_reference(z, v, y, temperature):
    """Per example: the sums over the classes of the hard loss, where there is a label, and of the soft one."""
    hard = [
        math.fsum(-math.log(expit(a) if c else expit(-a)) for a, c in zip(row, labels, strict=True) if c >= 0)
        for row, labels in zip(z, y, strict=True)
    ]
    soft = [
        temperature**2
        * math.fsum(
            kl_of_bernoullis(expit(b / temperature), expit(a / temperature)) for a, b in zip(row, other, strict=True)
        )
        for row, other in zip(z, v, strict=True)
    ]
    return np.array(hard), np.array(soft)


@over("temperature", TEMPERATURES)
@over("masked", [False, True])
def test_the_multilabel_loss_is_the_sum_over_classes_and_the_mean_over_examples(masked, temperature):
    z, v = drawn((5, 3))
    y = np.array([[0, 1, 1], [1, UNLABELLED, 0], [UNLABELLED] * 3, [0, 0, 0], [1, 1, 1]])
    mask = np.array([True, True, True, True, not masked])
    hard, soft = multilabel_reference(z, v, y, temperature)
    objective = methods.kd(temperature=temperature, hard_weight=0.3, soft_weight=0.7)
    given, _ = loss_of(
        objective,
        *torch.tensor(np.array([z, v])),
        torch.tensor(y),
        task=MULTILABEL,
        mask=torch.tensor(mask)[:, None].expand(5, 3) if masked else None,
    )
    labelled = mask & (y >= 0).any(1)
    assert given.parts["hard"].mean == pytest.approx(hard[labelled].mean(), rel=1e-12)
    assert given.parts["soft"].mean == pytest.approx(soft[mask].mean(), rel=1e-9)
    assert int(given.parts["hard"].count) == labelled.sum()
    assert int(given.parts["soft"].count) == mask.sum()


def test_the_gradient_of_the_multilabel_loss_is_that_of_each_class_by_itself():
    z, v = drawn((5, 3))
    y = np.random.default_rng(1).integers(0, 2, (5, 3))
    _, given = loss_of(methods.kd(4.0, alpha=0.5), *torch.tensor(np.array([z, v])), torch.tensor(y), task=MULTILABEL)
    expected = (0.5 * (expit(z) - y) + 0.5 * 4.0 * (expit(z / 4) - expit(v / 4))) / 5
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-9, atol=1e-14)


@given(st.integers(1, 4), st.integers(0, 10**6))
def test_each_class_of_a_multilabel_task_is_a_binary_task(classes, seed):
    z, v = torch.tensor(drawn((4, classes), seed))
    y = torch.randint(2, (4, classes), generator=torch.manual_seed(seed))
    objective = methods.kd(3.0, alpha=0.4)
    whole, gradient = loss_of(objective, z, v, y, task=MULTILABEL)
    each = [loss_of(objective, z[:, [i]], v[:, [i]], y[:, i], task=BINARY) for i in range(classes)]
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss, _ in each), rel=1e-12)
    torch.testing.assert_close(gradient, torch.cat([gradient for _, gradient in each], 1), rtol=1e-10, atol=1e-14)


@over("method", ["dkd", "kd", "kd_pt", "kd_topk", "label_smoothing", "tf_kd"])
def test_the_methods_for_classes_work_on_every_label_by_itself(method):
    z, v = torch.tensor(drawn((5, 3)))
    y = torch.randint(2, (5, 3), generator=torch.manual_seed(0))
    objective = methods.builder(method)()
    objective.settle(legend(MULTILABEL, 3))
    given, _ = loss_of(objective, z, v, y, task=MULTILABEL)
    each = [loss_of(objective, z[:, [i]], v[:, [i]], y[:, i], task=BINARY)[0].total.item() for i in range(3)]
    assert given.total.item() == pytest.approx(sum(each), rel=1e-10)


def test_a_multilabel_batch_cut_in_parts_has_the_same_loss():
    z, v = torch.tensor(drawn((6, 3)))
    y = torch.tensor([[0, 1, 1], [1, -100, 0], [-100] * 3, [0, 0, 0], [1, 1, 1], [-100, 0, 1]])
    objective = methods.kd(4.0, alpha=0.5)
    whole, _ = loss_of(objective, z, v, y, task=MULTILABEL)
    parts = [Batch.of(torch.zeros(len(rows), 1), y[rows], task=MULTILABEL) for rows in ([0, 1, 2, 3], [4, 5])]
    counts = [objective.counts(part) for part in parts]
    total = {name: sum(int(count[name]) for count in counts) for name in counts[0]}
    assert total == {"hard": 5, "soft": 6}
    cut = 0.0
    for rows, part in zip(([0, 1, 2, 3], [4, 5]), parts, strict=True):
        read = {"student": z[rows], "teacher": v[rows]}
        outputs = {name: Outputs(MULTILABEL.logits(logits)) for name, logits in read.items()}
        cut += objective(outputs, part, counts=total).total.item()
    assert cut == pytest.approx(whole.total.item(), rel=1e-12)


# ----------------------------------------------------------------------------------------------------------- regression


def test_the_hard_loss_of_a_regression_is_half_the_mean_squared_error_of_labelled_examples():
    z, y = drawn((5, 3))
    y[1, 2] = NAN
    loss, given = loss_of(methods.hard(), torch.tensor(z), torch.zeros(5, 3), torch.tensor(y), task=REGRESSION)
    known = [0, 2, 3, 4]
    assert loss.total.item() == pytest.approx(0.5 * ((z - y)[known] ** 2).mean(), rel=1e-12)
    expected = np.where(np.isin(np.arange(5), known)[:, None], (z - y) / 3 / 4, 0.0)
    np.testing.assert_allclose(given.numpy(), np.nan_to_num(expected), rtol=1e-12)


def test_a_regression_learns_its_teachers_answer_by_logit_matching():
    z, v = drawn((5, 3))
    labels = torch.full((5, 3), NAN)
    loss, given = loss_of(
        methods.logit_matching(hard_weight=1.0), torch.tensor(z), torch.tensor(v), labels, task=REGRESSION
    )
    assert loss.total.item() == pytest.approx(0.5 * ((z - v) ** 2).mean(), rel=1e-12)
    np.testing.assert_allclose(given.numpy(), (z - v) / 15, rtol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
def test_the_bounded_loss_is_the_squared_error_until_the_student_is_nearer_than_the_teacher_by_the_margin(margin):
    z, y = drawn((40, 2))
    v = drawn((40, 2), seed=3)[0]
    expected, free = [], 0
    for student, teacher, label in zip(z, v, y, strict=True):
        error, bound = (sum((a - b) ** 2 for a, b in zip(x, label, strict=True)) / 2 for x in (student, teacher))
        expected.append(0.5 * error if error + margin > bound else 0.0)
        free += error + margin <= bound
    given = losses.bounded_squared_error(*torch.tensor(np.array([z, v, y])), margin=margin, reduction="none")
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12)
    assert (free == 0) == (margin == 100.0)
    objective = methods.bounded_regression(margin=margin, hard_weight=0.2, soft_weight=0.5)
    loss, gradient = loss_of(objective, *torch.tensor(np.array([z, v, y])), task=REGRESSION)
    assert loss.total.item() == pytest.approx(0.2 * 0.5 * ((z - y) ** 2).mean() + 0.5 * np.mean(expected), rel=1e-12)
    weights = 0.2 + 0.5 * (np.array(expected) > 0)
    np.testing.assert_allclose(gradient.numpy(), weights[:, None] * (z - y) / 80, rtol=1e-12)


def test_squared_error_and_its_bound_take_masks_half_precision_and_no_label():
    z, v, y = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    y[0, 1] = NAN
    mask = torch.tensor([True, True, False, True])
    assert losses.squared_error(z, y, mask=mask).item() == pytest.approx(
        0.5 * (z - y)[[1, 3]].square().mean().item(), rel=1e-12
    )
    nothing = torch.full_like(y, NAN)
    for loss in (losses.squared_error(z, nothing), losses.bounded_squared_error(z, v, nothing)):
        assert loss.item() == 0
    half = losses.squared_error(z.half(), y.half())
    assert half.dtype == torch.float32
    student = z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.squared_error(z, y), (student,))
    assert torch.autograd.gradcheck(lambda z: losses.bounded_squared_error(z, v, y, margin=0.1), (student,))


@over(
    ("call", "line"),
    [
        (lambda: losses.squared_error(torch.zeros(2, 1), torch.zeros(2)), "answers has shape (2, 1), labels has shape"),
        (lambda: losses.squared_error(torch.zeros(2, 1), torch.zeros(2, 1).long()), "labels: found torch.int64"),
        (lambda: losses.squared_error(torch.zeros(2, 1), torch.zeros(2, 1), mask=torch.ones(2, 1).bool()), "mask has"),
        (lambda: losses.bounded_squared_error(*torch.zeros(3, 2, 1), margin=-1.0), "margin: found -1.0"),
        (lambda: losses.bounded_squared_error(torch.zeros(2, 1), *torch.zeros(2, 2, 2)), "student_answers has shape"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_in_one_line(call, line):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(line)


# ---------------------------------------------------------------------------------------------------------------- dense


@pytest.mark.parametrize("space", [(4,), (3, 4), (2, 3, 2)], ids=str)
def test_a_dense_task_is_classification_of_every_place(space):
    z, v = torch.tensor(drawn((2, 5, *space)))
    labels = torch.randint(5, (2, *space), generator=torch.manual_seed(0))
    labels.view(-1)[::3] = UNLABELLED
    mask = torch.rand((2, *space), generator=torch.manual_seed(1)) < 0.8
    objective = methods.kd(4.0, alpha=0.4)
    given, gradient = loss_of(objective, z, v, labels, task=DENSE, mask=mask)
    flat = [x.movedim(1, -1).reshape(-1, 5) for x in (z, v)]
    wanted, by_place = loss_of(objective, *flat, labels.reshape(-1), task=CLASSIFICATION, mask=mask.reshape(-1))
    assert given.total.item() == pytest.approx(wanted.total.item(), rel=1e-12)
    torch.testing.assert_close(gradient.movedim(1, -1).reshape(-1, 5), by_place)
    assert int(given.parts["hard"].count) == int(((labels != UNLABELLED) & mask).sum())


OF_PLACES = [
    "cwtm",
    "dist",
    "dkd",
    "kd",
    "kd_pt",
    "kd_topk",
    "label_smoothing",
    "logit_matching",
    "logit_standardisation",
    "tf_kd",
]


@over("method", OF_PLACES)
def test_the_methods_for_classes_work_on_every_place(method):
    z, v = torch.tensor(drawn((2, 5, 3, 4)))
    labels = torch.randint(5, (2, 3, 4), generator=torch.manual_seed(0))
    objective = methods.builder(method)()
    given, _ = loss_of(objective, z, v, labels, task=DENSE)
    flat = [x.movedim(1, -1).reshape(-1, 5) for x in (z, v)]
    wanted, _ = loss_of(objective, *flat, labels.reshape(-1), task=CLASSIFICATION)
    assert given.total.item() == pytest.approx(wanted.total.item(), rel=1e-10)


# ---------------------------------------------------------------------------------------------- shapes, exits, refusals


def test_the_answers_of_exits_are_read_as_those_of_the_model():
    class Exits(nn.Module):
        def forward(self, inputs):
            return Outputs(torch.zeros(2, 5, 3, 4), heads={"first": torch.zeros(2, 5, 3, 4)})

    found = run_model(Exits(), torch.zeros(2, 1), task=DENSE)
    assert found.logits.shape == found.heads["first"].shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("task", "shape", "line"),
    [
        (MULTILABEL, (6,), "task multilabel: the model answers (6,), expected one logit for each class, (N, C)"),
        (DENSE, (6, 5), "task dense: the model answers (6, 5), expected logits of the classes at each place"),
        (
            REGRESSION,
            (6, 2, 2),
            "task regression: the model answers (6, 2, 2), expected the numbers to predict, (N, D)",
        ),
    ],
    ids=str,
)
def test_an_answer_of_another_shape_is_refused_in_one_line(task, shape, line):
    with pytest.raises(ModelError) as caught:
        run_model(Fixed(torch.zeros(shape)), torch.zeros(6, 1), task=task)
    assert str(caught.value).startswith(line)


def legend(task, classes=4):
    return Legend(tuple(map(str, range(classes))), task=task)


@over("method", ["kd", "dkd", "dist", "logit_standardisation"])
def test_methods_that_compare_distributions_refuse_a_regression_in_one_line(method):
    objective = methods.builder(method)()
    with pytest.raises(
        InputError, match=r"the labels are numbers to predict for each example \(task regression\); use"
    ):
        objective.settle(legend(REGRESSION))
    with pytest.raises(InputError, match=r"compares distributions over classes, and the labels are numbers to predict"):
        loss_of(objective, torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2), task=REGRESSION)


@over(
    ("objective", "task", "classes", "line"),
    [
        (methods.hard(label_smoothing=0.1), REGRESSION, 2, "label_smoothing of term 'hard' smooths classes"),
        (methods.logit_matching(zero_mean=True), REGRESSION, 2, "zero_mean of term 'logits' is the mean over classes"),
        (methods.bounded_regression(), CLASSIFICATION, 4, "term 'bound' bounds the error of numbers to predict"),
        (methods.dist(), MULTILABEL, 4, "divergence correlation(tau_squared=False): found 2 classes"),
        (
            methods.dist(inter_weight=0.0),
            MULTILABEL,
            4,
            "term 'intra' relates examples of one class, and the labels are 0 or 1",
        ),
        (methods.cwtm(), MULTILABEL, 4, "term 'hard' weighs examples of one class, and the labels are 0 or 1 for"),
        (methods.cwtm(), REGRESSION, 4, "term 'hard' weighs classes, and the labels are numbers to predict"),
        (methods.dist(), BINARY, 2, "divergence correlation(tau_squared=False): found 2 classes"),
        (methods.kd(divergence=losses.divergence("correlation")), CLASSIFICATION, 2, "divergence correlation"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_method_cannot_do_with_a_task_is_refused_in_one_line(objective, task, classes, line):
    with pytest.raises(InputError) as caught:
        objective.settle(legend(task, classes))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_what_suits_a_task_is_not_refused():
    methods.hard(label_smoothing=0.1).settle(legend(MULTILABEL))
    methods.logit_matching().settle(legend(REGRESSION))
    methods.bounded_regression().settle(legend(REGRESSION))
    methods.dist().settle(legend(DENSE))
    methods.dist(inter_weight=0.0).settle(legend(BINARY, 2))


def test_a_task_is_found_by_name():
    assert task_named("dense") is DENSE
    assert list(TASKS) == ["classification", "binary", "multilabel", "dense", "tokens", "ranking", "regression"]
    with pytest.raises(InputError, match=r"^task: found 'regresion'; did you mean 'regression'\?"):
        task_named("regresion")
