"""Whatever a user gets wrong ends with one line: the key, what was found, the mend; and nothing is left behind.

Each case differs in one thing from a recipe, a command or a call that works; the last tests prove that those work.
"""

import contextlib
import gzip
import json
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
from torch import nn

import limbeck as lb
from limbeck.config import load_recipe
from limbeck.errors import LimbeckError
from limbeck.losses import kd, kl

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
    torch.save(lb.models.mlp((1, 8, 8), 10, hidden=(8,)).state_dict(), folder / "teacher.pt")


FACTORY = """
from torch import nn

limit = 3

class Failing(nn.Module):
    def forward(self, images):
        assert images.shape[-1] == 28, "images of 28 pixels only"

def net(input_shape, classes, hidden=5, wrong=0):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes + wrong))

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


# ---------------------------------------------------------------------------------------------------- calls from Python


def samples(size: int = 6) -> lb.data.TensorSet:
    return lb.data.TensorSet.of(torch.randn(size, 3), torch.arange(size) % 4, classes=4)


def batch_of(given: lb.data.SampleSet, augment: lb.data.Augment | None = None) -> lb.Batch:
    return given.batch(torch.arange(len(given)), augment=augment, seed=0, view=1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def misspelt_capture() -> None:
    with lb.capture(network(), {"hidden": "11"}):
        pass


def changed_training(folder: Path) -> None:
    """Go on in the folder of another training."""
    for rate in (0.1, 0.2):
        distiller = lb.Distiller(network(), None, lb.methods.hard())
        lb.fit(distiller, samples(), folder=folder / "kept", epochs=1, learning_rate=rate)


def a_term_twice() -> None:
    lb.Objective([lb.terms.HardLabels(), lb.terms.HardLabels()])


# ------------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    key, mend: fragments that the line must have, of what is wrong and of what is allowed or to be done.
    keys: what differs in the recipe; recipe: its whole text instead.  files: written beside it.
    command: what is run; call: what is called in Python instead.  ran: whether a run begins, and leaves its folder.
    """

    id: str
    key: str
    mend: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | bytes | None = None
    files: Sequence[Callable[[Path], Any]] = ()
    command: Sequence[str] = ("distill", "recipe.yaml")
    call: Callable[[Path], Any] | None = None
    code: int = 2
    ran: bool = False


def recipe_case(name: str, keys: Mapping[str, Any], key: str, mend: str, *files: Callable[[Path], Any]) -> Case:
    return Case(name, key, mend, keys=keys, files=files)


def command_case(name: str, command: str, key: str, mend: str, *files: Callable[[Path], Any]) -> Case:
    return Case(name, key, mend, command=command.split(), files=files)


def text_case(name: str, recipe: str | bytes, key: str, mend: str) -> Case:
    return Case(name, key, mend, recipe=recipe)


def call_case(name: str, call: Callable[[Path], Any], key: str, mend: str) -> Case:
    return Case(name, key, mend, call=call)


NPZ = {"data": {"kind": "npz", "path": "own.npz"}}
IDX = {"data": {"kind": "idx", "folder": "idx", "classes": 10}}
SAVED = {"teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"}}
SCHEDULE = {"kind": "linear", "start": 8.0, "end": 1.0, "steps": 5}
own_models = text("own_models.py", FACTORY)


def made_by(name: str, **arguments: Any) -> dict[str, Any]:
    return {"factory": f"own_models:{name}", "arguments": arguments}


UNKNOWN_KEYS = [
    recipe_case("top-misspelt", {"metod": {}}, "metod: there is no such key", "did you mean 'method'?"),
    recipe_case(
        "top-unknown",
        {"zzz": 1},
        "zzz: there is no such key",
        "one of: alone_budget, classes, data, expect, method, name",
    ),
    recipe_case("data-misspelt", {"data.test_shar": 0.2}, "data.test_shar:", "did you mean 'test_share'?"),
    recipe_case("transfer-misspelt", {"data.transfer.fractoin": 0.5}, "data.transfer.fractoin:", "'fraction'?"),
    recipe_case("teacher-misspelt", {"teacher.modle": {}}, "teacher.modle:", "did you mean 'model'?"),
    recipe_case("teacher-model-misspelt", {"teacher.model.hiden": [8]}, "teacher.model.hiden:", "mean 'hidden'?"),
    recipe_case("teacher-training-misspelt", {"teacher.training.epoch": 1}, "teacher.training.epoch:", "'epochs'?"),
    recipe_case(
        "augment-misspelt", {"teacher.training.augment.shfit": 1}, "teacher.training.augment.shfit:", "mean 'shift'?"
    ),
    recipe_case(
        "augment-unknown",
        {"training.augment.zzz": 1},
        "training.augment.zzz:",
        "one of: brightness, contrast, cutmix, flip",
    ),
    recipe_case(
        "teacher-method-misspelt", {"teacher.method.smoothing": 0.1}, "teacher.method.smoothing:", "label_smooth"
    ),
    recipe_case("student-misspelt", {"student.modell": {}}, "student.modell:", "did you mean 'model'?"),
    recipe_case(
        "student-model-unknown", {"student.model.zzz": 1}, "student.model.zzz:", "dropout, hidden, input_dropout"
    ),
    recipe_case("method-misspelt", {"method.temprature": 2}, "method.temprature:", "did you mean 'temperature'?"),
    recipe_case("training-misspelt", {"training.learning_rat": 0.1}, "training.learning_rat:", "'learning_rate'?"),
    recipe_case("expect-misspelt", {"expect.gap_close": 0.5}, "expect.gap_close:", "did you mean 'gap_closed'?"),
    recipe_case(
        "schedule-misspelt", {"method.temperature": SCHEDULE | {"stps": 3}}, "method.temperature.stps:", "mean 'steps'?"
    ),
    recipe_case(
        "schedule-unknown-kind", {"method.temperature": {"kind": "linaer"}}, "method.temperature.kind:", "'linear'?"
    ),
    recipe_case(
        "search-misspelt",
        {"search": {"training.learning_rat": [0.1]}},
        "search.training.learning_rat:",
        "'learning_rate'?",
    ),
    recipe_case("unknown-data", {"data.kind": "digit"}, "data.kind: found 'digit'", "did you mean 'digits'?"),
    recipe_case("unknown-model", {"student.model": {"kind": "mpl"}}, "student.model.kind: found 'mpl'", "mean 'mlp'?"),
    recipe_case("unknown-method", {"method": {"name": "kdd"}}, "method.name: found 'kdd'", "did you mean 'kd'?"),
    recipe_case(
        "factory-unknown-key",
        {"student.model": made_by("net") | {"argument": {}}},
        "student.model.argument:",
        "did you mean 'arguments'?",
        own_models,
    ),
    recipe_case("key-of-two-lines", {"a\nb": 1}, "a b: there is no such key", "one of: alone_budget, classes, data"),
]

TYPES = [
    recipe_case("string-for-int", {"training.epochs": "10"}, "training.epochs: found '10'", "expected a whole number"),
    recipe_case("bool-for-int", {"training.epochs": True}, "training.epochs: found True", "expected a whole number"),
    recipe_case("float-for-int", {"training.epochs": 1.5}, "training.epochs: found 1.5", "expected a whole number"),
    recipe_case(
        "null-for-int", {"teacher.training.epochs": None}, "teacher.training.epochs: found None", "a whole number"
    ),
    recipe_case(
        "string-for-number", {"training.learning_rate": "fast"}, "training.learning_rate: found 'fast'", "number"
    ),
    recipe_case(
        "number-for-bool", {"data.transfer.labels": 1}, "data.transfer.labels: found 1", "expected true or false"
    ),
    recipe_case("list-for-mapping", {"teacher": [1]}, "teacher: found [1]", "expected keys and their values"),
    recipe_case("null-for-mapping", {"training": None}, "training: found None", "expected keys and their values"),
    recipe_case(
        "list-for-augment", {"training.augment": [1]}, "training.augment: found [1]", "expected keys and their values"
    ),
    recipe_case("number-for-list", {"student.model.hidden": 4}, "student.model.hidden: found 4", "expected a list"),
    recipe_case(
        "string-in-list", {"student.model.hidden": [4, "x"]}, "student.model.hidden[1]: found 'x'", "a whole number"
    ),
    recipe_case("list-for-kind", {"data.kind": ["digits"]}, "data.kind: found ['digits']", "did you mean 'digits'?"),
    recipe_case(
        "list-for-schedule", {"method.temperature": {"kind": [1]}}, "method.temperature.kind: found [1]", "one of"
    ),
    recipe_case("other-choice", {"training.optimizer": "adam"}, "training.optimizer: found 'adam'", "'sgd' or 'adamw'"),
    recipe_case("missing-data", {"data": GONE}, "data: is missing", "add it"),
    recipe_case("missing-kind", {"data": {}}, "data.kind: is missing", "digits, fashion_mnist"),
    recipe_case("missing-model", {"student.model": GONE}, "student.model: is missing", "add it"),
    recipe_case("neither-kind-nor-factory", {"student.model": {}}, "student.model: expected either kind", "or factory"),
    recipe_case(
        "missing-schedule-key", {"method.temperature": {"kind": "until", "step": 3}}, "temperature.value", "add it"
    ),
]

VALUES = [
    recipe_case("temperature-0", {"method.temperature": 0}, "method.temperature: found 0", "above 0"),
    recipe_case("temperature-negative", {"method.temperature": -1}, "method.temperature: found -1", "above 0"),
    recipe_case(
        "temperature-nan", {"method.temperature": NAN}, "method.temperature: found nan", "finite number above 0"
    ),
    recipe_case(
        "temperature-inf", {"method.temperature": INF}, "method.temperature: found inf", "finite number above 0"
    ),
    recipe_case("temperature-string", {"method.temperature": "hot"}, "method.temperature: found 'hot'", "number"),
    recipe_case(
        "alpha-above-1", {"method.alpha": 1.5}, "method.alpha: found 1.5", "[0, 1]; for free weights give hard"
    ),
    recipe_case("alpha-negative", {"method.alpha": -0.1}, "method.alpha: found -0.1", "in [0, 1]"),
    recipe_case("alpha-nan", {"method.alpha": NAN}, "method.alpha: found nan", "in [0, 1]"),
    recipe_case(
        "alpha-and-weights", {"method.soft_weight": 1.0}, "method.alpha: given together", "give alpha, or the two"
    ),
    recipe_case(
        "weight-negative",
        {"method.alpha": GONE, "method.hard_weight": -1.0},
        "method.hard_weight: found -1",
        "0 or above",
    ),
    recipe_case(
        "weight-infinite",
        {"method.alpha": GONE, "method.soft_weight": INF},
        "method.soft_weight: found inf",
        "a finite",
    ),
    recipe_case(
        "weights-0",
        {"method.alpha": GONE, "method.hard_weight": 0.0, "method.soft_weight": 0.0},
        "method.hard_weight, soft_weight: both are 0",
        "at least one above 0",
    ),
    recipe_case(
        "soft-weight-0", {"method": {"name": "logit_matching", "soft_weight": 0.0}}, "method.soft_weight", "above 0"
    ),
    recipe_case("epochs-0", {"training.epochs": 0}, "training.epochs: found 0", "1 or above"),
    recipe_case("learning-rate-0", {"training.learning_rate": 0.0}, "training.learning_rate: found 0.0", "above 0"),
    recipe_case("momentum-1", {"training.momentum": 1.0}, "training.momentum: found 1.0", "in [0, 1)"),
    recipe_case(
        "warmup-too-long", {"training.warmup": 1.0}, "training.warmup: found 1.0 of 1 epochs", "fewer than epochs"
    ),
    recipe_case("milestones-alone", {"training.milestones": [1]}, "training.milestones:", "expected schedule: step"),
    recipe_case(
        "step-alone", {"teacher.training.schedule": "step"}, "teacher.training.milestones: found none", "such as"
    ),
    recipe_case(
        "augment-negative", {"training.augment.noise": -1.0}, "training.augment.noise: found -1.0", "0 or above"
    ),
    recipe_case(
        "augment-twice", {"training.augment": {"shift": 1, "pad_crop": 1}}, "training.augment: shift and", "give one"
    ),
    recipe_case("dropout-above-1", {"student.model.dropout": 2.0}, "student.model.dropout: found 2.0", "in [0, 1]"),
    recipe_case("no-units", {"teacher.model.hidden": [0]}, "teacher.model.hidden: found 0", "1 or above"),
    recipe_case(
        "too-many-units", {"student.model.hidden": [10**15]}, "student.model: the model: takes", "make it smaller"
    ),
    recipe_case(
        "precision-fp16", {"training.precision": "fp16"}, "training.precision: fp16 needs a GPU", "use fp32 or bf16"
    ),
    recipe_case("validation-0", {"validation": 0}, "validation: found 0", "share in (0, 1) or a number of samples"),
    recipe_case("validation-1", {"validation": 1.0}, "validation: found 1.0", "share in (0, 1)"),
    recipe_case("validation-nan", {"validation": NAN}, "validation: found nan", "finite number"),
    recipe_case("validation-too-many", {"validation": 5000}, "validation: found 5000", "some left"),
    recipe_case("seeds-empty", {"seeds": []}, "seeds: found []", "at least one whole number"),
    recipe_case("seeds-twice", {"seeds": [0, 1, 0]}, "seeds: found [0, 1, 0]", "each once"),
    recipe_case("seeds-negative", {"seeds": [-1]}, "seeds: found [-1]", "from 0 on"),
    recipe_case("teacher-seed-negative", {"teacher.seed": -1}, "teacher.seed: found -1", "greater than or equal to 0"),
    recipe_case("expect-nan", {"expect.gap_closed": NAN}, "expect.gap_closed: found nan", "finite number"),
    recipe_case("name-traversal", {"name": "../up"}, "name: found '../up'", "letters, digits"),
    recipe_case("name-empty", {"name": ""}, "name: found ''", "1 to 100 letters"),
    recipe_case("search-empty", {"search": {"training.learning_rate": []}}, "search.training.learning_rate:", "a list"),
    recipe_case(
        "search-elsewhere",
        {"search": {"data.seed": [1, 2]}},
        "search.data.seed:",
        "a key of training, method or scheme",
    ),
    recipe_case(
        "search-no-list", {"search": {"training.epochs": 3}}, "search.training.epochs: found 3", "expected a list"
    ),
    recipe_case(
        "search-bad-value",
        {"search": {"method.temperature": [2.0, 0.0]}},
        "search.method.temperature: found 0",
        "above 0",
    ),
    recipe_case("fraction-0", {"data.transfer.fraction": 0.0}, "data.transfer.fraction: found 0.0", "above 0"),
    recipe_case(
        "omit-and-only", {"data.transfer": {"omit": [1], "only": [2]}}, "data.transfer: omit and only", "one of them"
    ),
    recipe_case("omit-no-class", {"data.transfer": {"omit": [12]}}, "data.transfer: class 12", "expected 0 to 9"),
    recipe_case(
        "omit-all", {"data.transfer": {"omit": list(range(10))}}, "data.transfer: digits/train", "nothing is left"
    ),
    recipe_case(
        "unlabelled-hard",
        {"data.transfer.labels": False, "method": {"name": "hard"}},
        "data.transfer.labels: is false",
        "name one with soft targets",
    ),
    recipe_case(
        "teacher-distilled", {"teacher.method": {"name": "kd"}}, "teacher.method.name: 'kd' needs a teacher", "use hard"
    ),
    recipe_case("test-share-1", {"data.test_share": 1.0}, "data.test_share: found 1.0", "between 0 and 1"),
    recipe_case("test-share-tiny", {"data.test_share": 1e-9}, "data.test_share: found 1e-09", "leaves both parts"),
    recipe_case(
        "shift-too-far", {"training.augment": {"shift": 8}}, "training.augment: a shift of 8", "use a smaller one"
    ),
]

DATA = [
    recipe_case("npz-missing", NPZ, "own.npz: cannot be read (No such file", "data:"),
    recipe_case("npz-cut", NPZ, "own.npz: is damaged", "write it again with numpy.savez", cut_archive),
    recipe_case("npz-flipped", NPZ, "own.npz: is damaged", "write it again with numpy.savez", flipped_archive),
    recipe_case(
        "npz-text", NPZ, "own.npz: is damaged or no .npz archive", "numpy.savez", text("own.npz", "labels,1,2")
    ),
    recipe_case(
        "npz-no-labels",
        NPZ,
        "has no array 'labels'",
        "it has: inputs",
        lambda f: np.savez(f / "own.npz", inputs=arrays()["inputs"]),
    ),
    recipe_case(
        "npz-unknown-array", NPZ, "unknown array 'lables'", "did you mean 'labels'?", archive(lables=np.arange(3))
    ),
    recipe_case(
        "npz-empty",
        NPZ,
        "own.npz:inputs: inputs have shape (0, 1, 8, 8)",
        "some samples",
        archive(inputs=np.zeros((0, 1, 8, 8)), labels=np.zeros(0, int)),
    ),
    recipe_case(
        "npz-label-negative",
        NPZ,
        "sample 3 has label -1",
        "expected 0 to 9",
        archive(labels=np.where(np.arange(60) == 3, -1, np.arange(60) % 10)),
    ),
    recipe_case(
        "npz-test-label-unknown",
        NPZ,
        "own.npz:test_inputs: sample 1 has label 10",
        "expected 0 to 9",
        archive(test_inputs=np.zeros((2, 1, 8, 8), np.float32), test_labels=np.array([0, 10])),
    ),
    recipe_case(
        "npz-text-labels", NPZ, "array 'labels' is <U1", "expected whole numbers", archive(labels=np.array(["a"] * 60))
    ),
    recipe_case(
        "npz-objects",
        NPZ,
        "array 'labels' holds Python objects",
        "save it as numbers",
        archive(labels=np.array([None] * 60)),
    ),
    recipe_case(
        "npz-nan", NPZ, "own.npz:inputs: sample 0", "NaN or infinite", archive(inputs=np.full((60, 1, 8, 8), np.nan))
    ),
    recipe_case("idx-missing", IDX, "idx: has no file train-images-idx3-ubyte.gz", "place train-images"),
    recipe_case(
        "idx-cut",
        IDX,
        "train-images-idx3-ubyte: holds 1000 bytes, expected 1936",
        "fetch it again",
        idx(train_images=images(30, 8, 8)[:1000]),
    ),
    recipe_case(
        "idx-text", IDX, "t10k-labels-idx1-ubyte: begins with 6c616265", "an IDX header", idx(test_labels=b"labels")
    ),
    recipe_case(
        "idx-gzip-cut",
        IDX,
        "the gzip stream is truncated",
        "fetch the file again",
        idx(train_images=gzip.compress(images(30, 8, 8))[:30]),
    ),
    recipe_case(
        "idx-label-unknown",
        IDX,
        "idx/train: sample 0 has label 10",
        "expected 0 to 9",
        idx(train_labels=images(30)[:8] + b"\n" * 30),
    ),
    recipe_case(
        "mnist-checksum", {"data": {"kind": "mnist", "folder": "idx"}}, "wrong checksum", "fetch it again", idx()
    ),
    recipe_case(
        "cnn-on-vectors",
        NPZ | {"student.model": {"kind": "cnn"}, "teacher.training.augment": {}},
        "student.model.kind: cnn needs images (C, H, W)",
        "use an mlp",
        archive(inputs=np.zeros((60, 64), np.float32)),
    ),
    recipe_case(
        "cnn-too-deep",
        {"student.model": {"kind": "cnn", "channels": [4] * 4}},
        "student.model.channels: 4 poolings",
        "fewer channels",
    ),
]

MODELS = [
    recipe_case(
        "checkpoint-missing", SAVED, "teacher.model.checkpoint: there is no file", "expected a .safetensors file"
    ),
    recipe_case("checkpoint-cut", SAVED, "teacher.model.checkpoint: ", "no readable safetensors file", cut_weights),
    recipe_case(
        "checkpoint-text", SAVED, "no readable safetensors file", "make it anew", text("teacher.safetensors", "weights")
    ),
    recipe_case(
        "checkpoint-pickle",
        {"teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.pt"}},
        "teacher.model.checkpoint: ",
        "convert it with safetensors.torch.save_file",
        pickled_weights,
    ),
    recipe_case(
        "checkpoint-other-width",
        SAVED,
        "'1.weight' is (9, 64) there, (8, 64) in the model",
        "change the model's",
        weights(9),
    ),
    recipe_case(
        "checkpoint-other-classes",
        SAVED,
        "'3.weight' is (7, 8) there, (10, 8)",
        "change the model's keys",
        weights(classes=7),
    ),
    recipe_case(
        "checkpoint-less",
        SAVED,
        "another architecture: it has no '3.bias'",
        "did you mean '1.bias'?",
        weights(**{"3.bias": None}),
    ),
    recipe_case(
        "checkpoint-more",
        SAVED,
        "the model has no '4.bias'",
        "did you mean '3.bias'?",
        weights(**{"4.bias": torch.zeros(2)}),
    ),
    recipe_case("checkpoint-number", {"student.model.checkpoint": 3}, "student.model.checkpoint: found 3", "path of a"),
    recipe_case(
        "factory-form",
        {"student.model": {"factory": "own_models.net"}},
        "student.model.factory: found",
        "'package.module:function'",
    ),
    recipe_case(
        "factory-no-module",
        {"student.model": made_by("net")},
        "student.model.factory: cannot import 'own_models'",
        "install it",
    ),
    recipe_case(
        "factory-no-function",
        {"student.model": made_by("nett")},
        "'own_models' has no 'nett'",
        "did you mean 'net'?",
        own_models,
    ),
    recipe_case(
        "factory-no-callable",
        {"student.model": made_by("limit")},
        "'own_models:limit' is int",
        "expected a function",
        own_models,
    ),
    recipe_case(
        "factory-raises",
        {"teacher.model": made_by("broken")},
        "teacher.model.factory: 'own_models:broken' raised KeyError",
        "mend it",
        own_models,
    ),
    recipe_case(
        "factory-argument",
        {"student.model": made_by("net", width=3)},
        "raised TypeError",
        "or its arguments",
        own_models,
    ),
    recipe_case(
        "factory-returns-text",
        {"student.model": made_by("nothing")},
        "returned str",
        "expected a torch.nn.Module",
        own_models,
    ),
    recipe_case(
        "factory-syntax",
        {"student.model": made_by("net")},
        "importing 'own_models' raised SyntaxError",
        "mend it",
        text("own_models.py", "def"),
    ),
    recipe_case(
        "factory-builtin",
        {"student.model": {"factory": "builtins:dict"}},
        "student.model.factory: 'builtins:dict'",
        "mend it",
    ),
    recipe_case(
        "teacher-other-classes",
        {"teacher.model": made_by("net", wrong=3)},
        "teacher: answers 13 classes, the data has 10",
        "give the teacher 10",
        own_models,
    ),
    recipe_case(
        "student-other-classes",
        {"student.model": made_by("net", wrong=-3)},
        "student: answers 7 classes, the data has 10",
        "give the student 10",
        own_models,
    ),
    recipe_case(
        "model-answers-nothing",
        {"student.model": made_by("mute")},
        "student: the model returned NoneType",
        "tensor of logits",
        own_models,
    ),
    recipe_case(
        "model-fails",
        {"student.model": made_by("failing")},
        "student: cannot take inputs of shape (1, 8, 8) (AssertionError",
        "change the model's",
        own_models,
    ),
]

TEXTS = [
    text_case("duplicate-key", "name: a\nname: b\n", "recipe.yaml', line 2: key 'name' stands twice", "delete one"),
    text_case(
        "duplicate-nested-key",
        "name: a\ndata:\n  kind: digits\n  kind: npz\n",
        "line 4: key 'kind' stands twice",
        "delete one",
    ),
    text_case("yaml-open-bracket", "name: [a\ndata: 1\n", "recipe.yaml', line 2", "expected valid YAML"),
    text_case("yaml-tab", "name: a\ndata:\n\tkind: digits\n", "recipe.yaml', line 3", "expected valid YAML"),
    text_case("yaml-code", "name: !!python/object/apply:os.system [ls]\n", "line 1", "expected valid YAML"),
    text_case("yaml-false-tag", "name: !!timestamp x\n", "a value does not fit its tag", "expected valid YAML"),
    text_case("yaml-endless", "name: a\ndata: &x\n  kind: *x\n", "recipe", "refers to itself"),
    text_case("yaml-list", "- a\n- b\n", "recipe.yaml' holds list", "expected keys such as"),
    text_case("yaml-empty", "", "recipe.yaml' holds nothing", "expected keys such as"),
    text_case("not-utf-8", b"name: \xff\xfe\n", "recipe: cannot read 'recipe.yaml'", "YAML file in UTF-8"),
]

COMMANDS = [
    command_case("no-file", "distill missing.yaml", "there is no file 'missing.yaml'", "'limbeck recipes ls' lists"),
    command_case(
        "no-file-check", "check missing.yaml", "there is no file 'missing.yaml'", "'limbeck recipes ls' lists"
    ),
    command_case("a-folder", "check cache", "recipe", "limbeck recipes ls", lambda f: (f / "cache").mkdir()),
    command_case(
        "no-packaged-recipe", "distill digts-kd", "no packaged recipe 'digts-kd'", "did you mean 'digits-kd'?"
    ),
    command_case("show-unknown", "recipes show digts-kd", "no packaged recipe 'digts-kd'", "did you mean 'digits-kd'?"),
    command_case("cp-unknown", "recipes cp nothing", "no packaged recipe 'nothing'", "digits-kd, "),
    command_case(
        "cp-onto-file", "recipes cp digits-kd recipe.yaml", "'recipe.yaml' exists already", "name another file"
    ),
    command_case(
        "cp-below-file", "recipes cp digits-kd recipe.yaml/x", "cannot write 'recipe.yaml/x'", "name another file"
    ),
    command_case(
        "override-no-sign", "distill recipe.yaml method.temperature", "override 'method.temperature'", "key.path=value"
    ),
    command_case("override-no-key", "distill recipe.yaml =3", "override '=3'", "expected key.path=value"),
    command_case(
        "override-of-scalar", "check recipe.yaml name.first=x", "'name' is 'base', which has no keys", "set it whole"
    ),
    command_case(
        "override-of-list", "check recipe.yaml seeds.0=1", "'seeds' is [0], which has no keys", "set it whole"
    ),
    command_case("override-bad-yaml", "check recipe.yaml seeds=[1", "override 'seeds=[1'", "expected valid YAML"),
    command_case(
        "override-unknown", "check recipe.yaml traning.epochs=1", "traning: there is no such key", "'training'?"
    ),
    command_case(
        "runs-below-file",
        "distill recipe.yaml --runs recipe.yaml/runs",
        "run folder: cannot make 'recipe.yaml/runs",
        "--runs",
    ),
    command_case(
        "demo-below-file", "demo --runs recipe.yaml/runs", "run folder: cannot make 'recipe.yaml/runs", "--runs"
    ),
    command_case(
        "resume-no-run", "distill recipe.yaml --resume idx", "'idx' is no run folder", "name one below runs/", idx()
    ),
    command_case(
        "resume-other-recipe",
        "distill recipe.yaml training.epochs=2 --resume begun",
        "'begun' is a run of another recipe: 'epochs: 1' there, 'epochs: 2' here",
        "start a new run without --resume",
        resumable,
    ),
    command_case(
        "resume-damaged",
        "distill recipe.yaml --resume begun",
        "manifest.json' is damaged",
        "start a new run",
        resumable,
        lambda folder: (folder / "begun" / "manifest.json").write_text("{"),
    ),
    command_case(
        "reproduce-unknown",
        "reproduce hinton2015-minst",
        "no paper 'hinton2015-minst'",
        "did you mean 'hinton2015-mnist'?",
    ),
    command_case(
        "reproduce-no-row",
        "reproduce hinton2015-mnist --only alon",
        "--only: there is no row 'alon'",
        "did you mean 'alone'?",
    ),
    command_case(
        "reproduce-seed", "reproduce hinton2015-mnist --only alone --seed -1", "--seed: found -1", "from 0 on"
    ),
    command_case(
        "reproduce-no-data",
        "reproduce hinton2015-mnist --data idx",
        "idx: has no file train-images",
        "place train-images",
    ),
    Case(
        "non-finite-loss",
        "step 1: term 'logits' of the loss is inf",
        "lower training.learning_rate or set training.clip",
        keys={
            "teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"},
            "method": {"name": "logit_matching"},
        },
        files=[weights(**{"3.bias": torch.full((10,), 1e38)})],
        command=["distill", "recipe.yaml", "--quiet"],
        code=1,
        ran=True,
    ),
]

CALLS = [
    call_case(
        "capture-no-module",
        lambda _: misspelt_capture(),
        "feature 'hidden': the model has no module '11'",
        "did you mean",
    ),
    call_case(
        "tap-no-module",
        lambda _: lb.ModelTeacher(network(), taps={"hint": "layer"})(lb.Batch.of(torch.zeros(2, 3))),
        "feature 'hint': the model has no module 'layer'",
        "one of: 0, 1, 2",
    ),
    call_case(
        "mask-shape",
        lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 3), mask=torch.ones(3) > 0),
        "mask has shape (3,)",
        "must be the same",
    ),
    call_case(
        "mask-type",
        lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 3), mask=torch.ones(4)),
        "mask: found torch.float32",
        "give mask.bool()",
    ),
    call_case("logits-shape", lambda _: kl(torch.zeros(4, 3), torch.zeros(4, 2)), "(4, 3)", "must be the same"),
    call_case(
        "labels-shape",
        lambda _: kd(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64)),
        "labels has shape (3,)",
        "must be the same",
    ),
    call_case(
        "labels-range",
        lambda _: kd(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([3])),
        "labels: found 3",
        "expected 0 to 2",
    ),
    call_case(
        "stored-other-set",
        lambda _: lb.store(lb.ModelTeacher(network()), samples())(batch_of(samples(8))),
        "stored teacher: the batch comes from another set",
        "store them for this set",
    ),
    call_case(
        "stored-augmented",
        lambda _: lb.store(lb.ModelTeacher(network()), given := samples())(batch_of(given, lb.data.Augment(noise=0.1))),
        "stored teacher: the batch is augmented",
        "view: clean",
    ),
    call_case(
        "stored-other-part",
        lambda _: lb.store(lb.ModelTeacher(network()), (given := samples()).subset(torch.tensor([3, 1])))(
            batch_of(given)
        ),
        "samples without a stored answer",
        "store them for the whole set",
    ),
    call_case(
        "plain-teacher",
        lambda _: lb.Distiller(network(), network(), lb.methods.kd()),
        "teacher: found a plain module",
        "ModelTeacher",
    ),
    call_case(
        "no-teacher", lambda _: lb.Distiller(network(), None, lb.methods.kd()), "teacher: found None", "give one"
    ),
    call_case("term-twice", lambda _: a_term_twice(), "terms: found the names ['hard', 'hard']", "rename one"),
    call_case("fit-other-training", changed_training, "training.learning_rate was 0.1, is 0.2", "name another folder"),
    call_case("fit-setting", lambda _: lb.Training(epochs=0), "epochs: found 0", "1 or above"),
    call_case("method-unknown", lambda _: lb.methods.builder("kdd"), "there is no method 'kdd'", "did you mean 'kd'?"),
]

CASES = [*UNKNOWN_KEYS, *TYPES, *VALUES, *DATA, *MODELS, *TEXTS, *COMMANDS, *CALLS]
assert len({case.id for case in CASES}) == len(CASES)
by_id = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


def written(case: Case, folder: Path) -> None:
    """Write a case's recipe and what lies beside it."""
    content = yaml.safe_dump(edited(case.keys)) if case.recipe is None else case.recipe
    text("recipe.yaml", content)(folder)
    for write in case.files:
        write(folder)


@by_id
def test_a_mistake_ends_with_one_line_that_names_it_and_the_mend(case, limbeck, tmp_path):
    written(case, tmp_path)
    before = set(tmp_path.rglob("*"))
    if case.call is not None:
        with pytest.raises(LimbeckError) as caught:
            case.call(tmp_path)
        line, code = str(caught.value), caught.value.exit_code
        assert "\n" not in line
    else:
        answer = limbeck(*case.command)
        assert answer.out == ""
        assert len(answer.lines) == 1, answer.err
        assert answer.lines[0].startswith("limbeck: ")
        line, code = answer.lines[0], answer.code
        assert (tmp_path / "runs").exists() == case.ran
        kept = {path.parts[len(tmp_path.parts)] for path in set(tmp_path.rglob("*")) - before}
        assert kept <= ({"cache", "runs"} if case.ran else {"begun"})
    assert case.key in line
    assert case.mend in line
    assert code == case.code
    assert len(line) < 600


PROVED = ["temperature-negative", "checkpoint-pickle", "non-finite-loss"]


@pytest.mark.parametrize("case", [case for case in CASES if case.id in PROVED], ids=PROVED)
def test_a_process_ends_with_the_same_line_and_no_traceback(case, process, tmp_path):
    written(case, tmp_path)
    answer = process(*case.command)
    assert answer.code == case.code
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert len(answer.lines) == 1, answer.err
    assert answer.lines[0].startswith("limbeck: ")
    assert case.key in answer.lines[0]
    assert case.mend in answer.lines[0]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["distil", "recipe.yaml"], "no such command 'distil'"),
        (["distill"], "missing argument 'recipe'"),
        (["distill", "recipe.yaml", "--jsn"], "no such option: --jsn"),
        (["recipes", "list"], "no such command 'list'"),
        (["reproduce", "hinton2015-mnist", "--seed", "x"], "invalid value for '--seed'"),
    ],
    ids=["command", "argument", "option", "subcommand", "number"],
)
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(command, said, limbeck, tmp_path):
    answer = limbeck(*command)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err.lower()
    assert "Usage: limbeck" in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------------- what the cases differ from does work

VALID = [
    Case("plain", "", ""),
    Case("npz", "", "", keys=NPZ, files=[archive()]),
    Case(
        "npz-vectors",
        "",
        "",
        keys=NPZ | {"teacher.training.augment": {}},
        files=[archive(inputs=np.zeros((60, 64), np.float32))],
    ),
    Case("idx", "", "", keys=IDX, files=[idx()]),
    Case("checkpoint", "", "", keys=SAVED, files=[weights()]),
    Case(
        "factory", "", "", keys={"student.model": made_by("net"), "teacher.model": made_by("net")}, files=[own_models]
    ),
    Case("cnn", "", "", keys={"student.model": {"kind": "cnn", "channels": [4]}}),
    Case("schedule", "", "", keys={"method.temperature": SCHEDULE}),
    Case("weights", "", "", keys={"method.alpha": GONE, "method.hard_weight": 0.5, "method.soft_weight": 2.0}),
    Case("search", "", "", keys={"search": {"training.learning_rate": [0.1, 0.2], "method.temperature": [2.0]}}),
    Case("unlabelled", "", "", keys={"data.transfer": {"labels": False, "omit": [3]}}),
    Case("logits", "", "", keys={"method": {"name": "logit_matching"}}),
    Case("overrides", "", "", command=["recipe.yaml", "training.epochs=3", "method.temperature=8"]),
]


@pytest.mark.parametrize("case", VALID, ids=[case.id for case in VALID])
def test_what_the_cases_differ_from_is_right(case, limbeck, tmp_path):
    written(case, tmp_path)
    answer = limbeck("check", case.command[-1] if case.id != "overrides" else "recipe.yaml", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["models"]


def test_the_base_recipe_runs(limbeck, tmp_path):
    written(Case("base", "", ""), tmp_path)
    answer = limbeck("distill", "recipe.yaml", "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["seeds"]) == 1


# ------------------------------------------------------------------------------------------------- damage of every kind


@pytest.mark.parametrize("kind", ["npz", "idx", "safetensors"])
def test_no_damaged_file_ends_in_anything_but_one_line(kind, tmp_path):
    if kind == "npz":
        archive()(tmp_path)
        path, read = tmp_path / "own.npz", lambda: lb.data.npz(str(tmp_path / "own.npz"))
    elif kind == "idx":
        text("x", gzip.compress(images(30, 8, 8)))(tmp_path)
        path, read = tmp_path / "x", lambda: lb.data.read_idx(tmp_path / "x")
    else:
        weights()(tmp_path)
        path = tmp_path / "teacher.safetensors"
        read = lambda: lb.training.load_weights(lb.models.mlp((1, 8, 8), 10, hidden=(8,)), path)  # noqa: E731
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    for trial in range(150):
        content = bytearray(whole)
        if trial % 3 == 0:
            content = content[: draw.integers(len(content))]
        elif trial % 3 == 1:  # headers lie at both ends of an archive
            at = int(draw.integers(min(300, len(content))))
            content[at if trial % 2 else -at] = int(draw.integers(256))
        else:
            for at in draw.integers(len(content), size=4):
                content[at] ^= int(draw.integers(1, 256))
        path.write_bytes(content)
        with contextlib.suppress(LimbeckError):
            read()
