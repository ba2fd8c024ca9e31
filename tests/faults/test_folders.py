"""What a folder of a training already holds: it is read, gone on with, or refused by the first key that differs."""

import pytest

from limbeck import methods, schedules
from limbeck.distiller import Distiller
from limbeck.errors import RunError
from limbeck.objective import Objective, Term
from limbeck.outputs import Tap
from limbeck.teachers import ModelTeacher
from limbeck.training import fit
from small_resume import HELD_OUT, SAMPLES, Crash, Tripwire, crash, ended, networks, once, run
from walk import over

CHANGES = {"training.learning_rate": {"learning_rate": 0.02}, "seed": {"seed": 4}}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("key", CHANGES)
def test_another_training_is_refused_by_the_first_key_that_differs(tmp_path, key, finished):
    if finished:
        run(tmp_path)
    else:
        with pytest.raises(Crash):
            run(tmp_path, act=once(2, crash))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        run(tmp_path, **CHANGES[key])
    line = str(caught.value)
    assert line.startswith("resume: '")
    assert f"belongs to another training: {key} was " in line
    assert line.endswith(f"; name another folder or put {key} back")
    assert "\n" not in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@over("teacher", [1, None])
def test_another_teacher_is_refused_too(tmp_path, teacher):
    def trained(seed):
        taught = None if seed is None else ModelTeacher(networks(seed)[1])
        distiller = Distiller(networks(0)[0], taught, methods.hard())
        fit(distiller, SAMPLES, HELD_OUT, epochs=1, batch_size=16, folder=tmp_path)

    trained(0)
    with pytest.raises(
        RunError, match=r"belongs to another training: teacher was .*; name another folder or put the teach"
    ):
        trained(teacher)


class Distance(Term):
    """Holds functions that are no schedules, and reads features through a function."""

    reads = frozenset({"student", "teacher"})

    def __init__(self, distance, scale):
        super().__init__("distance", schedules.linear(1.0, 0.5, steps=3))
        self.distance, self.scale = distance, scale
        self.taps = {model: {"x": Tap("", lambda logits: logits.softmax(-1))} for model in ("student", "teacher")}

    def sum(self, outputs, batch, step):
        return self.distance(outputs["student"].features["x"], outputs["teacher"].features["x"]).sum() * self.scale


def test_functions_of_a_term_are_not_taken_for_schedules_and_do_not_stop_it_from_going_on(tmp_path):
    def trained(folder, *further, scale=0.5):
        term = Distance(lambda a, b: (a - b).square(), scale)  # another function, at another address, each time
        distiller = Distiller(networks(0)[0], ModelTeacher(networks(0)[1]), Objective([term, *further]))
        fit(distiller, SAMPLES, epochs=2, batch_size=16, folder=folder, checkpoint_seconds=0.0)

    trained(tmp_path / "whole", Tripwire())
    with pytest.raises(Crash):
        trained(tmp_path / "broken", Tripwire(once(4, crash)))
    trained(tmp_path / "broken", Tripwire())
    assert ended(tmp_path / "broken") == ended(tmp_path / "whole")
    with pytest.raises(RunError, match="belongs to another training: objective was"):
        trained(tmp_path / "whole", Tripwire(), scale=0.25)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("changes", [{"accumulate": 1}, {"workers": 1}, {"checkpoint_seconds": 5.0}])
def test_what_does_not_decide_the_outcome_may_change(tmp_path, changes):
    with pytest.raises(Crash):
        run(tmp_path, act=once(2, crash))
    assert run(tmp_path, **changes).steps == 9
