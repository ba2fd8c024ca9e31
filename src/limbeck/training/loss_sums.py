"""The loss_sums of a training: exact sums of every term, read from the device in blocks, and the guard against NaN."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from limbeck.devices import exact
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.networks import is_sharded, own_part
from limbeck.objective import Loss
from limbeck.ranks import in_any
from limbeck.training.engine import sum_over_ranks

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["LossSums"]

_BLOCK = 20
_MEND = "lower training.learning_rate or set training.clip"


class LossSums:
    """Adds up the terms of an epoch in float64, in the order of the steps.

    Losses stay on the device until a block of them is read at once, so that an accelerator need not wait at every step.
    What is trained is looked at then as well: a gradient that was not finite has left its mark there, whatever the
    losses were.  (A step that a gradient scaler skips leaves none.)

    trained: the module whose trainable parameters, and whose statistics of normalisation, must stay finite.
    """

    def __init__(self, trained: nn.Module) -> None:
        self.trained = trained
        self.sums: dict[str, list[float]] = {}  # by term: sum, count, weighted sum
        self._pending: list[tuple[int, Loss]] = []

    def add(self, step: int, loss: Loss) -> None:
        """Note the loss of a micro-batch of optimizer step `step`."""
        self._pending.append((step, Loss(loss.total.detach(), loss.parts)))

    @property
    def full(self) -> bool:
        """Whether it is time to read."""
        return len(self._pending) >= _BLOCK

    def read(self, last_good: str) -> None:
        """Add the pending losses to the sums.

        Raises NonFiniteLossError with the first step and term that are NaN or infinite, or with a parameter that is.
        Processes that have a part of the parameters each raise it together.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        found: NonFiniteLossError | None = None
        try:
            self._read(pending, last_good)
        except NonFiniteLossError as error:
            found = error
        if is_sharded(self.trained) and in_any(found is not None) and found is None:
            found = NonFiniteLossError(
                f"step {pending[-1][0] + 1}: in another process the loss or a parameter is NaN or infinite;"
                f" {last_good}; {_MEND}"
            )
        if found is not None:
            raise found

    def _read(self, pending: Sequence[tuple[int, Loss]], last_good: str) -> None:
        values: list[Tensor] = []
        for _, loss in pending:
            values += [loss.total, *(part.sum for part in loss.parts.values())]
            values += [part.count for part in loss.parts.values() if isinstance(part.count, Tensor)]
        spoilt = _spoilt(self.trained)
        numbers = iter(torch.stack([exact(value) for value in values]).tolist())
        for step, loss in pending:
            total = next(numbers)
            sums = {name: next(numbers) for name in loss.parts}
            counts = {
                name: next(numbers) if isinstance(part.count, Tensor) else float(part.count)
                for name, part in loss.parts.items()
            }
            for name, value in {**sums, "total": total}.items():
                if not math.isfinite(value):
                    also = f", and since then {spoilt}" if spoilt else ""
                    if self._teacher_failed():
                        raise NonFiniteLossError(
                            f"teacher: by step {step + 1} it answered NaN or +inf, so that term '{name}' of the loss "
                            f"is {value}{also}; {last_good}; check its weights and the scale of its inputs"
                        )
                    raise NonFiniteLossError(
                        f"step {step + 1}: term '{name}' of the loss is {value}{also}; {last_good}; {_MEND}"
                    )
            for name, part in loss.parts.items():
                entry = self.sums.setdefault(name, [0.0, 0.0, 0.0])
                entry[0] += sums[name]
                entry[1] += counts[name]
                entry[2] += part.weight * sums[name]
        if spoilt:
            raise NonFiniteLossError(
                f"step {pending[-1][0] + 1}: {spoilt} after it, although each loss was finite: a gradient was not, or "
                f"the step was too large; {last_good}; {_MEND}"
            )

    def _teacher_failed(self) -> bool:
        failed = self.trained.teacher_failed if isinstance(self.trained, Distiller) else None
        return failed is not None and bool(failed)

    def means(self, accelerator: "Accelerator | None" = None) -> dict[str, float]:
        """Return the mean of each term over what it counted, over all ranks, and `total`, their weighted sum."""
        names = sorted(self.sums)
        table = torch.tensor([self.sums[name] for name in names], dtype=torch.float64)
        if accelerator is not None and accelerator.num_processes > 1:
            table = sum_over_ranks(accelerator, table.to(accelerator.device))
        rows = dict(zip(names, table.tolist(), strict=True))
        means = {name: total / max(count, 1.0) for name, (total, count, _) in rows.items()}
        return {**means, "total": sum(weighted / max(count, 1.0) for _, count, weighted in rows.values())}

    def clear(self) -> None:
        """Start a new epoch."""
        self.sums = {}

    def restore(self, saved: Sequence[Mapping[str, list[float]]], rank: int, world: int) -> None:
        """Go on from the sums that each process had; where there were more or fewer, the first takes them all.

        ValueError where they are no sums.
        """
        for entries in saved:
            for entry in entries.values():
                if len(entry) != 3 or not all(isinstance(value, float) for value in entry):
                    raise ValueError("the sums of the losses are not numbers")
        if len(saved) == world:
            self.sums = {name: list(entry) for name, entry in saved[rank].items()}
            return
        everyone = {name: [entries[name] for entries in saved] for name in saved[0]}
        self.sums = {
            name: [sum(values) if rank == 0 else 0.0 for values in zip(*entries, strict=True)]
            for name, entries in everyone.items()
        }


@torch.no_grad()
def _spoilt(trained: nn.Module) -> str:
    """Name the first trainable parameter or running statistic that is NaN or infinite; "" where all are finite."""
    tensors: dict[str, Tensor] = {
        f"parameter '{name}'": each for name, each in trained.named_parameters() if each.requires_grad
    }
    for path, module in trained.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and module.running_var is not None:
            tensors[f"running mean of '{path}'"] = module.running_mean
            tensors[f"running variance of '{path}'"] = module.running_var
    tensors = {name: own_part(each) for name, each in tensors.items()}
    tensors = {name: each for name, each in tensors.items() if each.numel() and each.is_floating_point()}
    if not tensors:
        return ""
    # A sum is NaN or infinite where one value is, and there is one number a tensor to wait for.
    wide = {name: each.dtype if each.dtype == torch.float64 else torch.float32 for name, each in tensors.items()}
    sums = [each.sum(dtype=wide[name]).float() for name, each in tensors.items()]
    for name, value in zip(tensors, torch.stack([each.to(sums[0].device) for each in sums]).tolist(), strict=True):
        if not math.isfinite(value) and not bool(tensors[name].isfinite().all()):  # large values may overflow a sum
            return f"{name} is NaN or infinite"
    return ""
