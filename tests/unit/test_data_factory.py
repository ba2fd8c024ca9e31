"""Data that a function of the user's own returns, in recipes and in Python."""

import json
from pathlib import Path

import pytest
import torch

from limbeck import data
from limbeck.config import Recipe
from limbeck.errors import DataError, RecipeError
from walk import over

MODULE = """
import random
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset
from limbeck.data import TensorSet

x, y = torch.arange(60.0).reshape(20, 3), torch.arange(20) % 2


class Squares(Dataset):
    classes = ["even", "odd", "neither"]

    def __init__(self, size, noise=0.0):
        self.size, self.noise = size, noise

    def __len__(self):
        return self.size

    def __getitem__(self, number):
        return torch.full((3,), float(number**2)) + self.noise * random.random(), number % 2


def both():
    return (x[:16], y[:16]), (x[16:], y[16:] + 1)


def three(size=8):
    return Squares(size), Squares(4), Squares(5)


def named():
    return {"train": TensorDataset(x, y), "test": (x, y), "validation": (x[:4], y[:4])}


def whole():
    return x.numpy(), y.numpy()


def numbers():
    return (x, x[:, 0].double()), ([[1.0, 2.0, 3.0]] * 2, [0.5, 1.5])


def masks():
    return [(torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.int64)) for _ in range(4)], [
        (torch.zeros(1, 2, 2), torch.ones(2, 2, dtype=torch.int64)) for _ in range(3)]


def ready():
    return TensorSet.of(x, y, class_names=["no", "yes"])


def random_one():
    return Squares(8, noise=1.0), Squares(4)


def loader():
    return DataLoader(TensorDataset(x, y)), (x, y)


def other_shape():
    return (x, y), (x[:, :2], y)


def nothing():
    return None


def four():
    return (x, y), (x, y), (x, y), (x, y)


def fails(message="no file"):
    raise OSError(message)
"""


@pytest.fixture
def made(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    return lambda name, **more: data.from_factory(f"mine:{name}", folder=str(tmp_path), **more)


def sizes(splits: data.Splits) -> tuple[int, ...]:
    return tuple(len(part) for part in (splits.train, splits.validation, splits.test) if part is not None)


@over(
    ("name", "expected", "classes"),
    [("both", (16, 4), 3), ("three", (8, 4, 5), 3), ("named", (20, 4, 20), 2), ("whole", (16, 4), 2),
     ("ready", (16, 4), 2)],
)  # fmt: skip
def test_the_forms_of_what_it_returns(made, name, expected, classes):
    splits = made(name)
    assert sizes(splits) == expected
    assert splits.train.classes == splits.test.classes == classes


def test_labels_of_other_tasks_and_names_of_classes(made):
    splits = made("numbers", task="regression")
    assert splits.train.task.name == "regression"
    assert splits.test.labels.tolist() == [[0.5], [1.5]]
    splits = made("masks", task="dense")
    assert splits.train.labels.shape == (4, 2, 2)
    assert splits.train.classes == splits.test.classes == 2
    assert made("three", arguments={"size": 6}).train.class_names == ("even", "odd", "neither")
    assert made("ready").test.class_names == ("no", "yes")


@over(
    ("name", "message"),
    [
        ("random_one", "differs each time it is fetched"),
        ("loader", "whose samples have no place"),
        ("other_shape", "input_shape of test is (2,), of train (3,)"),
        ("nothing", "returned None; expected (train, test)"),
        ("four", "returned a tuple of 4"),
        ("fails", "'mine:fails' raised OSError: no file; fix it or its arguments"),
        ("absent", "factory: 'mine' has no 'absent'"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(made, name, message):
    with pytest.raises(DataError) as caught:
        made(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def recipe(folder: Path, **changed: object) -> Recipe:
    keys = {
        "name": "own-data",
        "data": {"factory": "mine:three", "arguments": {"size": 8}, **changed},
        "teacher": {"model": {"kind": "mlp", "hidden": [4]}},
        "student": {"model": {"kind": "mlp", "hidden": [2]}},
    }
    return Recipe.parse(keys, folder)


def test_a_recipe_names_it_and_its_code_is_a_part_of_the_recipe(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    read = recipe(tmp_path)
    assert sizes(read.load_data()) == (8, 4, 5)
    assert read.keys["data"]["kind"] == "factory"
    assert read.keys["data"]["folder"] == str(tmp_path)
    again = Recipe.parse(json.loads(json.dumps(read.keys)))  # as a finished run names it, from any folder
    assert sizes(again.load_data()) == (8, 4, 5)
    assert again.place is None
    before = read.code()
    assert set(before) == {"data"}
    assert set(before["data"]) == {"mine"}
    (tmp_path / "mine.py").write_text(MODULE + "\nA = 1\n")
    assert read.code() != before
    (tmp_path / "mine.py").unlink()
    with pytest.raises(DataError, match=r"^data\.factory: cannot import 'mine'"):
        read.load_data()


@over(
    ("changed", "message"),
    [
        ({"factory": "mine"}, "data.factory: found 'mine', expected 'package.module:function'"),
        ({"arguments": [1]}, "data.arguments: found"),
        ({"argument": {}}, "data.argument: there is no such key; did you mean 'arguments'?"),
    ],
)
def test_keys_that_are_wrong(tmp_path, changed, message):
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, **changed)
    assert message in str(caught.value)


def test_samples_are_those_of_the_arrays(made):
    batch = made("three").train.batch(torch.tensor([3, 1]), augment=None, seed=0, view=0)
    assert batch.inputs.tolist() == [[9.0] * 3, [1.0] * 3]
    assert batch.labels.tolist() == [1, 1]
