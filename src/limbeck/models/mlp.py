"""Multi-layer perceptrons, such as the 784-1200-1200-10 teacher of Hinton, Vinyals & Dean (2015)."""

import math
from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked

__all__ = ["mlp"]


@checked
def mlp(
    input_shape: int | Sequence[int],
    classes: int,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Sequential:
    """Build a fully connected ReLU network.

    Args:
        input_shape: the shape of one sample.
        classes: K.
        hidden: units of each hidden layer.
        dropout: after each hidden layer, in [0, 1].
        input_dropout: on the inputs, in [0, 1].

    Returns:
        A network from (N, *input_shape) to logits (N, K).

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sum(p.numel() for p in mlp((1, 28, 28), 10, hidden=(800, 800)).parameters())
        1276810
    """
    checks.unit_interval("dropout", dropout)
    checks.unit_interval("input_dropout", input_dropout)
    checks.at_least("classes", classes, 1)
    width = input_shape if isinstance(input_shape, int) else math.prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    if input_dropout:
        layers.append(nn.Dropout(input_dropout))
    for units in hidden:
        checks.at_least("hidden", units, 1)
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))
