"""Small networks and sets for the tests of teachers."""

import torch
from torch import nn

from limbeck.data import TensorSet

SIZE, CLASSES = 12, 4


def network(seed=0, width=8, classes=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))


def samples_of(size=SIZE, seed=0, labels=True):
    inputs = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))
    return TensorSet.of(inputs, torch.arange(size) % CLASSES if labels else None, classes=CLASSES)


def whole(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)
