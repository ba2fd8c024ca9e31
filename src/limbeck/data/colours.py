"""Changes of colour, for images (N, C, H, W) in [0, 1] with one factor (N, 1, 1, 1) each; results stay in [0, 1].

A factor of 1 changes nothing, 0 takes away what the change is named for.  With three channels
grey = 0.299·red + 0.587·green + 0.114·blue (ITU-R BT.601), otherwise the mean over the channels.
"""

import torch
from torch import Tensor

__all__ = ["brightness", "contrast", "grey", "saturation"]

_LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Return the grey image of each, (N, 1, H, W).

    >>> grey(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)).item()
    0.5924999713897705
    """
    if images.shape[1] != len(_LUMA):
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    mixed: Tensor = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return mixed


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return f·x: darker below 1, brighter above."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return f·x + (1-f)·m, m the mean of the image's grey."""
    return torch.lerp(grey(images).mean((1, 2, 3), keepdim=True), images, factor).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return f·x + (1-f)·grey."""
    return torch.lerp(grey(images), images, factor).clamp_(0, 1)
