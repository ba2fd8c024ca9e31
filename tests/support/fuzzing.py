"""What the fuzzing tests share: cases by numbered seeds, values of every kind, damage, and what counts as an answer."""

import contextlib
import copy
import io
import json
import random
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bounded import bounded
from limbeck.cli import main
from limbeck.errors import LimbeckError

HOSTILE = "<script>alert(1)</script>"


def cases(few: int, many: int, parts: int = 20) -> list:
    """Ranges of seeds: some by default, and under `slow` many, in parts."""
    each = many // parts
    slow = [
        pytest.param(range(part * each, (part + 1) * each), id=f"all-{part}", marks=pytest.mark.slow)
        for part in range(parts)
    ]
    return [pytest.param(range(10**6, 10**6 + few), id="some"), *slow]


def answered(call: Callable[[], Any]) -> Any:
    """Return what a call returns or the line that it is refused with; neither may take without end."""
    try:
        with bounded():
            found = call()
    except LimbeckError as error:
        found = str(error)
        code = error.exit_code
    if isinstance(found, str):
        assert code == 2, found
        assert found.isprintable()
        assert 0 < len(found) < 1100, found
    return found


def command(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["limbeck", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return end.value.code or 0, out.getvalue(), err.getvalue()


NUMBERS: list[Any] = [-(2**63), -1, 0, 1, 2, 10**9, 2**31, 2**63, 2**64, 10**30, 10**400, -0.0, 1e-320, 0.3, 1e9, 1e308]
TEXTS = [
    *(
        "",
        " ",
        "x",
        "kd",
        "yes",
        "null",
        "~",
        "~nobody/x",
        "../../etc/passwd",
        "/etc/passwd",
        "/",
        "..",
        "a/../../b",
        "\0",
    ),
    *(
        "\x1b[31mred",
        "\u202e\u200b",
        "née 日本 😀",
        "\ud800",
        "a\nb\r\nc",
        "x" * 5000,
        "/".join("y" * 300),
        "C:\\x",
        "%n%s{}{0}",
    ),
    *(
        "__import__('os').system('touch canary')",
        "os:system",
        "[/red]",
        HOSTILE,
        "${HOME}",
        "$(touch canary)",
        "1e3",
        "\x7f",
    ),
]


def junk(draw: random.Random, depth: int = 0) -> Any:
    """Draw a value of any type that YAML has."""
    kind = draw.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.choice(NUMBERS)
    if kind == 2:
        return draw.choice([float("nan"), float("inf"), float("-inf"), draw.uniform(-10, 10)])
    if kind in (3, 4):
        return draw.choice(TEXTS)
    if kind == 5:
        return draw.choice([b"\0\xff", __import__("datetime").date(2026, 1, 1), {"a"}, [], {}])
    if kind == 6:
        nested: Any = draw.choice(TEXTS)
        for _ in range(draw.choice([2, 20, 200])):
            nested = [nested] if draw.random() < 0.5 else {"a": nested}
        return nested
    if kind == 7:
        return [junk(draw, depth + 1) for _ in range(draw.choice([1, 2, 5, 300]) if depth == 0 else 2)]
    keys = [draw.choice([*TEXTS, 3, None, True, "kind", "name", "seed"]) for _ in range(3)]
    return {key: junk(draw, depth + 1) for key in keys}


def typo(draw: random.Random, name: str) -> str:
    at = draw.randrange(len(name) + 1)
    return draw.choice(
        [name[:at] + name[at + 1 :], name[:at] + draw.choice("aeé _.-") + name[at:], name.upper(), name[::-1]]
    )


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container below a value with each of its keys."""
    for key in list(value if isinstance(value, dict) else range(len(value))):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutated(draw: random.Random, given: Any, changes: int = 3) -> Any:
    """Return a copy in which some things are dropped, renamed, added, swapped or replaced."""
    value = copy.deepcopy(given)
    for _ in range(draw.randint(1, changes)):
        found = list(places(value))
        if not found:
            break
        holder, key = draw.choice(found)
        change = draw.choice(["drop", "rename", "add", "replace", "replace", "replace", "swap"])
        if change == "replace":
            holder[key] = junk(draw)
        elif change == "swap":
            other, place = draw.choice(found)
            if key in (holder if isinstance(holder, dict) else range(len(holder))) and place in (
                other if isinstance(other, dict) else range(len(other))
            ):
                holder[key] = copy.deepcopy(other[place])
        elif change == "add" and isinstance(holder, dict):
            holder[draw.choice([*TEXTS, 3, None])] = junk(draw)
        elif change == "rename" and isinstance(holder, dict):
            holder[typo(draw, str(key))] = holder.pop(key)
        else:
            del holder[key]
    return value


def noisy(draw: random.Random, content: bytes) -> bytearray:
    """Return bytes with some flipped, cut, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = draw.randbytes(draw.choice([1, 8, 200]))
        elif kind == 3:
            del changed[at : at + draw.choice([1, 8, 200])]
        else:
            changed[at:at] = changed[at : at + 64]
    return changed


# -------------------------------------------------------------------------------------------------- files to start from


def arrays(draw: random.Random | None = None) -> dict[str, Any]:
    return {
        "inputs": np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32),
        "labels": np.arange(60) % 3,
        "class_names": np.array(["a", HOSTILE, "c"]),
    }


def safetensors_bytes(draw: random.Random, tensors: dict[str, torch.Tensor]) -> bytes:
    """Draw a file of weights: with a false header, with tensors of another kind, or with noise."""
    content = saved(tensors)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    kind = draw.randrange(6)
    if kind == 0:
        return struct.pack("<Q", draw.choice([0, 1, length + 1, 10**8 + 1, 2**40, 2**63, 2**64 - 1])) + content[8:]
    if kind == 1:
        names = [name for name in header if name != "__metadata__"]
        entry = header[draw.choice(names)]
        change = draw.randrange(6)
        if change == 0:
            entry["data_offsets"] = draw.choice(
                [[-1, 5], [5, 1], [0, 2**63], [0, 2**64], [0], [], "x", None, [0.5, 1], [0, 8]]
            )
        elif change == 1:
            entry["shape"] = draw.choice([[-1], [2**40, 2**40], [], [0], "x", None, [1.5], [2**64], [1] * 100])
        elif change == 2:
            entry["dtype"] = draw.choice(
                ["F64", "I64", "BOOL", "F16", "BF16", "F8_E4M3", "C64", "U64", "x", None, 3, "F4"]
            )
        elif change == 3:
            header[draw.choice(["", "x" * 1000, "\0", "../x", HOSTILE])] = entry
        elif change == 4:
            del header[draw.choice(names)]
        else:
            header = mutated(draw, header)
        try:
            text = json.dumps(header).encode()
        except TypeError:
            text = repr(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    if kind == 2:
        types = [
            torch.float64,
            torch.int64,
            torch.bool,
            torch.float16,
            torch.complex64,
            torch.uint8,
            torch.float8_e4m3fn,
        ]
        return saved({name: tensor.to(draw.choice(types)) for name, tensor in tensors.items()})
    if kind == 3:
        text = draw.choice([b"[" * 100_000, b'{"a":' * 50_000, b"{}", b"null", b"\xff" * 20, b""])
        return struct.pack("<Q", len(text)) + text
    return bytes(noisy(draw, content))


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    path = Path("saved.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path.read_bytes()


def small() -> dict[str, Any]:
    short = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1, "checkpoint_seconds": 0.0}
    return {
        "name": "small",
        "summary": f"{HOSTILE} [/red] \x1b[31m",
        "data": {"kind": "npz", "path": str(Path("own.npz").absolute())},
        "teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": dict(short)},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {**short, "keep": "best", "averaging": 0.9, "optimizer": "adamw"},
        "validation": 10,
    }
