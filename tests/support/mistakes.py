"""What the tests of bad input share: a recipe that works, what lies beside it, and what a mistake must end with.

Each case differs in one thing from a recipe, a command or a call that works.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import limbeck as lb
from limbeck.config import load_recipe

GONE = object()
NAN, INF = float("nan"), float("inf")


def base() -> dict[str, Any]:
    """A recipe that works, and that sets every section."""
    short = {"epochs": 1, "batch_size": 512, "learning_rate": 0.1}
    return {
        "name": "base",
        "summary": "small",
        "data": {"kind": "digits", "transfer": {"fraction": 0.5}},
        "teacher": {
            "model": {"kind": "mlp", "hidden": [8]},
            "training": {**short, "augment": {"shift": 1}},
            "method": {"name": "hard"},
        },
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "method": {"name": "kd", "temperature": 4.0, "alpha": 0.1},
        "training": {**short, "augment": {"noise": 0.1}},
        "validation": 0.1,
        "seeds": [0],
        "expect": {"gap_closed": None},
    }


def edited(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The base recipe with `key.path` values set, or taken out where the value is GONE."""
    recipe = base()
    for path, value in keys.items():
        *outer, last = path.split(".")
        place = recipe
        for key in outer:
            place = place.setdefault(key, {})
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return recipe


# -------------------------------------------------------------------------------------------- what lies beside a recipe


def arrays(size: int = 60, classes: int = 10) -> dict[str, Any]:
    return {
        "inputs": np.random.default_rng(0).random((size, 1, 8, 8), dtype=np.float32),
        "labels": np.arange(size) % classes,
    }


def archive(**changes: Any) -> Callable[[Path], None]:
    """Write own.npz with some arrays changed."""
    return lambda folder: np.savez(folder / "own.npz", **(arrays() | changes))


def cut_archive(folder: Path) -> None:
    archive()(folder)
    whole = (folder / "own.npz").read_bytes()
    (folder / "own.npz").write_bytes(whole[: len(whole) // 2])


def flipped_archive(folder: Path) -> None:
    archive()(folder)
    content = bytearray((folder / "own.npz").read_bytes())
    content[1000] ^= 0xFF
    (folder / "own.npz").write_bytes(content)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Write a file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def images(*shape: int) -> bytes:
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape)))


def idx(**changes: bytes) -> Callable[[Path], None]:
    """Write a set in IDX files, some of them changed; named by their first letters."""
    files = {
        "train-images-idx3-ubyte": changes.get("train_images", images(30, 8, 8)),
        "train-labels-idx1-ubyte": changes.get("train_labels", images(30)),
        "t10k-images-idx3-ubyte": changes.get("test_images", images(10, 8, 8)),
        "t10k-labels-idx1-ubyte": changes.get("test_labels", images(10)),
    }

    def write(folder: Path) -> None:
        (folder / "idx").mkdir()
        for name, content in files.items():
            (folder / "idx" / name).write_bytes(content)

    return write


def weights(hidden: int = 8, classes: int = 10, **changes: Any) -> Callable[[Path], None]:
    """Write teacher.safetensors of an mlp."""

    def write(folder: Path) -> None:
        state = lb.models.mlp((1, 8, 8), classes, hidden=(hidden,)).state_dict() | changes
        save_file(
            {name: tensor for name, tensor in state.items() if tensor is not None}, folder / "teacher.safetensors"
        )

    return write


def cut_weights(folder: Path) -> None:
    weights()(folder)
    whole = (folder / "teacher.safetensors").read_bytes()
    (folder / "teacher.safetensors").write_bytes(whole[:-100])


def pickled_weights(folder: Path) -> None:
    torch.save(lb.models.mlp((1, 8, 8), 10, hidden=(8,)), folder / "teacher.pt")  # the module, and not its state


FACTORY = """
from torch import nn

limit = 3

class Failing(nn.Module):
    def forward(self, images):
        assert images.shape[-1] == 28, "images of 28 pixels only"

def net(input_shape, classes, hidden=5, wrong=0):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes + wrong))

def normed(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))

def broken(input_shape, classes):
    raise KeyError("layer1")

def nothing(input_shape, classes):
    return "a network"

def mute(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.GRU(64, classes), Nothing())

def failing(input_shape, classes):
    return Failing()

class Nothing(nn.Module):
    def forward(self, x):
        return None
"""


def resumable(folder: Path) -> None:
    """Put a run of the base recipe's resolved text there, which nothing was trained in."""
    (folder / "begun").mkdir()
    (folder / "begun" / "recipe.yaml").write_text(load_recipe(folder / "recipe.yaml").to_yaml())
    (folder / "begun" / "manifest.json").write_text('{"test_reads": []}')


# ------------------------------------------------------------------------------------------------------------ the cases


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    key, mend: fragments that the line must have, of what is wrong and of what is allowed or to be done.
    keys: what differs in the recipe; recipe: its whole text instead.  files: written beside it.
    command: what is run; ran: whether a run begins, and leaves its folder.
    """

    id: str
    key: str
    mend: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | bytes | None = None
    files: Sequence[Callable[[Path], Any]] = ()
    command: Sequence[str] = ("distill", "recipe.yaml")
    code: int = 2
    ran: bool = False


def recipe_case(name: str, keys: Mapping[str, Any], key: str, mend: str, *files: Callable[[Path], Any]) -> Case:
    return Case(name, key, mend, keys=keys, files=files)


def command_case(name: str, command: str, key: str, mend: str, *files: Callable[[Path], Any]) -> Case:
    return Case(name, key, mend, command=command.split(), files=files)


def text_case(name: str, recipe: str | bytes, key: str, mend: str) -> Case:
    return Case(name, key, mend, recipe=recipe)


NPZ = {"data": {"kind": "npz", "path": "own.npz"}}
IDX = {"data": {"kind": "idx", "folder": "idx", "classes": 10}}
SAVED = {"teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"}}
SCHEDULE = {"kind": "linear", "start": 8.0, "end": 1.0, "steps": 5}
own_models = text("own_models.py", FACTORY)


def made_by(name: str, **arguments: Any) -> dict[str, Any]:
    return {"factory": f"own_models:{name}", "arguments": arguments}


def by_id(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Give a test each of the cases, by its id."""
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


def written(case: Case, folder: Path) -> None:
    """Write a case's recipe and what lies beside it."""
    content = yaml.safe_dump(edited(case.keys)) if case.recipe is None else case.recipe
    text("recipe.yaml", content)(folder)
    for write in case.files:
        write(folder)


def told_in_one_line(case: Case, limbeck: Callable[..., Any], folder: Path) -> None:
    """Run a case's command: it ends with the line that names the mistake and the mend, and leaves nothing behind."""
    written(case, folder)
    before = set(folder.rglob("*"))
    answer = limbeck(*case.command)
    assert answer.out == ""
    assert len(answer.lines) == 1, answer.err
    assert answer.lines[0].startswith("limbeck: ")
    assert (folder / "runs").exists() == case.ran
    kept = {path.parts[len(folder.parts)] for path in set(folder.rglob("*")) - before}
    assert kept <= ({"cache", "runs"} if case.ran else {"begun"})
    assert case.key in answer.lines[0]
    assert case.mend in answer.lines[0]
    assert answer.code == case.code
    assert len(answer.lines[0]) < 600


def told_by_a_process(case: Case, process: Callable[..., Any], folder: Path) -> None:
    """Run a case's command as a process: it ends with the same line, and no traceback."""
    written(case, folder)
    answer = process(*case.command)
    assert answer.code == case.code
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert len(answer.lines) == 1, answer.err
    assert answer.lines[0].startswith("limbeck: ")
    assert case.key in answer.lines[0]
    assert case.mend in answer.lines[0]
