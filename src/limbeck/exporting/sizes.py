"""How many bytes a network takes: on disk as it is exported, and with an ideal code for its numbers."""

import math

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.compress import ideal_stream_bytes, settled
from limbeck.compress.streams import Coded
from limbeck.compress.weights import layers_of
from limbeck.exporting.writing import stored
from limbeck.networks import distinct

__all__ = ["exported_bytes", "ideal_bytes"]


@checked
def exported_bytes(model: nn.Module) -> int:
    """Return the size of the file of weights that `write_folder` writes: each tensor once, and the header.

    Args:
        model: a network.

    Returns:
        Bytes.

    Example:
        >>> exported_bytes(nn.Linear(3, 4)) > 4 * 16
        True
    """
    return len(stored(model))


@checked
def ideal_bytes(model: nn.Module) -> int:
    """Return the bytes that an ideal code of a network's numbers takes, each tensor with a code of its own.

    Of each tensor it is the least of three: its numbers as they are; the entropy of its values and a table of them;
    the entropy of which are 0, and the others as they are.  Of a stream of codes it is the entropy of its symbols and
    their tables.  Tensors with few different values, as after quantisation or sharing, and those with many zeros, as
    after pruning, take less than on disk.

    Args:
        model: a network.

    Returns:
        Bytes, of the tensors alone.

    Example:
        >>> layer = nn.Linear(256, 256, bias=False)
        >>> dense = ideal_bytes(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(layer.weight.sign())
        >>> dense, ideal_bytes(layer) < 256 * 256 / 8 + 16
        (262144, True)

    Reference:
        Shannon (1948), "A Mathematical Theory of Communication".
    """
    small = settled(model)
    streams = {
        ".".join(filter(None, (path, "parametrizations", name, "original")))
        for path, module in layers_of(small)
        for name, chain in getattr(module, "parametrizations", {}).items()
        if isinstance(chain[-1], Coded)
    }
    return sum(
        math.ceil(ideal_stream_bytes(tensor)) if name in streams else _ideal(tensor)
        for name, tensor in distinct(small)[0].items()
    )


def _ideal(tensor: Tensor) -> int:
    """Return the bytes of an ideal code of a tensor."""
    if not tensor.numel():
        return 0
    size, flat = tensor.element_size(), tensor.detach().cpu().reshape(-1)
    values, counts = flat.unique(return_counts=True)
    raw = 8 * size * len(flat)
    zeros = int(counts[values == 0].sum())
    coded = _bits(counts) + 8 * size * len(values)
    masked = _bits(torch.tensor([zeros, len(flat) - zeros])) + 8 * size * (len(flat) - zeros)
    return int(-(-min(raw, coded, masked) // 8))


def _bits(counts: Tensor) -> float:
    """Return what an ideal code of symbols with these counts takes in all."""
    given = counts[counts > 0].double()
    return float((given * (given.sum() / given).log2()).sum())
