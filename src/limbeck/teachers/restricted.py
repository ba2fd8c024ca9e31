"""A network of all classes that answers for a subset of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.outputs import Outputs, run_model
from limbeck.targets import label_positions

__all__ = ["RestrictedModel"]


class RestrictedModel(nn.Module):
    """Answer a network's logits for a subset S of its classes, v[S]; a softmax then renormalises them.

    Args:
        model: a network with `total` classes.
        classes: S, numbers in [0, total), each once, in the order of the answer.
        total: the number of the network's classes.

    Raises:
        InputError: if a class is out of range or repeated.

    Example:
        >>> model = nn.Linear(3, 5)
        >>> logits = RestrictedModel(model, [4, 0], total=5)(torch.ones(2, 3)).logits
        >>> torch.equal(logits, model(torch.ones(2, 3))[:, [4, 0]])
        True

    Reference:
        Wang, Rhodes & Feng (2022), "Class Specialized Knowledge Distillation", openreview.net/forum?id=wjiPAcZqB9z.
    """

    chosen: Tensor

    @checked
    def __init__(self, model: nn.Module, classes: Sequence[int], total: int) -> None:
        super().__init__()
        label_positions(torch.empty(0, dtype=torch.int64), classes, total)  # refuses classes that are none
        self.module = model
        self.total = total
        self.register_buffer("chosen", torch.tensor(list(classes)), persistent=False)

    def forward(self, *inputs: Any, **named: Any) -> Outputs:
        """Return the network's outputs with the logits of S alone."""
        answer = run_model(self.module, named or inputs[0])
        return replace(answer, logits=answer.logits.index_select(-1, self.chosen))
