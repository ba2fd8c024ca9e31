"""How far a command has come over all of its trainings."""

import io
import re
import time

import pytest

from limbeck.cli.course import Course
from limbeck.cli.showing import watching
from limbeck.config import Recipe
from limbeck.experiment.agenda import Expected, agenda
from limbeck.experiment.run import distill
from limbeck.experiment.vetting import vet
from limbeck.runs import RunFolder
from limbeck.training import Progress


def a_look(label, step, steps=100, **more):
    return Progress(label, step=step, steps=steps, epoch=1, epochs=2, samples_per_second=1.0, **more)


def test_the_course_of_a_run_counts_trainings_and_time_by_their_kind():
    course = Course([Expected("teacher", 100, 1), Expected("alone", 50, 2), Expected("", 50, 2)], began=0.0)
    course.look(a_look("teacher", 50), 10.0)
    assert course.said(10.0) == "training 1 of 5 · 50 s left in all · 17 %"  # 250 steps of 0.2 s, as far as is known
    course.look(a_look("teacher", 100, epoch_ended=True), 20.0)
    course.look(a_look("alone (seed 0)", 25, 50), 21.0)
    # alone: 25 + 50 steps of 0.04 s; distilled: 100 steps of the mean of all so far, 21 s / 125
    assert course.said(21.0) == "training 2 of 5 · 20 s left in all · 51 %"
    course.look(a_look("alone (seed 0)", 40, 50), 22.0)
    course.look(a_look("distilled (seed 0)", 50, 50, epoch_ended=True), 24.0)  # so that the one before ended early
    assert course.said(24.0) == "training 3 of 5 · 4 s left in all · 84 %"  # 50 steps of 0.05 s, and 50 of 0.04


def test_the_course_passes_over_what_is_read_and_goes_on_with_what_is_resumed():
    course = Course([Expected("teacher", 100, 2), Expected("", 100, 2)], began=0.0)
    read = {"resumed": True}
    course.look(a_look("teacher", 100, **read), 5.0)
    assert course.said(5.0) == "training 1 of 4"  # nothing has been trained, so no time is known
    course.look(a_look("distilled (seed 0)", 50, **read), 6.0)
    course.look(a_look("distilled (seed 0)", 60), 7.0)
    assert course.said(7.0) == "training 2 of 4 · 24 s left in all · 23 %"  # 40, 100 and 100 steps of 0.1 s
    course.look(a_look("teacher", 100, **read), 7.0)  # of another seed, by the same name
    assert course.said(7.0).startswith("training 3 of 4 · 10 s left in all")
    course.look(a_look("specialist-0", 100), 8.0)
    course.look(a_look("specialist-1", 100), 9.0)
    assert course.said(9.0) == "training 5 of 5 · 0 s left in all · 100 %"  # more than were planned


def test_trainings_that_take_turns_share_the_time():
    course = Course([Expected("", 10, 2)], began=0.0)
    for second in range(1, 6):
        course.look(a_look("trial-a", second, 10), 2.0 * second - 1)
        course.look(a_look("trial-b", second, 10), 2.0 * second)
    assert course.said(10.0) == "training 2 of 2 · 10 s left in all · 50 %"


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refit": True, "training": {"epochs": 2, "keep": "best"}},
        {"search": {"training.learning_rate": [0.1, 0.2], "method.temperature": [1, 2]}},
        {"scheme": {"name": "born_again", "generations": 2}},
        {"teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": {"epochs": 2}, "seed": None}},
    ],
)
def test_the_agenda_is_what_a_run_trains(changes, tmp_path):
    network = {"model": {"kind": "mlp", "hidden": [8]}}
    keys = {
        "name": "a",
        "data": {"kind": "digits"},
        "teacher": {**network, "training": {"epochs": 2}},
        "student": network,
    }
    keys |= {"method": {"name": "kd"}, "training": {"epochs": 2}, "seeds": [0, 1], **changes}
    recipe = Recipe.parse(keys)
    parts = vet(recipe)
    looks = []
    folder = RunFolder.create(tmp_path, "a", recipe.to_yaml(), [])
    distill(recipe, folder, parts=parts, watch=looks.append, cache=tmp_path / "cache")
    ends = [look for look in looks if look.epoch_ended and look.step == look.steps]
    expected = agenda(recipe, parts)
    assert sum(each.runs for each in expected) == len(ends)
    steps, made = sum(each.runs * each.steps for each in expected), sum(look.steps for look in ends)
    assert steps == made or recipe.refit  # whose last trainings have the held-out part as well
    assert all(look.seconds_left is not None for look in ends)  # also with less than twenty steps an epoch
    course = Course(expected, began=0.0)
    for second, look in enumerate(looks, start=1):
        course.look(look, float(second))
    assert course.said(len(looks)) == f"training {len(ends)} of {len(ends)} · 0 s left in all · 100 %"


def test_a_terminal_shows_the_whole_above_the_training():
    out = io.StringIO()
    out.isatty = lambda: True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", out)
        patch.setenv("COLUMNS", "60")
        patch.setenv("TERM", "xterm")
        with watching(overall=Course([Expected("", 100, 2)], began=time.monotonic())) as watch:
            watch(a_look("distilled (seed 0)", 50, losses={"total": 1.0}, metrics={"errors": 3.0}))
            assert "training 1 of 2 · " in out.getvalue()  # at once: a training may end before the next refresh
            watch(a_look("distilled (seed 0)", 100, epoch_ended=True))
            assert "step 100/100" in out.getvalue()
            watch(a_look("distilled (seed 1)", 1))
            assert "training 2 of 2 · " in out.getvalue()
    lines = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    assert any(line.strip().startswith("training 1 of 2 · ") for line in lines)
    assert any(line.strip().startswith("distilled (seed 0) · epoch 1/2 · held") for line in lines)
    assert max(map(len, lines)) <= 60
