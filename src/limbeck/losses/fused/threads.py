"""Tiles shared among threads, each of which computes its own alone."""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["shared"]


def shared(work: Callable[[int], None], parts: int) -> None:
    """Call work(0) to work(parts - 1) at once, without gradient, each in a thread whose operations take one processor.

    An operation on a tile is too short to be worth dividing: threads that meet after each wait as long as they compute.
    """
    if parts == 1:
        work(0)
        return

    def alone(number: int) -> None:
        with torch.no_grad():
            work(number)

    pool = _pool(max(parts, torch.get_num_threads()))
    for answer in [pool.submit(alone, number) for number in range(parts)]:
        answer.result()


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    """Return threads that use one processor each."""
    before, begun = torch.get_num_threads(), threading.Barrier(size + 1)
    pool = ThreadPoolExecutor(size, "limbeck-losses", initializer=lambda: torch.set_num_threads(1))
    for _ in range(size):
        pool.submit(begun.wait)
    begun.wait()
    torch.set_num_threads(before)  # torch also keeps the last number set for threads that are yet to begin
    return pool


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
