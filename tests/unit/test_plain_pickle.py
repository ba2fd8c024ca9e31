"""The pickle reader: what it builds, and that it runs nothing, whatever it is given."""

import os
import pickle
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.plain_pickle import read_plain_pickle
from limbeck.errors import DataError

KEYS = st.text(max_size=5)
LEAVES = st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=300)
VALUES = st.recursive(
    LEAVES | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def read(content: bytes):
    return read_plain_pickle(bytearray(content), "batch")


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("batch: ")
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- what it reads


@given(value=VALUES, protocol=st.sampled_from([3, 4]))
def test_plain_values_come_back(value, protocol):
    found = read(pickle.dumps(value, protocol=protocol))
    assert found == value
    assert type(found) is type(value)


@given(value=st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)))
def test_protocol_2_without_bytes_comes_back(value):
    assert read(pickle.dumps(value, protocol=2)) == value


def test_what_stands_twice_is_one_object():
    shared = [1, 2]
    found = read(pickle.dumps([shared, shared], protocol=4))
    assert found[0] is found[1]


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4), (300, 400)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_of_bytes_become_tensors(shape, order, protocol):
    array = np.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), order=order)
    found = read(pickle.dumps({"data": array, "more": array}, protocol=protocol))
    assert found["data"].dtype == torch.uint8
    assert np.array_equal(found["data"].numpy(), array)
    assert np.array_equal(found["more"].numpy(), array)
    assert np.array_equal(read(pickle.dumps(array, protocol=protocol)).numpy(), array)


def python_2(labels: list[int], rows: np.ndarray) -> bytes:
    """Return a batch as the C pickler of Python 2 wrote it, protocol 2, instruction for instruction."""
    count, width = rows.shape
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x05batchq\x03U\x06labelsq\x04]q\x05(",
            *(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01" + b"M" + struct.pack("<H", count) + b"M" + struct.pack("<H", width) + b"\x86",
            b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", rows.nbytes) + rows.tobytes() + b"tbU\x09filenamesr\x0c\x00\x00\x00]q\x0d",
            b"(U\x05a.pngq\x0eh\x0eeu.",
        ]
    )


def test_a_batch_of_python_2_is_read():
    rows = np.random.default_rng(1).integers(0, 256, (30, 3072), dtype=np.uint8)
    found = read(python_2(list(range(30)), rows))
    assert set(found) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert found[b"labels"] == list(range(30))
    assert found[b"filenames"] == [b"a.png", b"a.png"]
    assert np.array_equal(found[b"data"].numpy(), rows)
    loaded = pickle.loads(python_2(list(range(30)), rows), encoding="bytes")  # noqa: S301 - what it stands for
    assert np.array_equal(loaded[b"data"], rows)


# --------------------------------------------------------------------------------------------------- what it never runs


class Payload:
    def __init__(self, function, *arguments):
        self.made_of = function, arguments

    def __reduce__(self):
        return self.made_of


def payloads(marker):
    command = f"touch {marker}"
    return [
        Payload(os.system, command),
        Payload(eval, f"open({str(marker)!r}, 'w')"),
        Payload(os.mkdir, str(marker)),
        Payload(np.save, str(marker), np.zeros(3)),
        Payload(Payload, os.system, command),
    ]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_that_a_pickle_names_is_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    for payload in payloads(marker):
        for value in (payload, {"data": payload}, [payload], {"labels": [1, (payload,)]}):
            assert "was not run" in refusal(pickle.dumps(value, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


def test_the_line_names_what_was_asked_for(tmp_path):
    line = refusal(pickle.dumps(Payload(os.system, f"touch {tmp_path / 'ran'}"), protocol=2))
    assert "posix.system" in line
    assert "fetch the file again" in line


@pytest.mark.parametrize(
    "module", ["numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.lib.npyio", "builtins"]
)
@pytest.mark.parametrize("name", ["load", "fromstring", "eval", "dtypes", "_reconstruct.__globals__"])
def test_neighbours_of_the_known_names_are_refused(module, name):
    assert f"{module}.{name}" in refusal(b"\x80\x02c" + f"{module}\n{name}\n".encode() + b".")


def test_known_names_serve_for_nothing_else():
    known = {
        b"reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n",
        b"array": b"cnumpy\nndarray\n",
        b"type": b"cnumpy\ndtype\n",
    }
    for function in known.values():
        for arguments in (
            b")",
            b"K\x01\x85",
            b"U\x02O8\x85",
            b"U\x02i8K\x00K\x01\x87",
            *(name + b"\x85" for name in known.values()),
        ):
            content = b"\x80\x02" + function + arguments + b"R."
            if function == known[b"reconstruct"] and arguments.startswith(known[b"array"]):
                assert "an array without content" in refusal(content)
            else:
                refusal(content)
    refusal(b"\x80\x02}}b.")


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.bool_, object])
def test_arrays_of_another_type_are_refused(kind):
    refusal(pickle.dumps({"data": np.zeros((2, 2), dtype=kind)}, protocol=4))


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in range(256)
        if bytes([code]) not in b"(}])NKMJUCTBXtaesuqrhjcRb."
        and code not in (0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8C, 0x93, 0x94, 0x95)
    ],
)
def test_other_instructions_are_refused(code):
    assert f"0x{code:02x}" in refusal(b"\x80\x02]" + bytes([code]) + b"\x00" * 16 + b".")


@pytest.mark.parametrize("protocol", [0, 5])
def test_other_protocols_are_refused(protocol):
    refusal(pickle.dumps({"labels": [1, 2, 3]}, protocol=protocol))


# --------------------------------------------------------------------------------------------------------------- damage


def test_every_truncation_is_one_line():
    whole = python_2([1, 2], np.arange(12, dtype=np.uint8).reshape(2, 6))
    assert read(whole)[b"labels"] == [1, 2]
    for end in range(len(whole)):
        refusal(whole[:end])


@given(data=st.data())
def test_any_damage_is_a_value_or_one_line(data):
    whole = bytearray(python_2([1, 2], np.arange(12, dtype=np.uint8).reshape(2, 6)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DataError):
        read(bytes(whole))


@given(content=st.binary(max_size=40))
def test_anything_at_all_is_a_value_or_one_line(content):
    with suppress(DataError):
        read(b"\x80\x02" + content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "truncated"),
        (b"\x80\x02.", "too few values"),
        (b"\x80\x02K\x01K\x02s.", "truncated or no pickle"),
        (b"\x80\x02}(K\x01u.", "truncated or no pickle"),
        (b"\x80\x02}]K\x01s.", "a key that is no text"),
        (b"\x80\x02}K\x01a.", "items for what is no list"),
        (b"\x80\x02h\x07.", "truncated or no pickle"),
        (b"\x80\x02T\xff\xff\xff\xffabc.", "-1 bytes promised"),
        (b"\x80\x04B\xff\xff\xff\xffabc.", "4294967295 bytes promised"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "utf-8"),
        (b"\x80\x02]]\x93.", "a name that is no text"),
        (b"\x80\x02K\x01(a.", "too few values"),
    ],
)
def test_broken_programs_are_named(content, line):
    assert line in refusal(content)


def test_shapes_that_do_not_fit_are_refused():
    good = python_2([1, 2], np.arange(12, dtype=np.uint8).reshape(2, 6))
    shape = b"M\x02\x00M\x06\x00\x86"
    assert good.count(shape) == 1
    for other in (
        b"M\x02\x00M\x07\x00\x86",
        b"K\x00M\x06\x00\x86",
        b"J\xff\xff\xff\xffM\x06\x00\x86",
        b"NM\x06\x00\x86",
        b"K\x05",
        b"\x88M\x0c\x00\x86",
    ):
        refusal(good.replace(shape, other))
    assert read(good.replace(shape, b"K\x03K\x02K\x02\x87"))[b"data"].shape == (3, 2, 2)


def test_nesting_cannot_exhaust_the_machine(monkeypatch):
    deep = b"\x80\x02)" + b"\x85" * 200_000
    read(deep + b".")
    refusal(b"\x80\x02}" + deep[2:] + b"K\x01s.")  # hashing such a key would end the process
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R"
    kind = b"cnumpy\ndtype\nU\x02u1\x85R"
    refusal(b"\x80\x02" + reconstruct + b"(K\x01" + deep[2:] + kind + b"\x89U\x01atb.")
    from limbeck.data import plain_pickle

    monkeypatch.setattr(plain_pickle, "_MOST_STEPS", 1000)
    assert "more than 1,000 pickle instructions" in refusal(deep + b".")
