"""The average answer of several networks, as a network: an ensemble that is evaluated like any model."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError
from limbeck.losses import Dense
from limbeck.outputs import run_model
from limbeck.targets import geometric_mean, mixture

__all__ = ["MeanOfModels"]


class MeanOfModels(nn.Module):
    """Answer log of the mean of the members' distributions, arithmetic or geometric, weighted.

    members: networks with logits of one shape (N, K).  weights: 0 or above, adding up to 1; equal ones by default.  A
    member of weight 0 counts nowhere, whatever it answers.
    mean: "arithmetic", log Σ w_m·p_m, or "geometric", Σ w_m·log p_m, renormalised.

    >>> members = [nn.Linear(3, 4), nn.Linear(3, 4)]
    >>> torch.allclose(MeanOfModels(members)(torch.zeros(2, 3)).exp().sum(-1), torch.ones(2))
    True
    """

    @checked
    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        weights: Sequence[float] | None = None,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
    ) -> None:
        super().__init__()
        if not members:
            raise InputError("members: found none, expected at least one network")
        if weights is not None:
            checks.shares("weights", weights, count=len(members))
        if mean not in ("arithmetic", "geometric"):
            raise InputError(f"mean: found {mean!r}, expected arithmetic or geometric")
        self.members = nn.ModuleList(members)
        self.weights = tuple(weights) if weights else (1.0 / len(members),) * len(members)
        self.mean: Literal["arithmetic", "geometric"] = mean

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return (N, K) logarithms of probabilities, in float32 at least."""
        given = named or inputs[0]
        each = [run_model(member, given).logits for member in self.members]
        if any(logits.shape != each[0].shape for logits in each):
            shapes = [tuple(logits.shape) for logits in each]
            raise ModelError(f"members: they answer {shapes}; give all the same classes")
        answers = [
            Dense(torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)) for logits in each
        ]
        mean = geometric_mean if self.mean == "geometric" else mixture
        return mean(answers, self.weights).log_probs
