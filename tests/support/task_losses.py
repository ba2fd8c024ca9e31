"""What the tests of tasks share."""

import math

import numpy as np
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.teachers import ModelTeacher

NAN = math.nan


class Fixed(nn.Module):
    """A model that answers what it holds, whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(torch.as_tensor(answer).clone())

    def forward(self, inputs):
        return self.answer


def loss_of(objective, student, teacher, labels=None, *, task, mask=None):
    """The objective's loss for two models' raw answers, with its gradient with respect to the student's."""
    model = Fixed(student)
    batch = Batch.of(torch.zeros(len(student), 1), labels, mask=mask, task=task)
    loss = Distiller(model, ModelTeacher(Fixed(teacher)), objective)(batch)
    loss.total.backward()
    return loss, model.answer.grad


def drawn(shape, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=(2, *shape))
