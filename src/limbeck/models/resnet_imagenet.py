"""The residual networks of ImageNet (He, Zhang, Ren & Sun 2016, table 1), with a stem for small images."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import GlobalAverage, activated, check_images, he_normal, normalised
from limbeck.models.resnet import ResidualBlock

__all__ = ["Bottleneck", "ImageNetResNet", "resnet_imagenet"]

# Blocks of each stage; from 50 on they are bottlenecks.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BOTTLENECKS = 50
_EXPANSION = 4


class Bottleneck(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(relu(norm(conv(x)))))))); the convolutions are 1×1, 3×3 and 1×1.

    The shortcut is the identity, or where the shape changes a 1×1 convolution and batch norm.
    """

    def __init__(self, inputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        outputs = hidden * _EXPANSION
        self.narrow = activated(inputs, hidden, 1)
        self.middle = activated(hidden, hidden, stride=stride)
        self.widen = normalised(hidden, outputs, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else normalised(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        joined: Tensor = self.relu(self.shortcut(maps) + self.widen(self.middle(self.narrow(maps))))
        return joined


class ImageNetResNet(nn.Sequential):
    """stem, stage1, stage2, stage3, stage4, pool, fc; the last module of a block is the ReLU that ends it."""

    preactivations: ClassVar[Mapping[str, str]] = {"stem": "stem.-1@input"} | {
        f"stage{stage}": f"stage{stage}.-1.-1@input" for stage in (1, 2, 3, 4)
    }


@checked
def resnet_imagenet(input_shape: Sequence[int], classes: int, depth: int = 50, width: int = 64) -> ImageNetResNet:
    """Build ResNet-18, 34, 50, 101 or 152 with a 3×3 stem at image resolution, as small images need it.

    Parts: stem, stage1 to stage4, pool, fc; stages 2, 3 and 4 halve the resolution.  Weights start as in He et al.
    (2015) (normal, fan-out).

    Args:
        input_shape: (C, H, W), at least 8×8 pixels.
        classes: K.
        depth: 18, 34, 50, 101 or 152; from 50 on blocks are bottlenecks, with four times the channels at their end.
        width: channels of the stem and of stage 1, doubled by each stage after it.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> with torch.device("meta"):
        ...     teacher = resnet_imagenet((3, 32, 32), 100, depth=50)
        >>> sum(p.numel() for p in teacher.parameters())
        23705252

    Reference:
        He et al. (2016), "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
    """
    checks.at_least("classes", classes, 1)
    checks.at_least("width", width, 1)
    if depth not in _BLOCKS or isinstance(depth, bool):
        raise InputError(f"depth: found {checks.shown(depth)}, expected one of: {', '.join(map(str, _BLOCKS))}")
    channels = check_images("resnet_imagenet", input_shape, halvings=3)
    parts: list[tuple[str, nn.Module]] = [("stem", activated(channels, width))]
    before = width
    for stage, count in enumerate(_BLOCKS[depth], start=1):
        blocks: list[nn.Module] = []
        for block in range(count):
            hidden, stride = width * 2 ** (stage - 1), 2 if stage > 1 and block == 0 else 1
            if depth < _BOTTLENECKS:
                blocks.append(ResidualBlock(before, hidden, stride, 1.0))
                before = hidden
            else:
                blocks.append(Bottleneck(before, hidden, stride))
                before = hidden * _EXPANSION
        parts.append((f"stage{stage}", nn.Sequential(*blocks)))
    parts += [("pool", GlobalAverage()), ("fc", nn.Linear(before, classes))]
    model = ImageNetResNet(OrderedDict(parts))
    he_normal(model)
    return model
