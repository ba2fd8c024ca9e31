"""Checking a user's own loss: every planted mistake is named, alone and with others, and right losses pass."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

import limbeck as lb
from limbeck.errors import InputError
from planted_losses import MISTAKES, PEERS, RIGHT, Module, soft
from walk import over


def kinds(report):
    return {each.kind for each in report.mistakes}


@pytest.mark.miniature(7)
@pytest.mark.parametrize("name", MISTAKES)
def test_every_planted_mistake_is_named_and_no_other(name):
    loss, wrong = MISTAKES[name]
    report = lb.check_loss(loss)
    assert kinds(report) == wrong, report
    assert not report.right


@pytest.mark.miniature(6)
@pytest.mark.parametrize("name", PEERS)
def test_the_errors_of_other_libraries_are_named(name):
    loss, call, wrong = PEERS[name]
    report = lb.check_loss(loss, call)
    assert kinds(report) == wrong, report


@pytest.mark.miniature(3)
@pytest.mark.parametrize("name", RIGHT)
def test_right_losses_pass(name):
    loss, call = RIGHT[name]
    report = lb.check_loss(loss, call)
    assert report.right, report
    assert all(each.gradient == pytest.approx(1, abs=1e-5) for each in report.measured), report.measured


def composed(reduction, scale, twice, swap):
    """A loss with several mistakes at once."""

    def loss(student, teacher, labels, T, alpha):
        logits = F.softmax(student / T, -1) if twice else student / T
        target = F.softmax(teacher.detach() / T, -1)
        kl = F.kl_div(F.log_softmax(logits, -1), target, reduction=reduction) * (T**2 if scale else 1)
        hard = F.cross_entropy(student, labels)
        return (1 - alpha) * hard + alpha * kl if swap else alpha * hard + (1 - alpha) * kl

    wrong = {"mean": {"mean_over_classes"}, "sum": {"sum_over_rows"}, "batchmean": set()}[reduction]
    wrong |= set() if scale else {"missing_t2"}
    return loss, wrong | ({"student_softmaxed_twice"} if twice else set()) | ({"weights_swapped"} if swap else set())


@pytest.mark.thorough
@over("settings", [*product(("mean", "sum"), (False,), (False, True), (False, True)), ("batchmean", True, True, True)])
def test_mistakes_that_meet_are_named_each(settings):
    loss, wrong = composed(*settings)
    assert kinds(lb.check_loss(loss)) == wrong


def test_what_is_measured_is_said():
    report = lb.check_loss(MISTAKES["no_t2"][0])
    assert report.mistakes[0].evidence == (
        "your soft term is equal to the reference at T = 1, 1/4 of it at T = 2, and 1/16 of it at T = 4"
    )
    assert [each.temperature for each in report.measured] == [1.0, 2.0, 4.0]
    [over_classes] = lb.check_loss(MISTAKES["over_classes"][0]).mistakes
    assert over_classes.evidence == "your soft term is 1/5 of the reference at K = 5, and 1/7 of it at K = 7"
    [by_all] = lb.check_loss(MISTAKES["divides_by_all"][0]).mistakes
    assert by_all.evidence == "the hard term sums 7 rows and divides by all 11"


@pytest.mark.thorough
@over("name", ["not_detached", "cross_entropy", "ignored_refused", "channels", "positions", "other_weights"])
def test_what_is_wrong_in_some_uses_is_said_without_failing(name):
    def added(student, teacher, labels, T, alpha):
        return F.cross_entropy(student, labels) + alpha * soft(student, teacher, T)

    def own_hard(student, teacher, labels, T, alpha):
        hard = -F.log_softmax(student, -1).gather(-1, labels[:, None]).mean()
        return alpha * hard + (1 - alpha) * soft(student, teacher, T)

    losses = {
        "not_detached": (soft_of, "teacher_gradient"),
        "cross_entropy": (RIGHT["cross-entropy"][0], "cross_entropy"),
        "ignored_refused": (own_hard, "ignored_refused"),
        "channels": (RIGHT["mdistiller"][0], "channels"),
        "positions": (soft, "positions"),
        "other_weights": (added, "other_weights"),
    }
    loss, kind = losses[name]
    report = lb.check_loss(loss, "student, teacher, T" if loss is soft else None)
    assert report.right, report
    assert kind in {each.kind for each in report.findings}


def soft_of(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher / T, -1), reduction="batchmean")


OTHERS = {
    "decoupled": lambda student, teacher, labels, T: lb.losses.dkd(student, teacher, labels, temperature=T),
    "both KL": lambda student, teacher, T: lb.losses.kl(student, teacher) + lb.losses.reverse_kl(student, teacher),
    "squared log": lambda student, teacher, T: (student.log_softmax(-1) - teacher.log_softmax(-1)).square().mean(),
    "noise": lambda student, teacher, T: soft(student * torch.rand(()), teacher, T),
}


@over("name", OTHERS)
def test_a_loss_that_no_known_mistake_explains_is_called_so(name):
    report = lb.check_loss(OTHERS[name])
    assert "unexplained" in kinds(report), report
    assert not kinds(report) - {"unexplained"}


def test_rows_that_weigh_differently_are_told_from_means_of_means():
    def weighted(student, teacher, labels, T, alpha):
        hard = F.cross_entropy(student, labels, weight=torch.arange(1.0, student.shape[-1] + 1).double())
        return alpha * hard + (1 - alpha) * soft(student, teacher, T)

    report = lb.check_loss(weighted)
    assert "unequal_rows" in {each.kind for each in report.findings}
    assert "mean_of_means" not in kinds(report)


def test_a_mask_of_the_other_sense_is_told():
    def padded(student, teacher, padding_mask, T):
        rows = lb.losses.kl(student, teacher, temperature=T, reduction="none") * T**2
        return rows[~padding_mask].mean() if not bool(padding_mask.all()) else rows.mean()

    [found] = lb.check_loss(padded).mistakes
    assert found.kind == "mask"
    assert "expects True for padding" in found.evidence


@pytest.mark.thorough
def test_the_call_is_said_and_can_be_given():
    assert lb.check_loss(Module).called == "Module(temperature=T, alpha=alpha)(student_logits=student, " + (
        "teacher_logits=teacher, labels=labels)"
    )
    given = lb.check_loss(Module, "(T, alpha)(student, teacher, labels=labels)")
    assert given.called == "Module(T, alpha)(student, teacher, labels=labels)"
    assert given.right
    scaled = lb.check_loss(lambda q, p, T, scale: soft(q, p, T) * scale, "student, teacher, T, 2.0")
    assert scaled.right  # a weight of its own, without alpha


def nameless(*arguments):
    return soft(*arguments)


def broken(student, teacher, T):
    raise ValueError("no such thing")


@over(
    "loss, call, key",
    [
        (nameless, None, "call"),
        (lambda a, b, c, d, e, f, g: a, None, "call"),
        (soft, "student, techer", "call"),
        (soft, "student; teacher", "call"),
        (soft, "student + 1", "call"),
        (soft, "(T)(student)", "call"),
        (soft, "teacher, labels", "call"),
        (broken, None, "broken"),
        (lambda student, teacher: "1.0", None, "<lambda>"),
        (lambda student, teacher: student, None, "<lambda>"),
        (3, None, "function"),
    ],
)
def test_a_call_that_is_not_clear_is_refused_in_one_line(loss, call, key):
    with pytest.raises(InputError, match=f"^{key}: "):
        lb.check_loss(loss, call)


def test_nothing_of_the_loss_is_changed():
    module = Module(3.0, 0.2)
    before = dict(vars(module))
    lb.check_loss(module)
    assert vars(module) == before


def test_a_report_reads_as_text_and_as_json():
    report = lb.check_loss(MISTAKES["swapped"][0])
    assert "swapped: 1 found wrong\ncalled as swapped(student=student" in str(report)
    found = report.as_dict()
    assert (found["right"], found["findings"][0]["kind"]) == (False, "swapped_arguments")
