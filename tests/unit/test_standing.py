"""What may be claimed of teacher, student alone and distilled student: failures first, shares beyond noise alone."""

import math
from itertools import product

import pytest
import torch

from limbeck.evaluation import Metrics, constant_accuracy, standing
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, REGRESSION, TOKENS
from walk import over

SIZE = 1000


def models(*errors: float, nll: float = 0.5) -> list[Metrics]:
    return [Metrics(SIZE, each, 1 - each / SIZE, nll) for each in errors]


def judged(teacher, alone, distilled, constant=0.1, task=CLASSIFICATION, **more):
    found = {"teacher": models(*teacher), "alone": models(*alone), "distilled": models(*distilled)}
    return standing(found | more, constant, task)


# ---------------------------------------------------------------------------------------------------------- failures


def test_a_student_alone_that_collapsed_is_told_first_and_no_share_is():
    """Of two classes a student that answers one of them alone: 49.9 %; once told as 102 % of the gap closed."""
    found = judged([100], [501], [92], constant=0.501)
    assert found.share is None
    assert found.failures == (
        "The student alone is no better than one answer for all test examples, or hardly (accuracy 49.9 %; the most"
        " frequent answer alone gives 50.1 %)",
    )
    assert "gap to the teacher is not given" in found.said
    assert "better than the teacher" not in found.said


FIGURES = {"well": (100, 0.5), "near chance": (880, 2.3), "diverged": (900, math.nan), "overflown": (900, math.inf)}


@over(("teacher", "alone", "distilled"), list(product(FIGURES, repeat=3)))
def test_each_failure_is_named_once_and_a_share_stands_beside_none(teacher, alone, distilled):
    kinds = {"teacher": teacher, "alone": alone, "distilled": distilled}
    found = {role: models(FIGURES[kind][0], nll=FIGURES[kind][1]) for role, kind in kinds.items()}
    if kinds["teacher"] == kinds["alone"] == "well":
        found["teacher"] = models(10)
    stands = standing(found, 0.1, CLASSIFICATION)
    failed = [role for role, kind in kinds.items() if kind != "well"]
    assert len(stands.failures) == len(failed)
    for said, role in zip(stands.failures, failed, strict=True):
        assert {"teacher": "The teacher", "alone": "The student alone", "distilled": "The distilled"}[role] in said
        assert ("diverged" in said) is (kinds[role] in ("diverged", "overflown"))
    if failed:
        assert stands.share is None
        assert "better" not in stands.said


@over(
    ("accuracy", "constant", "examples", "fails"),
    [
        (0.55, 0.5, 100, True),  # within noise
        (0.70, 0.5, 100, False),
        (0.519, 0.5, 10**6, True),  # beyond noise, and hardly better
        (0.53, 0.5, 10**6, False),
        (0.05, 0.01, 10_000, False),  # one of a hundred classes: five times chance
        (0.015, 0.01, 10_000, True),
        (0.99, 0.99, 10_000, True),  # a rare class, of which nothing was learnt
        (0.996, 0.99, 10_000, False),
        (1.0, 1.0, 10, False),  # one class alone: there is nothing to learn
    ],
)
def test_near_chance(accuracy, constant, examples, fails):
    alone = [Metrics(examples, round(examples * (1 - accuracy)), accuracy, 1.0)]
    found = {"teacher": models(0), "alone": alone, "distilled": models(0)}
    assert bool(standing(found, constant, CLASSIFICATION).failures) is fails


def test_one_seed_of_three_that_failed_is_enough():
    found = judged([100] * 3, [200, 895, 210], [150, 150, 150])
    assert [each.rsplit(", ", 1)[1] for each in found.failures] == ["in 1 of 3 seeds"]


def test_a_regression_that_gives_the_mean_has_failed():
    found = {role: [Metrics(SIZE, 1 - r2, r2, 0.5)] * 3 for role, r2 in
             (("teacher", 0.9), ("alone", 0.02), ("distilled", 0.8))}  # fmt: skip
    assert (
        standing(found, 0.0, REGRESSION)
        .failures[0]
        .endswith("(R² 0.020; the mean of the labels gives 0), in 3 of 3 seeds")
    )


@over(
    ("labels", "task", "expected"),
    [
        ([0, 0, 1, 2, -100], CLASSIFICATION, 0.5),
        ([1, 1, 1, 0], BINARY, 0.75),
        ([[0, 1], [0, 1], [1, 1], [-100, -100]], MULTILABEL, 2 / 3),
        ([[[0, 0], [1, -100]]], DENSE, 2 / 3),
        ([[0.5], [1.5]], REGRESSION, 0.0),
    ],
)
def test_the_best_constant_answer(labels, task, expected):
    assert constant_accuracy(torch.tensor(labels), task) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------------- shares


@over(
    ("teacher", "alone", "distilled", "said", "share"),
    [
        ([100], [300], [200], "Distillation closed 50 % of the gap to the teacher", 0.5),
        ([100], [300], [40], "The distilled student does better than the teacher", 1.3),
        ([100], [300], [95], "The distilled student is as good as the teacher, within the uncertainty", 1.025),
        ([100], [300], [400], "Distillation did not help", -0.5),
        ([10], [13], [9], "The teacher is not better by more than chance than the student alone", None),
        ([10], [90], [9], "The distilled student is as good as the teacher, within the uncertainty", 81 / 80),
        ([300], [100], [90], "The teacher is worse than the student alone", None),
        ([4], [21], [20], "One seed cannot show what share of the gap to the teacher distillation closed", None),
        ([10], [29], [18], "One seed cannot show what share of the gap to the teacher distillation closed", None),
        ([100] * 2, [300, 310], [200, 210], "Distillation closed 49 % of the gap to the teacher", 100 / 205),
        ([100] * 3, [300, 310, 320], [200, 210, 220], "Distillation closed 48 % of the gap to the teacher", 10 / 21),
        ([100] * 3, [120, 90, 130], [80, 80, 80], "The teacher is not better by more than chance", None),
        ([100] * 3, [103, 103, 103], [102, 102, 102], "Distillation closed 33 % of the gap to the teacher", 1 / 3),
        ([100] * 3, [300, 310, 320], [90, 320, 200], "These seeds cannot show what share of the gap", None),
    ],
)
def test_the_headline(teacher, alone, distilled, said, share):
    found = judged(teacher, alone, distilled)
    assert found.said.startswith(said)
    assert found.failures == ()
    assert (found.share is None) if share is None else (found.share.mean == pytest.approx(share))
    if share is not None and len(alone) < 3:
        assert found.share.half_width is None


@pytest.mark.parametrize("task", [DENSE, TOKENS, REGRESSION])
def test_where_errors_are_no_counts_of_examples_fewer_than_three_seeds_tell_no_gap(task):
    few = judged([100], [300], [200], constant=0.0, task=task)
    assert few.share is None
    assert few.said.startswith("One seed cannot show whether the teacher is better than the student alone")
    assert judged([100] * 3, [300, 310, 320], [200, 210, 220], constant=0.0, task=task).share is not None


@pytest.mark.parametrize(
    ("distilled", "said"), [(20, "is better than"), (90, "differs from the student alone by"), (300, "is worse than")]
)
def test_a_network_that_teaches_nobody_is_not_compared_with(distilled, said):
    """It may be better, worse or broken: what is told is the same."""
    for teacher in (models(10), models(500), models(900, nll=math.nan)):
        found = {"teacher": teacher, "alone": models(100), "distilled": models(distilled)}
        stands = standing(found, 0.1, CLASSIFICATION, teaches=False)
        assert (stands.failures, stands.share) == ((), None)
        assert stands.said.startswith(f"The recipe's reference network teaches nobody; the distilled student {said}")
    failed = standing({**found, "alone": models(900)}, 0.1, CLASSIFICATION, teaches=False)
    assert len(failed.failures) == 1
    assert "teacher" not in failed.said


def test_without_a_gap_it_is_said_how_the_students_stand():
    ends = {
        (90,): "the distilled student differs from it by no more than chance",
        (20,): "the distilled student is better than the student alone",
        (300,): "the distilled student is worse than the student alone",
    }
    for distilled, said in ends.items():
        assert judged([100], [100], distilled).said.endswith(said)


@over(("distilled", "said"), [(400, "The compressed student does worse than"), (200, "Distillation c")])
def test_of_a_student_that_was_made_smaller_it_is_not_distillation_that_did_not_help(distilled, said):
    found = {"teacher": models(100), "alone": models(300), "distilled": models(distilled)}
    assert standing(found, 0.1, CLASSIFICATION, compressed=True).said.startswith(said)
