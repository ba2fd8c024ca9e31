"""Every test starts from the same seed, on one thread."""

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("limbeck", deadline=None, derandomize=True, database=None, max_examples=60)
hypothesis.settings.load_profile("limbeck")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
