"""Every test starts from the same seed, on one thread."""

import signal
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("limbeck", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("limbeck")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as thorough the cases of a test beyond its miniature that are not slow, and as slow what is thorough."""
    cases: Counter[str] = Counter()
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "thorough"]
            continue
        miniature = item.get_closest_marker("miniature")
        if miniature is not None:
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > miniature.args[0]:
                item.add_marker("thorough")
        if item.get_closest_marker("thorough") is not None:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt, also where the tests were started in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
