"""A plain convolutional network for small images."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import ModelError
from limbeck.models.layers import GlobalAverage, Rectified

__all__ = ["cnn"]


@checked
def cnn(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> Rectified:
    """Build 3×3 convolutions, each with 2×2 max-pooling and ReLU, then global average pooling and a linear layer.

    Parts: stem (the first convolution), stage1, stage2 and so on (the others), pool, fc; before fc dropout, if there is
    any.

    Args:
        input_shape: (C, H, W).
        classes: K.
        channels: of each convolution.
        batch_norm: after each convolution.
        dropout: before the linear layer, in [0, 1].

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small for that many poolings.
        InputError: if a value is out of range.

    Example:
        >>> cnn((1, 8, 8), 10, channels=(8, 16))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    checks.at_least("classes", classes, 1)
    checks.unit_interval("dropout", dropout)
    if len(input_shape) != 3:
        raise ModelError(f"kind: cnn needs images (C, H, W), found inputs of shape {tuple(input_shape)}; use an mlp")
    depth, height, width = input_shape
    if min(height, width) < 2 ** len(channels):
        raise ModelError(
            f"channels: {len(channels)} poolings need images of {2 ** len(channels)} pixels, found {height}×{width};"
            " give fewer channels"
        )
    parts: list[tuple[str, nn.Module]] = []
    for stage, count in enumerate(channels):
        checks.at_least("channels", count, 1)
        layers: list[nn.Module] = [nn.Conv2d(depth, count, 3, padding=1, bias=not batch_norm)]
        if batch_norm:
            layers.append(nn.BatchNorm2d(count))
        # The maximum commutes with ReLU, and this way the stage's output is the ReLU of its pre-activation.
        layers += [nn.MaxPool2d(2), nn.ReLU()]
        parts.append((f"stage{stage}" if stage else "stem", nn.Sequential(*layers)))
        depth = count
    parts.append(("pool", GlobalAverage()))
    if dropout:
        parts.append(("dropout", nn.Dropout(dropout)))
    return Rectified(OrderedDict([*parts, ("fc", nn.Linear(depth, classes))]))
