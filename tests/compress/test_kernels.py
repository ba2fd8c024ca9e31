"""Int8 layers that torchao runs answer as limbeck's own."""

import importlib.util

import pytest
import torch
from torch import nn

from limbeck.compress import Quantize, settled, with_torchao
from limbeck.errors import InputError

installed = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


@installed
@pytest.mark.slow  # importing the library takes seconds
def test_torchao_answers_as_the_own_layers_to_rounding():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 32), nn.ReLU(), nn.Linear(32, 5))
    model, _ = Quantize(to="int8", skip=()).apply(plain)
    fast, inputs = with_torchao(model), torch.randn(6, 1, 8, 8)
    own = settled(model).eval()(inputs)
    assert torch.allclose(fast(inputs), own, atol=1e-5)
    assert not torch.allclose(own, plain(inputs), atol=1e-5)
    assert type(fast[2].weight).__name__ == "Int8Tensor"


def test_what_torchao_cannot_take_is_one_line(monkeypatch):
    for keys in ({"to": "int4"}, {"to": "int8", "group": 2}, {"to": "fp16"}):
        model, _ = Quantize(skip=(), **keys).apply(nn.Sequential(nn.Linear(8, 4)))
        with pytest.raises(InputError, match="found no linear layer with int8 weights"):
            with_torchao(model)
    monkeypatch.setattr("limbeck.compress.kernels.find_spec", lambda name: None)
    model, _ = Quantize(to="int8", skip=()).apply(nn.Sequential(nn.Linear(8, 4)))
    with pytest.raises(InputError, match=r"torchao: found no such package; .* pip install 'limbeck\[export\]'"):
        with_torchao(model)
