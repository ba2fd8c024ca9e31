"""ShuffleNetV2 (Ma, Zhang, Zheng & Sun 2018) in the form of the CIFAR-100 tables of the distillation literature."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.models.layers import GlobalAverage, activated, check_images, normalised, shuffled

__all__ = ["DownUnit", "ShuffleNetV2", "SplitUnit", "shufflenet_v2"]

_STEM = 24
_BLOCKS = (4, 8, 4)
# Channels of the stages and of the neck by width (table 5 of the paper).
_WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1×1, 3×3 depthwise, 1×1 convolution; the depthwise one is not activated."""
    return nn.Sequential(
        *activated(inputs, outputs, 1),
        *normalised(outputs, outputs, stride=stride, groups=outputs),
        *activated(outputs, outputs, 1),
    )


class SplitUnit(nn.Module):
    """Half of the channels pass, the others go through the branch; then the halves are shuffled.

    In the last unit of a stage the branch's ReLU comes after the shuffle, so that what it reads is the stage's
    pre-activation; the half that passes is an output of ReLUs already, which another one leaves as it is.
    """

    def __init__(self, channels: int, *, last: bool) -> None:
        super().__init__()
        branch = _branch(channels // 2, channels // 2, 1)
        self.branch = branch[:-1] if last else branch
        self.relu = nn.ReLU() if last else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        passed, changed = maps.chunk(2, dim=1)
        joined: Tensor = self.relu(shuffled(torch.cat([passed, self.branch(changed)], dim=1), 2))
        return joined


class DownUnit(nn.Module):
    """All channels go through both branches, each at stride 2 and each giving half of the outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.side = nn.Sequential(*normalised(inputs, inputs, stride=2, groups=inputs), *activated(inputs, half, 1))
        self.branch = _branch(inputs, half, 2)

    def forward(self, maps: Tensor) -> Tensor:
        return shuffled(torch.cat([self.side(maps), self.branch(maps)], dim=1), 2)


class ShuffleNetV2(nn.Sequential):
    """stem, stage1, stage2, stage3, neck, pool, fc."""

    preactivations: ClassVar[Mapping[str, str]] = {
        "stem": "stem.-1@input",
        **{f"stage{stage}": f"stage{stage}.-1.relu@input" for stage in (1, 2, 3)},
        "neck": "neck.-1@input",
    }


@checked
def shufflenet_v2(input_shape: Sequence[int], classes: int, width: float = 1.0) -> ShuffleNetV2:
    """Build ShuffleNetV2 with a 1×1 stem at image resolution; 1,355,528 parameters at width 1 for 100 classes.

    Parts: stem, stage1, stage2, stage3, neck, pool, fc; each stage begins with stride 2.

    Args:
        input_shape: (C, H, W), at least 8×8 pixels.
        classes: K.
        width: 0.5, 1, 1.5 or 2.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> shufflenet_v2((3, 32, 32), 100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])

    Reference:
        Ma et al. (2018), "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", arXiv:1807.11164.
    """
    checks.at_least("classes", classes, 1)
    checks.positive("width", width)
    if width not in _WIDTHS:
        raise InputError(f"width: found {width!r}, expected one of: {', '.join(f'{key:g}' for key in _WIDTHS)}")
    channels = check_images("shufflenet_v2", input_shape, halvings=3)
    *widths, last = _WIDTHS[width]
    parts: list[tuple[str, nn.Module]] = [("stem", activated(channels, _STEM, 1))]
    before = _STEM
    for stage, (count, outputs) in enumerate(zip(_BLOCKS, widths, strict=True), start=1):
        first = DownUnit(before, outputs)
        rest = [SplitUnit(outputs, last=unit == count) for unit in range(2, count + 1)]
        parts.append((f"stage{stage}", nn.Sequential(first, *rest)))
        before = outputs
    parts += [("neck", activated(before, last, 1)), ("pool", GlobalAverage()), ("fc", nn.Linear(last, classes))]
    return ShuffleNetV2(OrderedDict(parts))
