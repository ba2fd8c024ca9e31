"""Groups as real processes: what they learn in step is the reference's, and one that is killed stops nobody."""

import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launches import end_of, forked
from limbeck.training import fit

SCRIPT = Path(__file__).parent / "scripts" / "groups.py"
_spec = importlib.util.spec_from_file_location("limbeck_groups", SCRIPT)
groups = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(groups)

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
TIMEOUT = 240


@pytest.fixture
def launch(tmp_path):
    """Start a group; whatever is running when the test ends is ended."""
    started = []

    def start(group, *, launcher=(sys.executable,), **settings):
        folder = tmp_path / f"group {group}"
        folder.mkdir(exist_ok=True)
        told = {"group": group, "exchange": str(tmp_path / "exchange"), "folder": str(folder), **settings}
        process = subprocess.Popen(
            [*launcher, str(SCRIPT), json.dumps(told)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process, code=0):
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, said[-4000:]


def kept(tmp_path, group):
    return load_file(tmp_path / f"group {group}" / "student.safetensors")


def said(tmp_path, group):
    file = tmp_path / f"group {group}" / "said.txt"
    return file.read_text().splitlines() if file.is_file() else []


def steps_published(tmp_path, group):
    return sorted(
        int(path.name.split("-")[1].split(".")[0])
        for path in (tmp_path / "exchange").glob(f"group-{group}/*-*.safetensors")
    )


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"every": 1}, {"every": 2, "predict": True}], ids=["weights", "predictions"])
def test_groups_in_step_learn_what_peers_of_one_process_learn(launch, tmp_path, more):
    how = {"groups": 2, "burn_in": 2, "dropout": 0.3, **more}
    running = [launch(group, wait=True, **how) for group in (1, 2)]
    wanted = groups.together(**how)
    for group, process in enumerate(running, start=1):
        ended(process)
        found = kept(tmp_path, group)
        for name, tensor in wanted[group - 1].student.state_dict().items():
            assert torch.equal(tensor, found[name]), name
        assert said(tmp_path, group) == []


@pytest.mark.slow
@pytest.mark.parametrize("predict", [False, True], ids=["weights", "predictions"])
def test_a_group_of_two_processes_meets_one_of_one(launch, tmp_path, predict):
    how = {"groups": 2, "every": 3, "burn_in": 1, "predict": predict}
    running = [launch(1, launcher=LAUNCHER, wait=True, **how), launch(2, wait=True, **how)]
    wanted = groups.together(**how)
    for group, process in enumerate(running, start=1):
        ended(process)
        found = kept(tmp_path, group)
        for name, tensor in wanted[group - 1].student.state_dict().items():
            torch.testing.assert_close(tensor, found[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "more",
    [{"epochs": 6}, {"epochs": 3, "predict": True}],  # 36 steps either way
    ids=["weights", "predictions"],
)
@pytest.mark.slow
def test_a_group_that_is_killed_is_missed_and_catches_up_when_it_is_started_again(launch, tmp_path, more):
    how = {"groups": 2, "every": 1, "burn_in": 0, "wait": True, **more}
    first = launch(1, lost_after=1.5, hold_at=20, **how)
    second = launch(2, die_at=10, **how)
    ended(second, -signal.SIGKILL)
    assert max(steps_published(tmp_path, 2)) == 10
    until(lambda: said(tmp_path, 1))
    assert said(tmp_path, 1)[0].startswith("group 2 is lost: nothing new for ")
    assert said(tmp_path, 1)[0].endswith("; continuing with its step 10, and not waiting for it")
    until(lambda: max(steps_published(tmp_path, 1)) == 20)
    again = launch(2, resumed=True, **how)
    until(lambda: max(steps_published(tmp_path, 2)) == 21)  # and there it waits
    (tmp_path / "group 1" / "go").touch()
    ended(again)
    ended(first)
    assert said(tmp_path, 1)[1:] == ["group 2 is back: it has published its step 21"]
    assert not said(tmp_path, 2)
    for group in (1, 2):
        assert max(steps_published(tmp_path, group)) == 36
        assert (tmp_path / f"group {group}" / "result.json").is_file()


def apart(group, tmp_path, **how):
    """Start a group in a process forked from this one."""
    places = {"exchange": str(tmp_path / "exchange"), "folder": str(tmp_path / f"group {group}")}
    return forked(partial(groups.apart, group, **places, wait=True, **how))


# Python 3.12 warns of any fork in a process with threads; these children only compute and end.
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({"every": 1}, {1: [4, 9, 13], 2: [0, 7, 20]}),
        ({"every": 3}, {1: [7, 11, 14], 2: [5, 14, 16]}),
        ({"every": 2, "predict": True}, {1: [18, 30, 34], 2: [2, 4, 20]}),
    ],
    ids=str,
)
def test_groups_in_step_that_are_killed_anywhere_and_go_on_learn_the_same(tmp_path, more, ends):
    """Without a checkpoint at every step: what was published since the last one is taken once more."""
    how = {"groups": 2, "burn_in": 2, "dropout": 0.3, "epochs": 4, **more, "checkpoint_seconds": 1e9}
    wanted = groups.together(**how)  # which also loads what the children need
    ends, started = copy.deepcopy(ends), {}
    for group in (1, 2):
        (tmp_path / f"group {group}").mkdir()
    try:
        for group, (first, *_) in ends.items():
            started[group] = apart(group, tmp_path, die_at=first, **how)
        for _ in range(6):  # three times each, whichever comes to its end first
            child, status = os.wait()
            group = next(group for group, known in started.items() if known == child)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            ends[group].pop(0)
            started[group] = apart(group, tmp_path, die_at=(*ends[group], -1)[0], resumed=True, **how)
        for group in (1, 2):
            assert end_of(started.pop(group)) == 0
    finally:
        for child in started.values():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    for group in (1, 2):
        for name, tensor in wanted[group - 1].student.state_dict().items():
            assert torch.equal(tensor, kept(tmp_path, group)[name]), (group, name)
        assert said(tmp_path, group) == []
        assert len(steps_published(tmp_path, group)) < 24  # what nobody can take again is deleted


@pytest.mark.slow
@pytest.mark.parametrize("update", ["simultaneous", "sequential"])
def test_peers_that_each_are_spread_over_two_processes_learn_the_same(tmp_path, update):
    how = {"groups": 2, "every": 2, "burn_in": 1, "update": update}
    done = subprocess.run(
        [*LAUNCHER, str(SCRIPT), json.dumps({"folder": str(tmp_path), **how})],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for number, result in enumerate(groups.together(**how), start=1):
        found = load_file(tmp_path / f"peer {number}.safetensors")
        for name, tensor in result.student.state_dict().items():
            torch.testing.assert_close(tensor, found[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_groups_that_wait_for_nobody_end_whatever_the_others_do(launch, tmp_path):
    how = {"groups": 3, "every": 4, "burn_in": 0, "wait": False}
    ended(launch(1, **how))
    alone = kept(tmp_path, 1)
    last = launch(3, **how)
    ended(last)
    later = kept(tmp_path, 3)
    reference = groups.together(groups=3, every=4, burn_in=100)
    for name, tensor in reference[0].student.state_dict().items():
        assert torch.equal(tensor, alone[name]), "nobody had published when it trained"
    assert any(not torch.equal(tensor, later[name]) for name, tensor in reference[2].student.state_dict().items())


@pytest.mark.slow
def test_a_signal_while_it_waits_saves_and_stops_it(launch, tmp_path):
    how = {"groups": 2, "every": 1, "burn_in": 3}
    waiting = launch(1, wait=True, **how)
    until(lambda: steps_published(tmp_path, 1) == [3])
    time.sleep(0.3)
    waiting.send_signal(signal.SIGTERM)
    _, errors = waiting.communicate(timeout=TIMEOUT)
    assert "interrupted by SIGTERM; last good checkpoint" in errors
    running = [launch(1, wait=True, resumed=True, **how), launch(2, wait=True, **how)]
    wanted = groups.together(**how)
    for group, process in enumerate(running, start=1):
        ended(process)
        found = kept(tmp_path, group)
        for name, tensor in wanted[group - 1].student.state_dict().items():
            assert torch.equal(tensor, found[name]), name


def test_a_group_learns_the_same_from_the_predictions_of_another_as_from_its_network(tmp_path):
    """In this process, one after the other: the second one hears of the first one's end alone."""
    how = {"groups": 2, "every": 5, "burn_in": 0, "predict": True, "epochs": 2}
    found = []
    for number in (1, 2):
        folder = tmp_path / f"group {number}"
        folder.mkdir()
        apart = {"exchange": str(tmp_path / "exchange"), "folder": str(folder), "wait": False}
        found.append(groups.apart(number, **apart, **how).student.eval())
    (shown,) = (tmp_path / "exchange").glob("group-1/ended-*.safetensors")
    data, published = groups.samples(), load_file(shown)
    assert torch.equal(published["index"], data.index)
    torch.testing.assert_close(published["logits"], found[0](data.gather(data.index)).detach())
    alone = groups.together(**{**how, "burn_in": 100})[0].student
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), found[0].parameters(), strict=True))

    distiller = groups.PeerDistiller(groups.network(2, 0.0), groups.Others([found[0]]), groups.objective(), burn_in=0)
    distiller.others.present = [True]
    peer = groups.peer(distiller, 2, 2, None, predict=True, epochs=2)
    taught = fit(distiller, peer.train_set, peer.validation, training=peer.training, seed=peer.seed).student
    for one, other in zip(taught.parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-3)  # batches of 96 and of 8 round in other ways


@pytest.mark.thorough
def test_a_group_that_goes_on_between_two_exchanges_takes_what_it_missed_at_once(tmp_path):
    """In this process, one after the other: the second one is broken off, and hears of the first before it goes on."""
    how = {"groups": 2, "every": 5, "burn_in": 0, "wait": False}
    shared = str(tmp_path / "exchange")
    folders = [tmp_path / f"group {number}" for number in (1, 2)]
    for folder in folders:
        folder.mkdir()
    groups.apart(1, exchange=shared, folder=str(folders[0]), **how)

    class Killed(Exception):
        """The process was killed here."""

    def until_step_seven(step):
        if step == 7:
            raise Killed

    heard = []

    def what_is_heard(step):
        heard.append((step, taught()))

    def second(act, **more):
        others = [groups.published_copy(groups.network(1, 0.0))]
        distiller = groups.PeerDistiller(
            groups.network(2, 0.0), groups.Others(others), groups.objective(act), burn_in=0
        )
        nonlocal taught
        taught = lambda: distiller.others.speak  # noqa: E731
        door = groups.Exchange(tmp_path / "exchange", 2, 2, {"seed": 0}, run="run 2")
        return groups.fit_group(groups.peer(distiller, 2, 2, folders[1]), door, every=5, **more)

    taught = bool
    with pytest.raises(Killed):
        second(until_step_seven)
    second(what_is_heard, resumed=True)
    assert heard[0] == (7, True)
