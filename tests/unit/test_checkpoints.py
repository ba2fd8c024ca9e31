"""Checkpoints: what is written comes back, what is damaged is named, and nothing that was good is lost."""

import errno
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from limbeck.errors import CheckpointError, RunError
from limbeck.locks import exclusive
from limbeck.teachers.model import state_digest
from limbeck.training import checkpoints as kept
from limbeck.training import load_weights, save_weights
from small_checkpoints import DAMAGE, STATE, TENSORS, flip, network, train, truncate, written
from walk import over

# ----------------------------------------------------------------------------------------------------------- round trip


def test_tensors_and_state_come_back_bit_for_bit(tmp_path):
    tensors, state = kept.read(kept.write(tmp_path, 7, TENSORS, STATE))
    assert state == STATE
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].contiguous().view(torch.uint8 if tensor.ndim else tensor.dtype).tolist() == (
            tensor.contiguous().view(torch.uint8 if tensor.ndim else tensor.dtype).tolist()
        )


def test_whoever_may_read_other_new_files_may_read_these(tmp_path):
    (tmp_path / "other").touch()
    save_weights(network(), tmp_path / "weights.safetensors")
    checkpoint = kept.write(tmp_path, 1, TENSORS, STATE)
    mode = (tmp_path / "other").stat().st_mode
    assert [path.stat().st_mode for path in (tmp_path / "weights.safetensors", *checkpoint.iterdir())] == [mode] * 3


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    whole = torch.arange(6.0)
    tensors, _ = kept.read(kept.write(tmp_path, 1, {"whole": whole, "part": whole[2:4], "again": whole}, {}))
    assert torch.equal(tensors["part"], whole[2:4])
    assert torch.equal(tensors["again"], tensors["whole"])


def test_the_newest_two_are_kept(tmp_path):
    assert kept.newest(tmp_path / "none") is None
    paths = written(tmp_path, 1, 2, 9, 10, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010", "step-000000100"]
    assert kept.newest(tmp_path) == paths[-1]
    assert kept.read(paths[-2])[1]["at"] == 10


def test_a_step_may_be_written_again(tmp_path):
    written(tmp_path, 1, 2)
    kept.write(tmp_path, 2, {"x": torch.ones(1)}, {"at": "again"})
    assert kept.read(kept.newest(tmp_path))[1] == {"at": "again"}


def test_what_a_killed_process_left_behind_is_no_checkpoint_and_is_cleared_away(tmp_path):
    (first,) = written(tmp_path, 3)
    for number, left in enumerate((".step-000000004.tmp", "step-000000005")):
        (tmp_path / left).mkdir()
        (tmp_path / left / "tensors.safetensors").write_bytes(b"half" * number)
    (tmp_path / ".step-000000004.tmp" / "state.json").write_text("{}")
    assert kept.newest(tmp_path) == first
    written(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000005"]
    assert kept.read(kept.newest(tmp_path))[1]["at"] == 5


# --------------------------------------------------------------------------------------------------------------- damage


@over("file", ["tensors.safetensors", "state.json"])
@over("damage", DAMAGE)
def test_damage_is_named_with_the_older_good_checkpoint(tmp_path, file, damage):
    older, newer = written(tmp_path, 3, 4)
    DAMAGE[damage](newer / file)
    with pytest.raises(CheckpointError) as caught:
        kept.read(newer)
    assert str(newer) in str(caught.value)
    assert "is damaged" in str(caught.value)
    assert str(caught.value).endswith("; delete it to go on from 'step-000000003'")
    assert "\n" not in str(caught.value)
    assert kept.read(older)[1]["at"] == 3


def test_a_damaged_checkpoint_without_an_older_one_says_to_start_again(tmp_path):
    (only,) = written(tmp_path, 3)
    truncate(only / "tensors.safetensors")
    with pytest.raises(CheckpointError, match="delete it to start again"):
        kept.read(only)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_no_flipped_bit_goes_unnoticed(tmp_path, file):
    path = kept.write(tmp_path, 1, {"x": torch.tensor([1.0, 2.0])}, {"at": 1})
    for bit in range(0, 8 * (path / file).stat().st_size, 9):  # one of each byte, each place in turn
        flip(path / file, bit)
        with pytest.raises(CheckpointError):
            kept.read(path)
        flip(path / file, bit)
    assert kept.read(path)[1] == {"at": 1}


# ----------------------------------------------------------------------------------------------- failures in the middle


FULL = OSError(errno.ENOSPC, "No space left on device")


def failing(monkeypatch, where, after):
    """Let the call number `after` of one step of writing fail as it does on a full disk."""
    owner, name = {
        "tensors": (kept, "save_file"),
        "state": (Path, "write_text"),
        "sync": (os, "fsync"),
        "rename": (Path, "replace"),
        "folder": (Path, "mkdir"),
    }[where]
    real, calls = getattr(owner, name), []

    def call(*args, **options):
        calls.append(args)
        if len(calls) > after:
            if where in ("tensors", "state"):  # a part has been written by then
                target = Path(args[1] if where == "tensors" else args[0])
                target.write_bytes(b"half")
            raise FULL
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)


@over(
    ("where", "after"),
    [("folder", 0), ("tensors", 0), ("state", 0), ("sync", 0), ("sync", 1), ("rename", 0)],
)
def test_a_failure_in_the_middle_leaves_the_previous_checkpoint_newest(tmp_path, where, after):
    older, newer = written(tmp_path, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, where, after)
        with pytest.raises(OSError, match="No space left on device"):
            written(tmp_path, 5)
    assert kept.newest(tmp_path) == newer
    assert [kept.read(path)[1]["at"] for path in (older, newer)] == [3, 4]
    written(tmp_path, 6)  # there is space again
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000004", "step-000000006"]
    assert kept.read(kept.newest(tmp_path))[1]["at"] == 6


@pytest.mark.parametrize(("where", "after"), [("tensors", 0), ("sync", 0), ("rename", 0)])
def test_weights_are_written_whole_or_not_at_all(tmp_path, where, after):
    path = tmp_path / "student.safetensors"
    first = network()
    save_weights(first, path)
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, where, after)
        with pytest.raises(OSError, match="No space left"):
            save_weights(network(), path)
    again = network()
    load_weights(again, path)
    assert state_digest(again) == state_digest(first)


def test_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    kept.write_json(path, {"a": 1})
    for where in ("state", "sync", "rename"):
        with pytest.MonkeyPatch.context() as patch:
            failing(patch, where, 0)
            with pytest.raises(OSError, match="No space left"):
                kept.write_json(path, {"a": 2})
        assert kept.read_json(path) == {"a": 1}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("where", ["tensors", "state", "sync", "rename"])
def test_a_full_disk_is_one_line_that_names_the_folder_and_nothing_is_lost(tmp_path, where):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(whole)
    with pytest.MonkeyPatch.context() as patch:
        # In `write`, each of 8 checkpoints renames once, syncs three times, and writes one text; metrics add a text.
        failing(patch, where, {"tensors": 3, "state": 4, "sync": 10, "rename": 4}[where])
        with pytest.raises(RunError) as caught:
            train(broken)
    line = str(caught.value)
    assert line.startswith(f"run folder: cannot write a checkpoint to '{broken}' (No space left on device); ")
    assert line.endswith("free space or name another folder, then run the same command again")
    assert kept.newest(broken / "checkpoints").name == "step-000000003"
    assert state_digest(train(broken).student) == state_digest(expected.student)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@contextmanager
def largest_file(size):
    """Let the system itself refuse files above a size, as it refuses any on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    ("size", "seconds", "width", "what"),
    [(2000, 0.0, 5, "a checkpoint"), (100, 1e9, 5, "metrics"), (2000, 1e9, 500, "the result")],
)
def test_a_write_that_the_system_refuses_is_one_line(tmp_path, size, seconds, width, what):
    with largest_file(size), pytest.raises(RunError, match=f"^run folder: cannot write {what} to .*File too large"):
        train(tmp_path, width, checkpoint_seconds=seconds)
    assert not (tmp_path / "result.json").exists()
    free = train(tmp_path / "free", width)
    assert state_digest(train(tmp_path, width).student) == state_digest(free.student)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^run folder: cannot make '.*/file/run' \(Not a directory\); name a folder"):
        train(tmp_path / "file" / "run")


# ----------------------------------------------------------------------------------------------------------- optimizers


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
}


@over("kind", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_it_had_never_stopped(tmp_path, kind):
    inputs = torch.randn(6, 8, 3)

    def steps(model, optimizer, batches):
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    steps(model, optimizer, inputs[:3])
    tensors, rest = kept.optimizer_tensors(optimizer)
    path = kept.write(tmp_path, 3, {**tensors, "model.x": torch.ones(1)}, {"optimizer": rest})
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps(model, optimizer, inputs[3:])

    again = network()
    again.load_state_dict(weights)
    fresh = OPTIMIZERS[kind](again.parameters())
    fresh.param_groups[0]["lr"] = 99.0
    read, state = kept.read(path)
    kept.restore_optimizer(fresh, read, state["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1
    steps(again, fresh, inputs[3:])
    assert state_digest(again) == state_digest(model)
    assert bool(tensors) is (kind != "sgd")


def test_the_state_of_an_optimizer_that_has_not_stepped_comes_back_empty():
    optimizer = OPTIMIZERS["adamw"](network().parameters())
    tensors, rest = kept.optimizer_tensors(optimizer)
    assert tensors == {}
    kept.restore_optimizer(optimizer, tensors, json.loads(json.dumps(rest)))
    assert not optimizer.state


# --------------------------------------------------------------------------------------------------- one at a time


def test_a_folder_belongs_to_one_training_at_a_time(tmp_path):
    lines = []

    def intrude(progress):
        if not lines:
            before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
            with pytest.raises(RunError) as caught:
                train(tmp_path)
            lines.append(str(caught.value))
            assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    first = train(tmp_path, watch=intrude)
    assert lines == [
        f"run folder: '{tmp_path}' is in use by another training; wait for it, or name another folder",
    ]
    assert state_digest(train(tmp_path).student) == state_digest(first.student)


def test_a_training_that_has_ended_may_be_read_while_it_is_held(tmp_path):
    first = train(tmp_path)
    with exclusive(tmp_path / ".training.lock", wait=False, busy="busy"):
        assert state_digest(train(tmp_path).student) == state_digest(first.student)
        (tmp_path / "result.json").unlink()
        with pytest.raises(RunError, match="is in use by another training"):
            train(tmp_path)
