"""Checkpoints: what is written comes back, what is damaged is named, and nothing that was good is lost."""

import errno
import json
import math
import os
import pickle
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limbeck import methods
from limbeck.data import Augment, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import CheckpointError, RunError
from limbeck.locks import exclusive
from limbeck.teachers.model import state_digest
from limbeck.training import checkpoints as kept
from limbeck.training import fit, load_weights, save_weights

TENSORS = {
    "float": torch.tensor([1.0, -0.0, math.inf, 1e-45]),
    "half": torch.tensor([1.5, -2.0]).bfloat16(),
    "double": torch.tensor(1 / 3, dtype=torch.float64),
    "whole": torch.tensor([[1, -(2**62)]]),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(6.0).view(2, 3).t(),
}
STATE = {"step": 7, "rate": 0.1 + 0.2, "score": [math.inf, 3], "none": None, "nested": {"a/b": [1.5, "é"]}}
SAMPLES = TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4)


def written(folder, *steps):
    return [kept.write(folder, step, {**TENSORS, "step": torch.tensor(step)}, {**STATE, "at": step}) for step in steps]


def network(*middle):
    return nn.Sequential(nn.Linear(3, 5), *middle, nn.Linear(5, 4))


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


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


DAMAGE = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "other": lambda path: path.write_bytes(b'{"sha256": "", "body": ""}'),
    "a list": lambda path: path.write_bytes(b"[]"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"}"),
    "first bit": lambda path: flip(path, 0),
    "last bit": lambda path: flip(path, 8 * path.stat().st_size - 1),
    "middle bit": lambda path: flip(path, 4 * path.stat().st_size),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGE)
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


@pytest.mark.parametrize(
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


def train(folder, width=5, **settings):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 4))
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "checkpoint_seconds": 0.0} | settings
    return fit(Distiller(student, None, methods.hard()), SAMPLES, SAMPLES, folder=folder, **settings)


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


# ----------------------------------------------------------------------------------------------------------- optimisers


OPTIMISERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(tmp_path, kind):
    inputs = torch.randn(6, 8, 3)

    def steps(model, optimiser, batches):
        for batch in batches:
            optimiser.zero_grad()
            model(batch).square().mean().backward()
            optimiser.step()

    model = network()
    optimiser = OPTIMISERS[kind](model.parameters())
    steps(model, optimiser, inputs[:3])
    tensors, rest = kept.optimiser_tensors(optimiser)
    path = kept.write(tmp_path, 3, {**tensors, "model.x": torch.ones(1)}, {"optimiser": rest})
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps(model, optimiser, inputs[3:])

    again = network()
    again.load_state_dict(weights)
    fresh = OPTIMISERS[kind](again.parameters())
    fresh.param_groups[0]["lr"] = 99.0
    read, state = kept.read(path)
    kept.restore_optimiser(fresh, read, state["optimiser"])
    assert fresh.param_groups[0]["lr"] == 0.1
    steps(again, fresh, inputs[3:])
    assert state_digest(again) == state_digest(model)
    assert bool(tensors) is (kind != "sgd")


def test_the_state_of_an_optimiser_that_has_not_stepped_comes_back_empty():
    optimiser = OPTIMISERS["adamw"](network().parameters())
    tensors, rest = kept.optimiser_tensors(optimiser)
    assert tensors == {}
    kept.restore_optimiser(optimiser, tensors, json.loads(json.dumps(rest)))
    assert not optimiser.state


# -------------------------------------------------------------------------------------------------------------- weights


def test_weights_come_back_with_their_buffers(tmp_path):
    model = network(nn.BatchNorm1d(5))
    model(torch.randn(8, 3))
    save_weights(model, tmp_path / "deep" / "model.safetensors")
    again = network(nn.BatchNorm1d(5))
    load_weights(again, tmp_path / "deep" / "model.safetensors")
    assert state_digest(again) == state_digest(model)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.safetensors"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs):
        return self.head(self.embedding(inputs.long().clamp(0, 6)).mean(1))


def test_tied_weights_come_back_tied(tmp_path):
    model, again = Tied(), Tied()
    save_weights(model, tmp_path / "tied.safetensors")
    load_weights(again, tmp_path / "tied.safetensors")
    assert again.head.weight is again.embedding.weight
    assert torch.equal(again.head.weight, model.head.weight)


def test_training_tied_weights_goes_on_bit_for_bit(tmp_path):
    samples = TensorSet.of(torch.rand(24, 3) * 7, torch.arange(24) % 7)
    settings = {"epochs": 2, "batch_size": 8, "averaging": 0.9, "keep": "best", "checkpoint_seconds": 0.0}

    def run(folder, watch=lambda look: None):
        torch.manual_seed(0)
        return fit(Distiller(Tied(), None, methods.hard()), samples, samples, folder=folder, watch=watch, **settings)

    def stop(look):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop)
    again = run(tmp_path / "broken")
    assert again.student.head.weight is again.student.embedding.weight
    assert state_digest(again.student) == state_digest(whole.student)


def other_files(folder):
    model = network()
    save_weights(model, folder / "good.safetensors")
    tensors = load_file(folder / "good.safetensors")
    save_file({**tensors, "1.bias": torch.zeros(5)}, folder / "shape.safetensors")
    save_file({("0.weights" if k == "0.weight" else k): v for k, v in tensors.items()}, folder / "name.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "1.bias"}, folder / "less.safetensors")
    save_file({**tensors, "2.bias": torch.zeros(5)}, folder / "more.safetensors")
    (folder / "short.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-5])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    torch.save(model.state_dict(), folder / "model.pt")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("gone.safetensors", "there is no file"),
        ("folder.safetensors", "there is no file"),
        ("model.pt", "is no .safetensors file; convert it with safetensors.torch.save_file (a pickle can run code"),
        ("shape.safetensors", "of another architecture: '1.bias' is (5,) there, (4,) in the model"),
        ("name.safetensors", "of another architecture: it has no '0.weight'; did you mean '0.weights'?"),
        ("less.safetensors", "of another architecture: it has no '1.bias'"),
        ("more.safetensors", "of another architecture: the model has no '2.bias'; did you mean"),
        ("short.safetensors", "is no readable safetensors file"),
        ("empty.safetensors", "is no readable safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_is_as_it_was(tmp_path, file, says):
    other_files(tmp_path)
    model = network()
    before = state_digest(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / file)
    assert says in str(caught.value)
    assert str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_digest(model) == before


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.pkl", "model.safetensors", "model"])
def test_no_pickle_is_ever_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError):
        load_weights(network(), tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_no_pickle_in_a_checkpoint_is_ever_run(tmp_path, file):
    (path,) = written(tmp_path, 1)
    (path / file).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match="is damaged"):
        kept.read(path)
    assert not (tmp_path / "sprung").exists()


# -------------------------------------------------------------------------------------------------- a finished training


@pytest.mark.parametrize("damage", ["truncated", "empty", "a list", "not text", "missing keys"])
def test_a_damaged_result_is_named(tmp_path, damage):
    train(tmp_path)
    if damage == "missing keys":
        (tmp_path / "result.json").write_text("{}")
    else:
        DAMAGE[damage](tmp_path / "result.json")
    if damage == "truncated":
        truncate(tmp_path / "result.json")  # the last character is a newline
    with pytest.raises(CheckpointError, match=r"result\.json' is damaged .*delete it to start again"):
        train(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "middle bit", "last bit", "missing"])
def test_damaged_weights_of_a_finished_training_are_named(tmp_path, damage):
    train(tmp_path)
    DAMAGE[damage](tmp_path / "student.safetensors")
    with pytest.raises(CheckpointError, match=r"student\.safetensors'"):
        train(tmp_path)
    (tmp_path / "result.json").unlink()  # as the line says
    assert state_digest(train(tmp_path).student) == state_digest(train(tmp_path / "other").student)


def test_a_result_of_before_the_checksum_is_read(tmp_path):
    first = train(tmp_path)
    ended = json.loads((tmp_path / "result.json").read_text())
    del ended["weights_sha256"], ended["sha256"]
    (tmp_path / "result.json").write_text(json.dumps(ended))
    assert state_digest(train(tmp_path).student) == state_digest(first.student)


def test_a_setting_that_a_result_does_not_know_yet_had_its_default(tmp_path):
    first = train(tmp_path)
    ended = json.loads((tmp_path / "result.json").read_text())
    del ended["sha256"], ended["identity"]["training.clip"], ended["identity"]["training.augment"]["noise"]
    (tmp_path / "result.json").write_text(json.dumps(ended))
    assert state_digest(train(tmp_path).student) == state_digest(first.student)
    with pytest.raises(RunError, match=r"is of another training: training.clip was null, is 1.0"):
        train(tmp_path, clip=1.0)
    with pytest.raises(RunError, match=r"is of another training: training.augment was "):
        train(tmp_path, augment=Augment(noise=0.5))
    with pytest.raises(RunError, match=r"is of another training: training.epochs was 2, is 30"):
        train(tmp_path, epochs=30)


def test_no_bit_of_a_result_can_flip_unnoticed(tmp_path):
    kept.write_sealed(tmp_path / "result.json", {"history": [{"errors": 12, "nll": 0.25}], "none": None, "é": [1e-9]})
    content, path = kept.read_sealed(tmp_path / "result.json"), tmp_path / "flipped.json"
    whole = (tmp_path / "result.json").read_bytes()
    lines = []
    for bit in range(8 * len(whole)):
        path.write_bytes(whole)
        flip(path, bit)
        try:
            found = kept.read_sealed(path)
        except CheckpointError as error:
            lines.append(str(error))
        else:  # a space that became another, or the name of the checksum's own key
            assert {name: value for name, value in found.items() if len(name) != len("sha256")} == content
    assert len(lines) > 0.9 * 8 * len(whole)
    assert all(line.startswith(f"'{path}' is damaged (") for line in lines)


def test_a_result_that_says_something_else_is_refused(tmp_path):
    train(tmp_path)
    path = tmp_path / "result.json"
    text = path.read_text()
    path.write_text(text.replace('"errors": ', '"errors": 1', 1))
    assert path.read_text() != text
    with pytest.raises(CheckpointError, match=r"result\.json' is damaged \(wrong checksum\); delete it to start again"):
        train(tmp_path)


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
