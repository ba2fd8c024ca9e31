"""Shared values, distances and Huffman streams: what is written is read again, and takes the bits that it should."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.compress import (
    Codes,
    Prune,
    coded_size,
    read_codes,
    rebuilt,
    records_of,
    settled,
    top_mask,
    write_codes,
)
from limbeck.compress.clusters import centroid_gradient, gap_bits, gap_cost, gaps, kmeans, places, sharing_rate
from limbeck.compress.huffman import code_lengths, decode, encode, entropy
from limbeck.compress.weights import Shared
from limbeck.errors import CheckpointError
from limbeck.exporting import exported_bytes, ideal_bytes


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
    assert gap_bits(0.08, 21_414) == 5
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


@given(st.integers(0, 3), st.integers(0, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_a_layer_is_read_again_bit_for_bit(bits, count, data):
    bits = max(1, bits)
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=torch.bool)
    drawn = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count))
    codes = torch.where(kept, torch.tensor(drawn, dtype=torch.int64), 0)
    stream = write_codes(codes, kept, bits)
    found, mask = read_codes(stream, count)
    assert found.equal(codes)
    assert mask.equal(kept)
    damaged = stream.clone()
    place = data.draw(st.integers(0, len(stream) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CheckpointError, match="damaged"):
        read_codes(damaged, count)


def test_a_pruned_layer_takes_the_bits_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 784, generator=generator)
    mask = top_mask(weight.abs(), 0.92)
    codes = torch.zeros(300, 784, dtype=torch.int64)
    codes[mask] = kmeans(weight[mask], 6).codes
    size = coded_size(codes, mask, 6)
    assert size.fixed * 8 == pytest.approx(int(mask.sum()) * 11 * 1.0745, rel=5e-3)  # 6 + 5 bits, and the fillers
    assert size.ideal <= size.huffman <= size.fixed
    assert size.huffman - size.ideal < 0.02 * size.ideal
    assert size.huffman == len(write_codes(codes, mask, 6))


def test_a_stored_network_of_streams_answers_as_the_one_that_was_trained(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    inputs = torch.randn(5, 20)
    model, _ = Codes(bits=4).apply(Prune(sparsity=0.8, skip=()).apply(plain)[0])
    small = settled(model)
    assert torch.equal(small(inputs), model(inputs))
    state = small.state_dict()
    assert {str(each.dtype) for name, each in state.items() if name.endswith("original")} == {"torch.uint8"}
    again = rebuilt(plain, records_of(small))
    again.load_state_dict(state)
    assert torch.equal(again(inputs), model(inputs))
    assert torch.equal(copy.deepcopy(again)(inputs), model(inputs))
    state["0.parametrizations.weight.original"][20] ^= 4
    again.load_state_dict(state)
    with pytest.raises(CheckpointError, match="wrong checksum"):
        again(inputs)


def test_the_ideal_size_of_a_network_is_that_of_its_symbols_tables_and_other_tensors():
    torch.manual_seed(0)
    model, _ = Codes(bits=4).apply(Prune(sparsity=0.8, skip=()).apply(nn.Sequential(nn.Linear(200, 100)))[0])
    shared = model[0].parametrizations.weight[0]
    size = coded_size(shared.codes.long(), shared.mask, 4)
    assert ideal_bytes(model) == -int(-size.ideal // 1) + 16 * 4 + 100 * 4  # centroids and biases in float32
    assert size.ideal < size.huffman < exported_bytes(model)
    kept = shared.codes[shared.mask].long()
    assert size.ideal > entropy(torch.bincount(kept)) * len(kept) / 8


def test_one_weight_of_many_can_be_written():
    """Its distance is longer than any that a header of two signed bytes would hold."""
    mask = torch.zeros(100_000, dtype=torch.bool)
    mask[40_000] = True
    stream = write_codes(mask.long() * 5, mask, 4)
    codes, back = read_codes(stream, 100_000)
    assert torch.equal(back, mask)
    assert int(codes[40_000]) == 5
    assert len(stream) < 500


@pytest.mark.parametrize(("weights", "kept"), [(100_000, 21), (1_000_000, 965), (266_610, 21_414)])
def test_the_bits_of_a_distance_count_the_table_of_its_code(weights, kept):
    sizes = {bits: gap_cost(kept / weights, bits) * kept / 8 + 2**bits for bits in range(1, 16)}
    assert gap_bits(kept / weights, kept) == min(sizes, key=sizes.get)


def test_centroids_have_the_gradient_that_the_formula_gives():
    torch.manual_seed(0)
    codes, mask = torch.randint(4, (5, 6)), torch.rand(5, 6) < 0.7
    centroids, gradient = torch.randn(4, requires_grad=True), torch.randn(5, 6)
    (Shared(codes, mask, 2)(centroids) * gradient).sum().backward()
    expected = torch.stack([gradient[mask & (codes == code)].sum() for code in range(4)])
    torch.testing.assert_close(centroids.grad, expected)
    torch.testing.assert_close(centroid_gradient((gradient * mask).flatten(), codes.flatten(), 4), expected)
