"""Which processes train together, what the first one does for all, and how they end."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import distributed

from limbeck import errors, ranks
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import CheckpointError, InputError, Interrupted, RunError, UnwrittenError
from limbeck.methods import hard
from limbeck.training import fit
from limbeck.training.engine import engine

SECOND = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


# ----------------------------------------------------------------------------------------------------- the environment


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*SECOND, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def trained():
    torch.manual_seed(0)
    samples = TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4, classes=4)
    distiller = Distiller(torch.nn.Linear(3, 4), None, hard())
    return fit(distiller, samples, epochs=1, batch_size=16).student.weight.clone()


def test_a_launch_is_read_as_it_was_written():
    assert ranks.launched(SECOND) == ranks.Launch(1, 2, 1, "127.0.0.1", 29500)


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"MASTER_ADDR": "far", "MASTER_PORT": "x"},
        {"WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
)
def test_one_process_is_no_launch(alone):
    assert ranks.launched(alone) is None


BROKEN = [
    ({"RANK": "0"}, "WORLD_SIZE: found it unset beside RANK=0"),
    ({"LOCAL_RANK": "0"}, "WORLD_SIZE: found it unset beside LOCAL_RANK=0"),
    ({"WORLD_SIZE": "2"}, "RANK: found it unset beside WORLD_SIZE=2"),
    ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK: found it unset beside RANK=0, WORLD_SIZE=2"),
    ({**SECOND, "RANK": "abc"}, "RANK: found 'abc'; expected a whole number from 0 to 1"),
    ({**SECOND, "RANK": "5"}, "RANK: found '5'; expected a whole number from 0 to 1"),
    ({**SECOND, "RANK": "-1"}, "RANK: found '-1'; expected a whole number from 0 to 1"),
    ({**SECOND, "RANK": "1.0"}, "RANK: found '1.0'; expected a whole number from 0 to 1"),
    ({**SECOND, "RANK": "\u0661"}, "RANK: found '\u0661'; expected a whole number from 0 to 1"),
    ({**SECOND, "LOCAL_RANK": "2"}, "LOCAL_RANK: found '2'; expected a whole number from 0 to 1"),
    ({**SECOND, "WORLD_SIZE": "0"}, "WORLD_SIZE: found '0'; expected a whole number from 1 on"),
    ({**SECOND, "WORLD_SIZE": "two"}, "WORLD_SIZE: found 'two'; expected a whole number from 1 on"),
    ({**SECOND, "MASTER_ADDR": ""}, "MASTER_ADDR: found it unset beside WORLD_SIZE=2"),
    ({**SECOND, "MASTER_PORT": ""}, "MASTER_PORT: found it unset beside WORLD_SIZE=2"),
    ({**SECOND, "MASTER_PORT": "x"}, "MASTER_PORT: found 'x'; expected a whole number from 1 to 65535"),
    ({**SECOND, "MASTER_PORT": "65536"}, "MASTER_PORT: found '65536'; expected a whole number from 1 to 65535"),
    ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP: found 'true'; expected it unset"),
    ({"ACCELERATE_USE_DEEPSPEED": "1"}, "ACCELERATE_USE_DEEPSPEED: found '1'; expected it unset"),
    ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU: Accelerate refuses it"),
    ({"ACCELERATE_TORCH_DEVICE": "nonsense"}, "ACCELERATE_TORCH_DEVICE: Accelerate refuses it"),
]


@pytest.fixture
def anew():
    """Let Accelerate read the environment as a new process would, and forget afterwards what it read."""
    from accelerate.state import AcceleratorState, PartialState

    for state in (AcceleratorState, PartialState):
        state._reset_state()
    yield
    for state in (AcceleratorState, PartialState):
        state._reset_state()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(("variables", "line"), BROKEN)
def test_a_broken_launch_is_one_line_where_a_training_begins(monkeypatch, variables, line):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        trained()
    assert str(caught.value).startswith(line)
    assert "unset" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("anew")
def test_what_other_launchers_left_over_decides_nothing(monkeypatch):
    usual = trained()
    left_over = {
        "ACCELERATE_MIXED_PRECISION": "fp8",
        "ACCELERATE_DYNAMO_BACKEND": "nonsense",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "PMI_SIZE": "nonsense",
        "FORK_LAUNCHED": "1",
        "WORLD_SIZE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert torch.equal(trained(), usual)
    assert (engine("fp32").num_processes, engine("fp32").mixed_precision) == (1, "no")
    assert dict(os.environ) == before


def test_a_partner_that_never_comes_is_told_of_and_given_up(monkeypatch, caplog):
    monkeypatch.setattr(ranks, "_MEETING", 0.6)
    monkeypatch.setattr("limbeck.locks._SILENT", 0.1)
    monkeypatch.setattr("limbeck.locks._BETWEEN", 0.1)
    for name, value in {**SECOND, "MASTER_PORT": "1"}.items():  # where nothing listens
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"^processes: RANK 0 of 2 has not come to 127\.0\.0\.1:1 in 1 s; start all 2 "):
        trained()
    assert "processes: RANK 0 of 2 has not come to 127.0.0.1:1; waiting for it (0 s so far)" in caplog.messages
    assert not distributed.is_initialized()


# ------------------------------------------------------------------------------------------------- the first one's work


@pytest.fixture
def together(monkeypatch):
    """Return what makes this process one of two, which leave each other word in one store."""
    store = distributed.HashStore()
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr(ranks, "_store", lambda: store)
    monkeypatch.setattr(ranks, "_GRACE", 0.05)

    def be(rank):
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        monkeypatch.setitem(ranks._counted, "calls", 0)
        monkeypatch.setitem(ranks._counted, "ends", 0)

    return be


def refuse():
    raise AssertionError("this is the first one's work")


def test_all_have_what_the_first_one_did_and_it_may_do_more_within(together):
    together(0)
    assert ranks.first_does(lambda: [ranks.first_does(lambda: 1), 2.5]) == [1, 2.5]
    assert ranks.first_says("the first") == "the first"
    together(1)
    assert ranks.first_does(refuse) == [1, 2.5]
    assert ranks.first_says("the second") == "the first"


@pytest.mark.parametrize(
    "error",
    [RunError("disk: full"), UnwrittenError("disk: full"), CheckpointError("it: is damaged"), Interrupted("by", 15)],
)
def test_the_first_ones_error_is_raised_in_all(together, error):
    def fail():
        raise error

    for rank in (0, 1):
        together(rank)
        with pytest.raises(type(error)) as caught:
            ranks.first_does(fail if rank == 0 else refuse)
        assert str(caught.value) == str(error)
        assert caught.value.exit_code == error.exit_code


def test_a_process_that_waits_for_the_first_one_ends_with_it(together):
    together(0)
    assert ranks.end_together(errors.NonFiniteLossError("step 3: term 'hard' is nan"), [].append) == 1
    together(1)
    with pytest.raises(RunError) as caught:
        ranks.first_does(refuse)
    assert caught.value.exit_code == 1


ENDS = {
    "the same mistake is found by both": ([RunError("a: b"), RunError("a: b")], (2, ["a: b"]), (2, [])),
    "the first one fails": ([RunError("disk: full"), None], (2, ["disk: full"]), (2, [])),
    "another one fails": ([None, InputError("memory: none")], (2, ["process 1: memory: none"]), (2, [])),
    "a signal": ([Interrupted("by SIGTERM", 15), Interrupted("by SIGTERM", 15)], (143, ["by SIGTERM"]), (143, [])),
}


@pytest.mark.parametrize("case", ENDS)
def test_of_two_that_end_one_says_why_and_both_exit_alike(together, case):
    """None: what a process finds whose partner is gone."""
    found, *expected = ENDS[case]
    lost = ranks.Lost("processes: another one has ended")
    for rank in (0, 1) if found[1] is None or found[0] is not None else (1, 0):
        said = []
        together(rank)
        if rank == 1 and found[0] is None:  # which does not wait for ever: then it says its line itself
            assert ranks.end_together(found[rank], said.append) == 2
            assert said == ["process 1: memory: none"]
            continue
        assert (ranks.end_together(found[rank] or lost, said.append), said) == expected[rank]


class GoneWithTheFirst:
    """A store that ends with the first process, and is slow to answer the other one."""

    def __init__(self):
        self.store, self.gone = distributed.HashStore(), False

    def __getattr__(self, name):
        def call(*arguments):
            if distributed.get_rank() == 1 and name != "set":
                time.sleep(0.1)
            if self.gone:
                raise RuntimeError("Connection reset by peer")
            return getattr(self.store, name)(*arguments)

        return call


def test_the_first_one_stays_until_the_others_have_read_why_it_ended_at_each_command(together, monkeypatch):
    own, said, store = threading.local(), {0: [], 1: []}, GoneWithTheFirst()
    together(0)
    monkeypatch.setattr(distributed, "get_rank", lambda: own.rank)
    monkeypatch.setattr(ranks, "_store", lambda: store)
    monkeypatch.setattr(ranks, "_GRACE", 10.0)

    def end(rank):
        own.rank = rank
        assert ranks.end_together(RunError("a: b"), said[rank].append) == 2
        store.gone |= rank == 0

    with ThreadPoolExecutor() as pool:
        for command in (1, 2):
            store.gone = False
            list(pool.map(end, (0, 1)))
            assert store.gone
            assert said == {0: ["a: b"] * command, 1: []}


def test_a_lost_connection_is_one_line_and_other_errors_stay_what_they_are(together):
    together(0)
    with pytest.raises(RunError, match=r"^processes: another process of this training has ended; "), ranks.all_there():
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), ranks.all_there():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_alone_a_line_is_said_as_it_is():
    said = []
    assert ranks.end_together(InputError("key: found 1"), said.append) == 2
    assert said == ["key: found 1"]
    assert json.loads(json.dumps(ranks.first_says({"a": [1]}))) == {"a": [1]}
