"""Residual networks for small images (He, Zhang, Ren & Sun 2016, section 4.2)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import (
    GlobalAverage,
    StochasticDepth,
    activated,
    check_images,
    check_survival,
    convolution,
    he_normal,
    normalised,
    survivals,
)

__all__ = ["ResNet", "ResidualBlock", "resnet"]

_DEEPEST = 2000


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), both convolutions 3×3.

    The shortcut is the identity, or where the shape changes a 1×1 convolution and batch norm (option B of the paper).
    What the last ReLU reads, the pre-activation, is the input of `relu2`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, survival: float) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.drop = nn.Identity() if survival == 1 else StochasticDepth(survival)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else normalised(inputs, outputs, 1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(maps)))))
        activated: Tensor = self.relu2(self.shortcut(maps) + self.drop(branch))
        return activated


class ResNet(nn.Sequential):
    """stem, stage1, stage2, stage3, pool, fc."""

    preactivations: ClassVar[Mapping[str, str]] = {"stem": "stem.-1@input"} | {
        f"stage{stage}": f"stage{stage}.-1.relu2@input" for stage in (1, 2, 3)
    }


@checked
def resnet(
    input_shape: Sequence[int],
    classes: int,
    depth: int = 20,
    widths: Sequence[int] = (16, 16, 32, 64),
    survival: float = 1.0,
) -> ResNet:
    """Build a residual network of three stages; the second and third halve the resolution.

    Parts: stem, stage1, stage2, stage3, pool, fc.  Weights start as in He et al. (2015) (normal, fan-out).

    Args:
        input_shape: (C, H, W), at least 4×4 pixels.
        classes: K.
        depth: 6n + 2, with n blocks a stage.
        widths: channels of the stem and of each stage; (32, 64, 128, 256) for "x4".
        survival: of the last block under stochastic depth, falling linearly from 1; 1 for none.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> sum(p.numel() for p in resnet((3, 32, 32), 100, depth=20).parameters())
        278324

    Reference:
        He et al. (2016), "Deep Residual Learning for Image Recognition", arXiv:1512.03385; Huang et al. (2016), "Deep
        Networks with Stochastic Depth", arXiv:1603.09382.
    """
    checks.at_least("classes", classes, 1)
    checks.at_least("depth", depth, 8)
    check_survival(survival)
    if (depth - 2) % 6 or depth > _DEEPEST:
        raise InputError(f"depth: found {depth}, expected 6n + 2 up to {_DEEPEST}, such as 20, 32, 56 or 110")
    if len(widths) != 4:
        raise InputError(f"widths: found {len(widths)}, expected 4: of the stem and of each stage")
    for width in widths:
        checks.at_least("widths", width, 1)
    channels = check_images("resnet", input_shape, halvings=2)
    blocks = (depth - 2) // 6
    chances = iter(survivals(3 * blocks, survival))
    parts: list[tuple[str, nn.Module]] = [("stem", activated(channels, widths[0]))]
    for stage in (1, 2, 3):
        before, width = widths[stage - 1], widths[stage]
        first = ResidualBlock(before, width, 1 if stage == 1 else 2, next(chances))
        rest = [ResidualBlock(width, width, 1, next(chances)) for _ in range(blocks - 1)]
        parts.append((f"stage{stage}", nn.Sequential(first, *rest)))
    parts += [("pool", GlobalAverage()), ("fc", nn.Linear(widths[-1], classes))]
    model = ResNet(OrderedDict(parts))
    he_normal(model)
    return model
