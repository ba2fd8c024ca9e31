"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

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
    check_images,
    check_survival,
    convolution,
    he_normal,
    survivals,
)

__all__ = ["WideBlock", "WideResNet", "wrn"]

_DEEPEST = 2000


class WideBlock(nn.Module):
    """x + conv(dropout(relu(norm(conv(relu(norm(x))))))), both convolutions 3×3.

    Where the number of channels changes, the shortcut is a 1×1 convolution of relu(norm(x)).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, survival: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = convolution(inputs, outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = convolution(outputs, outputs)
        self.drop = nn.Identity() if survival == 1 else StochasticDepth(survival)
        self.projects = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride=stride) if self.projects else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        active = self.relu1(self.norm1(maps))
        branch = self.conv2(self.dropout(self.relu2(self.norm2(self.conv1(active)))))
        summed: Tensor = self.shortcut(active if self.projects else maps) + self.drop(branch)
        return summed


class WideResNet(nn.Sequential):
    """stem, stage1, stage2, stage3, neck, pool, fc.

    The batch norm that comes after a stage is the first module of the next stage, and its output has the stage's shape.
    """

    preactivations: ClassVar[Mapping[str, str]] = {
        "stem": "stage1.0.norm1",
        "stage1": "stage2.0.norm1",
        "stage2": "stage3.0.norm1",
        "stage3": "neck.0",
    }


@checked
def wrn(
    input_shape: Sequence[int],
    classes: int,
    depth: int = 16,
    width: int = 2,
    dropout: float = 0.0,
    survival: float = 1.0,
) -> WideResNet:
    """Build a wide residual network, WRN-depth-width: pre-activation blocks in three stages.

    Parts: stem, stage1, stage2, stage3, neck, pool, fc.  A stage's output is not yet normalised and activated; the next
    block or the neck does that.

    Args:
        input_shape: (C, H, W), at least 4×4 pixels.
        classes: K.
        depth: 6n + 4, with n blocks a stage.
        width: factor of the channels 16, 32 and 64.
        dropout: between a block's convolutions, in [0, 1].
        survival: of the last block under stochastic depth, falling linearly from 1; 1 for none.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> sum(p.numel() for p in wrn((3, 32, 32), 100, depth=16, width=2).parameters())
        703284

    Reference:
        Zagoruyko & Komodakis (2016), "Wide Residual Networks", arXiv:1605.07146.
    """
    checks.at_least("classes", classes, 1)
    checks.at_least("depth", depth, 10)
    checks.at_least("width", width, 1)
    checks.unit_interval("dropout", dropout)
    check_survival(survival)
    if (depth - 4) % 6 or depth > _DEEPEST:
        raise InputError(f"depth: found {depth}, expected 6n + 4 up to {_DEEPEST}, such as 16, 28 or 40")
    channels = check_images("wrn", input_shape, halvings=2)
    blocks = (depth - 4) // 6
    chances = iter(survivals(3 * blocks, survival))
    parts: list[tuple[str, nn.Module]] = [("stem", convolution(channels, 16))]
    before = 16
    for stage, base in enumerate((16, 32, 64), start=1):
        outputs = base * width
        first = WideBlock(before, outputs, 1 if stage == 1 else 2, dropout, next(chances))
        rest = [WideBlock(outputs, outputs, 1, dropout, next(chances)) for _ in range(blocks - 1)]
        parts.append((f"stage{stage}", nn.Sequential(first, *rest)))
        before = outputs
    last = nn.Linear(before, classes)
    parts += [
        ("neck", nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())),
        ("pool", GlobalAverage()),
        ("fc", last),
    ]
    model = WideResNet(OrderedDict(parts))
    he_normal(model)
    nn.init.zeros_(last.bias)
    return model
