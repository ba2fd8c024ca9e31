"""What arrays, lists and tables become, and what a checked function says of anything else."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.arguments import as_tensor, checked
from limbeck.errors import InputError
from walk import over


class Table:
    """What pandas and polars have in common: no array, and `to_numpy`."""

    def __init__(self, values: object, dtype: object = None) -> None:
        self.values = np.array(values, dtype)

    def to_numpy(self) -> np.ndarray:
        return self.values

    def tolist(self) -> list[object]:
        return self.values.tolist()

    def __iter__(self) -> object:
        return iter(self.values)


ROWS = [[1.0, 2.0], [3.0, 4.5]]
SAME = {
    "list": ROWS,
    "tuple": tuple(map(tuple, ROWS)),
    "list of arrays": [np.array(row, "float32") for row in ROWS],
    "list of tensors": [torch.tensor(row) for row in ROWS],
    "float32": np.array(ROWS, "float32"),
    "big-endian": np.array(ROWS, ">f4"),
    "strided": np.array(ROWS, "float32")[::-1][::-1],
    "read-only": np.broadcast_to(np.array(ROWS, "float32"), (2, 2)),
    "frame": Table(ROWS, "float32"),
    "tensor": torch.tensor(ROWS),
}


@over("kind", SAME)
def test_what_holds_numbers_becomes_a_tensor_of_the_same_numbers(kind):
    found = as_tensor("rows", SAME[kind])
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(ROWS))


@over(
    ("given", "dtype"),
    [([1, 2], torch.int64), ([True, False], torch.bool), (np.array([1.0]), torch.float64),
     (np.array([7], "uint16"), torch.int64), (np.array([7], "uint8"), torch.uint8), (Table([1, 2]), torch.int64),
     (np.array([1.5], "longdouble"), torch.float64)],
)  # fmt: skip
def test_numbers_keep_their_type(given, dtype):
    assert as_tensor("values", given).dtype == dtype
    assert as_tensor("values", given).tolist() == [float(each) for each in given]


@over(
    "given",
    [None, "text", 3, 0.5, {"a": 1}, ["a"], [[1], [2, 3]], [None], nn.Linear(3, 4), np.array(["a"]), np.array([None]),
     np.array([2**63], "uint64"), Table([["x", 1]], object), Table([1, None], object), print,
     np.ndarray, (each for each in (1, 2)), [torch.zeros(2), torch.zeros(3)]],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_anything_else_is_one_line(given):
    with pytest.raises(InputError, match=r"^values: found .*, expected a tensor, or an array or list of numbers$"):
        as_tensor("values", given)


def test_a_tensor_is_the_very_same():
    given = torch.zeros(2, requires_grad=True)
    assert as_tensor("values", given) is given


@checked
def example(
    count: int = 1,
    rate: float = 0.5,
    name: str = "a",
    flag: bool = False,
    shape: Sequence[int] = (1,),
    pair: tuple[int, int] = (1, 2),
    several: Sequence[Tensor] = (),
    either: float | Callable[[int], float] = 1.0,
    maybe: Tensor | None = None,
    named: Mapping[str, Tensor] | None = None,
    kind: Literal["x", 1] = "x",
    path: Path = Path(),
    device: torch.device | str = "cpu",
    module: nn.Module | None = None,
    *,
    last: tuple[float, ...] = (),
) -> tuple[object, ...]:
    return count, rate, name, flag, shape, pair, several, either, maybe, named, kind, path, device, module, last


TAKEN = [
    ("count", np.int32(3), 3),
    ("rate", np.float32(0.5), 0.5),
    ("rate", np.int64(2), 2),
    ("flag", np.bool_(True), True),
    ("shape", np.array([3, 4]), [3, 4]),
    ("shape", torch.tensor([3, 4]), [3, 4]),
    ("shape", (np.int64(3), 4), (3, 4)),
    ("pair", np.array([3, 4]), [3, 4]),
    ("either", np.float64(2), 2.0),
    ("last", Table([0.5, 1.5]), [0.5, 1.5]),
    ("path", "a/b", Path("a/b")),
    ("device", "cpu", "cpu"),
]


@over(("name", "given", "expected"), TAKEN)
def test_numbers_of_numpy_become_those_of_python(name, given, expected):
    names = list(example.__wrapped__.__annotations__)
    found = example(**{name: given})[names.index(name)]
    assert found == expected
    assert type(found) is type(expected)


REFUSED = [
    ("count", 1.0, "count: found 1.0, expected a whole number"),
    ("count", True, "count: found True, expected a whole number"),
    ("rate", "fast", "rate: found 'fast', expected a number"),
    ("name", 3, "name: found 3, expected text"),
    ("flag", 1, "flag: found 1, expected True or False"),
    ("shape", 3, "shape: found 3, expected a list of whole numbers"),
    ("shape", ["a"], "shape: found 'a' at 0, expected a whole number"),
    ("shape", "12", "shape: found '12', expected a list of whole numbers"),
    ("pair", (1, 2, 3), "pair: found (1, 2, 3), expected 2 of them"),
    ("several", [torch.zeros(2), "a"], "several: found 'a' at 1, expected a tensor, or an array or list of numbers"),
    ("either", "1", "either: found '1', expected a number or a function"),
    ("maybe", {}, "maybe: found a dict, expected a tensor, or an array or list of numbers"),
    ("named", [1], "named: found [1], expected a mapping"),
    ("device", "gpu9", "device: found 'gpu9', expected a device, such as 'cpu' or 'cuda:0'"),
    ("module", nn.Linear, "module: found the class Linear, expected a torch.nn.Module"),
    ("module", print, "module: found a builtin_function_or_method, expected a torch.nn.Module"),
    ("path", 3, "path: found 3, expected a path"),
    ("path", "", "path: found '', expected a path"),
]


@over(("name", "given", "line"), REFUSED)
def test_another_kind_of_argument_is_one_line_with_its_name(name, given, line):
    with pytest.raises(InputError) as caught:
        example(**{name: given})
    assert str(caught.value) == line


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(
        InputError, match=r"^device: found 'cuda:99', expected a device of this machine, .*\(.+\)$"
    ) as caught:
        example(device="cuda:99")
    assert "\n" not in str(caught.value)
    network, samples = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lb.data.digits().test
    with pytest.raises(InputError, match=r"^device: "):
        lb.evaluate(network, samples, device="cuda:99")


def test_arrays_lists_and_tables_teach_as_tensors_do():
    rows, labels = torch.randn(8, 3), torch.arange(8) % 2
    whole = lb.data.TensorSet.of(rows, labels)
    for given in (
        (rows.numpy(), labels.numpy()),
        (rows.numpy(), labels.tolist()),
        (Table(rows.numpy()), Table(labels.numpy())),
    ):
        assert lb.data.TensorSet.of(*given).source == whole.source
    logits = torch.randn(4, 3)
    right = lb.losses.kd(logits, logits.flip(0), torch.tensor([0, 1, 2, 0]))
    given = lb.losses.kd(logits.numpy(), logits.flip(0).tolist(), [0, 1, 2, 0])
    torch.testing.assert_close(given, right)
    lazy = lb.data.LazySet.of([(row, int(label)) for row, label in zip(rows.numpy(), labels, strict=True)])
    assert torch.equal(lazy.gather(torch.arange(8)), rows)
    assert whole.subset([1, 0]).index.tolist() == [1, 0]
    probabilities = np.full((8, 2), 0.5)
    assert lb.ArrayTeacher.of_probabilities(probabilities, whole, index=np.arange(8)).rows.index.tolist() == [*range(8)]


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = lb.data.TensorSet.of(torch.randn(8, 3), torch.arange(8) % 2)
    with pytest.raises(InputError, match=r"^folder: found '', expected a path"):
        lb.fit(lb.Distiller(nn.Linear(3, 2), None, lb.methods.hard()), data, epochs=1, folder="")
    assert not list(tmp_path.iterdir())
