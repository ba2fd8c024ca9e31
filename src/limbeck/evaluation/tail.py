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
    """What the second model changed on rare classes, and on the others.

    trained: training examples of each class.
    rare: the classes that have fewer than half of an even share of them, the rarest first.
    on_rare, on_others: gain and harm over all examples of those classes together; None where there are none.
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
    """Compare two models on the classes that the training set has few examples of.

    first, second: whether each example is right, bool (n,), or (seeds, n).  labels: (n,), each labelled.
    trained: how many training examples each class has; a class with fewer than half of their mean is rare.

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
