"""A layer of few values as one stream of bytes: Huffman codes of its values and of the distances between them."""

import struct
import zlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.compress.clusters import Gaps, gap_bits, gaps, places
from limbeck.compress.huffman import Stream, decode, encode, entropy
from limbeck.errors import CheckpointError, InputError

__all__ = ["Coded", "CodedSize", "coded_size", "ideal_stream_bytes", "read_codes", "write_codes"]

_HEAD = struct.Struct("<IBBIIHHI")
"""Checksum of the rest, bits of a distance and of a code, symbols in both streams, the only symbol of each plus 1 if it
has but one, else 0, bytes of the stream of codes."""
_FILLER = 0
"""The symbol of a distance of 2^d that leads to no weight."""


class CodedSize(NamedTuple):
    """Bytes of a layer's codes and positions, without the table of centroids.

    fixed: with codes and distances of fixed lengths.  huffman: as the stream has them.  ideal: the entropy of both and
    the tables of the code.

    Example:
        >>> CodedSize(fixed=62.5, huffman=60, ideal=50.0).huffman
        60
    """

    fixed: float
    huffman: int
    ideal: float


@checked
def write_codes(codes: Tensor, mask: Tensor, bits: int) -> Tensor:
    """Write which weights of a layer are not 0, and the code of each of them, as one stream.

    The bits of a distance are those with the least expected cost at the layer's density.

    Args:
        codes: whole numbers in [0, 2^b), of the weight's shape; those of weights that are 0 are not written.
        mask: bool, of that shape; True for a weight that is not 0.
        bits: b, from 1 to 8.

    Returns:
        (bytes,) uint8, with a checksum.

    Raises:
        InputError: if the shapes differ, or a code is out of range.

    Example:
        >>> codes, mask = torch.tensor([[0, 3], [1, 0]]), torch.tensor([[False, True], [True, False]])
        >>> [each.tolist() for each in read_codes(write_codes(codes, mask, 2), 4)]
        [[0, 3, 1, 0], [False, True, True, False]]

    Reference:
        Han et al. (2016), "Deep Compression", arXiv:1510.00149.
    """
    values, steps, distance = _streams(codes, mask, bits)
    rest = b"".join(each.numpy().tobytes() for each in (values.lengths, steps.lengths, values.data, steps.data))
    numbers = (distance, bits, values.count, steps.count, values.symbol + 1, steps.symbol + 1, values.data.numel())
    head = _HEAD.pack(0, *numbers)[4:]
    whole = struct.pack("<I", zlib.crc32(head + rest)) + head + rest
    return torch.frombuffer(bytearray(whole), dtype=torch.uint8)


@checked
def read_codes(stream: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Undo `write_codes`.

    Args:
        stream: (bytes,) uint8.
        count: of the layer's weights.

    Returns:
        The codes, (count,) int64 with 0 for weights that are 0, and the mask, (count,) bool.

    Raises:
        CheckpointError: if the stream is damaged.

    Example:
        >>> stream = write_codes(torch.tensor([1, 0]), torch.tensor([True, True]), 1)
        >>> stream[-1] ^= 1
        >>> read_codes(stream, 2)
        Traceback (most recent call last):
        limbeck.errors.CheckpointError: stream: it is damaged (wrong checksum); ...
    """
    checks.at_least("count", count, 0)
    values, steps, distance = _parts(stream)
    known, found = decode(values), decode(steps)
    filler = found == _FILLER
    mask = places(torch.where(filler, 2**distance, found), filler, count)
    if int(mask.sum()) != len(known):
        raise CheckpointError(f"stream: it is damaged ({len(known)} codes for {int(mask.sum())} weights); export again")
    codes = torch.zeros(count, dtype=torch.int64)
    codes[mask] = known
    return codes, mask


@checked
def coded_size(codes: Tensor, mask: Tensor, bits: int) -> CodedSize:
    """Return what a layer's codes and positions take.

    Args:
        codes: as in `write_codes`.
        mask: bool, of that shape.
        bits: b, from 1 to 8.

    Returns:
        Bytes with fixed lengths (b + d bits for each distance, those to fillers too), with Huffman's, and ideally.

    Raises:
        InputError: if the shapes differ, or a code is out of range.

    Example:
        >>> size = coded_size(torch.zeros(100, dtype=torch.int64), torch.ones(100) > 0, 4)
        >>> size.fixed, size.ideal < size.huffman < size.fixed
        (62.5, True)
    """
    _, steps, distance = _streams(codes, mask, bits)
    stream = write_codes(codes, mask, bits)
    return CodedSize(steps.count * (bits + distance) / 8, len(stream), ideal_stream_bytes(stream))


@checked
def ideal_stream_bytes(stream: Tensor) -> float:
    """Return what an ideal code of a stream's symbols takes: the entropy of both kinds, and the tables of the code.

    Args:
        stream: (bytes,) uint8, as `write_codes` gives it.

    Returns:
        Bytes.

    Raises:
        CheckpointError: if the stream is damaged.

    Example:
        >>> ideal_stream_bytes(write_codes(torch.tensor([0, 1, 1, 0]), torch.ones(4) > 0, 1))
        5.5

    Reference:
        Shannon (1948), "A Mathematical Theory of Communication".
    """
    values, steps, _ = _parts(stream)
    spread = [torch.bincount(decode(each), minlength=1) for each in (values, steps)]
    tables = values.lengths.numel() + steps.lengths.numel()
    return sum(entropy(counts) * int(counts.sum()) for counts in spread) / 8 + tables


def _parts(stream: Tensor) -> tuple[Stream, Stream, int]:
    """Return the streams of codes and of distances that are written as one, and the bits of a distance."""
    if stream.dtype != torch.uint8 or stream.dim() != 1:
        raise InputError(
            f"stream: found {str(stream.dtype).removeprefix('torch.')} {tuple(stream.shape)}, expected uint8 (bytes,)"
        )
    whole = stream.cpu().numpy().tobytes()
    if len(whole) < _HEAD.size or zlib.crc32(whole[4:]) != struct.unpack("<I", whole[:4])[0]:
        raise CheckpointError("stream: it is damaged (wrong checksum); expected what was written. Export it again")
    _, distance, bits, values, steps, value, step, size = _HEAD.unpack(whole[: _HEAD.size])
    rest = torch.frombuffer(bytearray(whole[_HEAD.size :]), dtype=torch.uint8)
    sizes = [2**bits, 2**distance + 1, size, len(rest) - 2**bits - 2**distance - 1 - size]
    if min(sizes) < 0:
        raise CheckpointError("stream: it is damaged (it ends too early); expected what was written. Export it again")
    lengths, step_lengths, data, step_data = rest.split(sizes)
    return Stream.of(data, lengths, values, value - 1), Stream.of(step_data, step_lengths, steps, step - 1), distance


def _streams(codes: Tensor, mask: Tensor, bits: int) -> tuple[Stream, Stream, int]:
    """Return the streams of the codes and of the distances, and the bits of a distance."""
    checks.at_least("bits", bits, 1, at_most=8)
    checks.shapes_match("codes", codes.shape, "mask", mask.shape)
    if mask.dtype != torch.bool:
        raise InputError(f"mask: found {str(mask.dtype).removeprefix('torch.')}, expected bool")
    kept = int(mask.sum())
    distance = gap_bits(kept / mask.numel(), kept) if kept else 1
    found: Gaps = gaps(mask, distance)
    symbols = torch.where(found.filler, _FILLER, found.distances)
    return encode(codes[mask].flatten(), 2**bits), encode(symbols, 2**distance + 1), distance


class Coded(nn.Module):
    """A weight that is stored as a stream of codes with their centroids, and dense once it is used.

    The stream saves room on disk and in a download.  It is decoded at its first use, and what is computed with is the
    dense weight.
    """

    centroids: Tensor

    def __init__(self, shape: tuple[int, ...], centroids: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centroids", centroids.detach().clone())
        self.known: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    def forward(self, stream: Tensor) -> Tensor:
        key = tuple((each.data_ptr(), _version(each)) for each in (stream, self.centroids))
        if self.known is None or self.known[0] != key:
            codes, mask = read_codes(stream, torch.Size(self.shape).numel())
            weight = torch.zeros(len(codes), dtype=self.centroids.dtype, device=self.centroids.device)
            weight[mask] = self.centroids[codes[mask]]
            self.known = key, weight.reshape(self.shape)
        return self.known[1]


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; one of inference mode does not count it."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - it has no public name
