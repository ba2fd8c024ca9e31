"""Building a store: shard by shard, by one process or many that meet in its folder, resumable at any moment."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from limbeck.batch import Batch
from limbeck.cache.encodings import AnyEncoding, DenseEncoding, RowNames, keys_of
from limbeck.cache.format import (
    FORMAT,
    VERSION,
    Header,
    Key,
    array_bytes,
    first_difference,
    read_header,
    refused,
    shard_is_there,
    sweep,
    write_array,
    write_header,
    write_shard,
)
from limbeck.cache.layout import Layout
from limbeck.cache.reader import CachedTeacher, feature_name, layout_of
from limbeck.carry import Carry
from limbeck.data import Augment, SampleSet
from limbeck.errors import InputError, ModelError, RunError
from limbeck.identity import content_digest
from limbeck.locks import Waiting
from limbeck.outputs import Outputs, Tap
from limbeck.records import plain_values
from limbeck.tasks import TOKENS
from limbeck.teacher import Carrying, ClassVectors, Teacher, asked

__all__ = ["Order", "build_store", "input_digest", "key_of", "refuse_unstorable", "stored_rows"]

_AT_ONCE, _LOGITS = 1024, 2**26
_SHARD_BYTES = 2**26
_LEAST_SHARDS, _MOST_SHARDS, _LEAST_SAMPLES = 8, 256, 256
_CLAIMS = ".claims"


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


def build_store(
    teacher: Teacher,
    folder: Path,
    order: Order,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedTeacher:
    """Build what a store lacks of an order, and return the teacher that reads it.

    Any number of processes, on any number of machines, may build one store at the same time: shards that another one is
    at are left to it, and whoever comes to a shard writes the same.
    progress: called with the shards that are there and all that are to be.
    Raises CheckpointError where the folder holds a store of something else.
    """
    samples = order.samples
    refuse_unstorable(samples, order.augment)
    teacher.to(order.device)
    samples.require_repeatable()
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    header, arrays, recurrent = _plan(teacher, order)
    _meet(folder, header, arrays)
    spans = _spans(header, arrays)
    wanted = [(view, shard) for view in order.views for shard in range(header.shards)]
    missing = [each for each in wanted if not shard_is_there(folder, *each, spans[each[1]], header)]
    progress(len(wanted) - len(missing), len(wanted))
    builder = _Builder(teacher, folder, order, header, arrays, spans)
    if recurrent:
        for view in dict.fromkeys(view for view, _ in missing):
            builder.follow(view, lambda done: progress(done, len(wanted)))
    else:
        _share(builder, missing, lambda left: progress(len(wanted) - left, len(wanted)))
    return CachedTeacher(folder, views=order.views)


def _share(builder: "_Builder", missing: Sequence[tuple[int, int]], told: Callable[[int], None]) -> None:
    """Build shards, leaving to other processes those that they are at; come back to these until all are there."""
    claims, left, waiting, done = builder.folder / _CLAIMS, list(missing), Waiting(None), 0
    with _writable(builder.folder):
        claims.mkdir(exist_ok=True)
    while left:
        busy = []
        for place in left:
            try:
                with _claimed(claims / "{}-{}".format(*place)):
                    if not builder.has(*place):
                        builder.build(*place)
                done += 1
                told(len(missing) - done)
            except Timeout:
                busy.append(place)
        left = [place for place in busy if not builder.has(*place)]
        done += len(busy) - len(left)
        if left:
            waiting.pause()
    for path in claims.glob("*"):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        claims.rmdir()


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold a claim for the scope, which the system gives up with the process; Timeout where another holds it.

    Where files cannot be locked there is none: two that build a shard write the same.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


class _Builder:
    """Asks the teacher about the samples of a shard and writes its rows."""

    def __init__(
        self,
        teacher: Teacher,
        folder: Path,
        order: Order,
        header: Header,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        spans: Sequence[int],
    ) -> None:
        self.teacher, self.folder, self.order, self.header, self.spans = teacher, folder, order, header, spans
        self.samples = order.samples.to(order.device)
        self.arrays = arrays

    def has(self, view: int, shard: int) -> bool:
        """Whether a shard is there."""
        return shard_is_there(self.folder, view, shard, self.spans[shard], self.header)

    def positions(self, shard: int) -> Tensor:
        """Return the positions of a shard's samples."""
        size = self.header.shard_samples
        return torch.arange(shard * size, min((shard + 1) * size, self.header.samples))

    def build(self, view: int, shard: int) -> None:
        """Build a shard of answers that hang on nothing before them."""
        parts = [
            self.rows(answer, batch, positions)
            for positions in self.positions(shard).split(_batch_size(self.order))
            for batch, answer in [ask(self.teacher, self.samples, positions, self.order, view)]
        ]
        write_shard(self.folder, view, shard, np.concatenate(parts), self.header)

    def follow(self, view: int, told: Callable[[int], None]) -> None:
        """Build the missing shards of a stream whose teacher carries a state, which it does from the beginning."""
        carry = Carry()
        for shard in range(self.header.shards):
            parts, lacking = [], not self.has(view, shard)
            for positions in self.positions(shard).split(_batch_size(self.order)):
                batch, answer = ask(self.teacher, self.samples, positions, self.order, view, carry)
                if lacking:
                    parts.append(self.rows(answer, batch, positions))
            if lacking and not self.has(view, shard):
                write_shard(self.folder, view, shard, np.concatenate(parts), self.header)
            told(shard + 1)

    def rows(self, answer: Outputs, batch: Batch, positions: Tensor) -> np.ndarray[Any, Any]:
        """Return the rows (R, stride) uint8 of a batch's answers."""
        return stored_rows(answer, batch, positions, self.order, self.header, self.arrays)


def stored_rows(
    answer: Outputs,
    batch: Batch,
    positions: Tensor,
    order: Order,
    header: Header,
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> np.ndarray[Any, Any]:
    """Return the rows (R, stride) uint8 that a store has of the answers to a batch.

    positions: (N,) of its samples in the set.
    """
    view, index, place = batch.view, batch.index, torch.zeros_like(batch.index)
    if header.places:
        first, offsets = (torch.from_numpy(arrays[name]) for name in ("first", "offsets"))
        length = (offsets[positions + 1] - offsets[positions])[:, None]
        within = torch.arange(answer.logits.shape[1])
        begin = first[positions][:, None]
        there = ((within >= begin) & (within < begin + length)).to(answer.logits.device)
        if int(there.sum()) != int(length.sum()):
            raise ModelError(
                f"teacher: it answers {tuple(answer.logits.shape)}, expected an answer for each of the tokens that"
                f" '{order.samples.name}' counts"
            )
        answer, places = _flat(answer, there), there.nonzero()
        view, index, place = view[places[:, 0]], index[places[:, 0]], places[:, 1]
    if tuple(answer.logits.shape[1:]) != (*header.shape, header.classes):
        raise ModelError(
            f"teacher: it answers {tuple(answer.logits.shape)}; expected (N, "
            f"{', '.join(map(str, (*header.shape, header.classes)))}) as for the first batch"
        )
    values = order.encoding.encode(answer, RowNames(view, index, place, order.seed))
    for name, tap in (order.taps or {}).items():
        feature = answer.features[name]
        stored = f"feature:{feature_name(tap)}"
        if tuple(feature.shape[1:]) != tuple(header.features[feature_name(tap)]):
            raise ModelError(
                f"taps: '{feature_name(tap)}' has shape {tuple(feature.shape[1:])}, expected"
                f" {tuple(header.features[feature_name(tap)])} as in the first batch"
            )
        values[stored] = feature
    return header.row.pack({name: value.detach().cpu().numpy() for name, value in values.items()})


def ask(
    teacher: Teacher, samples: SampleSet, positions: Tensor, order: Order, view: int, carry: Carry | None = None
) -> tuple[Batch, Outputs]:
    """Return the batch of some samples at a view, and what the teacher answers."""
    augment = order.augment if view else None
    batch = samples.batch(positions, augment=augment, seed=order.seed, view=view, clean_view=True).to(order.device)
    taps = order.taps or None
    if carry is not None:
        return batch, asked(teacher, batch, taps, carry)
    return batch, teacher(batch, taps) if taps else teacher(batch)


def _flat(answer: Outputs, there: Tensor) -> Outputs:
    """Return the answers at some places (N, L) bool as rows."""
    members = answer.members
    if members is not None:
        members = replace(members, logits=members.logits[:, there])
    return Outputs(answer.logits[there], members=members)


def _plan(teacher: Teacher, order: Order) -> tuple[Header, dict[str, np.ndarray[Any, Any]], bool]:
    """Return the header and the arrays of a store, and whether the teacher carries a state along a stream.

    The first samples are asked, since only an answer tells the shapes.
    """
    samples = order.samples.to(order.device)
    first = torch.arange(min(len(samples), samples.lanes or 2))
    carry = None if samples.lanes is None or not isinstance(teacher, Carrying) else Carry()
    _, answer = ask(teacher, samples, first, order, order.views[0], carry)
    recurrent = carry is not None and answer.state is not None
    places = samples.task == TOKENS
    classes, shape = answer.logits.shape[-1], tuple(answer.logits.shape[1:-1])
    if places:
        if len(shape) != 1:
            raise ModelError(f"teacher: it answers {tuple(answer.logits.shape)}; expected (N, L, V) for tokens")
        shape = ()
        if order.taps:
            raise InputError("taps: features of texts are not stored, since their lengths differ; leave taps out")
    if not samples.task.has_classes and order.encoding.sparse:
        raise InputError(
            f"encoding: found {keys_of(order.encoding)['kind']} for answers that are numbers and no distribution;"
            " expected dense"
        )
    count = 0 if answer.members is None else len(answer.members.weights)
    features = {feature_name(tap): tuple(answer.features[name].shape[1:]) for name, tap in (order.taps or {}).items()}
    row = layout_of(order.encoding, classes, shape, count, features)
    arrays = {"index": samples.index.cpu().numpy().astype(np.int64)}
    if places:
        arrays["first"], arrays["offsets"] = _counted_places(samples)
    vectors = None if places else _class_vectors(teacher, classes)
    if vectors is not None:
        arrays["class_vectors"] = vectors.float().cpu().numpy()
    rows = int(arrays["offsets"][-1]) if places else len(samples)
    dense = isinstance(order.encoding, DenseEncoding) and answer.members is not None
    members = answer.members
    header = Header(
        format=FORMAT,
        version=VERSION,
        key=key_of(teacher, order),
        encoding=keys_of(order.encoding),
        task=str(samples.task),
        classes=classes,
        shape=shape,
        places=places,
        samples=len(samples),
        rows=rows,
        shard_samples=_shard_samples(order, rows, row),
        row=row,
        arrays={name: array_bytes(values, name)[0] for name, values in arrays.items()},
        members={"weights": list(members.weights), "mean": members.mean} if dense and members is not None else None,
        features=features,
    )
    return header, arrays, recurrent


def _shard_samples(order: Order, rows: int, row: Layout) -> int:
    """Return how many samples a shard has: few enough to lose little at a kill, many enough for few files."""
    samples, lanes = len(order.samples), order.samples.lanes or 1
    if order.shard_samples is not None:
        size = order.shard_samples
    else:
        shards = min(max(_LEAST_SHARDS, rows * row.stride // _SHARD_BYTES), _MOST_SHARDS)
        size = max(-(-samples // shards), _LEAST_SAMPLES if lanes == 1 else lanes)
    return min(-(-size // lanes) * lanes, samples)


def _counted_places(samples: SampleSet) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
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


def _class_vectors(teacher: Teacher, classes: int) -> Tensor | None:
    if not isinstance(teacher, ClassVectors):
        return None
    try:
        return teacher.class_vectors(classes).detach()
    except ModelError:
        return None


def _meet(folder: Path, header: Header, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
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


def _spans(header: Header, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[int]:
    """Return how many rows each shard has."""
    begins = [min(shard * header.shard_samples, header.samples) for shard in range(header.shards + 1)]
    if header.places:
        begins = [int(arrays["offsets"][begin]) for begin in begins]
    return [last - first for first, last in pairwise(begins)]


def _batch_size(order: Order) -> int:
    """Return how many samples are asked about at a time: those of one step of a stream, few of long texts."""
    samples = order.samples
    if samples.lanes is not None or order.batch_size is not None:
        return samples.lanes or order.batch_size or 1
    if samples.task == TOKENS:
        return min(_AT_ONCE, max(1, _LOGITS // (max(1, samples.max_length) * max(1, samples.classes))))
    return _AT_ONCE


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"store: cannot make '{folder}' ({error.strerror or error}); name a folder that can be written"
        ) from None
