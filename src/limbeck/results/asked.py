"""What a network and the file that it was exported to are both asked: batches, lengths of texts, sizes of images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ExportError, ModelError
from limbeck.exporting import Inputs
from limbeck.exporting.lengths import axes_of, is_lengths
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
    if logits.dim() < 2:
        raise ExportError(
            f"export: found answers of shape {tuple(logits.shape)} to one sample; expected (N, K), also where K is 1."
            " Leave out the squeeze or flatten at the network's end"
        )
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
    axes = axes_of(like)
    if not axes or longest < 2:
        return []
    lengths = sorted({1, (1 + longest) // 2, longest})
    found = [(n, each) for n in lengths for each in _of_length(like, axes, n, 1 + longest - n)]
    with evaluating(model), torch.no_grad():
        return [(length, each) for length, each in found if _answers(model, each)]


def _answers(model: nn.Module, batch: Named) -> bool:
    try:
        run_model(model, handed(batch))
    except ModelError:
        return False
    return True


def _of_length(like: Named, axes: Mapping[str, str], length: int, other: int) -> Iterator[Named]:
    """Yield a batch with so many tokens a row, its own again and again: full, padded, and one row alone.

    axes: of the inputs with a length.  other: how many tokens there are where it is another length than the first's.
    """
    mask, first = like.get("attention_mask"), like[next(iter(axes))]
    real = torch.full((len(first),), first.shape[1]) if mask is None else mask.long().sum(1).clamp(min=1)
    places = torch.arange(length)[None] % real[:, None]
    rows = dict(like)
    for name, axis in axes.items():
        own = like[name]
        same = axis == axes[next(iter(axes))]
        rows[name] = own.gather(1, places) if same else own[:, torch.arange(other) % own.shape[1]].contiguous()
    if mask is not None:
        rows["attention_mask"] = torch.ones_like(rows["attention_mask"])
    for name, each in like.items():
        if is_lengths(name, each, first.shape[1]):
            rows[name] = each.clamp(max=length)
            rows[name][0] = length
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
