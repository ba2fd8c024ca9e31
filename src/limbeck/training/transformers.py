"""A thin adapter that lets the Transformers Trainer train a distiller."""

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError

__all__ = ["TrainerModel"]


class TrainerModel(nn.Module):
    """A distiller in the form that `transformers.Trainer` takes: keyword tensors in, a mapping with `loss` out.

    The student receives every keyword except `labels` and `index`; the Trainer would leave these keywords out unless
    it is told `remove_unused_columns=False`.  The loss is the mean over each batch on its own; the Trainer's gradient
    accumulation therefore averages means, which equals limbeck's own loop when all batches count alike.  Schedules
    read `distiller.step`, which stays 0 unless a callback of the Trainer sets it.

    >>> import limbeck as lb
    >>> class Student(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = nn.Linear(3, 4)
    ...     def forward(self, pixels):
    ...         return self.linear(pixels)
    >>> model = TrainerModel(lb.Distiller(Student(), None, lb.methods.hard()))
    >>> sorted(model(pixels=torch.zeros(2, 3), labels=torch.tensor([0, 1])))
    ['logits', 'loss']
    """

    accepts_loss_kwargs = False

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, labels: Tensor | None = None, index: Tensor | None = None, **inputs: Tensor) -> dict[str, Any]:
        """Return the distiller's loss and the student's logits."""
        if not inputs:
            raise InputError("inputs: found none for the student; tell the Trainer remove_unused_columns=False")
        first = next(iter(inputs.values()))
        positions = torch.arange(len(first), device=first.device) if index is None else index
        padding = inputs.get("attention_mask") if labels is not None and labels.ndim > 1 else None
        batch = Batch(
            index=positions,
            view=torch.zeros_like(positions),
            inputs=inputs,
            labels=labels,
            mask=None if padding is None else padding.bool(),
        )
        step = self.distiller.step
        outputs = self.distiller.outputs(batch, step)
        return {"loss": self.distiller.objective(outputs, batch, step).total, "logits": outputs["student"].logits}
