"""Whether a store holds what the teacher says: checksums of all, and some samples asked about again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.cache.build import ask, stored_rows
from limbeck.cache.encodings import QuantizedEncoding, SampledEncoding, TopKEncoding
from limbeck.cache.format import first_difference, refused
from limbeck.cache.plan import Order, key_of
from limbeck.cache.reader import Store
from limbeck.carry import Carry
from limbeck.errors import CheckpointError
from limbeck.randomness import permutation
from limbeck.teacher import Carrying, Teacher

__all__ = ["StoreMismatchError", "Verified", "verify_store"]

_TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 2e-2}
"""Of stored numbers, relative and absolute: a teacher's answers change in the last digits with the batch and device."""
_OF_PROBABILITY = 3e-3
_FLIPPED = 0.01  # of the rounded logits of a sample, and one besides, that may lie at the edge of a step
_DRAWS = 1  # of a place that may differ, where a number lies between two classes


class StoreMismatchError(CheckpointError):
    """A store whose answers are not those of the teacher."""

    exit_code = 1


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    views: that are there whole.  rows: in all of them, whose checksums are right.  samples: asked about again.
    exact: of these, answered bit for bit as stored; the others differ by rounding.
    """

    views: tuple[int, ...]
    rows: int
    samples: int
    exact: int


def verify_store(teacher: Teacher, store: Store, order: Order, *, samples: int = 100, seed: int = 0) -> Verified:
    """Check the files of a store, and ask the teacher again about some samples, a function of the seed.

    order: what is asked, with the store's encoding; its views must be there, and further ones are verified too.
    Raises CheckpointError where a file is damaged or the store is of something else, and StoreMismatchError naming the
    first sample that is answered otherwise.
    """
    header = store.header
    if (told := first_difference(asdict(header.key), asdict(key_of(teacher, order)), "key")) is not None:
        raise refused(store.folder, f"holds answers to something else: {told}", "name its recipe, or build another one")
    if not np.array_equal(store.index, order.samples.index.cpu().numpy()):
        raise refused(store.folder, "holds answers to other samples of the set", "name its recipe")
    views = tuple(sorted({*store.views(), *order.views}))
    for view in views:
        store.check(view)
    chosen = permutation(seed, "verify", 0, len(views) * header.samples)[:samples].sort().values
    exact, moved = 0, order.samples.to(order.device)
    arrays = {"first": store.first, "offsets": store.offsets}
    for number, view in enumerate(views):
        here = chosen[(chosen >= number * header.samples) & (chosen < (number + 1) * header.samples)]
        positions = here - number * header.samples
        for part in _parts(teacher, moved, order, positions):
            carry, asked, wanted = part
            batch, answer = ask(teacher, moved, asked, order, view, carry)
            if not len(wanted):
                continue
            fresh = stored_rows(answer, batch, asked, order, header, arrays)
            exact += _compared(store, fresh, asked, wanted, view)
    return Verified(views, header.rows * len(views), len(chosen), exact)


def _parts(
    teacher: Teacher, samples: Any, order: Order, positions: Tensor
) -> list[tuple[Carry | None, Tensor, Tensor]]:
    """Return which samples are asked about together, each with a carry and those of them that are compared.

    A stream is gone through from its beginning, as far as is needed, with one carry.
    """
    lanes = order.samples.lanes
    if lanes is None:
        return [(None, part, part) for part in positions.split(order.batch_size or 64)]
    carry = Carry() if isinstance(teacher, Carrying) else None
    wanted = set(positions.tolist())
    steps = torch.arange(len(samples)).split(lanes)
    last = max((place // lanes for place in wanted), default=-1)
    return [
        (carry, step, torch.tensor([each for each in step.tolist() if each in wanted], dtype=torch.int64))
        for step in steps[: last + 1]
    ]


def _compared(store: Store, fresh: np.ndarray[Any, Any], asked: Tensor, wanted: Tensor, view: int) -> int:
    """Return how many samples are stored bit for bit as they are answered; StoreMismatchError for a wrong one."""
    positions = asked.cpu().numpy()
    begins = np.concatenate([[0], np.cumsum(store.offsets[positions + 1] - store.offsets[positions])])
    exact = 0
    for position in wanted.tolist():
        at = int((asked == position).nonzero()[0])
        first, last = int(store.offsets[position]), int(store.offsets[position + 1])
        rows = np.arange(first, last)
        place = (np.full_like(rows, view), np.full_like(rows, position), rows)
        kept = store.rows(*place)
        again = fresh[int(begins[at]) : int(begins[at + 1])]
        if np.array_equal(kept, again):
            exact += 1
        elif (told := _difference(store, store.values(*place), again)) is not None:
            raise StoreMismatchError(
                f"store: '{store.folder}' answers sample {int(store.index[position])} at view {view} otherwise than the"
                f" teacher ({told}); delete it and build it again"
            )
    return exact


def _difference(store: Store, kept: Mapping[str, Tensor], again: np.ndarray[Any, Any]) -> str | None:
    """Return in which field rows differ by more than rounding; None where they do not."""
    types = {field.name: field.type for field in store.header.row.fields}
    old = {name: values.numpy() for name, values in kept.items()}
    new = {name: store.header.row.unpack(again, name) for name in types}
    special = {"ids", "logits", "rest", "entropy"} if store.encoding.sparse else {"codes", "members:codes"}
    for name, kind in types.items():
        near = _TOLERANCE.get(kind, 0.0)
        if name not in special and not np.allclose(old[name], new[name], rtol=near, atol=near):
            return f"{name}: {float(np.abs(old[name] - new[name]).max()):.3g} apart"
    if isinstance(store.encoding, QuantizedEncoding):
        return _rounded_otherwise(store, old, new)
    if isinstance(store.encoding, SampledEncoding):
        return _drawn_otherwise(old, new)
    if isinstance(store.encoding, TopKEncoding):
        return _distributed_otherwise(store.encoding, store.header.classes, old, new)
    return None


def _rounded_otherwise(store: Store, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return how far rounded logits are apart, where that is more than the step that a number at its edge may take."""
    header, both = store.header, []
    for values in (old, new):
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        answer = store.encoding.decode(tensors, header.classes, header.members, 1)
        both.append([answer.logits, *([] if answer.members is None else [answer.members.logits.movedim(0, 1)])])
    for start, ours, theirs in zip(("", "members:"), *both, strict=False):
        apart, step = (ours - theirs).abs(), torch.from_numpy(old[f"{start}step"])[..., None]
        rounding = _TOLERANCE["float16"] * (1 + ours.abs())
        flipped = int((apart > rounding).sum())
        if bool((apart > 1.01 * step + rounding).any()) or flipped > 1 + _FLIPPED * apart.numel():
            return f"{start}codes: logits up to {float(apart.max()):.3g} apart"
    return None


def _drawn_otherwise(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    apart = (old["ids"] != new["ids"]).sum(-1)
    if int(apart.max()) > _DRAWS:
        return f"ids: {int(apart.max())} draws differ"
    off = float(np.abs(old["entropy"] - new["entropy"]).max())
    return f"entropy: {off:.3g} apart" if off > _TOLERANCE["bfloat16"] else None


def _distributed_otherwise(
    encoding: TopKEncoding, classes: int, old: Mapping[str, Any], new: Mapping[str, Any]
) -> str | None:
    for temperature in encoding.temperatures:
        dense = []
        for values in (old, new):
            tensors = {name: torch.from_numpy(value) for name, value in values.items()}
            answer = encoding.answer(tensors, classes)
            log_probs, _ = answer.at(temperature)
            whole = torch.zeros(*log_probs.shape[:-1], classes)
            dense.append(whole.scatter(-1, answer.ids, log_probs.exp().float()))
        both = (dense[0] > 0) & (dense[1] > 0)
        apart = (dense[0] - dense[1]).abs()
        # a class that is among the largest in one alone is as likely as the last that is in both
        edge = torch.where(both, 0.0, torch.maximum(dense[0], dense[1])).amax(-1)
        smallest = torch.stack([torch.where(each > 0, each, 2.0).amin(-1) for each in dense]).amax(0)
        off = torch.where(both, apart, 0.0).amax(-1)
        if bool((off > _OF_PROBABILITY).any()) or bool((edge > smallest + _OF_PROBABILITY).any()):
            return f"probabilities: {float(torch.maximum(off, edge).max()):.3g} apart at temperature {temperature:g}"
    return None
