"""The loader: steps, order, ranks, resuming, views, and worker processes."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.data import Augment, LazySet, Loader, TensorSet
from limbeck.errors import DataError, InputError
from small_rows import INPUTS, Rows, ends_its_process, plain, whose
from walk import over


def tensors(size: int = 23) -> TensorSet:
    return TensorSet.of(torch.rand(size, 1, 5, 5), torch.arange(size) % 3)


def indices(loader: Loader, epoch: int = 0, **options) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader.epoch(epoch, **options)]


@over(
    ("batch_size", "drop_last", "sizes"),
    [
        (5, False, [5, 5, 5, 5, 3]),
        (5, True, [5, 5, 5, 5]),
        (23, True, [23]),
        (100, False, [23]),
        (1, False, [1] * 23),
    ],
)
def test_steps_and_sizes(batch_size, drop_last, sizes):
    loader = Loader(tensors(), batch_size, seed=0, drop_last=drop_last)
    assert loader.steps == len(sizes)
    assert [len(batch) for batch in loader.epoch(0)] == sizes


def test_order_is_a_function_of_seed_and_epoch():
    samples = tensors()
    flat = [list(chain(*indices(Loader(samples, 4, seed=seed), epoch))) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(23)) for order in flat)
    assert len({tuple(order) for order in flat}) == 3
    loader = Loader(samples, 7, seed=0)
    list(loader.epoch(5))
    torch.rand(3)
    assert list(chain(*indices(loader, 0))) == flat[0]


def test_without_shuffle_the_order_is_the_sets():
    part = tensors().subset(torch.tensor([8, 3, 5]))
    assert indices(Loader(part, 2, seed=0, shuffle=False), 4) == [[8, 3], [5]]


def test_views_count_the_epochs_only_where_something_is_augmented():
    samples = tensors()
    for augment, views in ((Augment(shift=1), [1, 3]), (Augment(), [0, 0]), (None, [0, 0])):
        loader = Loader(samples, 23, seed=0, augment=augment, clean_view=True)
        for epoch, view in zip((0, 2), views, strict=True):
            (batch,) = loader.epoch(epoch)
            assert batch.view.unique().tolist() == [view]
            assert batch.augmented == (view > 0)
            assert torch.equal(batch.views["clean"], samples.inputs[batch.index])


def test_ranks_share_each_batch_as_array_split_does():
    loader = Loader(tensors(), 10, seed=0)
    whole = indices(loader)
    for step in range(3):
        for world in (1, 2, 3, 4, 10):
            parts = [indices(loader, rank=rank, world=world)[step] for rank in range(world)]
            expected = [part.tolist() for part in np.array_split(np.array(whole[step]), world)]
            assert [part for part, wanted in zip(parts, expected, strict=True) if wanted] == [w for w in expected if w]


def test_a_rank_without_a_share_gets_a_sample_that_does_not_count():
    loader = Loader(tensors(5), 4, seed=0, augment=Augment(shift=1))
    steps = [list(loader.epoch(0, rank=rank, world=3)) for rank in range(3)]
    assert [[len(batch) for batch in rank] for rank in steps] == [[2, 1], [1, 1], [1, 1]]
    assert [[batch.mask is None for batch in rank] for rank in steps] == [[True, True], [True, False], [True, False]]
    assert steps[2][1].mask.tolist() == [False]
    assert steps[2][1].mask.dtype == torch.bool


def test_start_skips_without_computing():
    reads = []

    def fetch(index):
        reads.append(index)
        return torch.zeros(2), 0

    samples = LazySet.of(fetch, torch.zeros(10, dtype=torch.int64), source="f")
    loader = Loader(samples, 2, seed=0)
    whole = indices(loader)
    reads.clear()
    assert indices(loader, start=3) == whole[3:]
    assert reads == list(chain(*whole[3:]))
    assert indices(loader, start=5) == []


def test_batches_are_made_as_they_are_asked_for():
    reads = []

    def fetch(index):
        reads.append(index)
        return torch.zeros(2), 0

    loader = Loader(LazySet.of(fetch, torch.zeros(10, dtype=torch.int64), source="f"), 2, seed=0)
    reads.clear()
    batches = loader.epoch(0)
    assert reads == []
    next(batches)
    assert len(reads) == 2
    batches.close()


@over(
    "options",
    [{"batch_size": 0}, {"batch_size": 2.5}, {"workers": -1}, {"batch_size": 24, "drop_last": True}],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=r"batch_size|workers"):
        Loader(tensors(), **{"batch_size": 4, "seed": 0, **options})


@over(
    "options",
    [{"epoch": -1}, {"start": 7}, {"start": -1}, {"rank": 2, "world": 2}, {"rank": -1}, {"world": 0}],
)
def test_epochs_that_do_not_exist_are_refused_at_once(options):
    loader = Loader(tensors(), 4, seed=0)
    with pytest.raises(InputError):
        loader.epoch(**{"epoch": 0, **options})


@pytest.mark.thorough
def test_worker_processes_change_nothing():
    inputs = torch.randint(0, 256, (14, 1, 5, 5), dtype=torch.uint8)
    rows = [(image, index % 2) for index, image in enumerate(inputs)]
    samples = LazySet.of(rows).subset(torch.arange(13))
    make = {"seed": 1, "augment": Augment(shift=1), "clean_view": True}
    alone, helped = Loader(samples, 3, **make), Loader(samples, 3, workers=1, **make)
    for options in ({}, {"start": 2}, {"rank": 1, "world": 2}):
        for one, two in zip(alone.epoch(1, **options), helped.epoch(1, **options), strict=True):
            assert torch.equal(one.inputs, two.inputs)
            assert torch.equal(one.views["clean"], two.views["clean"])
            assert torch.equal(one.labels, two.labels)
            assert torch.equal(one.index, two.index)


@pytest.mark.thorough
def test_an_error_in_a_worker_process_stays_one_line():
    rows = [(torch.zeros(3), 0)] * 5 + [(torch.zeros(4), 0)]
    samples = LazySet.of(rows, torch.zeros(6, dtype=torch.int64), source="rows")
    with pytest.raises(DataError, match="sample 5 is") as caught:
        list(Loader(samples, 2, seed=0, workers=1).epoch(0))
    assert "\n" not in str(caught.value)


@pytest.mark.thorough
def test_a_set_in_memory_needs_no_workers():
    assert indices(Loader(tensors(), 5, seed=0, workers=4)) == indices(Loader(tensors(), 5, seed=0))


def read_by(loader, epochs=1, take=None):
    """Return the rows (position, process, started) that the batches of epochs have."""
    rows = []
    for epoch in range(epochs):
        for number, batch in enumerate(loader.epoch(epoch)):
            rows.append(batch.inputs.long())
            if number == take:
                break
    return torch.cat(rows)


def lazy(function=whose, size=12):
    return LazySet.of(Rows(function, size), torch.zeros(size, dtype=torch.int64), source="rows")


@pytest.mark.thorough
def test_worker_processes_are_started_once_and_never_forked():
    loader = Loader(lazy(), 3, seed=0, workers=2)
    rows = read_by(loader, epochs=2)
    assert len(rows) == 24
    assert bool(rows[:, 2].all())
    assert os.getpid() not in rows[:, 1]
    assert len(rows[:, 1].unique()) == 2


@pytest.mark.thorough
def test_an_epoch_that_is_left_early_spoils_no_later_one():
    alone, helped = (Loader(lazy(), 3, seed=0, workers=workers) for workers in (0, 1))
    read_by(helped, take=0)
    both = [helped.epoch(1), helped.epoch(2, start=1)]  # two at a time
    for epoch, start in ((1, 0), (2, 1)):
        found = [batch.index.tolist() for batch in both[epoch - 1]]
        assert found == [batch.index.tolist() for batch in alone.epoch(epoch, start=start)]


@pytest.mark.thorough
def test_a_dataset_that_cannot_be_sent_is_named_and_so_is_a_process_that_ends():
    with pytest.raises(InputError, match="cannot be sent to another process"):
        list(Loader(lazy(lambda position: (INPUTS[position], 0), 3), 3, seed=0, workers=1).epoch(0))
    samples = replace(lazy(plain, 3), fetch=Rows(ends_its_process).__getitem__)
    with pytest.raises(InputError, match="a worker process ended before it answered") as caught:
        list(Loader(samples, 3, seed=0, workers=1).epoch(0))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_script_that_trains_when_it_is_imported_is_told_of_the_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, limbeck as lb\nfrom small_rows import Rows\n"
        "lb.fit(torch.nn.Linear(3, 4), Rows(), method=lb.methods.hard(), epochs=1, workers=1, batch_size=8)\n"
    )
    support = Path(__file__).parents[1] / "support"
    ended = subprocess.run(
        [sys.executable, script],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(support)},
    )
    assert ended.returncode == 1
    assert "call fit under if __name__ == '__main__':" in ended.stderr.splitlines()[-1]
