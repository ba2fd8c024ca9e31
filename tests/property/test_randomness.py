"""Random numbers, augmentation and order are pure functions of (seed, view, index), and random enough."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limbeck import randomness
from limbeck.data import Augment, Loader, TensorSet
from limbeck.randomness import derive_seed, normal, permutation, uniform

SEEDS = st.integers(min_value=0, max_value=2**63 - 1)
VIEWS = st.integers(min_value=0, max_value=2**40)
INDICES = st.lists(st.integers(min_value=0, max_value=2**40), min_size=1, max_size=20, unique=True)
STREAMS = st.sampled_from(["shift", "flip", "noise", "order"])
few = settings(max_examples=40, deadline=None)

# A false alarm once in 10^9 draws: these tests draw new seeds at every run.
RARE = 1e-9


def mix_reference(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, in numpy's unsigned arithmetic."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform_reference(seed: int, stream: str, view: int, index: int, count: int) -> np.ndarray:
    golden = np.uint64(0x9E3779B97F4A7C15)
    name = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    state = np.array([int.from_bytes(name[:8], "little") >> 1], dtype=np.uint64)
    state = mix_reference(state + golden * np.array([view + 1], dtype=np.uint64))
    state = mix_reference(state + golden * np.array([index + 1], dtype=np.uint64))
    bits = mix_reference(state + golden * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def constant(value: int, size: int) -> torch.Tensor:
    return torch.full((size,), value, dtype=torch.int64)


def test_finaliser_gives_the_published_first_outputs_of_splitmix64():
    golden = randomness._GOLDEN
    state = torch.tensor([1234567]) + golden * torch.arange(1, 4)
    assert randomness._mix(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423 - 2**64]


@few
@given(seed=SEEDS, stream=STREAMS, view=VIEWS, index=INDICES, count=st.integers(1, 9))
def test_uniform_equals_the_unsigned_reference(seed, stream, view, index, count):
    found = uniform(seed, stream, constant(view, len(index)), torch.tensor(index), count)
    expected = np.stack([uniform_reference(seed, stream, view, one, count) for one in index])
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected)


@few
@given(seed=SEEDS, stream=STREAMS, view=VIEWS, start=st.integers(0, 2**40))
def test_uniform_is_uniform_along_samples_views_and_columns(seed, stream, view, start):
    size = 4000
    steps = torch.arange(start, start + size)
    draws = {
        "samples": uniform(seed, stream, constant(view, size), steps),
        "views": uniform(seed, stream, steps, constant(start, size)),
        "columns": uniform(seed, stream, constant(view, 1), constant(start, 1), size),
    }
    for along, drawn in draws.items():
        values = drawn.flatten().double().numpy()
        assert 0 <= values.min() <= values.max() < 1
        assert np.array_equal(values * 2**24, np.round(values * 2**24))
        counts = np.histogram(values, bins=32, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > RARE, along
        assert abs(values.mean() - 0.5) < 6.5 * np.sqrt(1 / 12 / size), along
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 6.5 / np.sqrt(size), along


@few
@given(seed=SEEDS, view=VIEWS)
def test_neighbouring_seeds_views_and_streams_are_unrelated(seed, view):
    index = torch.arange(4000)
    first = uniform(seed, "shift", constant(view, 4000), index).flatten().numpy()
    others = [
        uniform(seed + 1, "shift", constant(view, 4000), index),
        uniform(seed, "shift", constant(view + 1, 4000), index),
        uniform(seed, "flip", constant(view, 4000), index),
        uniform(seed, "shift", constant(view, 4000), index + 1),
    ]
    for other in others:
        assert abs(np.corrcoef(first, other.flatten().numpy())[0, 1]) < 6.5 / np.sqrt(4000)


@few
@given(seed=SEEDS, view=VIEWS, count=st.integers(1, 5))
def test_normal_is_standard_normal(seed, view, count):
    drawn = normal(seed, "noise", constant(view, 3000), torch.arange(3000), count)
    assert drawn.shape == (3000, count)
    assert drawn.dtype == torch.float32
    assert torch.isfinite(drawn).all()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > RARE
    assert torch.equal(drawn, normal(seed, "noise", constant(view, 3000), torch.arange(3000), count))


def test_normal_is_finite_where_the_uniform_is_extreme(monkeypatch):
    for extreme in (0.0, 1 - 2.0**-24):
        monkeypatch.setattr(randomness, "uniform", lambda *_, e=extreme: torch.full((1, 2), e))
        assert torch.isfinite(normal(0, "noise", constant(1, 1), constant(0, 1), 2)).all()


@few
@given(seed=SEEDS, view=VIEWS, index=INDICES, data=st.data())
def test_a_draw_does_not_know_its_batch(seed, view, index, data):
    cut = data.draw(st.integers(0, len(index)))
    order = torch.tensor(data.draw(st.permutations(range(len(index)))))
    position = torch.tensor(index)
    views = constant(view, len(index))
    for draw in (uniform, normal):
        whole = draw(seed, "noise", views, position, 3)
        parts = [draw(seed, "noise", views[part], position[part], 3) for part in (slice(cut), slice(cut, None))]
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(draw(seed, "noise", views, position[order], 3), whole[order])


@few
@given(seed=SEEDS, step=st.integers(0, 10**6), size=st.integers(1, 300))
def test_permutation_is_one_and_is_reproducible(seed, step, size):
    state = torch.get_rng_state()
    order = permutation(seed, "order", step, size)
    assert order.sort().values.tolist() == list(range(size))
    assert torch.equal(order, permutation(seed, "order", step, size))
    assert torch.equal(state, torch.get_rng_state())
    if size >= 50:
        for other in ((seed + 1, "order", step), (seed, "split", step), (seed, "order", step + 1)):
            assert not torch.equal(order, permutation(*other, size))


def test_each_place_of_an_order_is_uniform():
    orders = torch.stack([permutation(seed, "order", 0, 5) for seed in range(3000)])
    for place in range(5):
        assert stats.chisquare(torch.bincount(orders[:, place], minlength=5).numpy()).pvalue > 1e-4


@few
@given(seed=SEEDS, names=st.lists(st.text(max_size=5), max_size=3))
def test_derived_seeds_fit_torch_and_tell_names_apart(seed, names):
    derived = derive_seed(seed, *names)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, *names)
    assert derived != derive_seed(seed, *names, "more")


AUGMENTS = st.sampled_from(
    [
        Augment(shift=2),
        Augment(pad_crop=3),
        Augment(flip=0.5),
        Augment(noise=0.3),
        Augment(shift=1, flip=0.3, noise=0.1),
    ]
)


@few
@given(seed=SEEDS, view=st.integers(1, 2**40), index=INDICES, augment=AUGMENTS, data=st.data())
def test_augmentation_does_not_know_its_batch(seed, view, index, augment, data):
    cut = data.draw(st.integers(0, len(index)))
    order = torch.tensor(data.draw(st.permutations(range(len(index)))))
    position = torch.tensor(index)
    images = uniform(0, "images", constant(0, len(index)), position, 2 * 6 * 5).view(-1, 2, 6, 5)

    def apply(chosen):
        views = constant(view, len(position[chosen]))
        return augment.apply(images[chosen], seed=seed, view=views, index=position[chosen])

    whole = apply(slice(None))
    parts = [apply(part) for part in (slice(cut), slice(cut, None)) if len(position[part])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(apply(order), whole[order])


def numbered(size: int) -> TensorSet:
    return TensorSet.of(torch.rand(size, 1, 4, 4), torch.arange(size) % 3, classes=3)


@few
@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    world=st.integers(1, 5),
    epoch=st.integers(0, 5),
    seed=SEEDS,
    drop_last=st.booleans(),
)
def test_the_ranks_parts_are_the_global_batch(size, batch_size, world, epoch, seed, drop_last):
    if drop_last and batch_size > size:
        return
    loader = Loader(numbered(size), batch_size, seed=seed, drop_last=drop_last, augment=Augment(shift=1))
    whole = list(loader.epoch(epoch))
    ranks = [list(loader.epoch(epoch, rank=rank, world=world)) for rank in range(world)]
    assert [len(steps) for steps in ranks] == [loader.steps] * world
    for step, together in enumerate(whole):
        parts = [steps[step] for steps in ranks]
        real = [part for part in parts if part.mask is None]
        assert torch.equal(torch.cat([part.index for part in real]), together.index)
        assert torch.equal(torch.cat([part.inputs for part in real]), together.inputs)
        assert torch.equal(torch.cat([part.labels for part in real]), together.labels)
        assert max(map(len, parts)) - min(map(len, real)) <= 1
        for part in parts:
            assert part.mask is None or part.mask.tolist() == [False]
    covered = torch.cat([batch.index for batch in whole]).tolist()
    assert len(set(covered)) == len(covered) == (size // batch_size * batch_size if drop_last else size)


@pytest.mark.thorough
@few
@given(size=st.integers(2, 40), sizes=st.tuples(st.integers(1, 50), st.integers(1, 50)), start=st.integers(0, 50))
def test_neither_batch_size_nor_resuming_changes_a_sample(size, sizes, start):
    samples = numbered(size)
    first, second = (Loader(samples, count, seed=3, augment=Augment(shift=1, noise=0.1)) for count in sizes)
    one = torch.cat([batch.inputs for batch in first.epoch(2)])
    two = torch.cat([batch.inputs for batch in second.epoch(2)])
    assert torch.equal(one, two)
    start = min(start, first.steps)
    resumed = list(first.epoch(2, start=start))
    for batch, expected in zip(resumed, list(first.epoch(2))[start:], strict=True):
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.inputs, expected.inputs)


@pytest.mark.parametrize("size", [1, 7])
def test_views_of_one_sample_differ(size):
    index = constant(5, 50)
    views = torch.arange(50)
    drawn = Augment(shift=2).apply(torch.rand(1, 1, 9, 9).expand(50, -1, -1, -1), seed=size, view=views, index=index)
    assert len(drawn.flatten(1).unique(dim=0)) > 10
