"""A teacher whose answers are read from a store on disk."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.cache.encodings import ENCODINGS, AnyEncoding, TopKEncoding, encoding_of
from limbeck.cache.format import (
    Header,
    open_shard,
    read_array,
    read_header,
    refused,
    shard_is_there,
    shard_name,
)
from limbeck.cache.layout import Layout
from limbeck.errors import InputError, ModelError
from limbeck.identity import content_digest
from limbeck.networks import canonical_path
from limbeck.outputs import Outputs, Tap

__all__ = ["CachedTeacher", "Store", "feature_name", "turns_of"]

_TURN = 2**32  # by which the views of a sample that a set repeats differ (`limbeck.data.SampleSet`)
_MOST_MAPPED = 256
_MOST_INDEX = 2**40

_Whole = np.ndarray[Any, np.dtype[np.int64]]


class Store:
    """The files of a store, opened and checked.

    folder: of the store.  rows_of: (n + 1,) int64, where the rows of each sample begin.

    Raises CheckpointError naming the file that is missing, damaged or foreign.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = read_header(folder)
        self.encoding = _encoding(folder, self.header)
        arrays = {name: read_array(folder, name, self.header) for name in self.header.arrays}
        self.index: _Whole = arrays["index"].astype(np.int64)
        count = self.header.samples
        ones = np.arange(count + 1, dtype=np.int64)
        self.offsets: _Whole = arrays["offsets"].astype(np.int64) if self.header.places else ones
        self.first: _Whole = arrays["first"].astype(np.int64) if self.header.places else np.zeros(count, np.int64)
        self.class_vectors = torch.from_numpy(arrays["class_vectors"].copy()) if "class_vectors" in arrays else None
        self._require_arrays()
        turn = turns_of(torch.from_numpy(self.index)).numpy()
        self._turns = int(turn.max()) + 1
        number = self.index * self._turns + turn
        self._direct = np.array_equal(number, np.arange(count))
        self._order = np.argsort(number, kind="stable")
        self._sorted = number[self._order]
        self._mapped: OrderedDict[tuple[int, int], np.ndarray[Any, Any]] = OrderedDict()
        self._known_whole: set[tuple[int, int]] = set()

    def _require_arrays(self) -> None:
        damaged = "is damaged (impossible values)"
        if int(self.index.min()) < 0 or int(self.index.max()) > _MOST_INDEX:
            raise refused(self.folder / "index.bin", damaged)
        if not self.header.places:
            return
        offsets = self.offsets
        if int(offsets[0]) or int(offsets[-1]) != self.header.rows or bool((np.diff(offsets) < 0).any()):
            raise refused(self.folder / "offsets.bin", damaged)
        if int(self.first.min()) < 0 or int(self.first.max()) > _MOST_INDEX:
            raise refused(self.folder / "first.bin", damaged)

    def span(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the one behind its last."""
        size, count = self.header.shard_samples, self.header.samples
        return int(self.offsets[shard * size]), int(self.offsets[min((shard + 1) * size, count)])

    def present(self, view: int) -> list[int]:
        """Return which shards of a view are there."""
        found = []
        for shard in range(self.header.shards):
            first, last = self.span(shard)
            if shard_is_there(self.folder, view, shard, last - first, self.header):
                found.append(shard)
        return found

    def views(self) -> list[int]:
        """Return the views of which any shard is there."""
        numbers = set()
        for path in self.folder.glob("shard-*-*.bin"):
            _, view, shard = path.stem.split("-")
            if view.isdigit() and shard.isdigit():
                numbers.add(int(view))
        return sorted(numbers)

    def require_views(self, views: Iterable[int]) -> None:
        """Require all shards of some views; CheckpointError naming the first that is missing."""
        for view in views:
            if len(there := self.present(view)) != self.header.shards:
                missing = next(shard for shard in range(self.header.shards) if shard not in set(there))
                raise refused(
                    self.folder,
                    f"has {len(there)} of {self.header.shards} shards of view {view}; shard {missing} is missing",
                    "build the rest with limbeck cache build, or the same call of store",
                )

    def check(self, view: int) -> int:
        """Compare the checksums of all shards of a view; return how many rows it has."""
        self.require_views([view])
        for shard in range(self.header.shards):
            self.shard(view, shard)
        return self.header.rows

    def shard(self, view: int, shard: int) -> np.ndarray[Any, Any]:
        """Return the rows of a shard; its checksum is compared when it is opened for the first time."""
        key = (view, shard)
        if key not in self._mapped:
            first, last = self.span(shard)
            check = key not in self._known_whole
            self._mapped[key] = open_shard(self.folder, view, shard, last - first, self.header, check=check)
            self._known_whole.add(key)
            if len(self._mapped) > _MOST_MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(key)
        return self._mapped[key]

    def positions(self, index: _Whole, turn: _Whole) -> _Whole:
        """Return the place in the store of each sample, (N,); InputError for one that it does not hold."""
        number = index * self._turns + np.minimum(turn, self._turns)
        if self._direct:
            place, unknown = number, (number < 0) | (number >= len(self._order)) | (turn > 0)
        else:
            found = np.minimum(np.searchsorted(self._sorted, number), len(self._sorted) - 1)
            place, unknown = self._order[found], (self._sorted[found] != number) | (turn >= self._turns)
        if unknown.any():
            raise InputError(
                f"stored teacher: '{self.folder}' holds no answer to {int(unknown.sum())} of the batch's {len(index)}"
                f" samples, the first at index {int(index[unknown][0])}; store the answers for the whole set"
            )
        return place

    def rows(self, view: _Whole, sample: _Whole, row: _Whole) -> np.ndarray[Any, Any]:
        """Return rows (R, stride) uint8 of views; sample: the position of the sample that each row (R,) belongs to."""
        shards = sample // self.header.shard_samples
        if len(row) and view[0] == view.min() == view.max() and shards.min() == shards.max():
            begin, _ = self.span(int(shards[0]))
            return self.shard(int(view[0]), int(shards[0]))[row - begin]
        found = np.empty((len(row), self.header.row.stride), dtype=np.uint8)
        for one in np.unique(view):
            of_view = np.flatnonzero(view == one)
            for shard in np.unique(shards[of_view]):
                here = of_view[shards[of_view] == shard]
                begin, _ = self.span(int(shard))
                found[here] = self.shard(int(one), int(shard))[row[here] - begin]
        return found

    def values(self, view: _Whole, sample: _Whole, row: _Whole) -> dict[str, Tensor]:
        """Return the fields of rows, as for `rows`; CheckpointError where no answer can have such values."""
        rows, found = self.rows(view, sample, row), {}
        for field in self.header.row.fields:
            values, whole = self.header.row.unpack(rows, field.name), field.name == "ids"
            if values.size and (values.max() >= self.header.classes if whole else np.isnan(values.min())):
                wrong = values >= self.header.classes if whole else np.isnan(values)
                at = int(np.flatnonzero(wrong.reshape(len(row), -1).any(1))[0])
                where = shard_name(int(view[at]), int(sample[at]) // self.header.shard_samples)
                raise refused(self.folder / where, f"is damaged (impossible values of '{field.name}')")
            found[field.name] = torch.from_numpy(values)
        return found


class CachedTeacher:
    """A teacher's answers, read from a store on disk that `limbeck.store(..., path=...)` or `limbeck cache build` made.

    It answers batches of the set, with the augmentation, the seed and the views that the store was made for; any other
    batch is an error, since a stored answer for another view would be a wrong target.  Each shard's checksum is
    compared when it is first opened.

    Args:
        path: the folder of the store.
        views: that will be asked for; all shards of each must be there.  None for all that the store has, each whole.

    Raises:
        CheckpointError: naming the file that is missing, damaged or of another store.

    Example:
        >>> import tempfile, limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.randint(4, (20,)), classes=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = lb.store(torch.nn.Linear(3, 4), samples, path=folder)
        ...     CachedTeacher(folder)(samples.batch(torch.arange(5), augment=None, seed=0, view=0)).logits.shape
        torch.Size([5, 4])
    """

    @checked
    def __init__(self, path: str | Path, *, views: tuple[int, ...] | None = None) -> None:
        self.store = Store(Path(path).expanduser())
        self.views = tuple(self.store.views()) if views is None else views
        if not self.views:
            raise refused(self.store.folder, "has no view yet", "build it with the command that began it")
        self.store.require_views(self.views)
        self.device = torch.device("cpu")

    @property
    def encoding(self) -> AnyEncoding:
        """How the answers are stored."""
        return self.store.encoding

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the stored answers to a batch, and the stored features that `taps` names."""
        self._require(batch, taps)
        header, store = self.store.header, self.store
        index, views = batch.index.cpu().numpy(), batch.view.cpu().numpy()
        turn, view = np.divmod(views, _TURN)
        if not batch.augmented or header.key.clean:
            turn, view = np.zeros_like(index), np.zeros_like(index)
        for one in np.unique(view).tolist():
            if one not in self.views:
                raise InputError(
                    f"stored teacher: the batch shows view {one}, and '{store.folder}' was opened with"
                    f" {_listed(self.views)}; store further views, or let the training repeat these (views:"
                    f" {max(self.views)})"
                )
        sample = store.positions(index, turn)
        values = self._by_place(batch, sample, view) if header.places else store.values(view, sample, sample)
        values = {name: value.to(self.device) for name, value in values.items()}
        answer = store.encoding.decode(values, header.classes, header.members, 2 if header.places else 1)
        features = {name: values[f"feature:{feature_name(tap)}"] for name, tap in (taps or {}).items()}
        return replace(answer, features=features)

    def _by_place(self, batch: Batch, sample: _Whole, view: _Whole) -> dict[str, Tensor]:
        """Return the fields of all places (N, L, ...) of a batch of texts; of those that are not counted, 0."""
        header, store = self.store.header, self.store
        if batch.mask is None or batch.mask.dim() != 2:
            raise InputError("stored teacher: the batch has no mask (N, L) of its tokens; give one of the stored set")
        mask = batch.mask.cpu().numpy()
        row = np.arange(mask.shape[1]) - store.first[sample][:, None]
        there = (row >= 0) & (row < (store.offsets[sample + 1] - store.offsets[sample])[:, None])
        if (mask & ~there).any():
            raise InputError(
                f"stored teacher: the batch counts tokens that '{store.folder}' holds no answer to; store the answers"
                " for this set, with the lanes, lengths and roles that it is trained with"
            )
        lengths, whole = there.sum(1), bool(there.all())
        rows = (store.offsets[sample][:, None] + row)[there]
        held = store.values(np.repeat(view, lengths), np.repeat(sample, lengths), rows)
        values = {}
        for each in header.row.fields:
            found = held[each.name]
            if whole:
                values[each.name] = found.reshape(*mask.shape, *each.shape)
                continue
            values[each.name] = found.new_zeros((*mask.shape, *each.shape))
            if each.name == "ids" and isinstance(store.encoding, TopKEncoding):  # each class once, there too
                values[each.name] += torch.arange(each.shape[-1])
            values[each.name][torch.from_numpy(there)] = found
        return values

    def _require(self, batch: Batch, taps: Mapping[str, str | Tap] | None) -> None:
        """Require a batch that the store was made for."""
        key, folder = self.store.header.key, self.store.folder
        if batch.source != key.source:
            raise InputError(
                f"stored teacher: the batch comes from another set than the answers in '{folder}'; store them for this"
                " set"
            )
        if batch.mix is not None or "generated" in batch.extras:
            what = "mixed samples" if batch.mix is not None else "sequences that were generated in training"
            raise InputError(
                f"stored teacher: the batch has {what}, which have no stored answers; ask the teacher for every batch"
                " (store: false)"
            )
        if batch.augmented and not key.clean and not key.augmentation:
            raise InputError(
                f"stored teacher: the batch has random views, and '{folder}' holds answers to unaugmented samples;"
                " store them with the augmentation, or give the teacher the clean view (view: clean)"
            )
        if batch.augmented and not key.clean and batch.augmentation != key.augmentation:
            raise InputError(
                f"stored teacher: the batch has another augmentation or seed than '{folder}' was made for; store the"
                " answers with this augmentation and seed"
            )
        if (batch.lanes is None) != (key.lanes is None):
            raise InputError(
                f"stored teacher: the batch {'has no lanes' if batch.lanes is None else 'has lanes'}, unlike the set"
                f" that '{folder}' was made for; store the answers for this set"
            )
        for tap in (taps or {}).values():
            if (name := feature_name(tap)) not in self.store.header.features:
                held = ", ".join(self.store.header.features) or "none"
                raise InputError(
                    f"stored teacher: '{folder}' does not hold the feature '{name}', which the objective reads; it"
                    f" holds {held}. Store it with the answers (taps), or set store: false"
                )

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the class vectors that were stored with the answers; ModelError where there are none."""
        vectors = self.store.class_vectors
        if vectors is None or classes not in (None, len(vectors)):
            raise ModelError(
                f"stored teacher: '{self.store.folder}' has no class vectors of {classes or 'its'} classes; store the"
                " answers of a network whose last layer is linear"
            )
        return vectors.to(self.device)

    def to(self, device: torch.device | str) -> "CachedTeacher":
        """Give the answers on this device from now on."""
        self.device = torch.device(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 over whose answers these are, to what, and how they are stored."""
        return hashlib.sha256(self.store.header.digest + repr(self.views).encode()).hexdigest()


def feature_name(tap: str | Tap) -> str:
    """Return the name under which a feature is stored: its path, side and function.

    >>> feature_name("layer2"), feature_name(Tap("layer2", side="input"))
    ('layer2', 'layer2@input')
    """
    tap = Tap(tap) if isinstance(tap, str) else tap
    name = canonical_path(tap.path) + ("" if tap.side == "output" else f"@{tap.side}")
    return name if tap.function is None else f"{name}#{content_digest(tap.function, 'taps')[:16]}"


def turns_of(index: Tensor) -> Tensor:
    """Return for each place how often its sample stood at an earlier one.

    >>> turns_of(torch.tensor([4, 2, 4, 4, 2]))
    tensor([0, 0, 1, 2, 1])
    """
    counts = index.unique(return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.arange(len(index))
    return torch.empty_like(index).scatter_(0, torch.argsort(index, stable=True), places - first)


def _encoding(folder: Path, header: Header) -> AnyEncoding:
    """Return the encoding of a header, whose layout of a row must be the encoding's."""
    path, keys = folder / "header.json", dict(header.encoding)
    try:
        encoding = encoding_of(str(keys.pop("kind", None)), keys)
        members = 0 if header.members is None else _members(header)
        wanted = layout_of(encoding, header.classes, header.shape, members, header.features)
    except (InputError, TypeError, ValueError) as error:
        raise refused(path, f"is damaged ({error})") from None
    if wanted != header.row:
        raise refused(path, "is damaged (the row is laid out otherwise than its encoding)")
    return encoding


def _members(header: Header) -> int:
    """Return how many members an ensemble's answers have; ValueError where what is said of them cannot be."""
    members = header.members or {}
    weights, mean = members.get("weights"), members.get("mean")
    numbers = isinstance(weights, list) and all(isinstance(each, int | float) for each in weights)
    if set(members) != {"weights", "mean"} or not weights or not numbers or mean not in ("arithmetic", "geometric"):
        raise ValueError("members")
    if abs(sum(weights) - 1) > 1e-6 or min(weights) < 0 or len(weights) > 10_000:
        raise ValueError("members.weights")
    return 0 if ENCODINGS[str(header.encoding["kind"])].sparse else len(weights)


def layout_of(
    encoding: AnyEncoding,
    classes: int,
    shape: tuple[int, ...],
    members: int,
    features: Mapping[str, tuple[int, ...]],
) -> Layout:
    """Return how a row is laid out: the fields of the answer, then the features."""
    stored = [(f"feature:{name}", encoding.feature_type, each) for name, each in features.items()]
    return Layout.of([*encoding.fields(classes, shape, members), *stored])


def _listed(views: tuple[int, ...]) -> str:
    return f"view {views[0]}" if len(views) == 1 else f"views {views[0]} to {views[-1]}"
