"""Stochastic depth: residual branches that are left out at random while training (Huang, Sun, Liu et al. 2016)."""

import torch
from torch import Tensor, nn

from limbeck import checks

__all__ = ["StochasticDepth", "check_survival", "survivals"]


class StochasticDepth(nn.Module):
    """Multiply a residual branch by b ~ Bernoulli(survival) while training, by `survival` in eval (equation 5).

    The paper draws b once for a batch.  Here each sample has its own, as in EfficientNet (Tan & Le 2019), on which
    noisy student rests: the distribution is the same for every sample, and no module is ever left out of a pass.
    The numbers come from the framework's generator, as dropout's do.

    >>> StochasticDepth(0.5).eval()(torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, survival: float) -> None:
        super().__init__()
        check_survival(survival)
        self.survival = survival

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch * self.survival
        drawn = torch.rand(len(branch), *[1] * (branch.dim() - 1), device=branch.device)
        return branch * (drawn < self.survival).to(branch.dtype)

    def extra_repr(self) -> str:
        """Return what `repr` shows, and a fingerprint reads."""
        return f"survival={self.survival}"


def check_survival(survival: float) -> None:
    """Require a probability above 0."""
    checks.positive("survival", survival)
    checks.unit_interval("survival", survival)


def survivals(blocks: int, last: float) -> list[float]:
    """Return the survival of each block, falling linearly from the input's 1 to the `last` block's (equation 4).

    >>> survivals(4, 0.8)
    [0.95, 0.9, 0.85, 0.8]
    """
    return [round(1 - block / blocks * (1 - last), 12) for block in range(1, blocks + 1)]
