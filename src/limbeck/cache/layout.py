"""How a row of a store lies in memory: fields of fixed types and shapes, one behind the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

__all__ = ["SIZES", "Field", "Layout", "narrowest", "packed", "unpacked"]

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "uint16": 2, "uint24": 3}
"""Bytes of a number of each type; all are little-endian.  bfloat16 is the upper half of a float32."""


@dataclass(frozen=True)
class Field:
    """One field of a row: `shape` numbers of a type, from byte `offset` of the row on."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return SIZES[self.type] * prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The fields of a row and the bytes from one row to the next.

    >>> Layout.of([("ids", "uint8", (2,)), ("rest", "float32", (1,))]).stride
    6
    """

    stride: int
    fields: tuple[Field, ...]

    @classmethod
    def of(cls, fields: Sequence[tuple[str, str, Sequence[int]]]) -> "Layout":
        """Lay fields, each (name, type, shape), one behind the other."""
        laid, offset = [], 0
        for name, kind, shape in fields:
            laid.append(Field(name, kind, tuple(shape), offset))
            offset += laid[-1].bytes
        return cls(offset, tuple(laid))

    def pack(self, values: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Return rows (n, stride) uint8 of the values (n, ...) of each field."""
        first = values[self.fields[0].name]
        rows = np.empty((len(first), self.stride), dtype=np.uint8)
        for field in self.fields:
            block = packed(np.asarray(values[field.name]), field.type)
            rows[:, field.offset : field.offset + field.bytes] = block.reshape(len(first), field.bytes)
        return rows

    def unpack(self, rows: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        """Return a field of rows (n, stride) uint8, in float32 or int64: (n, *shape)."""
        field = next(each for each in self.fields if each.name == name)
        if field.type == "uint24" and field.offset + field.bytes < self.stride:  # a byte of the next field is cut off
            rows = np.ascontiguousarray(rows)
            words = np.ndarray((len(rows), prod(field.shape)), "<u4", rows, field.offset, (self.stride, 3))
            return (words & 0xFFFFFF).astype(np.int64).reshape(len(rows), *field.shape)
        block = np.array(rows[:, field.offset : field.offset + field.bytes], order="C")  # a copy, and so aligned
        return unpacked(block, field.type).reshape(len(rows), *field.shape)


def narrowest(classes: int) -> str:
    """Return the narrowest type that can number so many classes.

    >>> narrowest(100), narrowest(65_536), narrowest(128_256)
    ('uint8', 'uint16', 'uint24')
    """
    return "uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "uint24"


def packed(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Return numbers as bytes (..., size of the type)."""
    if kind == "bfloat16":  # rounded to the nearest, ties to even
        bits = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        halves = np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")
        return halves.view(np.uint8).reshape(*values.shape, 2)
    if kind == "uint24":
        words = np.ascontiguousarray(values, "<u4")
        return words.view(np.uint8).reshape(*values.shape, 4)[..., :3]
    dtype = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}[kind]
    return np.ascontiguousarray(values, dtype).view(np.uint8).reshape(*values.shape, SIZES[kind])


def unpacked(block: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Return what `packed` was given, in float32 or int64; block: (n, bytes) contiguous."""
    if kind == "bfloat16":
        return (block.view("<u2").astype("<u4") << 16).view("<f4")
    if kind == "uint24":
        wide = np.zeros((*block.shape[:-1], block.shape[-1] // 3, 4), dtype=np.uint8)
        wide[..., :3] = block.reshape(*block.shape[:-1], -1, 3)
        return wide.view("<u4")[..., 0].astype(np.int64)
    if kind.startswith("float"):
        return block.view("<f4" if kind == "float32" else "<f2").astype(np.float32, copy=False)
    return block.view("u1" if kind == "uint8" else "<u2").astype(np.int64)
