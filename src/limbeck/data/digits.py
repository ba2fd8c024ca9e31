"""The 8x8 handwritten digits that scikit-learn carries: real data without a download."""

from functools import cache
from typing import Any

import torch

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
    images, labels = _read()
    inputs = torch.tensor(images, dtype=torch.float32).div_(16).view(-1, 1, 8, 8)
    return Splits.held_out(TensorSet.of(inputs, torch.tensor(labels), name="digits"), test_share, seed)


@cache
def _read() -> tuple[Any, Any]:
    """Return the arrays that scikit-learn reads from text, which takes longer than all else here."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels
