"""Memory for gradients of large logits: lent to one tensor at a time, and again when that is gone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from limbeck import losses
from limbeck.losses.fused import room
from limbeck.losses.fused.room import room_like

LARGE = torch.zeros(64, 2**15)  # 8 MiB


@pytest.fixture(autouse=True)
def _lender(monkeypatch):
    monkeypatch.setattr(room, "_LENDER", room._Lender())


def test_memory_is_lent_again_when_nothing_holds_it():
    first = room_like(LARGE, torch.float32)
    assert (first.shape, first.dtype, first.is_contiguous()) == (LARGE.shape, torch.float32, True)
    place = first.data_ptr()
    part = first[3:5]
    del first
    assert room_like(LARGE, torch.float32).data_ptr() != place  # a view of it is held
    del part
    assert room_like(LARGE, torch.float32).data_ptr() == place
    assert room_like(LARGE[:40], torch.float32).data_ptr() == place
    assert room_like(LARGE[:, ::2], torch.float64).shape == (64, 2**14)


def test_another_size_takes_its_place_and_small_or_huge_memory_is_not_kept(monkeypatch):
    place = room_like(LARGE, torch.float32).data_ptr()
    larger = room_like(LARGE, torch.float64)
    assert room._LENDER._memory.nbytes == 2**24
    del larger
    room_like(LARGE[:1], torch.float32)
    assert room._LENDER._memory.nbytes == 2**24
    monkeypatch.setattr(room, "_MOST", 2**20)
    room_like(torch.empty(64, 2**17), torch.float32)
    assert room._LENDER._memory.nbytes == 2**24
    assert place


def test_gradients_that_are_kept_are_never_written_over():
    torch.manual_seed(0)
    kept, expected = [], []
    for number in range(4):
        logits = torch.randn(40, 2**15, requires_grad=True)
        teacher, labels = torch.randn(40, 2**15), torch.randint(2**15, (40,))
        for backend, found in (("eager", kept), ("plain", expected)):
            logits.grad = None
            losses.kd(logits, teacher, labels, temperature=2.0, backend=backend).backward()
            found.append(logits.grad)
        if number == 2:
            del kept[1], expected[1]
    for one, other in zip(kept, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


def test_threads_have_memory_of_their_own():
    def fill(number):
        mine = room_like(LARGE, torch.float32).fill_(number)
        return mine, number

    with ThreadPoolExecutor(8) as pool:
        for mine, number in pool.map(fill, range(32)):
            assert bool((mine == number).all())
