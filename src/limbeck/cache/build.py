"""Building a store: shard by shard, by one process or many that meet in its folder, resumable at any moment."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from limbeck.batch import Batch
from limbeck.cache.encodings import RowNames, keys_of
from limbeck.cache.format import (
    Header,
    shard_is_there,
    sweep,
    write_shard,
)
from limbeck.cache.plan import Order, key_of, meet, planned, refuse_unstorable, rows_of_shards
from limbeck.cache.reader import CachedTeacher, feature_name
from limbeck.carry import Carry
from limbeck.data import SampleSet
from limbeck.errors import InputError, ModelError, RunError
from limbeck.locks import Waiting
from limbeck.outputs import Outputs
from limbeck.tasks import TOKENS
from limbeck.teacher import Carrying, ClassVectors, Teacher, asked

__all__ = ["ask", "build_store", "stored_rows", "write_rows"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # a file system without locks
_AT_ONCE, _LOGITS = 1024, 2**26
_CLAIMS = ".claims"


def build_store(
    teacher: Teacher,
    folder: Path,
    order: Order,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CachedTeacher:
    """Build what a store lacks of an order, and return the teacher that reads it.

    Any number of processes, on any number of machines, can build one store at the same time. Each skips the shards that
    another one is building, and all write the same bytes.
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
    meet(folder, header, arrays)
    spans = rows_of_shards(header, arrays)
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


def write_rows(
    folder: Path,
    header: Header,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    rows: np.ndarray[Any, Any],
    views: tuple[int, ...],
) -> CachedTeacher:
    """Write a store of rows (R, stride) uint8 that are there already, as far as it is missing; return its teacher."""
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    meet(folder, header, arrays)
    first = 0
    for shard, count in enumerate(rows_of_shards(header, arrays)):
        for view in views:
            if not shard_is_there(folder, view, shard, count, header):
                write_shard(folder, view, shard, rows[first : first + count], header)
        first += count
    return CachedTeacher(folder, views=views)


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

    Where the file system has no locks, there is no claim: two processes that build a shard write the same bytes.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
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
    features = {feature_name(tap): tuple(answer.features[name].shape[1:]) for name, tap in (order.taps or {}).items()}
    vectors = None if places else _class_vectors(teacher, classes)
    header, arrays = planned(
        order,
        key_of(teacher, order),
        classes=classes,
        shape=shape,
        members=answer.members,
        features=features,
        class_vectors=None if vectors is None else vectors.float().cpu().numpy(),
    )
    return header, arrays, recurrent


def _class_vectors(teacher: Teacher, classes: int) -> Tensor | None:
    if not isinstance(teacher, ClassVectors):
        return None
    try:
        return teacher.class_vectors(classes).detach()
    except ModelError:
        return None


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
