"""MobileNetV2 (Sandler 2018) in the form of the CIFAR-100 tables of the distillation literature."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.models.layers import GlobalAverage, activated, check_images, he_normal, normal, normalised

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2"]

# Of each stage its runs of blocks: channels at width 1, blocks, stride of the first.  The very first does not widen.
_STAGES = (
    ((16, 1, 1), (24, 2, 1)),
    ((32, 3, 2),),
    ((64, 4, 2), (96, 3, 1)),
    ((160, 3, 2), (320, 1, 1)),
)
_STEM, _LAST = 32, 1280


class InvertedResidual(nn.Module):
    """1×1 convolution that widens, 3×3 depthwise, 1×1 that narrows without activation; plus x where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.widen = activated(inputs, hidden, 1)
        self.depthwise = activated(hidden, hidden, stride=stride, groups=hidden)
        self.narrow = normalised(hidden, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        branch: Tensor = self.narrow(self.depthwise(self.widen(maps)))
        return maps + branch if self.adds else branch


class MobileNetV2(nn.Sequential):
    """stem, stage1, stage2, stage3, stage4, neck, pool, fc.

    A block ends without activation, so the output of a stage is its pre-activation.
    """

    preactivations: ClassVar[Mapping[str, str]] = {
        "stem": "stem.-1@input",
        "stage1": "stage1",
        "stage2": "stage2",
        "stage3": "stage3",
        "stage4": "stage4",
        "neck": "neck.-1@input",
    }


@checked
def mobilenet_v2(
    input_shape: Sequence[int],
    classes: int,
    width: float = 0.5,
    expansion: int = 6,
) -> MobileNetV2:
    """Build MobileNetV2 with the strides of the CIFAR tables; the default is the "half" one with 812,836 parameters.

    Parts: stem (stride 2), stage1 to stage4, neck (1×1 convolution to 1,280 channels), pool, fc.  Unlike in the paper,
    the second stage has stride 1 and the activations are ReLU, not ReLU6.  Weights start as in He et al. (2015)
    (normal, fan-out), the last layer's at 0.01.

    Args:
        input_shape: (C, H, W), at least 16×16 pixels.
        classes: K.
        width: factor of all channels; of the neck's only above 1.
        expansion: T, the expansion factor of a block.

    Returns:
        A network from (N, C, H, W) to logits (N, K).

    Raises:
        ModelError: if the image is too small.
        InputError: if a value is out of range.

    Example:
        >>> mobilenet_v2((3, 32, 32), 100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])

    Reference:
        Sandler et al. (2018), "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.
    """
    checks.at_least("classes", classes, 1)
    checks.positive("width", width)
    checks.at_least("expansion", expansion, 1)
    channels = check_images("mobilenet_v2", input_shape, halvings=4)

    def scaled(count: int) -> int:
        return max(1, int(count * width))

    before = scaled(_STEM)
    parts: list[tuple[str, nn.Module]] = [("stem", activated(channels, before, stride=2))]
    for stage, runs in enumerate(_STAGES, start=1):
        blocks = []
        for run, (count, repeats, stride) in enumerate(runs):
            widening = 1 if (stage, run) == (1, 0) else expansion
            for block in range(repeats):
                blocks.append(InvertedResidual(before, scaled(count), stride if block == 0 else 1, widening))
                before = scaled(count)
        parts.append((f"stage{stage}", nn.Sequential(*blocks)))
    wide = _LAST if width <= 1 else scaled(_LAST)
    last = nn.Linear(wide, classes)
    parts += [("neck", activated(before, wide, 1)), ("pool", GlobalAverage()), ("fc", last)]
    model = MobileNetV2(OrderedDict(parts))
    he_normal(model)
    normal(last.weight, 0.01)
    nn.init.zeros_(last.bias)
    return model
