"""The average answer of several networks, as a network: an ensemble that is evaluated like any model."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.carry import state_axis
from limbeck.errors import InputError, ModelError
from limbeck.losses import Dense
from limbeck.outputs import Outputs, run_model
from limbeck.targets import geometric_mean, mixture

__all__ = ["MeanOfModels", "selected_weights"]


class MeanOfModels(nn.Module):
    """Answer with the logarithm of the weighted mean of several networks' distributions.

    Args:
        members: networks with logits of one shape (N, K).
        weights: w, 0 or above, summing to 1; equal by default.  A member of weight 0 is not counted, whatever it
            answers.
        mean: "arithmetic", log Σ w_m·p_m, or "geometric", Σ w_m·log p_m, renormalised.
        selects: whether `weigh` chooses the weights later; they are then a buffer and saved with the networks.

    Raises:
        InputError: if there is no member, or the weights do not fit them.

    Example:
        >>> members = [nn.Linear(3, 4), nn.Linear(3, 4)]
        >>> torch.allclose(MeanOfModels(members)(torch.zeros(2, 3)).exp().sum(-1), torch.ones(2))
        True
    """

    shares: Tensor

    @checked
    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        weights: Sequence[float] | None = None,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
        selects: bool = False,
    ) -> None:
        super().__init__()
        if not members:
            raise InputError("members: found none, expected at least one network")
        if weights is not None:
            checks.shares("weights", weights, count=len(members))
        if mean not in ("arithmetic", "geometric"):
            raise InputError(f"mean: found {mean!r}, expected arithmetic or geometric")
        self.members = nn.ModuleList(members)
        if selects and weights is not None:
            raise InputError("weights: found together with selects, which chooses them; give one of them")
        given = tuple(weights) if weights else (1.0 / len(members),) * len(members)
        self._weights = None if selects else given
        self.register_buffer("shares", torch.tensor(given, dtype=torch.float64) if selects else None)
        self.mean: Literal["arithmetic", "geometric"] = mean

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each member."""
        if self._weights is not None:
            return self._weights
        return tuple(self.shares.tolist())

    def weigh(self, weights: Sequence[float]) -> None:
        """Set the weights of a mean that `selects` them."""
        if self._weights is not None:
            raise InputError("weights: found a mean with fixed weights, expected one made with selects=True")
        checks.shares("weights", weights, count=len(self.members))
        self.shares.copy_(torch.tensor(weights, dtype=torch.float64))

    @property
    def state_axis(self) -> int:
        """The batch axis of the members' recurrent states, which is one for all."""
        axes = {state_axis(member) for member in self.members}
        if len(axes) > 1:
            raise ModelError(
                f"members: their states have the batch along the axes {sorted(axes)}; expected one axis. Let all have"
                " the same state_axis"
            )
        return axes.pop()

    def forward(self, *inputs: Any, state: Any = None, **named: Any) -> Tensor | Outputs:
        """Return (..., K) logarithms of probabilities, in float32 at least; `Outputs` where a member has a state.

        The members' states are a tuple, the second argument.
        """
        given = named or inputs[0]
        state = inputs[1] if len(inputs) > 1 else state
        states = [None] * len(self.members) if state is None else state
        outputs = [run_model(member, given, state=own) for member, own in zip(self.members, states, strict=True)]
        each = [answer.logits for answer in outputs]
        if any(logits.shape != each[0].shape for logits in each):
            shapes = [tuple(logits.shape) for logits in each]
            raise ModelError(f"members: found answers of shapes {shapes}; give all the same classes")
        answers = [
            Dense(torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)) for logits in each
        ]
        mean = geometric_mean if self.mean == "geometric" else mixture
        logits = mean(answers, self.weights).log_probs
        if all(answer.state is None for answer in outputs):
            return logits
        return Outputs(logits, state=tuple(answer.state for answer in outputs))


def selected_weights(probabilities: Sequence[Tensor], labels: Tensor, *, rounds: int) -> list[float]:
    """Return the weights of an ensemble that is built greedily: each round adds one model, repeatedly if it helps.

    Each round adds the model with which the mean of all added ones has the least squared error between probabilities
    and labels.

    Args:
        probabilities: (N, K) of each model, on samples that none of them was trained on.
        labels: (N,) int64.
        rounds: the number of models to add, 1 or more.

    Returns:
        One weight for each model, 0 or above, summing to 1.

    Raises:
        InputError: if there is no model or round.

    Example:
        >>> right, wrong = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
        >>> selected_weights([wrong, right], torch.tensor([0]), rounds=4)
        [0.0, 1.0]

    Reference:
        Caruana et al. (2004), "Ensemble Selection from Libraries of Models".
    """
    checks.at_least("rounds", rounds, 1)
    if not probabilities:
        raise InputError("probabilities: found none, expected those of at least one model")
    answers = [each.double() for each in probabilities]
    truth = functional.one_hot(labels, answers[0].shape[1])
    total, counts = torch.zeros_like(answers[0]), [0] * len(answers)
    for number in range(1, rounds + 1):
        wrong = [float((((total + own) / number - truth) ** 2).mean()) for own in answers]
        best = wrong.index(min(wrong))
        total, counts[best] = total + answers[best], counts[best] + 1
    return [count / rounds for count in counts]
