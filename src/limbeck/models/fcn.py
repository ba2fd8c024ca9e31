"""A plain fully convolutional network, which answers for every pixel."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import ModelError
from limbeck.models.layers import Rectified

__all__ = ["fcn"]


@checked
def fcn(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 16),
    kernel: int = 3,
    batch_norm: bool = True,
) -> Rectified:
    """Build convolutions of one resolution, each with ReLU, then a 1×1 convolution to the classes, for a dense task.

    Parts: stem (the first convolution), stage1, stage2 and so on (the others), fc (the 1×1 convolution).

    Args:
        input_shape: (C, H, W).
        classes: K.
        channels: of each convolution.
        kernel: the convolutions' width in pixels, odd.
        batch_norm: after each convolution.

    Returns:
        A network from (N, C, H, W) to logits (N, K, H, W).

    Raises:
        ModelError: if the image is smaller than the kernel.
        InputError: if a value is out of range.

    Example:
        >>> fcn((1, 8, 6), 3, channels=(8,))(torch.zeros(2, 1, 8, 6)).shape
        torch.Size([2, 3, 8, 6])
    """
    checks.at_least("classes", classes, 1)
    checks.at_least("kernel", kernel, 1)
    if kernel % 2 == 0:
        raise ModelError(f"kernel: found {kernel}, expected an odd number")
    if len(input_shape) != 3:
        raise ModelError(f"kind: fcn needs images (C, H, W), found inputs of shape {tuple(input_shape)}; use an mlp")
    depth, height, width = input_shape
    if min(height, width) < kernel:
        raise ModelError(f"kind: fcn needs images of {kernel} pixels or more, found {height}×{width}")
    parts: list[tuple[str, nn.Module]] = []
    for stage, count in enumerate(channels):
        checks.at_least("channels", count, 1)
        layers: list[nn.Module] = [nn.Conv2d(depth, count, kernel, padding=kernel // 2, bias=not batch_norm)]
        if batch_norm:
            layers.append(nn.BatchNorm2d(count))
        parts.append((f"stage{stage}" if stage else "stem", nn.Sequential(*layers, nn.ReLU())))
        depth = count
    return Rectified(OrderedDict([*parts, ("fc", nn.Conv2d(depth, classes, 1))]))
