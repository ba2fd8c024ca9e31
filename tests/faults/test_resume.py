"""A training that is stopped, killed or broken anywhere goes on to the very same end."""

import json
import os
import random
import signal
import sys
import time
from contextlib import nullcontext

import pytest

from launches import end_of, forked
from limbeck import methods
from limbeck.config import Recipe
from limbeck.distiller import Distiller
from limbeck.errors import Interrupted, LimbeckError, RunError
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.objective import Objective
from limbeck.teachers import ModelTeacher, store
from limbeck.teachers.model import state_digest
from limbeck.terms import LogitMatching
from limbeck.training import Stage, Training, checkpoints, fit, fit_stages, weights
from small_resume import SAMPLES, SETTINGS, Crash, Tripwire, crash, ended, networks, once, run, sha256

# Python 3.12 warns of any fork in a process with threads; these children only compute and end.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return what an uninterrupted training of a kind comes to."""
    known = {}

    def of(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp("whole")
            result = run(folder, kind)
            known[kind] = ended(folder), result
        return known[kind]

    return of


def same(folder, kind, result, uninterrupted):
    expected, whole = uninterrupted(kind)
    assert ended(folder) == expected
    assert result.history == whole.history
    assert (result.epoch, result.steps, result.metrics) == (whole.epoch, whole.steps, whole.metrics)
    assert state_digest(result.student) == state_digest(whole.student)
    return True


# ----------------------------------------------------------------------------------------------------------- every step


@pytest.mark.miniature(1)
@pytest.mark.parametrize("kind", SETTINGS)
def test_stopped_by_a_signal_after_every_single_step(tmp_path, kind, uninterrupted):
    def interrupt(step):
        if step not in stopped:
            stopped.append(step)
            send(signal.SIGINT)

    stopped, interruptions, said, lines = [], 0, [], []
    while True:
        try:
            result = run(tmp_path, kind, interrupt)
            break
        except Interrupted as error:
            interruptions += 1
            newest = checkpoints.newest(tmp_path / "checkpoints")
            said.append((str(error), error.exit_code, newest.name))
            lines.append((f"interrupted by SIGINT; last good checkpoint: {newest}", 130, f"step-{interruptions:09d}"))
    assert same(tmp_path, kind, result, uninterrupted)
    assert stopped == list(range(result.steps))
    assert interruptions == result.steps
    assert said == lines
    assert (len(result.history) < 9) is (kind == "early stop") or len(result.history) == 3


def send(*numbers):
    for number in numbers:
        signal.raise_signal(number)  # to this very thread, so that none is merged with the one before


@pytest.mark.thorough
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["a checkpoint a step", "no checkpoint"])
def test_broken_in_the_middle_of_every_single_step(tmp_path, every, uninterrupted):
    def act(step):
        calls.append(step)
        if step not in crashed and calls.count(step) % 2 == 0:  # in the second half of the accumulated step
            crashed.add(step)
            raise Crash

    calls, crashed, crashes = [], set(), 0
    while True:
        try:
            result = run(tmp_path, "everything", act, checkpoint_seconds=every)
            break
        except Crash:
            crashes += 1
    assert same(tmp_path, "everything", result, uninterrupted)
    assert crashes == 9
    if every:  # each time from the start
        assert len(calls) == sum(2 * (step + 1) for step in range(9)) + 18
    else:  # one step again
        assert len(calls) == 9 * 2 + 18


@pytest.mark.miniature(1)
@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("where", ["validation", "watch", "metrics"])
def test_broken_between_two_epochs(tmp_path, monkeypatch, where, epoch, uninterrupted):
    def watch(look):
        if where == "watch" and look.epoch_ended and look.epoch == epoch:
            raise Crash

    calls = []
    ended = "limbeck.training.state.Run.end_epoch"
    target = {"validation": "limbeck.training.loop.evaluate_together", "metrics": ended}
    with monkeypatch.context() as patch:
        if where != "watch":
            owner, name = target[where].rsplit(".", 1)
            module = __import__("limbeck.training.state", fromlist=["Run"])
            changed = module.Run if where == "metrics" else sys.modules[owner]
            real = getattr(changed, name)

            def broken(*args, **options):
                calls.append(1)
                answer = real(*args, **options)
                if len(calls) == epoch:
                    raise Crash
                return answer

            patch.setattr(changed, name, broken)
        with pytest.raises(Crash):
            run(tmp_path, watch=watch)
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("where", ["save_weights", "write_json", "remove"])
def test_broken_while_the_result_is_written(tmp_path, monkeypatch, where, uninterrupted):
    def broken(*args, **options):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(weights if where == "save_weights" else checkpoints, where, broken)
        with pytest.raises(Crash):
            run(tmp_path)
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_older_one_leads_to_the_same_end(tmp_path, uninterrupted):
    with pytest.raises(Crash):
        run(tmp_path, act=once(5, crash))
    newest = checkpoints.newest(tmp_path / "checkpoints")
    data = bytearray((newest / "tensors.safetensors").read_bytes())
    data[-3] ^= 4
    (newest / "tensors.safetensors").write_bytes(data)
    with pytest.raises(LimbeckError, match=r"step-000000005' is damaged .*; delete it to go on from 'step-000000004'"):
        run(tmp_path)
    checkpoints.remove(newest)
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


def test_stored_answers_go_on_as_well(tmp_path):
    def trained(folder, act=lambda step: None):
        student, teacher = networks(0)
        distiller = Distiller(
            student, store(ModelTeacher(teacher), SAMPLES), Objective([LogitMatching(), Tripwire(act)])
        )
        return fit(distiller, SAMPLES, epochs=2, batch_size=16, folder=folder, checkpoint_seconds=0.0)

    trained(tmp_path / "whole")
    with pytest.raises(Crash):
        trained(tmp_path / "broken", once(3, crash))
    trained(tmp_path / "broken")
    assert ended(tmp_path / "broken") == ended(tmp_path / "whole")


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.fixture
def hang_up():
    """Let SIGHUP do what it does by default, whatever this process was started under."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.miniature(1)
@pytest.mark.usefixtures("hang_up")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_ends_with_its_exit_code(tmp_path, number, code, uninterrupted):
    with pytest.raises(
        Interrupted, match=f"^interrupted by {number.name}; last good checkpoint: .*step-000000005"
    ) as caught:
        run(tmp_path, act=once(4, lambda: send(number)), checkpoint_seconds=1e9)
    assert caught.value.exit_code == code
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


def test_a_signal_at_the_very_end_is_not_forgotten(tmp_path, uninterrupted):
    def interrupt(look):
        if look.epoch_ended and look.epoch == 3:
            send(signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"^interrupted by SIGTERM; the training had ended") as caught:
        run(tmp_path, watch=interrupt)
    assert caught.value.exit_code == 143
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


def test_a_signal_between_stages_stops_before_the_next(tmp_path):
    def interrupt(look):
        if look.label == "first" and look.epoch_ended:
            send(signal.SIGINT)

    def stages():
        return [Stage(name, methods.hard(), Training(epochs=1, batch_size=16)) for name in ("first", "second")]

    with pytest.raises(Interrupted):
        fit_stages(networks(0)[0], None, stages(), SAMPLES, folder=tmp_path / "broken", watch=interrupt)
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["1-first"]
    fit_stages(networks(0)[0], None, stages(), SAMPLES, folder=tmp_path / "broken")
    fit_stages(networks(0)[0], None, stages(), SAMPLES, folder=tmp_path / "whole")
    for name in ("1-first", "2-second"):
        assert ended(tmp_path / "broken" / name) == ended(tmp_path / "whole" / name)


@pytest.mark.thorough
def test_a_second_signal_stops_at_once_and_what_was_saved_is_good(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, act=once(4, lambda: send(signal.SIGINT, signal.SIGINT)))
    assert checkpoints.newest(tmp_path / "checkpoints").name == "step-000000004"
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


@pytest.mark.usefixtures("hang_up")
def test_a_terminal_that_hangs_up_twice_does_not_stop_the_saving(tmp_path, uninterrupted):
    with pytest.raises(Interrupted, match=r"^interrupted by SIGHUP; last good checkpoint: .*step-000000005"):
        run(tmp_path, act=once(4, lambda: send(signal.SIGHUP, signal.SIGHUP)), checkpoint_seconds=1e9)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


@pytest.mark.usefixtures("hang_up")
def test_a_hang_up_that_the_process_ignores_stays_ignored(tmp_path, uninterrupted):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    assert same(tmp_path, "everything", run(tmp_path, act=once(4, lambda: send(signal.SIGHUP))), uninterrupted)


def test_without_a_folder_a_signal_does_what_it_always_did():
    with pytest.raises(KeyboardInterrupt):
        run(None, act=once(1, lambda: send(signal.SIGINT)))


# ------------------------------------------------------------------------------------------------------ other processes


def has_ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def killed_often(folder, kills, uninterrupted, moments):
    """Kill a training again and again at random moments; return at how many different steps it then stood."""
    stood, killed = set(), 0
    for _ in range(10 * kills):
        child = forked(lambda: run(folder))
        # What there is to see of its progress says when it has begun; then any moment is as good as another.
        seen = mark(folder)
        while mark(folder) == seen and not has_ended(child):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        code = end_of(child)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        stood.add(checkpoints.newest(folder / "checkpoints"))
        if killed == kills:
            break
    assert same(folder, "everything", run(folder), uninterrupted)
    return killed, stood - {None}


def mark(folder):
    newest = checkpoints.newest(folder / "checkpoints")
    return newest, (folder / "result.json").exists()


@pytest.mark.miniature(0)
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, kills, uninterrupted):
    moments, killed, stood, trainings = random.Random(kills), 0, set(), 0
    while killed < kills:
        more, where = killed_often(tmp_path / str(trainings), kills - killed, uninterrupted, moments)
        killed, stood, trainings = killed + more, stood | {path.name for path in where}, trainings + 1
        assert trainings < 10 * kills
    assert len(stood) >= 3


@pytest.mark.thorough
def test_a_terminated_process_ends_with_143(tmp_path, uninterrupted):
    child = forked(lambda: run(tmp_path, act=lambda step: time.sleep(0.05)))
    while checkpoints.newest(tmp_path / "checkpoints") is None:
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    assert end_of(child) == 143
    assert checkpoints.newest(tmp_path / "checkpoints") is not None
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


@pytest.mark.thorough
def test_a_second_process_on_a_bare_folder_is_refused_until_the_first_is_gone(tmp_path, uninterrupted):
    child = forked(lambda: run(tmp_path, act=once(5, lambda: time.sleep(60))))
    try:
        while checkpoints.newest(tmp_path / "checkpoints") is None:
            time.sleep(0.005)
        with pytest.raises(RunError, match=r"^run folder: '.*' is in use by another training; wait for it, or name"):
            run(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        assert end_of(child) == -signal.SIGKILL
    assert same(tmp_path, "everything", run(tmp_path), uninterrupted)


@pytest.fixture(scope="module")
def recipe_and_parts():
    recipe = Recipe.parse(
        {
            "name": "shared-teacher",
            "data": {"kind": "digits"},
            "teacher": {
                "model": {"kind": "mlp", "hidden": [16], "dropout": 0.2},
                "training": {"epochs": 3, "checkpoint_seconds": 0.0},
            },
            "student": {"model": {"kind": "mlp", "hidden": [4]}},
        }
    )
    return recipe, prepare(recipe)


def teaching(recipe_and_parts, cache, report):
    recipe, parts = recipe_and_parts
    said, looks = [], []
    model = trained_teacher(recipe, parts, 0, cache=cache, say=said.append, watch=looks.append).model
    taken = sum(not look.resumed for look in looks)
    report.write_text(json.dumps({"said": said, "digest": state_digest(model), "looks": taken}))


@pytest.mark.thorough
def test_two_processes_that_want_one_teacher_train_it_once(tmp_path, recipe_and_parts):
    reports = [tmp_path / "0.json", tmp_path / "1.json"]
    children = [
        forked(lambda report=report: teaching(recipe_and_parts, tmp_path / "cache", report)) for report in reports
    ]
    assert [end_of(child) for child in children] == [0, 0]
    told = [json.loads(report.read_text()) for report in reports]
    trainer, reader = sorted(told, key=lambda report: report["said"][0].startswith("teacher: found"))
    assert trainer["said"][0].startswith("teacher: training in")
    assert reader["said"][0].startswith("teacher: found in")
    assert trainer["looks"] >= 3
    assert reader["looks"] == 0
    assert trainer["digest"] == reader["digest"]


@pytest.mark.thorough
def test_the_process_that_waits_goes_on_where_the_killed_one_stood(tmp_path, recipe_and_parts):
    teaching(recipe_and_parts, tmp_path / "whole", tmp_path / "whole.json")
    first = forked(lambda: teaching(recipe_and_parts, tmp_path / "cache", tmp_path / "0.json"))
    while not list((tmp_path / "cache").glob("trainings/*/checkpoints/step-*")):
        time.sleep(0.002)
    second = forked(lambda: teaching(recipe_and_parts, tmp_path / "cache", tmp_path / "1.json"))
    os.kill(first, signal.SIGKILL)
    assert end_of(first) == -signal.SIGKILL
    assert end_of(second) == 0
    whole, told = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "1.json"))
    assert told["digest"] == whole["digest"]
    (made,) = (tmp_path / "cache" / "trainings").iterdir()
    (expected,) = (tmp_path / "whole" / "trainings").iterdir()
    assert sha256(made / "metrics.jsonl") == sha256(expected / "metrics.jsonl")


# ------------------------------------------------------------------------------------------ what a folder already holds


@pytest.mark.thorough
def test_a_finished_folder_is_read_without_training(tmp_path, uninterrupted):
    def never(step):
        raise AssertionError("a step was taken")

    run(tmp_path)
    before = {path: (path.stat().st_mtime_ns, sha256(path)) for path in tmp_path.iterdir()}
    looks = []
    result = run(tmp_path, act=never, watch=looks.append)
    assert same(tmp_path, "everything", result, uninterrupted)
    assert {path: (path.stat().st_mtime_ns, sha256(path)) for path in tmp_path.iterdir()} == before
    assert [(look.resumed, look.step, look.steps) for look in looks] == [(True, 9, 9)]


@pytest.mark.miniature(1)
@pytest.mark.parametrize("finished", [False, True])
def test_a_student_that_starts_from_other_weights_is_refused(tmp_path, finished):
    act = (lambda step: None) if finished else once(4, lambda: send(signal.SIGINT))
    with nullcontext() if finished else pytest.raises(Interrupted):
        run(tmp_path, act=act)
    with pytest.raises(RunError, match=r"another training: student\.weights was .*torch\.manual_seed"):
        run(tmp_path, initial=7)
