"""The networks of the synthetic experiment of Tang et al. (2020): tanh, residual, normalised at the end."""

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import NormalisedLinear, UnitLength, normal

__all__ = ["TanhLayer", "residual_tanh"]


class TanhLayer(nn.Module):
    """shortcut(x) + tanh(norm(W·x)); the shortcut is the identity, or a matrix where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.tanh = nn.Tanh()
        self.shortcut = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        summed: Tensor = self.shortcut(features) + self.tanh(self.norm(self.linear(features)))
        return summed


@checked
def residual_tanh(
    input_shape: int | Sequence[int],
    classes: int,
    hidden: Sequence[int] = (64, 64),
    scale: float = 16.0,
    learn_scale: bool = False,
) -> nn.Sequential:
    """Build residual tanh layers with batch norm; the last layer is scale · cosine of features and class vectors.

    Parts: flatten, stage1, stage2 and so on, pool (features of unit length), fc.  Weights start as in Glorot & Bengio
    (2010).

    Args:
        input_shape: the shape of one sample.
        classes: K.
        hidden: units of each layer.  The paper has two layers and does not state their widths.
        scale: of the logits, above 0; with `learn_scale` the initial value of a parameter.
        learn_scale: whether the scale is trained.

    Returns:
        A network from (N, *input_shape) to logits (N, K) in [-scale, scale].

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> model = residual_tanh(500, 50, hidden=(32, 32))
        >>> model.fc.class_vectors.norm(dim=1).allclose(torch.ones(50))
        True

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532.
    """
    checks.at_least("classes", classes, 1)
    width = input_shape if isinstance(input_shape, int) else math.prod(input_shape)
    if not hidden:
        raise InputError("hidden: found none, expected the units of at least one layer, such as [64, 64]")
    parts: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for layer, units in enumerate(hidden, start=1):
        checks.at_least("hidden", units, 1)
        parts.append((f"stage{layer}", TanhLayer(width, units)))
        width = units
    parts += [
        ("pool", UnitLength()),
        ("fc", NormalisedLinear(width, classes, scale=scale, learn_scale=learn_scale)),
    ]
    model = nn.Sequential(OrderedDict(parts))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            normal(module.weight, math.sqrt(2 / (module.in_features + module.out_features)))
    return model
