"""Multi-layer perceptrons, such as the 784-1200-1200-10 teacher of Hinton, Vinyals & Dean (2015)."""

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.models.layers import Rectified

__all__ = ["mlp"]


@checked
def mlp(
    input_shape: int | Sequence[int],
    classes: int,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> Rectified:
    """Build a fully connected ReLU network.

    Parts: flatten, stage1, stage2 and so on (the hidden layers), pool (the output of the last of them, as it is), fc;
    before fc dropout, if there is any.

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
    parts: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    dropped = input_dropout
    for stage, units in enumerate(hidden, start=1):
        checks.at_least("hidden", units, 1)
        layer: dict[str, nn.Module] = {"dropout": nn.Dropout(dropped)} if dropped else {}
        layer |= {"linear": nn.Linear(width, units), "relu": nn.ReLU()}
        parts.append((f"stage{stage}", nn.Sequential(OrderedDict(layer))))
        dropped, width = dropout, units
    parts.append(("pool", nn.Identity()))
    if dropped:
        parts.append(("dropout", nn.Dropout(dropped)))
    return Rectified(OrderedDict([*parts, ("fc", nn.Linear(width, classes))]))
