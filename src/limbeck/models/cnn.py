"""A plain convolutional network for small images."""

from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import ModelError

__all__ = ["cnn"]


@checked
def cnn(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build 3×3 convolutions, each with ReLU and 2×2 max-pooling, then global average pooling and a linear layer.

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
    layers: list[nn.Module] = []
    for count in channels:
        checks.at_least("channels", count, 1)
        layers.append(nn.Conv2d(depth, count, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(count))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth = count
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(depth, classes))
