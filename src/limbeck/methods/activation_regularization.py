"""Activation regularisation: what the last recurrent layer gives stays small, and changes slowly."""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective, Setup, Term
from limbeck.outputs import Outputs, Tap
from limbeck.schedules import Schedule

__all__ = ["CARD", "ActivationRegularization", "TemporalRegularization", "activation_regularization"]

CARD = Card(
    name="activation_regularization",
    summary="a recurrent layer's output kept small and slow; it adds to another method",
    authors="Stephen Merity, Bryan McCann, Richard Socher",
    year=2017,
    title="Revisiting Activation Regularization for Language RNNs",
    source="https://arxiv.org/abs/1708.01009",
    formula="ar·mean (m∘h_t)² + tar·mean (h_{t+1} - h_t)², m the dropout mask",
)


class _OnSequence(Term):
    """A penalty on hidden states (N, T, d) of the student: 0 in eval mode.

    side: of the dropout module where they are read.
    """

    reads_logits = False

    def __init__(self, name: str, weight: Schedule, layer: str, side: str) -> None:
        super().__init__(name, weight)
        self.taps = {"student": {name: Tap(layer, side=side)}}  # type: ignore[arg-type]

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Require hidden states of a sequence."""
        super().build(outputs, setup)
        found = tuple(outputs["student"].features[self.name].shape)
        if len(found) != 3:
            raise InputError(
                f"term '{self.name}': its layer gives {found}; expected hidden states (N, T, d). Name a layer of a"
                " recurrent network, such as the last dropout"
            )

    def count(self, batch: Batch) -> Tensor | int:
        return self.counted(_real(batch)).sum()

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        hidden = compute_dtype(outputs["student"].features[self.name])
        if not self.training:
            return hidden[:0].sum()
        real = _real(batch)
        if real.shape != hidden.shape[:2]:
            raise InputError(
                f"term '{self.name}': its layer gives hidden states {tuple(hidden.shape)} for tokens"
                f" {tuple(real.shape)}; expected one for each token"
            )
        squares = self.squares(torch.where(real.unsqueeze(-1), hidden, 0.0))
        return torch.where(self.counted(real), squares.mean(-1), 0.0).sum()

    def counted(self, real: Tensor) -> Tensor:
        """Return what is counted, of the real places (N, T)."""
        raise TypeError(f"{type(self).__name__} does not define counted(real)")

    def squares(self, hidden: Tensor) -> Tensor:
        """Return the squares whose mean is the penalty."""
        raise TypeError(f"{type(self).__name__} does not define squares(hidden)")


class ActivationRegularization(_OnSequence):
    """Mean of h² over batch, time and features, of hidden states with dropout; it counts real tokens.

    Args:
        weight: α, a number or schedule, finite and not negative.
        layer: path of the dropout module after the last recurrent layer.
        name: the name of the term in recipe, log and report.

    Raises:
        InputError: if the weight is out of range.

    Example:
        >>> ActivationRegularization(2.0).name
        'ar'

    Reference:
        Merity, McCann & Socher (2017), arXiv:1708.01009.
    """

    @checked
    def __init__(self, weight: Schedule = 2.0, layer: str = "output", *, name: str = "ar") -> None:
        super().__init__(name, weight, layer, "output")

    def counted(self, real: Tensor) -> Tensor:
        return real

    def squares(self, hidden: Tensor) -> Tensor:
        return hidden.square()


class TemporalRegularization(_OnSequence):
    """Mean of (h_{t+1} - h_t)² within a batch, of hidden states before dropout; it counts pairs of real tokens.

    Args:
        weight: β, a number or schedule, finite and not negative.
        layer: path of the dropout module after the last recurrent layer.
        name: the name of the term in recipe, log and report.

    Raises:
        InputError: if the weight is out of range.

    Example:
        >>> TemporalRegularization().name
        'tar'

    Reference:
        Merity, McCann & Socher (2017), arXiv:1708.01009.
    """

    @checked
    def __init__(self, weight: Schedule = 1.0, layer: str = "output", *, name: str = "tar") -> None:
        super().__init__(name, weight, layer, "input")

    def counted(self, real: Tensor) -> Tensor:
        return real[:, 1:] & real[:, :-1]

    def squares(self, hidden: Tensor) -> Tensor:
        return (hidden[:, 1:] - hidden[:, :-1]).square()


def _real(batch: Batch) -> Tensor:
    """Return which places of a batch hold real tokens of samples that count, (N, T) bool."""
    real = batch.padding
    if real is None:
        ids = next(iter(batch.inputs.values())) if isinstance(batch.inputs, Mapping) else batch.inputs
        real = torch.ones(ids.shape[:2], dtype=torch.bool, device=batch.index.device)
    if batch.mask is None:
        return real
    rows = batch.mask.flatten(1).any(1) if batch.mask.dim() > 1 else batch.mask
    return real & rows.unsqueeze(1)


@checked
def activation_regularization(ar: Schedule = 2.0, tar: Schedule = 1.0, layer: str = "output") -> Objective:
    """Build both penalties on the last recurrent layer of the student; add another method for what it learns.

    A recipe lists both: `method: [{name: kd}, {name: activation_regularization}]`.  The penalties are 0 in eval mode
    and no part of a perplexity.

    Args:
        ar: α, of the hidden states with dropout; a number or schedule, finite and not negative; 0 leaves it out.
        tar: β, of the difference of successive hidden states without dropout; 0 leaves it out.
        layer: path of the dropout module after the last recurrent layer; in `lstm_lm` it is "output".

    Returns:
        The objective, with the terms `ar` and `tar`.

    Raises:
        InputError: if a weight is out of range, or both are 0.

    Example:
        >>> from limbeck.methods import hard
        >>> sorted((hard() + activation_regularization()).terms)
        ['ar', 'hard', 'tar']

    Reference:
        Merity, McCann & Socher (2017), "Revisiting Activation Regularization for Language RNNs", arXiv:1708.01009.
    """
    for name, weight in (("ar", ar), ("tar", tar)):
        if not callable(weight):
            checks.non_negative(name, weight)
    terms: list[Term] = [ActivationRegularization(ar, layer), TemporalRegularization(tar, layer)]
    if ar == 0 and tar == 0:
        raise InputError("ar and tar: found 0 for both, expected one above 0; or leave the method out")
    return Objective([term for term in terms if term.weight != 0])
