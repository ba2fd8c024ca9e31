"""What the tests of checkpoints and of files of weights share."""

import math

import torch
from torch import nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.training import checkpoints as kept
from limbeck.training import fit

TENSORS = {
    "float": torch.tensor([1.0, -0.0, math.inf, 1e-45]),
    "half": torch.tensor([1.5, -2.0]).bfloat16(),
    "double": torch.tensor(1 / 3, dtype=torch.float64),
    "whole": torch.tensor([[1, -(2**62)]]),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(6.0).view(2, 3).t(),
}
STATE = {"step": 7, "rate": 0.1 + 0.2, "score": [math.inf, 3], "none": None, "nested": {"a/b": [1.5, "é"]}}
SAMPLES = TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4)


def written(folder, *steps):
    return [kept.write(folder, step, {**TENSORS, "step": torch.tensor(step)}, {**STATE, "at": step}) for step in steps]


def network(*middle):
    return nn.Sequential(nn.Linear(3, 5), *middle, nn.Linear(5, 4))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


DAMAGE = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "other": lambda path: path.write_bytes(b'{"sha256": "", "body": ""}'),
    "a list": lambda path: path.write_bytes(b"[]"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"}"),
    "first bit": lambda path: flip(path, 0),
    "last bit": lambda path: flip(path, 8 * path.stat().st_size - 1),
    "middle bit": lambda path: flip(path, 4 * path.stat().st_size),
    "missing": lambda path: path.unlink(),
}


def train(folder, width=5, **settings):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 4))
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "checkpoint_seconds": 0.0} | settings
    return fit(Distiller(student, None, methods.hard()), SAMPLES, SAMPLES, folder=folder, **settings)
