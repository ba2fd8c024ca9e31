"""The rules: capacity, causes and advice, each from hand-made numbers on both sides of its threshold."""

from dataclasses import replace
from itertools import combinations, product

import torch

from limbeck.diagnosis.advice import QUESTIONS, AdviceInput, advise
from limbeck.diagnosis.attribution import attribute
from limbeck.diagnosis.capacity import Fit, judge_capacity
from limbeck.diagnosis.causes import find_causes
from limbeck.diagnosis.signs import Signs
from limbeck.diagnosis.tail import tail_curve, temperature_for
from limbeck.diagnosis.thresholds import THRESHOLDS
from limbeck.evaluation import Fidelity
from limbeck.records import plain_values
from walk import over

HEALTHY = Signs(
    classes=10,
    train_accuracy=0.99,
    accuracy=0.95,
    overconfidence=0.02,
    temperature=1.2,
    epsilon=0.001,
    evenness=0.33,
    tightness=0.4,
    reliability=0.98,
    class_share=0.7,
    correlation_spread=0.2,
    seconded=0.8,
    seconded_classes=0.9,
    student_accuracy=0.92,
    limit="teacher",
)


def fit(name, train, held_out=None, epochs=10):
    near = [Fidelity(100, 1 - share, 0.1, 3, None) for share in (train, train if held_out is None else held_out)]
    return Fit(name, epochs, 1000, *near, accuracy=0.9)


# ------------------------------------------------------------------------------------------------------------ capacity


@over(
    ("student", "longer", "larger", "limit"),
    [
        (fit("student", 0.02), fit("longer", 0.01), fit("larger", 0.0), "teacher"),
        (fit("student", 0.02, 0.3), fit("longer", 0.01), fit("larger", 0.0), "data"),
        (fit("student", 0.3), fit("longer", 0.04), fit("larger", 0.3), "optimisation"),
        (fit("student", 0.3), fit("longer", 0.12), fit("larger", 0.3), "optimisation"),
        (fit("student", 0.3), fit("longer", 0.25), fit("larger", 0.02), "capacity"),
        (fit("student", 0.3), fit("longer", 0.25), fit("larger", 0.1), "capacity"),
        (fit("student", 0.3), fit("longer", 0.25), None, "capacity"),
        (fit("student", 0.3), fit("longer", 0.28), fit("larger", 0.2), "unlearnable"),
        (fit("student", 0.3), fit("longer", 0.25), fit("larger", 0.2), "optimisation"),
    ],
)
def test_what_holds_the_student_back(student, longer, larger, limit):
    found = judge_capacity(student, longer, larger)
    assert found.limit == limit
    assert found.reason
    assert plain_values(found)["fits"][0]["train"]["agreement"] == student.train.agreement


# -------------------------------------------------------------------------------------------------------------- causes


def causes(**changed):
    return [finding.cause for finding in find_causes(replace(HEALTHY, **changed))]


def test_a_healthy_teacher_has_nothing():
    assert causes() == []


SMOOTHED = {"epsilon": 0.09, "evenness": 0.12, "tightness": 0.25, "class_share": 0.15, "seconded_classes": 0.5}


@over(
    ("changed", "expected"),
    [
        (SMOOTHED, ["smoothed_teacher"]),
        ({**SMOOTHED, "epsilon": 0.01, "class_share": 0.7, "seconded_classes": 0.9}, []),
        ({**SMOOTHED, "evenness": 0.4, "class_share": 0.7, "seconded_classes": 0.9}, []),
        ({"accuracy": 0.6, "overconfidence": 0.3, "class_share": 0.1}, ["overfitted_teacher"]),
        ({"accuracy": 0.6, "overconfidence": 0.05}, []),
        ({"accuracy": 0.95, "overconfidence": 0.3}, []),
        ({"seconded": 0.01, "reliability": 0.02, "class_share": 0.0}, ["noise_beside_the_label"]),
        ({"seconded": 0.01}, []),
        ({"reliability": 0.01}, []),
        ({"seconded": 0.01, "reliability": 0.02, "student_accuracy": 0.3}, []),
        ({"class_share": 0.1}, ["unrelated_classes"]),
        ({"seconded_classes": 0.3}, ["unrelated_classes"]),
        ({"seconded_classes": 0.3, "student_accuracy": 0.3}, []),
        ({"limit": "capacity"}, ["teacher_too_large"]),
        ({"limit": "optimisation"}, []),
        (
            {
                "classes": 2,
                "seconded": None,
                "seconded_classes": None,
                "reliability": None,
                "class_share": None,
                "evenness": 0.0,
            },
            ["two_classes"],
        ),
    ],
)
def test_a_cause_is_found_by_its_signs(changed, expected):
    assert causes(**changed) == expected


def test_two_classes_have_no_other_classes_to_be_alike():
    """With two classes the evenness is 0 of itself: it must not look like smoothing."""
    none = dict.fromkeys(("seconded", "seconded_classes", "reliability", "class_share"))
    assert causes(classes=2, evenness=0.0, epsilon=0.1, tightness=0.2, **none) == ["two_classes"]


def test_the_thresholds_are_what_is_compared_with():
    signs = replace(HEALTHY, **SMOOTHED)
    stricter = replace(THRESHOLDS, smoothing_epsilon=0.5, unrelated_share=0.0, unrelated_seconded=0.0)
    assert find_causes(signs, stricter) == ()


# -------------------------------------------------------------------------------------------------------------- advice


def case(capacity=None, **changed):
    signs = replace(HEALTHY, **changed)
    held = capacity or judge_capacity(fit("student", 0.02), fit("longer", 0.01), fit("larger", 0.0))
    return AdviceInput(
        signs=replace(signs, limit=held.limit),
        capacity=held,
        findings=find_causes(replace(signs, limit=held.limit)),
        attribution=None,
        temperature=4.0,
        suggested_temperature=4.0,
        tail={1: 0.7, 2: 0.6, 5: 0.5},
        better=None,
    )


def answer(question, given):
    return next(each for each in advise(given) if each.question == question)


def test_every_question_is_answered():
    found = advise(case())
    assert [each.question for each in found] == list(QUESTIONS)
    assert all(each.said and each.evidence for each in found)


@over(
    ("changed", "question", "value"),
    [
        ({}, "distill", True),
        ({"accuracy": 0.9}, "distill", False),
        ({"accuracy": 0.6, "overconfidence": 0.3, "student_accuracy": 0.5}, "distill", None),
        ({}, "teacher", "keep"),
        (SMOOTHED, "teacher", "unsmoothed"),
        ({"accuracy": 0.6, "overconfidence": 0.3}, "teacher", "regularised"),
        ({"seconded": 0.0, "reliability": 0.0}, "teacher", "checked"),
        ({}, "target", "softmax"),
        (SMOOTHED, "target", "pt"),
        ({"seconded": 0.0, "reliability": 0.0}, "target", "pt"),
        ({"class_share": 0.1}, "target", "pt"),
        ({}, "temperature", 4.0),
        ({}, "alpha", 0.1),
        ({"accuracy": 0.9}, "alpha", 0.5),
        ({}, "training", "keep"),
        ({}, "k", 10),
    ],
)
def test_answers(changed, question, value):
    assert answer(question, case(**changed)).value == value


def test_two_classes_are_only_rescaled():
    none = dict.fromkeys(("seconded", "seconded_classes", "reliability", "class_share"))
    given = case(classes=2, evenness=0.0, **none)
    assert "only rescale" in answer("target", given).said
    assert "only a rescaling" in given.findings[0].said


def test_a_student_that_cannot_follow():
    held = judge_capacity(fit("student", 0.3), fit("longer", 0.25), fit("larger", 0.02))
    given = case(capacity=held)
    assert answer("teacher", given).value == "smaller"
    assert answer("temperature", given).value == 2.0
    assert "will not help" in answer("training", given).said
    longer = judge_capacity(fit("student", 0.3), fit("longer", 0.02), fit("larger", 0.02))
    assert answer("training", case(capacity=longer)).value == "longer"


def test_k_is_where_the_tail_becomes_noise():
    given = replace(case(), tail={1: 0.7, 2: 0.05, 5: 0.0})
    assert answer("k", given).value == 2
    assert answer("k", replace(case(), tail={})).confidence == "rule of thumb"
    weak = replace(case(student_accuracy=0.3), tail={1: 0.0})
    assert (answer("k", weak).value, answer("k", weak).confidence) == (10, "rule of thumb")


def test_what_was_measured_comes_first():
    n = 500
    hard = (torch.arange(n) < 300).expand(3, n).clone()
    kd = (torch.arange(n) < 400).expand(3, n).clone()
    helps = replace(case(accuracy=0.9), attribution=attribute({"hard": hard, "kd": kd}))
    assert (answer("distill", helps).value, answer("distill", helps).confidence) == (True, "measured")
    harms = replace(case(), attribution=attribute({"hard": kd, "kd": hard}))
    assert (answer("distill", harms).value, answer("distill", harms).confidence) == (False, "measured")
    same = replace(case(), attribution=attribute({"hard": hard, "kd": hard}))
    assert answer("distill", same).confidence == "rule of thumb"
    assert answer("target", same).confidence == "measured"


CHANGES = {
    "smoothed": SMOOTHED,
    "overfitted": {"train_accuracy": 1.0, "accuracy": 0.6, "overconfidence": 0.3, "student_accuracy": 0.5},
    "noise": {"seconded": 0.0, "reliability": 0.0},
    "unrelated": {"class_share": 0.1},
    "two classes": {"classes": 2, "evenness": 0.0, "seconded": None, "seconded_classes": None, "class_share": None},
}
STANDS = {
    "better": {},
    "as good": {"accuracy": 0.92},
    "worse": {"accuracy": 0.8},
    "right on all": {"accuracy": 1.0, "train_accuracy": 1.0},
    "both right on all": {"accuracy": 1.0, "train_accuracy": 1.0, "student_accuracy": 1.0},
}
HELD = {
    "teacher": (fit("student", 0.02), fit("longer", 0.01), fit("larger", 0.0)),
    "data": (fit("student", 0.02, 0.3), fit("longer", 0.01), fit("larger", 0.0)),
    "optimisation": (fit("student", 0.3), fit("longer", 0.04), fit("larger", 0.3)),
    "capacity": (fit("student", 0.3), fit("longer", 0.25), fit("larger", 0.02)),
    "unlearnable": (fit("student", 0.3), fit("longer", 0.28), fit("larger", 0.2)),
}
CONDITION = "If you distill all the same: "


def contradictions(given, found):
    """Return the pairs of advices that cannot both be followed."""
    by = {each.question: each for each in found}
    value = {name: each.value for name, each in by.items()}
    against, classes, perfect = value["distill"] is False, given.signs.classes, given.signs.accuracy == 1.0
    how = [by[name] for name in ("target", "k", "temperature", "training")]
    free = [each for each in how if not each.said.startswith((CONDITION, "Any: ", "Not a question"))]
    pairs = {
        "do not distill, and how to": against and bool(free),
        "distill, on a condition": not against and any(each.said.startswith(CONDITION) for each in found),
        "do not distill, and the teacher weighs more": against and value["alpha"] < 0.5,
        "do not distill since the teacher is no better, and keep it": against
        and given.signs.accuracy <= given.signs.student_accuracy
        and value["teacher"] == "keep"
        and not perfect,
        "distill, and no teacher is good enough": value["distill"] is True and value["teacher"] == "better",
        "distill, and check the teacher first": value["distill"] is True
        and value["teacher"] == "checked"
        and by["distill"].confidence != "measured",
        "check the teacher, and let it weigh more": value["teacher"] == "checked" and value["alpha"] < 0.5,
        "a better one of a teacher that is right on all": perfect
        and any("better teacher" in each.said for each in found),
        "keep the teacher, and only a better one helps": value["teacher"] == "keep" and "better" in by["training"].said,
        "the whole distribution, and a part of it": value["target"] == "softmax" and value["k"] < classes,
        "one other target, and topk": value["target"] not in ("softmax", "topk") and value["k"] < classes,
        "topk, and all classes": value["target"] == "topk" and given.better is None and value["k"] == classes,
        "train longer, and it does not help": value["training"] == "longer" and "not help" in by["training"].said,
    }
    return [name for name, holds in pairs.items() if holds]


def test_advices_never_contradict_each_other():
    """Every pair of causes, with all that may hold a student back, all standings, and all that may be measured."""
    n = 500
    few, many = ((torch.arange(n) < count).expand(3, n).clone() for count in (300, 400))
    measured = [None, *(attribute({"hard": one, "kd": two}) for one, two in ((few, many), (many, few), (few, few)))]
    gain = attribute({"hard": few, "kd": many}).effect("whole")
    seen = set()
    for names in [*combinations(CHANGES, 2), *((name,) for name in CHANGES), ()]:
        changed = {key: value for name in names for key, value in CHANGES[name].items()}
        for stands, fits in product(STANDS.values(), HELD.values()):
            held = judge_capacity(*fits)
            base = case(held, **{**changed, **stands})
            tails = ({},) if base.signs.classes == 2 else ({}, {1: 0.7, 2: 0.05}, {1: 0.7, 2: 0.6})
            for attribution, better, tail in product(measured, (None, "pt", "topk"), tails):
                if better is not None and attribution is None:
                    continue
                given = replace(base, attribution=attribution, better=better and (better, gain), tail=tail)
                found = advise(given)
                assert contradictions(given, found) == [], (names, stands, held.limit, [each.said for each in found])
                seen |= {(each.question, str(each.value)) for each in found}
    assert {("distill", value) for value in ("True", "False", "None")} <= seen
    assert {("teacher", value) for value in ("keep", "better", "checked", "smaller", "regularised")} <= seen
    assert {("target", value) for value in ("softmax", "topk", "pt")} <= seen


def test_what_once_stood_side_by_side():
    harms = attribute({"hard": torch.ones(3, 50, dtype=bool), "kd": torch.zeros(3, 50, dtype=bool)})
    found = {each.question: each for each in advise(replace(case(), attribution=harms))}
    assert (found["distill"].value, found["alpha"].value) == (False, 0.5)
    perfect = {each.question: each for each in advise(case(accuracy=1.0, train_accuracy=1.0))}
    assert perfect["teacher"].said == "Keep this teacher: there is no better one."
    assert perfect["training"].said == "Longer training will not help: the student has learnt its teacher."


# ---------------------------------------------------------------------------------------------------------------- tail


def test_the_tail_of_a_teacher():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(400, 20, generator=generator)
    known = teacher.argsort(1, descending=True)[:, :5]
    other = torch.randn(400, 20, generator=generator).scatter(1, known, 10 + teacher.gather(1, known))
    found = tail_curve(teacher, other)
    assert list(found) == [1, 2, 5, 10]
    assert found[1] > 0.4
    assert abs(found[5]) < 0.06
    assert tail_curve(teacher[:, :3], teacher[:, :3]) == {}


def test_the_temperature_of_an_entropy():
    logits = torch.tensor([[6.0, 0.0, 0.0, 0.0]])
    found = [temperature_for(logits, share) for share in (0.05, 0.3, 0.6, 0.95)]
    assert found == sorted(found)
    assert found[0] < found[-1]
