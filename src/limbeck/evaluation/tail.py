"""Rare classes: whether what a student gained from its teacher came at their cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError
from limbeck.evaluation.paired import ClassGain, class_gains
from limbeck.losses.reduction import check_labels

__all__ = ["Tail", "tail_gains"]


@checked_fields
@dataclass(frozen=True)
class Tail:
    """What the second of two models changes on rare classes and on the others.

    Attributes:
        trained: training examples of each class.
        rare: classes with fewer than half of the mean number of training examples, the rarest first.
        on_rare: gain and harm over all examples of the rare classes; None without any.
        on_others: the same for the other classes.

    Example:
        >>> Tail(trained=(9, 9), rare=(), on_rare=None, on_others=None).rare
        ()
    """

    trained: tuple[int, ...]
    rare: tuple[int, ...]
    on_rare: ClassGain | None
    on_others: ClassGain | None

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {
            "trained": self.trained,
            "rare": self.rare,
            **{
                name: None if found is None else {k: v for k, v in vars(found).items() if k != "label"}
                for name, found in (("on_rare", self.on_rare), ("on_others", self.on_others))
            },
        }


@checked
def tail_gains(
    first: Tensor, second: Tensor, labels: Tensor, trained: Sequence[int], *, confidence: float = 0.95
) -> Tail:
    """Compare two models on classes with few training examples, and on the others.

    Args:
        first: whether the first model is right, bool (n,), or (seeds, n).
        second: the same for the second model.
        labels: (n,) int64, all labelled.
        trained: training examples of each class; a class with fewer than half of their mean is rare.
        confidence: of the intervals, in (0, 1).

    Returns:
        Gain and harm on both.

    Raises:
        InputError: if the shapes disagree or a label is out of range.

    Example:
        >>> right = torch.tensor([True, True, True]), torch.tensor([True, True, False])
        >>> found = tail_gains(*right, torch.tensor([0, 1, 2]), trained=[90, 80, 10])
        >>> found.rare, found.on_rare.difference.value, found.on_others.difference.value
        ((2,), -1.0, 0.0)
    """
    if not trained or min(trained) < 0 or sum(trained) == 0:
        raise InputError(f"trained: found {list(trained)}, expected the number of training examples of each class")
    check_labels(labels, labels.shape[:1])
    share = sum(trained) / len(trained)
    rare = sorted((label for label, count in enumerate(trained) if count < share / 2), key=lambda label: trained[label])
    kind = torch.zeros(len(trained), dtype=torch.int64, device=labels.device)
    kind[rare] = 1
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(trained):
        raise InputError(f"labels: found {int(labels.min())} to {int(labels.max())}, expected 0 to {len(trained) - 1}")
    found = {gain.label: gain for gain in class_gains(first, second, kind[labels], 2, confidence=confidence)}
    return Tail(tuple(trained), tuple(rare), found.get(1), found.get(0))
