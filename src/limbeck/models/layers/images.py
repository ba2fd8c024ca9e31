"""What networks for images ask of their inputs, and the pooling that lets them take any size."""

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import ModelError

__all__ = ["GlobalAverage", "check_images"]


def check_images(kind: str, input_shape: Sequence[int], halvings: int) -> int:
    """Return the channels of images (C, H, W) that can be halved so often; ModelError for other inputs."""
    if len(input_shape) != 3:
        raise ModelError(f"kind: {kind} needs images (C, H, W), found inputs of shape {tuple(input_shape)}; use an mlp")
    channels, height, width = input_shape
    if min(height, width) < 2**halvings:
        raise ModelError(
            f"kind: {kind} halves its maps {halvings} times and needs images of {2**halvings} pixels,"
            f" found {height}×{width}; use a cnn"
        )
    return channels


class GlobalAverage(nn.Module):
    """The mean over height and width: (N, C, H, W) -> (N, C).

    >>> GlobalAverage()(torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3])
    """

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((-2, -1))
