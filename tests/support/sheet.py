"""The test tensors of the features' specification, in float64: each loss has an example on them."""

import torch

from small_features import ramp_u as u
from small_features import ramp_v as v

__all__ = ["A", "B", "S", "T", "s", "t", "t2", "u", "v"]

S = torch.tensor([[1, 0, 2, -1], [0, 1, -1, 2], [2, 1, 0, 1]], dtype=torch.float64)
T = torch.tensor([[2, -1, 1, 0], [1, 1, 0, 1], [0, 2, -1, 1]], dtype=torch.float64)
s, t, t2 = u(2, 2, 2, 2), v(2, 3, 2, 2), v(2, 2, 2, 2)
A = torch.tensor([[1, 0, 2], [0, 1, -1]], dtype=torch.float64)
B = torch.tensor([[2, -1, 0], [1, 1, 1]], dtype=torch.float64)
