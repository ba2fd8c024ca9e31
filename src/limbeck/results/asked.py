"""What a network and the file that it was exported to are both asked: batches, lengths of texts, sizes of images."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.exporting import Inputs
from limbeck.networks import evaluating
from limbeck.outputs import run_model

__all__ = ["MOST", "Named", "Size", "batches_of", "handed", "lengths_of", "sizes_of"]

MOST, _ONE_BY_ONE, _TOGETHER = 256, 32, 7
_MOST_BYTES = 2**26  # of answers that are compared

Named = dict[str, Tensor]
"""Inputs by name; those of a network without keywords have the name ""."""

Size = tuple[int, int]
"""The height and the width of an image."""


def batches_of(model: nn.Module, samples: Any) -> list[Named]:
    """Return inputs of validation samples, some one by one and all in batches of 7, as tensors by name.

    samples: with a length, a `task` and `batch(positions)`, as a `SampleSet` has.
    """
    one = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0)
    with evaluating(model), torch.no_grad():
        logits = run_model(model, one.inputs, task=samples.task).logits
    most = max(_TOGETHER, _MOST_BYTES // max(1, logits.numel() * logits.element_size()))
    positions = torch.arange(min(len(samples), MOST, most))
    parts = [*positions[:_ONE_BY_ONE].split(1), *positions.split(_TOGETHER)]
    if len(samples) < _TOGETHER:
        parts.append(torch.arange(_TOGETHER) % len(samples))
    return [_named(samples.batch(part, augment=None, seed=0, view=0).inputs) for part in parts]


def _named(inputs: Inputs) -> Named:
    named = {"": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    return {name: tensor.contiguous().clone() for name, tensor in named.items()}


def handed(batch: Named) -> Inputs:
    """Return a batch as a network is called with it."""
    return batch[""] if set(batch) == {""} else batch


def lengths_of(model: nn.Module, batches: Sequence[Named], longest: int) -> list[tuple[int, Named]]:
    """Return token ids of the shortest, a middle and the longest length, full and padded, 1 and 7 rows.

    Lengths that the model does not answer are left out.  The texts of a decoder are the shorter, the longer those of
    its encoder are.  Nothing where samples are no token ids.
    """
    like = next(batch for batch in batches if len(next(iter(batch.values()))) == _TOGETHER)
    ids = next((each for each in like.values() if each.dim() == 2 and not each.is_floating_point()), None)
    if ids is None or longest < 2 or any(each.dim() != 2 for each in like.values()):
        return []
    lengths = sorted({1, (1 + longest) // 2, longest})
    found = [(length, each) for length in lengths for each in _of_length(like, length, 1 + longest - length)]
    with evaluating(model), torch.no_grad():
        return [(length, each) for length, each in found if _answers(model, each)]


def _answers(model: nn.Module, batch: Named) -> bool:
    try:
        run_model(model, handed(batch))
    except ModelError:
        return False
    return True


def _of_length(like: Named, length: int, decoded: int) -> Iterator[Named]:
    """Yield a batch with so many tokens a row, its own again and again: full, padded, and one row alone.

    decoded: how many there are for a decoder.
    """
    mask = like.get("attention_mask")
    first = next(iter(like.values()))
    real = torch.full((len(first),), first.shape[1]) if mask is None else mask.long().sum(1).clamp(min=1)
    places = torch.arange(length)[None] % real[:, None]
    decoders = {name: each for name, each in like.items() if name.startswith("decoder_")}
    rows = {name: each.gather(1, places) for name, each in like.items() if each.shape == first.shape}
    rows |= {name: each[:, torch.arange(decoded) % each.shape[1]].contiguous() for name, each in decoders.items()}
    if len(rows) < len(like):
        return
    if mask is not None:
        rows["attention_mask"] = torch.ones_like(rows["attention_mask"])
    yield rows
    yield {name: each[:1].contiguous() for name, each in rows.items()}
    if mask is not None and length > 1:
        seen = torch.arange(length)[None] < (length - torch.arange(len(first)) % length)[:, None]
        yield {**rows, "attention_mask": seen.to(mask.dtype)}


def sizes_of(model: nn.Module, batches: Sequence[Named]) -> list[tuple[Size, Named]]:
    """Return images of other heights and widths that the model answers too, 7 rows and one; nothing for other samples.

    Half as large, one and a half times as high and twice as wide, and twice as large: an image's own pixels, left out
    or repeated.
    """
    like = next(batch for batch in batches if len(next(iter(batch.values()))) == _TOGETHER)
    images = like.get("")
    if images is None or images.dim() != 4 or not images.is_floating_point():
        return []
    height, width = images.shape[2:]
    sizes = {(height // 2, width // 2), (height + height // 2, 2 * width), (2 * height, 2 * width)}
    found: list[tuple[Size, Named]] = []
    with evaluating(model), torch.no_grad():
        for high, wide in sorted(sizes - {(height, width)}):
            if min(high, wide) < 2:  # an axis of length 1 means another thing to exporters
                continue
            rows = images[:, :, torch.arange(high) % height][..., torch.arange(wide) % width].contiguous()
            if _answers(model, {"": rows}):
                found += [((high, wide), {"": rows}), ((high, wide), {"": rows[:1].contiguous()})]
    return found
