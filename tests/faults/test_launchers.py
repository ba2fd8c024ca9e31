"""Recipes carried out by the processes of a launch: as by one, killed and resumed, with a stored teacher."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from faults import DISTILL, RECIPE, SHORT, bits, command, ended, furnished, run_of, started, warm
from launches import free_port, take_place
from limbeck.evaluation import metrics
from limbeck.training.state import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STORE = {"encoding": "topk", "k": 2, "path": "answers"}
BOUND = 30
"""Seconds in which all processes end once one is killed; those who wait for the first do so for 15."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = furnished(tmp_path_factory.mktemp("launch"))
    warm(folder)
    return folder


def furnish(made, folder, **keys):
    folder.mkdir()
    (folder / "own.npz").write_bytes((made / "own.npz").read_bytes())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | keys))
    return folder


def launched(folder, *more, strike=lambda rank: None):
    """Distill in two processes; return what each ended with.  strike: called in each before it begins."""
    port = free_port()

    def prepare(rank):
        take_place(rank, 2, port)
        metrics._AT_ONCE = 10  # so that there are batches to divide
        strike(rank)

    both = [started(folder, *DISTILL, *more, prepare=partial(prepare, rank)) for rank in (0, 1)]
    return [ended(*each) for each in both]


def killed(who, step, rank):
    """Let one process be killed at a step, counted over all trainings."""
    real, seen = Run.due, []

    def due(run, *arguments):
        seen.append(run)
        if rank == who and len(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(run, *arguments)

    Run.due = due


def alike(one, other, tolerance=1e-6):
    for role in ("teacher", "alone", "distilled"):
        found, wanted = one["seeds"][0][role], other["seeds"][0][role]
        assert (found["examples"], found["errors"]) == (wanted["examples"], wanted["errors"])
        assert found["nll"] == pytest.approx(wanted["nll"], rel=tolerance)


@pytest.fixture(scope="module")
def whole(made):
    folder = furnish(made, made / "whole")
    answers = launched(folder)
    assert [answer.code for answer in answers] == [0, 0], answers
    return run_of(folder)


@pytest.mark.thorough
@pytest.mark.parametrize(("who", "step"), [(1, 1), (0, 5), (1, 9)])
def test_killed_in_one_process_all_end_soon_with_one_line_and_resume_bit_for_bit(made, tmp_path, whole, who, step):
    folder = furnish(made, tmp_path / "killed")
    began = time.monotonic()
    answers = launched(folder, strike=partial(killed, who, step))
    assert time.monotonic() - began < BOUND
    assert [answer.code for answer in answers] == ([2, -9] if who else [-9, 2]), answers
    said = [line for answer in answers for line in answer.lines if "limbeck: " in line]
    assert not any("Traceback" in answer.err for answer in answers)
    assert len(said) == 1, answers
    assert "another process of this training has ended; " in said[0]
    assert "go on: limbeck distill" in said[0]
    assert [answer.code for answer in launched(folder, "--resume", run_of(folder))] == [0, 0]
    assert bits(run_of(folder)) == bits(whole)


@pytest.mark.thorough
def test_a_stored_teacher_serves_two_processes_as_it_serves_one(made, tmp_path):
    teacher = {"model": {"kind": "mlp", "hidden": [16]}, "training": SHORT, "store": STORE}
    keys = {"teacher": teacher, "method": {"name": "kd", "temperature": 2.0}}
    one, two = (furnish(made, tmp_path / name, **keys) for name in ("one", "two"))
    assert command(one, *DISTILL).code == 0
    answers = launched(two)
    assert [answer.code for answer in answers] == [0, 0], answers
    assert [path.name for path in sorted((two / "answers").glob("*.bin"))] == [
        path.name for path in sorted((one / "answers").glob("*.bin"))
    ]
    alike(*(json.loads((run_of(folder) / "outcome.json").read_text()) for folder in (one, two)), tolerance=1e-4)


TEACHER = {"model": {"kind": "mlp", "hidden": [16]}, "store": False}
DIVIDED = {
    "teacher": TEACHER | {"training": SHORT | {"fsdp": "student"}},
    "training": RECIPE["training"] | {"fsdp": "both"},
}


@pytest.fixture(scope="module")
def divided(made):
    folder = furnish(made, made / "divided", **DIVIDED)
    answers = launched(folder)
    assert [answer.code for answer in answers] == [0, 0], answers
    return run_of(folder)


def test_networks_divided_among_two_processes_learn_what_whole_ones_learn_in_one(made, tmp_path, divided):
    one = furnish(made, tmp_path / "one", teacher=TEACHER | {"training": SHORT})
    assert command(one, *DISTILL).code == 0
    found, wanted = (json.loads((run / "outcome.json").read_text()) for run in (divided, run_of(one)))
    alike(found, wanted, tolerance=1e-4)
    for file in ("teacher-0.safetensors", "alone-0/student.safetensors", "distilled-0/student.safetensors"):
        two, alone = load_file(divided / file), load_file(run_of(one) / file)
        assert two.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(("who", "step"), [(1, 5), (0, 9)])
def test_a_launch_with_divided_networks_of_which_one_is_killed_resumes_bit_for_bit(made, tmp_path, divided, who, step):
    folder = furnish(made, tmp_path / "killed", **DIVIDED)
    began = time.monotonic()
    answers = launched(folder, strike=partial(killed, who, step))
    assert time.monotonic() - began < BOUND
    assert [answer.code for answer in answers] == ([2, -9] if who else [-9, 2]), answers
    said = [line for answer in answers for line in answer.lines if "limbeck: " in line]
    assert len(said) == 1, answers
    assert "another process of this training has ended; " in said[0]
    assert [answer.code for answer in launched(folder, "--resume", run_of(folder))] == [0, 0]
    assert bits(run_of(folder)) == bits(divided)


@pytest.mark.thorough
def test_a_recipe_that_divides_networks_wants_several_processes(made, tmp_path):
    folder = furnish(made, tmp_path / "one", **DIVIDED)
    command(folder, *DISTILL).refused("teacher.training.fsdp: found 'student' in one process; expected several")
    assert command(folder, "check", "recipe.yaml").code == 0


LAUNCHERS = {
    "torchrun": ["torchrun", "--standalone", "--nproc-per-node", "2", "-m"],
    "accelerate": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "bf16", "-m"],
}


def command_of(launcher):
    first, *more = LAUNCHERS[launcher]
    return [str(Path(sys.executable).parent / first), *more, "limbeck"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_usual_launchers_carry_out_a_recipe(made, tmp_path, whole, launcher):
    folder = furnish(made, tmp_path / "launched")
    arguments = [*command_of(launcher), *DISTILL, "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(
        arguments, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    alike(json.loads(found.stdout), json.loads((whole / "outcome.json").read_text()))


@pytest.mark.slow
def test_torchrun_ends_a_recipe_of_which_one_process_is_killed_and_resumes_it_bit_for_bit(made, tmp_path):
    whole, folder = (furnish(made, tmp_path / name) for name in ("whole", "launched"))
    long = [f"{part}.epochs=40" for part in ("teacher.training", "training")]
    assert [answer.code for answer in launched(whole, *long)] == [0, 0]
    arguments = [*command_of("torchrun"), "distill", "recipe.yaml", *long, "--no-report"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    launch = subprocess.Popen(arguments, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    while "epoch" not in (line := launch.stderr.readline()):
        assert line, "it has ended"
    children = Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()
    ranks = {Path(f"/proc/{child}/environ").read_text().partition("\0RANK=")[2][:1]: int(child) for child in children}
    began = time.monotonic()
    os.kill(ranks["1"], signal.SIGKILL)
    _, said = launch.communicate(timeout=60)
    assert time.monotonic() - began < BOUND
    ours = [line for line in said.splitlines() if line.startswith("limbeck: ")]
    assert len(ours) == 1, said
    assert "another process of this training has ended" in ours[0]
    again = subprocess.run(
        [*arguments, "--resume", run_of(folder)],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    assert bits(run_of(folder)) == bits(run_of(whole))
