"""ShuffleNet (Zhang, Zhou, Lin & Sun 2018) in the form of the CIFAR-100 tables of the distillation literature."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import GlobalAverage, activated, check_images, normalised, shuffled

__all__ = ["ShuffleNetV1", "ShuffleUnit", "shufflenet_v1"]

_STEM = 24
_BLOCKS = (4, 8, 4)
_WIDTHS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960)}


class ShuffleUnit(nn.Module):
    """Grouped 1×1 convolution, channel shuffle, 3×3 depthwise, grouped 1×1; added to x.

    With `halve`, stride 2: the branch is put beside x, pooled to half its size, instead.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, *, halve: bool) -> None:
        super().__init__()
        made = outputs - inputs if halve else outputs
        hidden = made // 4
        self.groups = 1 if inputs == _STEM else groups  # the few channels of the stem are not parted
        self.halve = halve
        self.squeeze = activated(inputs, hidden, 1, groups=self.groups)
        # Normalised and activated, as in the tables; the paper leaves the activation out.
        self.depthwise = activated(hidden, hidden, stride=2 if halve else 1, groups=hidden)
        self.expand = normalised(hidden, made, 1, groups=groups)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        branch = self.expand(self.depthwise(shuffled(self.squeeze(maps), self.groups)))
        if self.halve:
            joined = torch.cat([branch, functional.avg_pool2d(maps, 3, stride=2, padding=1)], dim=1)
        else:
            joined = branch + maps
        activated: Tensor = self.relu(joined)
        return activated


class ShuffleNetV1(nn.Sequential):
    """stem, stage1, stage2, stage3, pool, fc."""

    preactivations: ClassVar[Mapping[str, str]] = {"stem": "stem.-1@input"} | {
        f"stage{stage}": f"stage{stage}.-1.relu@input" for stage in (1, 2, 3)
    }


@checked
def shufflenet_v1(input_shape: Sequence[int], classes: int, groups: int = 3) -> ShuffleNetV1:
    """Build ShuffleNet at full width with a 1×1 stem at image resolution; 949,258 parameters for 100 classes.

    Parts: stem, stage1, stage2, stage3, pool, fc; each stage begins with stride 2.

    Args:
        input_shape: (C, H, W), at least 8×8 pixels.
        classes: K.
        groups: of the 1×1 convolutions, 1, 2 or 3; it decides the channels (table 1 of the paper).

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> shufflenet_v1((3, 32, 32), 100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])

    Reference:
        Zhang et al. (2018), "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
        arXiv:1707.01083.
    """
    checks.at_least("classes", classes, 1)
    if groups not in _WIDTHS or isinstance(groups, bool):
        raise InputError(f"groups: found {checks.shown(groups)}, expected one of: {', '.join(map(str, _WIDTHS))}")
    channels = check_images("shufflenet_v1", input_shape, halvings=3)
    parts: list[tuple[str, nn.Module]] = [("stem", activated(channels, _STEM, 1))]
    before = _STEM
    for stage, (count, width) in enumerate(zip(_BLOCKS, _WIDTHS[groups], strict=True), start=1):
        first = ShuffleUnit(before, width, groups, halve=True)
        rest = [ShuffleUnit(width, width, groups, halve=False) for _ in range(count - 1)]
        parts.append((f"stage{stage}", nn.Sequential(first, *rest)))
        before = width
    parts += [("pool", GlobalAverage()), ("fc", nn.Linear(before, classes))]
    return ShuffleNetV1(OrderedDict(parts))
