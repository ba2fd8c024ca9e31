"""Inputs that a network is asked with where there is no set of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import as_tensor
from limbeck.batch import Batch
from limbeck.data.sources import Source, one_pass
from limbeck.errors import InputError
from limbeck.results.asked import MOST
from limbeck.tasks import CLASSIFICATION, Task

__all__ = ["Examples"]


@dataclass(frozen=True)
class Examples:
    """Inputs without labels, of which nothing is known but what they are."""

    inputs: Tensor | dict[str, Tensor]
    task: Task = CLASSIFICATION

    @classmethod
    def of(cls, inputs: Mapping[str, Any], task: Task = CLASSIFICATION) -> "Examples":
        """Take tensors by name; InputError where they have not the same number of rows."""
        found = {str(name): as_tensor(f"samples: {name}", each) for name, each in inputs.items()}
        if not found or any(not each.dim() for each in found.values()) or len(set(map(len, found.values()))) != 1:
            shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in found.items()) or "none"
            raise InputError(f"samples: found {shapes}; expected tensors (N, ...) with a row a sample each")
        return cls(found, task)

    @classmethod
    def read(cls, source: Source) -> "Examples":
        """Read the first samples of data of another library, those whose shape is that of the first batch."""
        parts: list[dict[str, Tensor]] = []
        for batch in one_pass(source, source.batch_size(None, MOST)).epoch(0):
            named = dict(batch.inputs) if isinstance(batch.inputs, Mapping) else {"": batch.inputs}
            if parts and any(each.shape[1:] != parts[0][name].shape[1:] for name, each in named.items()):
                continue
            parts.append(named)
            if sum(len(next(iter(part.values()))) for part in parts) >= MOST:
                break
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return cls(whole[""] if set(whole) == {""} else whole, source.task)

    def __len__(self) -> int:
        return len(self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values())))

    def batch(self, positions: Tensor, **_: Any) -> Batch:
        """Return the samples at positions (N,)."""
        if isinstance(self.inputs, Tensor):
            return Batch.of(self.inputs[positions])
        return Batch.of({name: each[positions] for name, each in self.inputs.items()})
