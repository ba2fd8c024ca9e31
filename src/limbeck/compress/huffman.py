"""Canonical Huffman codes: the lengths alone are stored, and a damaged stream is refused."""

import heapq
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.errors import CheckpointError, InputError

__all__ = ["Stream", "code_lengths", "decode", "encode", "entropy"]

_LONGEST = 56
"""Bits of a code: as many as one look at a stream of bytes holds."""
_AT_ONCE = 1 << 20
"""Bits of a stream whose codes are looked up at a time."""

_Whole = NDArray[np.int64]


@checked_fields
@dataclass(frozen=True)
class Stream:
    """Symbols as a stream of bits, with what is needed to read them.

    Attributes:
        data: (bytes,) uint8; the first bit of the stream is the highest of the first byte.
        lengths: (symbols,) uint8: the bits of each symbol's code, 0 for a symbol that does not occur or is the only
            one.
        count: of the symbols in the stream.
        symbol: the only symbol that occurs; -1 where there are several, or none.
        checksum: CRC-32 of data, lengths, count and symbol.

    Example:
        >>> encode(torch.tensor([0, 0, 1, 2]), 3).lengths
        tensor([1, 2, 2], dtype=torch.uint8)
    """

    data: Tensor
    lengths: Tensor
    count: int
    symbol: int
    checksum: int

    @classmethod
    def of(cls, data: Tensor, lengths: Tensor, count: int, symbol: int) -> "Stream":
        """Return a stream with its checksum."""
        return cls(data, lengths, count, symbol, _checksum(data, lengths, count, symbol))

    @property
    def bits(self) -> int:
        """The bytes of the stream and of its table of lengths, in bits."""
        return 8 * (self.data.numel() + self.lengths.numel())


@checked
def entropy(counts: Tensor) -> float:
    """Compute -Σ p·log₂ p of symbols that occur so many times.

    Args:
        counts: (symbols,) whole numbers, 0 or above.

    Returns:
        Bits a symbol; 0 where none occurs.

    Raises:
        InputError: if the counts are no such numbers.

    Example:
        >>> entropy(torch.tensor([8, 4, 2, 1, 1]))
        1.875
    """
    known = _counts(counts)
    shares = known[known > 0] / max(1, known.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


@checked
def code_lengths(counts: Tensor) -> Tensor:
    """Return the bits of the code of each symbol, as Huffman's method finds them.

    Of equal counts the symbols that come first are joined first, so that the lengths are the same everywhere.

    Args:
        counts: (symbols,) whole numbers, 0 or above: how many times each symbol occurs.

    Returns:
        (symbols,) uint8; 0 for a symbol that does not occur, and for the only one that does.

    Raises:
        InputError: if the counts are no such numbers, or a code would need more than 56 bits.

    Example:
        >>> code_lengths(torch.tensor([8, 4, 2, 1, 1]))
        tensor([1, 2, 3, 4, 4], dtype=torch.uint8)

    Reference:
        Huffman (1952), "A Method for the Construction of Minimum-Redundancy Codes".
    """
    known = _counts(counts)
    lengths = np.zeros(len(known), dtype=np.int64)
    heap = [(int(known[symbol]), int(symbol), [int(symbol)]) for symbol in np.flatnonzero(known)]
    heapq.heapify(heap)
    made = len(known)
    while len(heap) > 1:
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        joined = one[2] + other[2]
        lengths[joined] += 1
        heapq.heappush(heap, (one[0] + other[0], made, joined))
        made += 1
    if lengths.max(initial=0) > _LONGEST:
        raise InputError(f"counts: found a code of {lengths.max()} bits, expected at most {_LONGEST}")
    return torch.from_numpy(lengths.astype(np.uint8))


@checked
def encode(symbols: Tensor, size: int) -> Stream:
    """Write symbols as a Huffman stream of their own code.

    Args:
        symbols: (n,) whole numbers in [0, size).
        size: of the alphabet.

    Returns:
        The stream.

    Raises:
        InputError: if a symbol is not of the alphabet.

    Example:
        >>> stream = encode(torch.tensor([2, 0, 0, 1]), 3)
        >>> stream.data, decode(stream)
        (tensor([200], dtype=torch.uint8), tensor([2, 0, 0, 1]))

    Reference:
        Han et al. (2016), "Deep Compression", arXiv:1510.00149.
    """
    checks.at_least("size", size, 1)
    if symbols.dim() != 1 or symbols.is_floating_point() or symbols.is_complex() or symbols.dtype == torch.bool:
        raise InputError(
            f"symbols: found {str(symbols.dtype).removeprefix('torch.')} {tuple(symbols.shape)}, expected whole"
            " numbers (n,)"
        )
    values: _Whole = symbols.cpu().numpy().astype(np.int64)
    if len(values) and not 0 <= values.min() <= values.max() < size:
        raise InputError(f"symbols: found {values.min()} to {values.max()}, expected 0 to {size - 1}")
    counts = torch.from_numpy(np.bincount(values, minlength=size))
    lengths = code_lengths(counts)
    present = counts.nonzero().flatten().tolist()
    own = lengths.numpy().astype(np.int64)
    codes = _codes(own)
    parts = [_bits(codes, own, values[at : at + _AT_ONCE]) for at in range(0, len(values), _AT_ONCE)]
    bits = np.concatenate([np.zeros(0, dtype=np.uint8), *parts])
    data = torch.from_numpy(np.packbits(bits))
    symbol = present[0] if len(present) == 1 else -1
    return Stream.of(data, lengths, len(values), symbol)


@checked
def decode(stream: Stream) -> Tensor:
    """Read the symbols of a stream.

    Args:
        stream: as `encode` wrote it.

    Returns:
        (count,) int64.

    Raises:
        CheckpointError: if the stream is damaged.

    Example:
        >>> decode(encode(torch.tensor([7, 7, 7]), 8))
        tensor([7, 7, 7])
    """
    if _checksum(stream.data, stream.lengths, stream.count, stream.symbol) != stream.checksum:
        raise _damaged("wrong checksum")
    if stream.symbol >= 0 or not stream.count:
        return torch.full((stream.count,), stream.symbol)
    lengths = stream.lengths.numpy().astype(np.int64)
    order, first, limits = _reading(lengths)
    if not len(order):
        raise _damaged("it has no table")
    found = np.empty(stream.count, dtype=np.int64)
    data = np.concatenate([stream.data.numpy(), np.zeros(8, dtype=np.uint8)])
    place, number, total = 0, 0, 8 * stream.data.numel()
    while number < stream.count:
        steps, symbols = _look(data, place, min(_AT_ONCE, total - place), order, first, limits)
        if not len(steps):
            raise _damaged("it ends too early")
        jumps, at, end = steps.tolist(), 0, len(steps)
        places: list[int] = []
        while at < end and number + len(places) < stream.count:
            places.append(at)
            at += jumps[at]
        found[number : number + len(places)] = symbols[places]
        number, place = number + len(places), place + at
    if place > total:
        raise _damaged("it ends too early")
    return torch.from_numpy(found)


def _counts(counts: Tensor) -> _Whole:
    if counts.dim() != 1 or counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise InputError(
            f"counts: found {str(counts.dtype).removeprefix('torch.')} {tuple(counts.shape)}, expected whole numbers"
            " (symbols,)"
        )
    known: _Whole = counts.cpu().numpy().astype(np.int64)
    if len(known) and known.min() < 0:
        raise InputError(f"counts: found {known.min()}, expected 0 or above")
    return known


def _codes(lengths: _Whole) -> NDArray[np.uint64]:
    """Return the canonical codes: by length and then by symbol, each one more than the last, shifted to its length."""
    codes = np.zeros(len(lengths), dtype=np.uint64)
    code, before = 0, 0
    for symbol in np.argsort(lengths, kind="stable"):
        length = int(lengths[symbol])
        if not length:
            continue
        code <<= length - before
        codes[symbol] = code
        code, before = code + 1, length
    return codes


def _bits(codes: NDArray[np.uint64], lengths: _Whole, values: _Whole) -> NDArray[np.uint8]:
    """Return the bits of some symbols, one in each byte."""
    each = lengths[values]
    ends = np.cumsum(each)
    place = np.arange(int(ends[-1]) if len(ends) else 0)
    owner = np.repeat(np.arange(len(values)), each)
    from_right = (ends[owner] - 1 - place).astype(np.uint64)
    return ((codes[values][owner] >> from_right) & np.uint64(1)).astype(np.uint8)


def _reading(lengths: _Whole) -> tuple[_Whole, _Whole, NDArray[np.uint64]]:
    """Return the symbols in the order of their codes, the place of each, and the codes as the first of 56 bits."""
    codes = _codes(lengths)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    aligned = codes[order] << (_LONGEST - lengths[order]).astype(np.uint64)
    return order, lengths[order], aligned


def _look(
    data: NDArray[np.uint8], place: int, size: int, order: _Whole, own: _Whole, aligned: NDArray[np.uint64]
) -> tuple[_Whole, _Whole]:
    """Return, for each of some bits of a stream, the length and the symbol of the code that begins there."""
    if size <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    bit = place + np.arange(size)
    byte = bit >> 3
    window = np.zeros(size, dtype=np.uint64)
    for number in range(8):
        window = (window << np.uint64(8)) | data[np.minimum(byte + number, len(data) - 1)].astype(np.uint64)
    window = (window << (bit & 7).astype(np.uint64)) >> np.uint64(64 - _LONGEST)
    entry = np.searchsorted(aligned, window, side="right") - 1
    return own[entry], order[entry]


def _checksum(data: Tensor, lengths: Tensor, count: int, symbol: int) -> int:
    found = zlib.crc32(data.numpy().tobytes())
    found = zlib.crc32(lengths.numpy().tobytes(), found)
    return zlib.crc32(f"{count} {symbol}".encode(), found)


def _damaged(why: str) -> CheckpointError:
    return CheckpointError(f"stream: it is damaged ({why}); expected what encode wrote. Export the model again")
