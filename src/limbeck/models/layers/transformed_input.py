"""A network that takes images of another size, or normalised in another way, than its data set gives them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.data import SampleSet
from limbeck.data.content import normalisation
from limbeck.errors import InputError

__all__ = ["InputTransform", "TransformedInput"]

_LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class InputTransform:
    """How the images of a set become a network's inputs.

    Attributes:
        size: pixels of a side, or height and width; bilinear, with antialiasing.  None for the size that they have.
        mean: of each channel, on the scale that images have before the set's own normalisation ([0, 1] for pixels),
            which is undone first.  None for the set's own.
        std: of each channel, on the same scale, above 0.  None for the set's own.

    Raises:
        InputError: for none of these, and for values out of range.
    """

    size: int | tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size is None and self.mean is None and self.std is None:
            raise InputError("input: found nothing, expected size, or mean and std")
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise InputError(f"{given}: found without {missing}, expected both; add {missing}")
        sides = () if self.size is None else self.sides
        if self.size is not None and len(sides) != 2:
            raise InputError(f"size: found {list(sides)}, expected one number, or height and width")
        for side in sides:
            checks.at_least("size", side, 1)
            if side > _LARGEST:
                raise InputError(f"size: found {side:,}, expected at most {_LARGEST:,} pixels")

    @property
    def sides(self) -> tuple[int, ...]:
        """Height and width; empty where images keep their size."""
        if self.size is None:
            return ()
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __str__(self) -> str:
        """Return what is done to the images, in words."""
        resized = " × ".join(map(str, self.sides))
        own = "normalised by its own mean and std" if self.mean is not None else ""
        return " and ".join(filter(None, (f"resized to {resized}" if resized else "", own)))

    def around(self, build: Callable[[tuple[int, ...]], nn.Module], samples: SampleSet) -> "TransformedInput":
        """Build a network for images as they are after the transform, that takes those of the set."""
        shape = samples.input_shape
        if len(shape) != 3:
            raise InputError(f"size: found for inputs that are no images: samples of '{samples.name}' are {shape}")
        scale = shift = None
        own = normalisation("input", torch.float32, shape, self.mean, self.std)
        if own is not None:
            mean, std = own
            scale, shift = 1 / std, -mean / std
            if samples.mean is not None and samples.std is not None:
                scale, shift = samples.std.cpu() * scale, (samples.mean.cpu() - mean) / std
        network = TransformedInput(build((shape[0], *(self.sides or shape[1:]))), self.sides, scale, shift)
        network.enlarges = math.prod(self.sides) / math.prod(shape[1:]) if self.sides else 1.0
        return network


class TransformedInput(nn.Module):
    """A network behind a resize and a change of normalisation: x·scale + shift, then bilinear with antialiasing.

    sides: height and width; empty for no resize.  scale, shift: (C, 1, 1); None for no change.
    enlarges: how many pixels there are for each pixel before (`limbeck.networks.at_once`).

    >>> network = TransformedInput(nn.Flatten(), (4, 4), torch.tensor([[[2.0]]]), torch.tensor([[[1.0]]]))
    >>> network(torch.ones(1, 1, 2, 2)).unique(), network(torch.ones(1, 1, 2, 2)).shape
    (tensor([3.]), torch.Size([1, 16]))
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, model: nn.Module, sides: Sequence[int], scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.module = model
        self.sides, self.enlarges = tuple(sides), 1.0
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, inputs: Tensor) -> Any:
        """Return what the network answers to the transformed images."""
        images = inputs.to(torch.float32)
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        if self.sides:
            images = functional.interpolate(images, size=self.sides, mode="bilinear", antialias=True)
        return self.module(images.to(inputs.dtype))
