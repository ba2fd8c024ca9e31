"""Images that are averaged over small squares before a model sees them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.errors import InputError

__all__ = ["Pooling"]


@dataclass(frozen=True)
class Pooling:
    """How a set's images were made smaller.

    Attributes:
        side: of the squares that are averaged, in pixels.
        input_shape: (channels, height, width) of an image before.
        dtype: of the images before: "uint8" (divided by 255 first) or "float32".
    """

    side: int
    input_shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape[1:]) < self.side or self.dtype == "int64":
            raise InputError(
                f"pool: found {self.side} for inputs {self.input_shape} {self.dtype}; expected images, which are at "
                "least as large"
            )

    def apply(self, images: Tensor) -> Tensor:
        """Return images (n, *input_shape) of `dtype` as float32 (n, channels, height // side, width // side)."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        return functional.avg_pool2d(scaled, self.side)
