"""A mixture of experts: networks and a gate that says how much each is listened to, trained together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.errors import InputError

__all__ = ["MixtureOfExperts"]


class MixtureOfExperts(nn.Module):
    """Answer log Σ_e g_e(x)·softmax(z_e(x)), g the softmax of a linear layer on the inputs (Jacobs et al. 1991).

    Every expert answers every sample.  Trained on labels, the loss is that of the mixture, so that an expert learns
    most from the samples that it explains better than the others do.

    experts: networks with logits (N, K).  inputs: how many numbers a sample has.

    >>> mixture = MixtureOfExperts([nn.Linear(3, 4), nn.Linear(3, 4)], inputs=3)
    >>> torch.allclose(mixture(torch.randn(2, 3)).exp().sum(1), torch.ones(2))
    True
    """

    def __init__(self, experts: Sequence[nn.Module], inputs: int) -> None:
        super().__init__()
        if not experts:
            raise InputError("experts: found none, expected at least one network")
        checks.at_least("inputs", inputs, 1)
        self.experts = nn.ModuleList(experts)
        self.gate = nn.Linear(inputs, len(experts))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return log-probabilities (N, K), in float32 at least."""
        each = torch.stack([expert(inputs) for expert in self.experts], 1)
        dtype = torch.promote_types(each.dtype, torch.float32)
        shares = self.gate(inputs.flatten(1)).to(dtype).log_softmax(1)
        return torch.logsumexp(shares[:, :, None] + each.to(dtype).log_softmax(2), 1)
