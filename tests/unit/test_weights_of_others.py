"""Weights that other programs wrote: files of torch.save, shards with an index, parts of a file, wrapped names."""

import json
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import CheckpointError
from limbeck.teachers.model import state_digest
from limbeck.training import load_weights
from small_checkpoints import network
from walk import over


def bare():
    model = network(nn.BatchNorm1d(5))
    model(torch.randn(8, 3))
    return model


def shards(state, folder, suffix="safetensors"):
    """Write a state as the Transformers library writes a large one: two shards and their index."""
    folder.mkdir()
    names = list(state)
    parts = {f"model-0000{number}-of-00002.{suffix}": names[number - 1 :: 2] for number in (1, 2)}
    write = save_file if suffix == "safetensors" else torch.save
    for file, own in parts.items():
        write({name: state[name] for name in own}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / f"model.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def saved(content, path):
    torch.save(content, path)
    return path


def whole(state, folder, suffix):
    folder.mkdir()
    return saved(state, folder / f"pytorch_model{suffix}").parent


WRITTEN = {
    "pt": (lambda state, at: saved(state, at / "w.pt"), None),
    "pth, not mapped": (lambda state, at: legacy(state, at / "w.pth"), None),
    "bin": (lambda state, at: saved(dict(state), at / "w.bin"), None),
    "ckpt with other entries": (
        lambda state, at: saved({"state_dict": state, "epoch": 3, "optimizer": {"lr": [0.1]}}, at / "w.ckpt"),
        "state_dict",
    ),
    "a part of a part": (
        lambda state, at: saved({"model": {"ema": state, "raw": {}}}, at / "w.pt"),
        "model.ema",
    ),
    "an attribute of a LightningModule": (
        lambda state, at: saved({"state_dict": {f"net.{name}": each for name, each in state.items()}}, at / "w.ckpt"),
        "state_dict.net",
    ),
    "names that begin alike": (
        lambda state, at: (
            save_file({f"net.{n}": each for n, each in state.items()}, at / "w.safetensors") or at / "w.safetensors"
        ),
        "net",
    ),
    "wrapped": (
        lambda state, at: saved({f"module._orig_mod.{n}": each for n, each in state.items()}, at / "w.pt"),
        None,
    ),
    "wrapped inside": (
        lambda state, at: saved({n.replace(".", "._orig_mod.", 1): each for n, each in state.items()}, at / "w.pt"),
        None,
    ),
    "wrapped in an entry": (
        lambda state, at: saved({"model": {f"module.{n}": each for n, each in state.items()}}, at / "w.pt"),
        "model",
    ),
    "shards": (lambda state, at: shards(state, at / "folder"), None),
    "an index": (lambda state, at: shards(state, at / "folder") / "model.safetensors.index.json", None),
    "shards of torch.save": (lambda state, at: shards(state, at / "folder", "bin"), None),
    "a folder with a file": (lambda state, at: whole(state, at / "folder", ".bin"), None),
}


@over("form", list(WRITTEN))
def test_weights_load_from_every_form_in_which_others_write_them(tmp_path, form):
    write, key = WRITTEN[form]
    model, filled = bare(), bare()
    assert state_digest(filled) != state_digest(model)
    path = write(model.state_dict(), tmp_path)
    load_weights(filled, path, key)
    assert state_digest(filled) == state_digest(model)


def hidden(state, at):
    shards(state, at / "folder")
    (at / "folder" / "model-00002-of-00002.safetensors").unlink()
    return at / "folder"


def outside(state, at):
    save_file(dict(state), at / "other.safetensors")
    folder = shards(state, at / "folder")
    index = {"weight_map": dict.fromkeys(state, "../other.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def listed_too_much(state, at):
    folder = shards(state, at / "folder")
    path = folder / "model.safetensors.index.json"
    files = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": files | dict.fromkeys(["a", "b", "c", "d"], next(iter(files.values())))}))
    return folder


def two_files(state, at):
    whole(state, at / "folder", ".bin")
    torch.save(state, at / "folder" / "other.pt")
    return at / "folder"


def damaged_index(state, at):
    folder = shards(state, at / "folder")
    (folder / "model.safetensors.index.json").write_text("[]")
    return folder


def cut(state, at):
    path = saved(state, at / "w.pt")
    path.write_bytes(path.read_bytes()[:-200])
    return path


REFUSED = {
    "several entries": (
        lambda state, at: saved({"model": state, "ema": state, "epoch": 1}, at / "w.pt"),
        None,
        "holds several entries; name the one with the weights as key: ema, model",
    ),
    "no such entry": (
        lambda state, at: saved({"model": state, "ema": state}, at / "w.pt"),
        "modle",
        "has no part 'modle'; did you mean 'model'?",
    ),
    "a key where there are no parts": (
        lambda state, at: saved({"weight": torch.ones(2)}, at / "w.pt"),
        "model",
        "has no part 'model'; it has no parts, leave key out",
    ),
    "a part is not named": (
        lambda state, at: saved({f"net.{name}": each for name, each in state.items()}, at / "w.pt"),
        None,
        "name that part of the file: key: net",
    ),
    "numbers": (
        lambda state, at: saved({**state, "epoch": 3}, at / "w.pt"),
        None,
        "holds no weights alone ('epoch' is",
    ),
    "nothing": (lambda state, at: saved({}, at / "w.pt"), None, "holds no weights alone (it is empty)"),
    "one tensor": (lambda state, at: saved(torch.ones(2), at / "w.pt"), None, "holds Tensor, expected tensors by name"),
    "a module": (lambda state, at: saved(bare(), at / "w.pt"), None, "holds an object of torch.nn.modules"),
    "settings of another program": (
        lambda state, at: saved({"state_dict": state, "args": Namespace(lr=1)}, at / "w.ckpt"),
        "state_dict",
        "holds an object of argparse.Namespace, which could run code and is not opened",
    ),
    "text": (
        lambda state, at: at / "w.pt" if (at / "w.pt").write_text("weights\n" * 20) else at,
        None,
        "is damaged, or holds more than weights; where you trust the file, write its weights alone",
    ),
    "cut short": (cut, None, "is not a readable file of torch.save"),
    "a shard is not there": (
        hidden,
        None,
        "has 1 of 2 shards; it lacks 'model-00002-of-00002.safetensors'. Copy the whole folder",
    ),
    "shards elsewhere": (outside, None, "names '../other.safetensors'; expected files beside it"),
    "names that no shard has": (listed_too_much, None, "lists 'a', 'b', 'c' and 1 more, which no shard has"),
    "a damaged index": (damaged_index, None, "is damaged (it has no weight_map)"),
    "two files": (two_files, None, "holds 'other.pt', 'pytorch_model.bin'; expected one. Name the file itself"),
    "much is missing": (
        lambda state, at: saved({"0.weight": state["0.weight"], **dict.fromkeys("abcde", torch.ones(1))}, at / "w.pt"),
        None,
        "it has no '0.bias', '1.weight', '1.bias' and 5 more; change the model's keys, or name its own file"
        " (further: the model has no 'a', 'b', 'c' and 2 more)",
    ),
    "several shapes": (
        lambda state, at: saved({**state, "0.bias": torch.ones(2), "0.weight": torch.ones(2, 2)}, at / "w.pt"),
        None,
        "'0.weight' is (2, 2) there, (5, 3) in the model and 1 more differ; change the model's keys",
    ),
}


@over("case", list(REFUSED))
def test_what_holds_no_weights_of_the_model_is_refused_in_one_line_and_changes_nothing(tmp_path, case):
    write, key, says = REFUSED[case]
    model = bare()
    path, before = write(model.state_dict(), tmp_path), state_digest(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path, key)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state_digest(model) == before


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@over("form", ["zip", "legacy", "bare", "shards"])
def test_nothing_that_a_file_names_is_run(tmp_path, form):
    content = {"model": bare().state_dict(), "more": Trap(tmp_path / "sprung")}
    path = tmp_path / "w.pt"
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    elif form == "shards":
        path = shards({**bare().state_dict(), "more": Trap(tmp_path / "sprung")}, tmp_path / "folder", "bin")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"could run code and is not opened|holds more than weights"):
        load_weights(bare(), path, None if form == "shards" else "model")
    assert not (tmp_path / "sprung").exists()
