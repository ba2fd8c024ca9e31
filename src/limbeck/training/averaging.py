"""Averages of a model's weights along a training, which are then evaluated and kept."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.networks import fill, tensors_of
from limbeck.training.settings import Averaging, Training

__all__ = ["MeanOfWeights", "WeightAverage", "average_of", "check_average", "improves_no_more"]


def average_of(model: nn.Module, training: Training) -> "WeightAverage | MeanOfWeights | None":
    """Return the average that a training keeps of a model's weights; None where it keeps none."""
    if training.averaging is None:
        return None
    if isinstance(training.averaging, Averaging):
        return MeanOfWeights(training.averaging.mean.patience)
    return WeightAverage(model, training.averaging)


def check_average(training: Training, *, validated: bool) -> None:
    """Require that an average which begins when validation stops to improve is validated; InputError otherwise."""
    if isinstance(training.averaging, Averaging) and not validated:
        raise InputError(
            "averaging: found mean, which begins when validation stops to improve, and no validation set; hold a part"
            " out, or leave averaging out"
        )


@checked
def improves_no_more(losses: Sequence[float], patience: int = 5) -> bool:
    """Return whether validation has stopped to improve: the non-monotone trigger of Merity et al.

    It fires at the first epoch t whose loss v_t exceeds min(v_1, ..., v_{t-n-1}), the least up to n epochs before the
    last one, and stays fired.

    Args:
        losses: v, one an epoch.
        patience: n, 1 or more.

    Returns:
        Whether it has fired.

    Raises:
        InputError: if n is out of range.

    Example:
        >>> losses = [100, 90, 85, 84, 83, 83.5, 83.2, 83.6, 83.4, 83.1, 83.05]
        >>> improves_no_more(losses[:10]), improves_no_more(losses)
        (False, True)

    Reference:
        Merity et al. (2017), "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182, algorithm 1.
    """
    checks.at_least("patience", patience, 1)
    return any(losses[last] > min(losses[: last - patience]) for last in range(patience + 1, len(losses)))


class MeanOfWeights:
    """The uniform mean of a model's weights after each step, from when validation stops to improve.

    Until then there is none, and the weights themselves are evaluated and kept.  After SGD without momentum this is
    averaged SGD (ASGD) with a non-monotone trigger.  Buffers that are not floating point are copied.

    Args:
        patience: n of the trigger, see `improves_no_more`.

    Raises:
        InputError: if n is out of range.

    Example:
        >>> average, model = MeanOfWeights(patience=1), nn.Linear(3, 4)
        >>> average.update(model)
        >>> average.observe([2.0, 3.0, 4.0])
        >>> before = average.begun
        >>> average.update(model)
        >>> before, average.begun
        (False, True)

    Reference:
        Merity et al. (2017), arXiv:1708.02182; Polyak & Juditsky (1992), "Acceleration of Stochastic Approximation by
        Averaging", SIAM J. Control Optim. 30(4).
    """

    @checked
    def __init__(self, patience: int = 5) -> None:
        checks.at_least("patience", patience, 1)
        self.patience = patience
        self.updates = 0
        self.state: dict[str, Tensor] = {}
        self._fired = False

    @property
    def begun(self) -> bool:
        """Whether there is a mean."""
        return self.updates > 0

    def observe(self, losses: Sequence[float]) -> None:
        """Hear of the validation losses of all epochs so far; the mean begins with the next update once they stall."""
        self._fired = improves_no_more(losses, self.patience)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the model's current weights to the mean, if it has begun."""
        if not self._fired:
            return
        self.updates += 1
        for name, tensor in tensors_of(model).items():
            if self.updates > 1 and (tensor.is_floating_point() or tensor.is_complex()):
                self.state[name].lerp_(tensor.detach(), 1 / self.updates)
            else:
                self.state[name] = tensor.detach().clone()

    def swap(self, model: nn.Module) -> dict[str, Tensor]:
        """Put the mean into the model and return the model's own weights, to be put back."""
        return _swapped(model, self.state)


class WeightAverage:
    """An exponential moving average of a model's floating-point state; other buffers are copied.

    The average starts at the weights; after n updates the decay is at most (1 + n)/(10 + n).

    Args:
        model: the network to average.
        decay: in [0, 1).

    Example:
        >>> from torch import nn
        >>> average = WeightAverage(nn.Linear(3, 4), 0.99)
    """

    begun = True

    @checked
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in tensors_of(model).items():
            if tensor.is_floating_point() or tensor.is_complex():
                self.state[name].lerp_(tensor.detach(), 1.0 - decay)
            else:
                self.state[name].copy_(tensor)

    def observe(self, losses: Sequence[float]) -> None:
        """Do nothing: this average needs no validation."""

    def swap(self, model: nn.Module) -> dict[str, Tensor]:
        """Put the average into the model and return the model's own weights, to be put back."""
        return _swapped(model, self.state)


def _swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    fill(model, tensors)
    return own
