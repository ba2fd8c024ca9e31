"""The generators that code of others draws from: torch's, NumPy's and Python's, seeded and put back."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["generator_states", "generators_kept", "restore_generators", "seed_generators"]


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators of torch, NumPy and Python back, when the scope ends, into the state that they had."""
    before = generator_states()
    try:
        yield
    finally:
        restore_generators(before)


def generator_states() -> tuple[Any, ...]:
    """Return the states of the three generators."""
    numpy = sys.modules.get("numpy")
    return torch.get_rng_state(), random.getstate(), None if numpy is None else numpy.random.get_state()


def restore_generators(states: tuple[Any, ...]) -> None:
    """Put the generators into states that `generator_states` gave."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    numpy = sys.modules.get("numpy")
    if numpy is not None and states[2] is not None:
        numpy.random.set_state(states[2])


def seed_generators(seed: int) -> None:
    """Seed the three generators."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
