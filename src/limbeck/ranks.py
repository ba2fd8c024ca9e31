"""Rows of all processes, for the terms that relate the examples of a batch to each other."""

import torch
from torch import Tensor, distributed

__all__ = ["all_rows", "world_size"]


def world_size() -> int:
    """Return how many processes train together; 1 without `torch.distributed`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes (N, ...), in the order of their ranks, those of this one with their gradient.

    rows: (n, ...), n being any number on each process, also 0.  Every process must call it.

    >>> all_rows(torch.tensor([[1.0], [2.0]])).shape
    torch.Size([2, 1])
    """
    world = world_size()
    if world == 1:
        return rows
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(world)]
    distributed.all_gather(sizes, size)
    counts = [int(each) for each in sizes]
    padded = rows.detach().new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[distributed.get_rank()] = rows
    return torch.cat(parts)
