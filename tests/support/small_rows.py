"""A dataset whose samples worker processes can read: they import this module, and not that of a test."""

import multiprocessing
import os
import random

import numpy as np
import torch
from torch.utils.data import Dataset

GENERATOR = torch.Generator().manual_seed(0)
INPUTS, LABELS = torch.randn(30, 3, generator=GENERATOR), torch.randint(4, (30,), generator=GENERATOR)
LABELS[0] = 3


def plain(position):
    return INPUTS[position], int(LABELS[position])


def noisy(position):
    noise = torch.randn(3) + float(np.random.rand()) + random.random()  # noqa: NPY002 - as transforms of others draw
    return INPUTS[position] + 0.1 * noise, int(LABELS[position])


def whose(position):
    """Say which process reads the sample, and whether it was started and not forked."""
    started = type(multiprocessing.current_process()).__name__ == "SpawnProcess"
    return torch.tensor([position, os.getpid(), started]), 0


def ends_its_process(position):
    os._exit(3)


class Rows(Dataset):
    """A map-style dataset of what a function makes of a position."""

    def __init__(self, function=plain, size=30):
        self.function, self.size = function, size

    def __len__(self):
        return self.size

    def __getitem__(self, position):
        return self.function(position)
