"""Small convolutional networks whose layers have names, and a set of pictures for them."""

from typing import ClassVar

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.teachers import ModelTeacher


class Net(nn.Module):
    preactivations: ClassVar = {"stage1": "stage1.1@input", "stage2": "stage2.1@input"}

    def __init__(self, width=4, seed=0, classes=4, norm=False):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            norms = nn.BatchNorm2d(width) if norm else nn.Identity()
            self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
            self.stage2 = nn.Sequential(nn.Conv2d(width, width + 2, 3, stride=2, padding=1), nn.ReLU())
            self.stage1.insert(1, norms) if norm else None
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.fc = nn.Linear(width + 2, classes)

    def forward(self, x):
        return self.fc(self.pool(self.stage2(self.stage1(x))))


def pictures(size=46, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    return TensorSet.of(torch.rand(size, 1, 6, 6, generator=generator), labels, classes=4)


def batch_of(size=8, seed=0, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 1, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    return Batch.of(inputs, torch.randint(4, (size,), generator=generator), **options)


def distiller_of(objective, batch, dtype=torch.float64, *, student=None, teacher=None, **build):
    """Return a distiller that was built on a batch, at step 0."""
    teacher = ModelTeacher(teacher or Net(6, 2).to(dtype)) if not hasattr(teacher, "fingerprint") else teacher
    distiller = Distiller(Net(4, 1).to(dtype) if student is None else student, teacher, objective)
    distiller.build(batch, **{"seed": 3, **build})
    distiller.step = 0
    return distiller.train()
