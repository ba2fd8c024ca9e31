"""What a store is to hold: its key, its header, the shards that its samples are divided into."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.cache.encodings import AnyEncoding, keys_of
from limbeck.cache.format import (
    FORMAT,
    VERSION,
    Header,
    Key,
    array_bytes,
    first_difference,
    read_header,
    refused,
    write_array,
    write_header,
)
from limbeck.cache.layout import Layout
from limbeck.cache.reader import layout_of
from limbeck.data import Augment, SampleSet
from limbeck.errors import InputError
from limbeck.identity import content_digest
from limbeck.outputs import Members, Tap
from limbeck.records import plain_values
from limbeck.tasks import TOKENS
from limbeck.teacher import Teacher

__all__ = [
    "Order",
    "counted_places",
    "input_digest",
    "key_of",
    "meet",
    "planned",
    "refuse_unstorable",
    "rows_of_shards",
    "shard_samples",
]

_AT_ONCE = 1024
_SHARD_BYTES = 2**26
_LEAST_SHARDS, _MOST_SHARDS, _LEAST_SAMPLES = 8, 256, 256


@dataclass(frozen=True)
class Order:
    """What is asked of a teacher.

    augment, seed: of the random views, the seed being that of the `Loader`; None for unaugmented samples.
    views: their numbers.  clean: the answers to unaugmented samples are for augmented batches too.
    taps: {name: place} of the features.
    """

    samples: SampleSet
    encoding: AnyEncoding
    augment: Augment | None = None
    seed: int = 0
    views: tuple[int, ...] = (0,)
    clean: bool = False
    taps: Mapping[str, str | Tap] | None = None
    batch_size: int | None = None
    device: torch.device | str = "cpu"
    shard_samples: int | None = None

    @property
    def augmentation(self) -> str:
        """The identity of the random views; empty for unaugmented samples."""
        return self.augment.identity(self.seed) if self.augment is not None and self.views != (0,) else ""


def input_digest(samples: SampleSet) -> str:
    """Return a digest of how a set's content becomes inputs: its normalisation and form."""
    content = [samples.mean, samples.std, samples.input_shape, samples.max_length, samples.form, str(samples.task)]
    return content_digest(content, "samples")


def key_of(teacher: Teacher, order: Order) -> Key:
    """Return whose answers to what an order asks for."""
    samples = order.samples
    return Key(
        teacher=teacher.fingerprint(),
        source=samples.source,
        input=input_digest(samples),
        augmentation=order.augmentation,
        clean=order.clean,
        lanes=samples.lanes,
    )


def refuse_unstorable(samples: SampleSet, augment: Augment | None) -> None:
    """Raise InputError for samples whose answers cannot be stored: mixed ones, and streams that are cut anew."""
    if augment is not None and augment.mixes:
        raise InputError(
            "augment: found mixup or cutmix, whose samples have no stored answers; ask the teacher for every batch"
            " (store: false), or leave them out"
        )
    if getattr(samples, "moving", False) or getattr(samples, "varying", False):
        raise InputError(
            f"samples: '{samples.name}' is cut anew in each epoch (moving or varying), and answers are stored for one"
            " cut; leave both out, or ask the teacher for every batch (store: false)"
        )


def planned(
    order: Order,
    key: Key,
    *,
    classes: int,
    shape: tuple[int, ...] = (),
    members: Members | None = None,
    features: Mapping[str, tuple[int, ...]] | None = None,
    class_vectors: np.ndarray[Any, Any] | None = None,
) -> tuple[Header, dict[str, np.ndarray[Any, Any]]]:
    """Return the header of a store of an order, and the arrays beside its shards.

    classes, shape: of the answers, shape being the places of one row.  members: of an ensemble.
    """
    samples, places = order.samples, order.samples.task == TOKENS
    count, shapes = 0 if members is None else len(members.weights), dict(features or {})
    row = layout_of(order.encoding, classes, shape, count, shapes)
    arrays = {"index": samples.index.cpu().numpy().astype(np.int64)}
    if places:
        arrays["first"], arrays["offsets"] = counted_places(samples)
    if class_vectors is not None:
        arrays["class_vectors"] = class_vectors
    rows = int(arrays["offsets"][-1]) if places else len(samples)
    whole = not order.encoding.sparse and members is not None
    header = Header(
        format=FORMAT,
        version=VERSION,
        key=key,
        encoding=keys_of(order.encoding),
        task=str(samples.task),
        classes=classes,
        shape=shape,
        places=places,
        samples=len(samples),
        rows=rows,
        shard_samples=shard_samples(order, rows, row),
        row=row,
        arrays={name: array_bytes(values, name)[0] for name, values in arrays.items()},
        members={"weights": list(members.weights), "mean": members.mean} if whole and members is not None else None,
        features=shapes,
    )
    return header, arrays


def shard_samples(order: Order, rows: int, row: Layout) -> int:
    """Return how many samples a shard has: few enough to lose little at a kill, many enough for few files."""
    samples, lanes = len(order.samples), order.samples.lanes or 1
    if order.shard_samples is not None:
        size = order.shard_samples
    else:
        shards = min(max(_LEAST_SHARDS, rows * row.stride // _SHARD_BYTES), _MOST_SHARDS)
        size = max(-(-samples // shards), _LEAST_SAMPLES if lanes == 1 else lanes)
    return min(-(-size // lanes) * lanes, samples)


def counted_places(samples: SampleSet) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the first counted place of each sample of texts, (n,), and where its rows begin, (n + 1,)."""
    firsts, lengths = [], []
    for positions in torch.arange(len(samples)).split(samples.lanes or _AT_ONCE):
        mask = samples.batch(positions, augment=None, seed=0, view=0).mask
        if mask is None or mask.dim() != 2:
            raise InputError(f"samples: '{samples.name}' has no mask of its tokens; expected a set of texts")
        mask = mask.cpu()
        any_there = mask.any(1)
        first = torch.where(any_there, mask.int().argmax(1), 0)
        last = torch.where(any_there, mask.shape[1] - mask.flip(1).int().argmax(1), 0)
        firsts.append(first)
        lengths.append(last - first)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
    return torch.cat(firsts).long().numpy(), offsets.numpy()


def meet(folder: Path, header: Header, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write a store's header, or find the same one there; CheckpointError for another."""
    path = folder / "header.json"
    if not path.is_symlink() and not path.exists():
        if any(folder.glob("shard-*.bin")) and not path.exists():  # another builder may have come in between
            raise refused(path, "is missing, but there are shards", "delete the folder, or name another one")
        for name, values in arrays.items():
            write_array(folder, name, array_bytes(values, name)[1])
        write_header(folder, header)
    found = read_header(folder)
    if (told := first_difference(_plain(found), _plain(header))) is not None:
        raise refused(folder, f"holds answers to something else: {told}", "name another folder, or delete this one")


def _plain(header: Header) -> Any:
    return plain_values(asdict(header))


def rows_of_shards(header: Header, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[int]:
    """Return how many rows each shard has."""
    begins = [min(shard * header.shard_samples, header.samples) for shard in range(header.shards + 1)]
    if header.places:
        begins = [int(arrays["offsets"][begin]) for begin in begins]
    return [last - first for first, last in pairwise(begins)]
