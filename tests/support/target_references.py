"""What the tests of targets share: logits, labels, and a softmax written as its formula is."""

import math

import torch

UNLABELLED = -100
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def logits_of(rows=7, classes=6, seed=0, scale=3.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(rows=7, classes=6, seed=1):
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def softmax(row, temperature):
    exponentials = [math.exp((value - max(row)) / temperature) for value in row]
    return [value / math.fsum(exponentials) for value in exponentials]


def probabilities(target):
    return target.log_probs.exp()


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), **EXACT)


NAMES = ("cat", "dog", "car", "van", "bus")
