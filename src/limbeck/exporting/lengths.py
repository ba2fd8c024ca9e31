"""Lengths of texts among a network's inputs, and inputs of other lengths."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["axes_of", "is_lengths", "of_lengths"]

LENGTH, DECODER_LENGTH = "length", "decoder_length"
_DECODER = "decoder_"  # begins the names of a decoder's inputs, as in the Transformers library


def axes_of(inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a name for the second axis of each input that has a length: token ids, and masks of their shape.

    A length that is another one than that of the first input has a name of its own.

    >>> ids = torch.zeros(3, 7, dtype=torch.int64)
    >>> axes_of({"ids": ids, "mask": ids.float(), "other": ids[:, :5], "decoder_ids": ids, "size": ids[:, 0]})
    {'ids': 'length', 'mask': 'length', 'other': 'other_length', 'decoder_ids': 'decoder_length'}
    """
    ids = [each for each in inputs.values() if _is_whole(each) and each.dim() == 2 and each.shape[1] > 1]
    first = next((each.shape for name, each in inputs.items() if not name.startswith(_DECODER)), None)
    found: dict[str, str] = {}
    for name, each in inputs.items():
        same = any(each.shape == other.shape for other in ids)
        if not same or not (_is_whole(each) or name.endswith("mask")):
            continue
        if name.startswith(_DECODER):
            found[name] = DECODER_LENGTH
        else:
            found[name] = LENGTH if each.shape == first else f"{name}_length"
    return found


def is_lengths(name: str, tensor: Tensor, width: int) -> bool:
    """Return whether an input (N,) says how long each text is, of so many tokens at most."""
    return "len" in name and tensor.dim() == 1 and _is_whole(tensor) and bool((tensor <= width).all())


def of_lengths(inputs: Mapping[str, Tensor], axes: Mapping[str, str], more: int) -> dict[str, Tensor]:
    """Return inputs whose texts are longer by so many tokens, their first ones again, or shorter."""
    found = dict(inputs)
    for name in axes:
        width = inputs[name].shape[1]
        found[name] = inputs[name][:, torch.arange(width + more) % width].contiguous()
    width = min((found[name].shape[1] for name in axes), default=0)
    for name, each in inputs.items():
        if is_lengths(name, each, width - more):
            found[name] = each.clamp(max=width)
    return found


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.uint8
