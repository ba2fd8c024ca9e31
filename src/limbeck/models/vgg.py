"""VGG networks in the form that small images are classified with: no hidden fully connected layers."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import GlobalAverage, Rectified, check_images, he_normal, normal

__all__ = ["vgg"]

# Convolutions of the stem and of each stage.
_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_LARGE = 64  # pixels, from which on the last stage halves its maps too


@checked
def vgg(
    input_shape: Sequence[int],
    classes: int,
    depth: int = 8,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    batch_norm: bool = True,
) -> Rectified:
    """Build a VGG network with one linear layer on the pooled last feature maps.

    Parts: stem, stage1 to stage4, pool, fc.  Stages 1, 2 and 3 begin with 2×2 max-pooling; stage 4 does so for images
    of 64 pixels and more.  Weights start as in He et al. (2015) (normal, fan-out), the last layer's at 0.01.

    Args:
        input_shape: (C, H, W), at least 8×8 pixels.
        classes: K.
        depth: 8, 11, 13, 16 or 19: the number of 3×3 convolutions plus three.
        widths: channels of the stem and of each stage.
        batch_norm: after every convolution.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> sum(p.numel() for p in vgg((3, 32, 32), 100, depth=8).parameters())
        3965028

    Reference:
        Simonyan & Zisserman (2015), "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        arXiv:1409.1556.
    """
    checks.at_least("classes", classes, 1)
    if depth not in _CONVOLUTIONS or isinstance(depth, bool):
        raise InputError(f"depth: found {checks.shown(depth)}, expected one of: {', '.join(map(str, _CONVOLUTIONS))}")
    if len(widths) != 5:
        raise InputError(f"widths: found {len(widths)}, expected 5: of the stem and of each stage")
    for width in widths:
        checks.at_least("widths", width, 1)
    channels = check_images("vgg", input_shape, halvings=3)
    pooled = (1, 2, 3, 4) if min(input_shape[1:]) >= _LARGE else (1, 2, 3)
    parts: list[tuple[str, nn.Module]] = []
    for stage, (count, width) in enumerate(zip(_CONVOLUTIONS[depth], widths, strict=True)):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage in pooled else []
        for _ in range(count):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = width
        parts.append((f"stage{stage}" if stage else "stem", nn.Sequential(*layers)))
    last = nn.Linear(channels, classes)
    parts += [("pool", GlobalAverage()), ("fc", last)]
    model = Rectified(OrderedDict(parts))
    he_normal(model)
    normal(last.weight, 0.01)
    nn.init.zeros_(last.bias)
    return model
