"""RandAugment (Cubuk et al. 2020) on tensors: a few random operations on each image, all of one strength.

Operations take images (N, C, H, W) in [0, 1] and give such images; none looks at another image of the batch.  What a
turned or moved image leaves empty is 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data import colours
from limbeck.errors import InputError
from limbeck.randomness import uniform

__all__ = [
    "OPERATIONS",
    "RandAugment",
    "affine",
    "autocontrast",
    "equalize",
    "posterize",
    "sharpness",
    "smooth",
    "solarize",
]

_STRONGEST = 10
_DEGREES, _SHEAR, _SHIFT, _ENHANCEMENT, _BITS = 30.0, 0.3, 150 / 331, 0.9, 4


@checked_fields
@dataclass(frozen=True)
class RandAugment:
    """The number of random operations on each image, and their strength.

    Attributes:
        n: operations on an image, one after the other, each drawn from the 14 of `OPERATIONS`; 0 for none.
        magnitude: in [0, 10], linear in the ranges of AutoAugment: up to 30° of rotation, a shear of 0.3, a translation
            by 150/331 of the size, factors 1 ± 0.9 of colour, contrast, brightness and sharpness, 4 of 8 bits, a
            solarisation threshold from white down to black.  If there are two directions, one is drawn.  Noisy student
            uses n = 2 and 27 of 30, which is 9 here.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> index = torch.arange(3)
        >>> randaugment = RandAugment(n=2, magnitude=9)
        >>> randaugment.apply(torch.rand(3, 1, 8, 8), seed=0, view=torch.ones_like(index), index=index).shape
        torch.Size([3, 1, 8, 8])

    Reference:
        Cubuk et al. (2020), "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
        arXiv:1909.13719; Cubuk et al. (2019), "AutoAugment", arXiv:1805.09501.
    """

    n: int = 0
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        checks.at_least("randaugment.n", self.n, 0)
        checks.non_negative("randaugment.magnitude", self.magnitude)
        if self.magnitude > _STRONGEST:
            raise InputError(
                f"randaugment.magnitude: found {self.magnitude!r}, expected at most {_STRONGEST};"
                " divide by 3 if your scale ends at 30"
            )
        if not self.n and self.magnitude != RandAugment.magnitude:
            raise InputError("randaugment.magnitude: given without n; set n, the number of operations")

    def apply(self, images: Tensor, *, seed: int, view: Tensor, index: Tensor) -> Tensor:
        """Return the given view of each image; the images stay as they are.

        images: (N, C, H, W) floating point in [0, 1].  view, index: (N,) int64.
        """
        drawn = uniform(seed, "randaugment", view, index, 2 * self.n)
        changes = list(OPERATIONS.values())
        for layer in range(self.n):
            chosen = (drawn[:, 2 * layer] * len(changes)).to(torch.int64)
            sign = torch.where(drawn[:, 2 * layer + 1] < 0.5, -1.0, 1.0).to(images.dtype)
            changed = images.clone()
            for number, change in enumerate(changes):
                rows = (chosen == number).nonzero().squeeze(1)
                if len(rows) and change is not _identity:
                    strength = sign[rows] * (self.magnitude / _STRONGEST)
                    changed[rows] = change(images[rows], strength)
            images = changed
        return images


# -- operations that take what they do -------------------------------------------------------------------------------


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to reach from 0 to 1; a channel of one value stays.

    >>> autocontrast(torch.tensor([0.2, 0.4, 0.6]).view(1, 1, 1, 3))
    tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (images - low) / torch.where(span > 0, span, 1.0), images)


def equalize(images: Tensor) -> Tensor:
    """Spread the 256 grey levels of each channel so that all are about as frequent, by Pillow's table of levels.

    >>> equalize(torch.tensor([0, 0, 51, 255]).view(1, 1, 1, 4).div(255)).mul(255).round().flatten().tolist()
    [0.0, 0.0, 51.0, 255.0]
    """
    levels = _levels(images).flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp_min(1)).clamp_max(255)
    spread = table.gather(2, levels).view(images.shape).to(images.dtype) / 255
    return torch.where((step > 0)[..., None], spread, images)


def posterize(images: Tensor, bits: int) -> Tensor:
    """Keep the highest of the 8 bits of each value.

    >>> posterize(torch.tensor([255 / 255, 100 / 255]).view(1, 1, 1, 2), 1).mul(255).flatten().tolist()
    [128.0, 0.0]
    """
    dropped = 8 - bits
    return ((_levels(images) >> dropped) << dropped).to(images.dtype) / 255


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert all values at or above a threshold: x becomes 1 - x.

    >>> solarize(torch.tensor([0.25, 0.75]).view(1, 1, 1, 2), 0.5)
    tensor([[[[0.2500, 0.2500]]]])
    """
    return torch.where(images >= threshold, 1 - images, images)


def smooth(images: Tensor) -> Tensor:
    """Return the mean over each pixel's 3×3 neighbours, itself five times; pixels at the border stay.

    >>> smooth(torch.eye(3).view(1, 1, 3, 3))[0, 0, 1]
    tensor([0.0000, 0.5385, 0.0000])
    """
    height, width = images.shape[2:]
    if min(height, width) < 3:
        return images
    around = 4 * images[:, :, 1:-1, 1:-1]
    for down in range(3):
        for across in range(3):
            around = around + images[:, :, down : height - 2 + down, across : width - 2 + across]
    smoothed = images.clone()
    smoothed[:, :, 1:-1, 1:-1] = around / 13
    return smoothed


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Return f·x + (1-f)·smooth(x): blurred below 1, sharper above.  factor: (N, 1, 1, 1)."""
    return torch.lerp(smooth(images), images, factor).clamp_(0, 1)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Move each image's content: the result at (x, y) is the image at A·(x, y, 1), in pixels from the image's centre.

    matrix: A, (N, 2, 3).  Between pixels the values are interpolated linearly; outside the image they are 0.

    >>> image = torch.arange(9.0).view(1, 1, 3, 3)
    >>> affine(image, torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]))[0, 0]
    tensor([[1., 2., 0.],
            [4., 5., 0.],
            [7., 8., 0.]])
    """
    height, width = images.shape[2:]
    down = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    across = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    entries = matrix.to(images.dtype)[:, :, :, None, None]
    places = entries[:, :, 0] * across + entries[:, :, 1] * down[:, None] + entries[:, :, 2]
    grid = torch.stack([places[:, 0] * (2 / width), places[:, 1] * (2 / height)], dim=-1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _levels(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.int64)


# -- operations of a strength ------------------------------------------------------------------------------------------
# Each takes images and (N,) strengths in [-1, 1], all of one size, whose sign is the direction where there are two.


def _identity(images: Tensor, _strength: Tensor) -> Tensor:
    return images


def _autocontrast(images: Tensor, _strength: Tensor) -> Tensor:
    return autocontrast(images)


def _equalize(images: Tensor, _strength: Tensor) -> Tensor:
    return equalize(images)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    return posterize(images, 8 - round(_BITS * abs(float(strength[0]))))


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    return solarize(images, (1.0 - abs(float(strength[0]))) * 256 / 255)


def _enhance(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def enhance(images: Tensor, strength: Tensor) -> Tensor:
        return change(images, 1.0 + _ENHANCEMENT * strength[:, None, None, None])

    return enhance


def _matrices(strength: Tensor) -> Tensor:
    return torch.eye(2, 3, dtype=strength.dtype, device=strength.device).repeat(len(strength), 1, 1)


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle = math.radians(_DEGREES * abs(float(strength[0])))
    matrix = _matrices(strength)
    matrix[:, 0, 0] = matrix[:, 1, 1] = math.cos(angle)
    matrix[:, 1, 0] = strength.sign() * math.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    return affine(images, matrix)


def _shear(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def shear(images: Tensor, strength: Tensor) -> Tensor:
        matrix = _matrices(strength)
        matrix[:, axis, 1 - axis] = _SHEAR * strength
        return affine(images, matrix)

    return shear


def _translate(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def translate(images: Tensor, strength: Tensor) -> Tensor:
        matrix = _matrices(strength)
        matrix[:, axis, 2] = _SHIFT * images.shape[3 - axis] * strength
        return affine(images, matrix)

    return translate


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _enhance(colours.saturation),
    "posterize": _posterize,
    "contrast": _enhance(colours.contrast),
    "brightness": _enhance(colours.brightness),
    "sharpness": _enhance(sharpness),
    "shear_x": _shear(0),
    "shear_y": _shear(1),
    "translate_x": _translate(0),
    "translate_y": _translate(1),
}
"""The 14 operations of the paper by name: images (N, C, H, W) and strengths (N,) of one size -> images."""
