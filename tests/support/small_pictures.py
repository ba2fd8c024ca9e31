"""Small sets in the place of the published ones: random pictures whose class is where the bright stripe is."""

import torch

from limbeck import data
from limbeck.data import Splits, TensorSet


def drawn(count, seed, channels=1):
    labels = torch.arange(count) % 10
    pictures = torch.rand((count, channels, 28, 28), generator=torch.Generator().manual_seed(seed))
    pictures[torch.arange(count)[:, None], 0, 2 * labels[:, None] + torch.arange(2)] += 0.5
    return TensorSet.of(pictures, labels, class_names=[f"class {number}" for number in range(10)])


def small_published(monkeypatch, train=400, test=150):
    """Let `mnist` and `fashion_mnist` be such sets until the test ends."""

    def splits(seed):
        def published(folder: str | None = None) -> Splits:
            return Splits(drawn(train, seed), drawn(test, seed + 10), "stripes")

        return published

    kinds = {**data.kinds(), "mnist": splits(0), "fashion_mnist": splits(1)}
    monkeypatch.setattr(data, "kinds", lambda: kinds)
