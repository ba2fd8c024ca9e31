"""Data and models that a recipe names and that are wrong end with one line that says what to mend."""

import contextlib
import gzip

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.errors import LimbeckError
from mistakes import (
    IDX,
    NPZ,
    SAVED,
    archive,
    arrays,
    by_id,
    cut_archive,
    cut_weights,
    flipped_archive,
    idx,
    images,
    made_by,
    own_models,
    pickled_weights,
    recipe_case,
    text,
    told_in_one_line,
    weights,
)

DATA = [
    recipe_case("npz-missing", NPZ, "own.npz: cannot be read (No such file", "data:"),
    recipe_case("npz-cut", NPZ, "own.npz: is damaged", "write it again with numpy.savez", cut_archive),
    recipe_case("npz-flipped", NPZ, "own.npz: is damaged", "write it again with numpy.savez", flipped_archive),
    recipe_case(
        "npz-text", NPZ, "own.npz: is damaged or not an .npz archive", "numpy.savez", text("own.npz", "labels,1,2")
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
        "at least one sample",
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
        "array 'labels' contains Python objects",
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
        "download it again",
        idx(train_images=images(30, 8, 8)[:1000]),
    ),
    recipe_case(
        "idx-text", IDX, "t10k-labels-idx1-ubyte: begins with 6c616265", "an IDX header", idx(test_labels=b"labels")
    ),
    recipe_case(
        "idx-gzip-cut",
        IDX,
        "the gzip stream is truncated",
        "download the file again",
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
        "mnist-checksum", {"data": {"kind": "mnist", "folder": "idx"}}, "wrong checksum", "download it again", idx()
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
    recipe_case("checkpoint-cut", SAVED, "teacher.model.checkpoint: ", "not a readable safetensors file", cut_weights),
    recipe_case(
        "checkpoint-text",
        SAVED,
        "not a readable safetensors file",
        "write it again",
        text("teacher.safetensors", "weights"),
    ),
    recipe_case(
        "checkpoint-pickle",
        {"teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.pt"}},
        "teacher.model.checkpoint: ",
        "write its weights alone: torch.save(model.state_dict(), FILE)",
        pickled_weights,
    ),
    recipe_case(
        "checkpoint-key-unknown",
        {"teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors", "key": "ema"}},
        "teacher.model.key: ",
        "has no part 'ema'",
        weights(),
    ),
    recipe_case(
        "key-alone",
        {"teacher.model": {"kind": "mlp", "hidden": [8], "key": "model"}},
        "teacher.model.key: found 'model'",
        "expected a checkpoint that it is a part of",
    ),
    recipe_case(
        "checkpoint-other-width",
        SAVED,
        "'stage1.linear.weight' is (9, 64) there, (8, 64) in the model",
        "change the model's",
        weights(9),
    ),
    recipe_case(
        "checkpoint-other-classes",
        SAVED,
        "'fc.weight' is (7, 8) there, (10, 8)",
        "change the model's keys",
        weights(classes=7),
    ),
    recipe_case(
        "checkpoint-less",
        SAVED,
        "another architecture: it has no 'fc.bias'",
        "change the model's keys",
        weights(**{"fc.bias": None}),
    ),
    recipe_case(
        "checkpoint-more",
        SAVED,
        "the model has no 'fd.bias'",
        "did you mean 'fc.bias'?",
        weights(**{"fd.bias": torch.zeros(2)}),
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
        "fix it",
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
        "fix it",
        text("own_models.py", "def"),
    ),
    recipe_case(
        "factory-builtin",
        {"student.model": {"factory": "builtins:dict"}},
        "student.model.factory: 'builtins:dict'",
        "fix it",
    ),
    recipe_case(
        "teacher-other-classes",
        {"teacher.model": made_by("net", wrong=3)},
        "teacher: answers 13 classes, the data has 10",
        "give the teacher 10",
        own_models,
    ),
    recipe_case(
        "batch-norm-sees-one",
        {"student.model": made_by("normed"), "training.batch_size": 50},
        "training.batch_size: 50 leaves a batch of one of 651 samples, and BatchNorm '2' needs more than one value",
        "set it to 51, say",
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

CASES = [*DATA, *MODELS]
assert len({case.id for case in CASES}) == len(CASES)


@by_id(CASES)
def test_a_mistake_ends_with_one_line_that_names_it_and_the_mend(case, limbeck, tmp_path):
    told_in_one_line(case, limbeck, tmp_path)


# ------------------------------------------------------------------------------------------------- damage of every kind


@pytest.mark.miniature(1)
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
