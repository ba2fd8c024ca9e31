"""The 8x8 handwritten digits that scikit-learn carries: real data without a download."""

from functools import cache

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.data.sets import Splits, TensorSet

__all__ = ["digits"]


@checked
def digits(seed: int = 0, test_share: float = 0.2) -> Splits:
    """Return scikit-learn's 1,797 digits as float32 images (1, 8, 8) in [0, 1].

    Args:
        seed: of the split.
        test_share: share of each class that is held out for testing, in (0, 1).

    Returns:
        Training and test set.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> data = digits()
        >>> len(data.train), len(data.test)
        (1438, 359)
    """
    inputs, labels = (each.clone() for each in _read())
    return Splits.held_out(TensorSet.of(inputs, labels, name="digits"), test_share, seed)


@cache
def _read() -> tuple[Tensor, Tensor]:
    """Return all images and labels, which scikit-learn reads from text."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).div_(16).view(-1, 1, 8, 8), torch.tensor(labels)
