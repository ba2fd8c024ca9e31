"""What the examples in the docstrings take for granted."""

from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lb


@pytest.fixture(autouse=True)
def _names_of_the_examples(doctest_namespace: dict[str, Any]) -> None:
    torch.manual_seed(0)
    doctest_namespace.update(torch=torch, nn=nn, lb=lb, UNLABELLED=lb.UNLABELLED, Batch=lb.Batch, Outputs=lb.Outputs)
