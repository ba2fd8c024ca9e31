"""Reading a pickle of plain values without running anything: no name that it gives is ever imported or called.

A pickle is a program for a stack machine, and the usual reader lets it call any function of any module.  This one knows
the instructions that build dicts, lists, tuples, text, bytes and whole numbers, and the one way in which NumPy writes
an array of unsigned bytes, for which it makes a tensor.  At everything else it stops.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import DataError

__all__ = ["read_plain_pickle"]

_MOST_STEPS = 1_000_000
_LONG = 2**16  # bytes, from which on a value is a view of the content and no copy

_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}


def read_plain_pickle(content: bytearray, name: str) -> Any:
    r"""Return the value that a pickle of protocol 2 to 4 describes.

    Text of Python 2 comes as bytes; an array of unsigned bytes, which may be the value or stand in it where it is a
    dict, comes as a uint8 tensor that shares the content's memory.  name: of the file, for error lines.
    Raises DataError for a damaged pickle, and for one that holds anything else, which is not run.

    >>> read_plain_pickle(bytearray(b"\x80\x02}q\x00U\x01aK\x05s."), "file")
    {b'a': 5}
    """
    try:
        value = _Machine(content, name).run()
        if isinstance(value, dict):
            return {key: _finished(item) for key, item in value.items()}
        return _finished(value)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: is truncated or no pickle of plain values ({reason}); fetch it again") from None


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names, and that stands for itself alone."""

    kind: str


class _Bytes:
    """The type of unsigned bytes."""


class _Array:
    """An array, and its content once that is known."""

    content: Tensor | None = None


def _finished(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    if value.content is None:
        raise ValueError("an array without content")
    return value.content


class _Machine:
    """The stack machine: `run` carries out one instruction after the other."""

    def __init__(self, content: bytearray, name: str) -> None:
        self.content = content
        self.name = name
        self.place = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_STEPS):
            code = self.content[self.place]
            self.place += 1
            if code == ord("."):
                return self.pop(1)[0]
            if code not in _INSTRUCTIONS:
                raise DataError(
                    f"{self.name}: holds pickle instruction 0x{code:02x} at byte {self.place - 1}, which plain values"
                    " do not need; it was not run; fetch the file again from its publisher"
                )
            _INSTRUCTIONS[code](self)
        raise DataError(f"{self.name}: takes more than {_MOST_STEPS:,} pickle instructions; fetch it again")

    def take(self, size: int) -> bytes | memoryview:
        """Return the next bytes; a view where they are many."""
        if size < 0 or self.place + size > len(self.content):
            raise ValueError(f"{size} bytes promised at byte {self.place} of {len(self.content)}")
        view = memoryview(self.content)[self.place : self.place + size]
        self.place += size
        return view if size >= _LONG else bytes(view)

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        end = self.content.index(b"\n", self.place)
        text = self.take(end - self.place)
        self.place += 1
        return bytes(text).decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """Take so many values off the stack, none from below the last mark."""
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise ValueError(f"too few values at byte {self.place}")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def above_mark(self) -> list[Any]:
        """Take what stands above the last mark."""
        items = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return items

    def protocol(self) -> None:
        version = self.number(1)
        if not 2 <= version <= 4:
            raise ValueError(f"protocol {version}, expected 2, 3 or 4")

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("keys for what is no dict")
        if not all(isinstance(key, str | bytes) for key in items[::2]):
            raise TypeError("a key that is no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def push_name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        if (module, name) not in _NAMES:
            raise DataError(
                f"{self.name}: names {module}.{name}, which plain values do not need; it was not run; "
                "fetch the file again from its publisher"
            )
        self.push(_Name(_NAMES[module, name]))

    def reduce(self) -> None:
        """Stand in for the call of a known name: an array to be built, or the type of its elements."""
        function, arguments = self.pop(2)
        if function == _Name("reconstruct") and arguments[0] == _Name("ndarray"):
            self.push(_Array())
        elif function == _Name("dtype") and arguments[0] in ("u1", b"u1"):
            self.push(_Bytes())
        else:
            raise ValueError("a call that no array of unsigned bytes needs")

    def build(self) -> None:
        """Give an array its content; the state of the type says nothing new."""
        (state,) = self.pop(1)
        if isinstance(self.stack[-1], _Array):
            _, shape, kind, by_columns, content = state
            if not (isinstance(kind, _Bytes) and isinstance(content, bytes | memoryview)):
                raise ValueError("an array of another type than unsigned bytes")
            self.stack[-1].content = _tensor(shape, content, by_columns=by_columns)
        elif not isinstance(self.stack[-1], _Bytes):
            raise ValueError("a state for what takes none")


def _tensor(shape: tuple[int, ...], content: bytes | memoryview, *, by_columns: bool) -> Tensor:
    if any(type(extent) is not int or extent < 1 for extent in shape) or math.prod(shape) != len(content):
        raise ValueError("an array whose shape does not fit its bytes")
    flat = torch.frombuffer(bytearray(content) if isinstance(content, bytes) else content, dtype=torch.uint8)
    return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))) if by_columns else flat.view(shape)


_Do = Callable[[_Machine], object]


def _text(size: int) -> _Do:
    return lambda machine: machine.push(bytes(machine.take(machine.number(size))).decode())


def _bytes(size: int, *, signed: bool = False) -> _Do:
    return lambda machine: machine.push(machine.take(machine.number(size, signed=signed)))


def _number(size: int, *, signed: bool = False) -> _Do:
    return lambda machine: machine.push(machine.number(size, signed=signed))


def _constant(make: Callable[[], Any]) -> _Do:
    return lambda machine: machine.push(make())


def _tuple(size: int) -> _Do:
    return lambda machine: machine.push(tuple(machine.pop(size)))


_INSTRUCTIONS: dict[int, _Do] = {
    0x80: _Machine.protocol,
    0x95: lambda machine: machine.take(8),  # a frame's length, which only helps to read ahead
    ord("("): lambda machine: machine.marks.append(len(machine.stack)),
    ord("}"): _constant(dict),
    ord("]"): _constant(list),
    ord(")"): _constant(tuple),
    ord("N"): _constant(lambda: None),
    0x88: _constant(lambda: True),
    0x89: _constant(lambda: False),
    ord("K"): _number(1),
    ord("M"): _number(2),
    ord("J"): _number(4, signed=True),
    ord("U"): _bytes(1),
    ord("C"): _bytes(1),
    ord("T"): _bytes(4, signed=True),
    ord("B"): _bytes(4),
    ord("X"): _text(4),
    0x8C: _text(1),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda machine: machine.push(tuple(machine.above_mark())),
    ord("a"): lambda machine: machine.append(machine.pop(1)),
    ord("e"): lambda machine: machine.append(machine.above_mark()),
    ord("s"): lambda machine: machine.set_items(machine.pop(2)),
    ord("u"): lambda machine: machine.set_items(machine.above_mark()),
    ord("q"): lambda machine: machine.remember(machine.number(1)),
    ord("r"): lambda machine: machine.remember(machine.number(4)),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    ord("h"): lambda machine: machine.push(machine.memo[machine.number(1)]),
    ord("j"): lambda machine: machine.push(machine.memo[machine.number(4)]),
    ord("c"): lambda machine: machine.push_name(machine.line(), machine.line()),
    0x93: lambda machine: machine.push_name(*machine.pop(2)),
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
}
