"""Shared values, distances and Huffman streams: what is written is read again, and takes the bits that it should."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.compress.clusters import centroid_gradient, gap_bits, gap_cost, gaps, kmeans, places, sharing_rate
from limbeck.compress.huffman import code_lengths, decode, encode, entropy
from limbeck.errors import CheckpointError


def test_kmeans_starts_evenly_and_keeps_centroids_for_outliers():
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([0.05 * torch.randn(500, generator=generator), torch.tensor([2.0, -2.0])])
    found = kmeans(values, 3)
    assert found.centroids[0] == -2.0
    assert found.centroids[-1] == 2.0
    # Lloyd's rounds by hand, in float64
    points = values.double().numpy()
    centres = np.linspace(points.min(), points.max(), 8)
    for _ in range(50):
        nearest = np.abs(points[:, None] - centres[None]).argmin(1)
        centres = np.array([points[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(8)])
    assert torch.allclose(found.centroids.double(), torch.from_numpy(centres), atol=1e-7)
    assert found.codes.tolist() == np.abs(points[:, None] - centres[None]).argmin(1).tolist()


def test_examples_of_the_specification():
    gradient = centroid_gradient(torch.tensor([0.1, -0.2, 0.3, 0.4]), torch.tensor([0, 1, 0, 1]), 2)
    assert gradient.tolist() == pytest.approx([0.4, 0.2], abs=1e-6)
    assert sharing_rate(16, 32, 4) == pytest.approx(3.2, abs=1e-12)
    mask = torch.zeros(15, dtype=torch.bool)
    mask[[0, 3, 14]] = True
    found = gaps(mask, 3)
    assert found.distances.tolist() == [1, 3, 8, 3]
    assert found.filler.tolist() == [False, False, True, False]
    assert gap_cost(0.08, 5) / 5 - 1 == pytest.approx(0.0745, abs=5e-5)
    assert [gap_cost(0.08, bits) for bits in (4, 5, 8)] == pytest.approx([5.43, 5.37, 8.00], abs=5e-3)
    assert gap_bits(0.08) == 5
    assert code_lengths(torch.tensor([8, 4, 2, 1, 1])).tolist() == [1, 2, 3, 4, 4]
    assert entropy(torch.tensor([8, 4, 2, 1, 1])) == 1.875


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 6))
def test_positions_are_read_again(kept, bits):
    mask = torch.tensor(kept, dtype=torch.bool)
    found = gaps(mask, bits)
    assert places(found.distances, found.filler, len(kept)).equal(mask)
    assert ((found.distances >= 1) & (found.distances <= 2**bits)).all()
    assert int((~found.filler).sum()) == int(mask.sum())


@given(st.lists(st.integers(0, 12), max_size=300), st.integers(13, 20))
@settings(max_examples=60)
def test_a_stream_is_read_again_and_takes_the_sum_of_its_lengths(symbols, size):
    given_symbols = torch.tensor(symbols, dtype=torch.int64)
    stream = encode(given_symbols, size)
    assert decode(stream).equal(given_symbols)
    counts = torch.bincount(given_symbols, minlength=size)
    bits = int((counts * stream.lengths.long()).sum())
    assert stream.data.numel() == -(-bits // 8)
    if len(symbols) and (counts > 0).sum() > 1:
        assert entropy(counts) * len(symbols) <= bits < (entropy(counts) + 1) * len(symbols)
        assert sum(2.0 ** -float(length) for length in stream.lengths if length) == 1.0  # Kraft: none is wasted
    else:
        assert bits == 0


def test_streams_longer_than_a_look_and_codes_of_many_bits_are_read_again():
    generator = torch.Generator().manual_seed(0)
    symbols = (-torch.rand(400_000, generator=generator).log2()).long().clamp(0, 31)
    assert decode(encode(symbols, 32)).equal(symbols)
    fibonacci = [1, 1]
    while len(fibonacci) < 24:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    steep = torch.repeat_interleave(torch.arange(24), torch.tensor(fibonacci))
    stream = encode(steep, 24)
    assert int(stream.lengths.max()) == 23
    assert decode(stream).equal(steep)


@pytest.mark.parametrize("field", ["data", "lengths", "count", "symbol"])
def test_a_damaged_stream_is_refused(field):
    stream = encode(torch.tensor([0, 1, 2, 2, 1, 0, 0, 3]), 4)
    value = getattr(stream, field)
    damaged = value + 1 if isinstance(value, int) else value.clone().index_fill(0, torch.tensor([0]), 3)
    with pytest.raises(CheckpointError, match="damaged"):
        decode(dataclasses.replace(stream, **{field: damaged}))
