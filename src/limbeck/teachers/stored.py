"""A teacher whose answers were computed once and are looked up by sample."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.cache import AnyEncoding, CachedTeacher, Order, build_store, encoding_of
from limbeck.data import Augment, Loader, SampleSet
from limbeck.data.content import memory_bytes, raw_bytes
from limbeck.data.foreign import samples_of
from limbeck.data.sources import Source
from limbeck.errors import InputError, MemoryLimitError, ModelError
from limbeck.networks import at_once, canonical_path
from limbeck.outputs import Members, Outputs, Tap
from limbeck.randomness import derive_seed
from limbeck.teacher import ClassVectors, Teacher
from limbeck.teachers.model import ModelTeacher, state_digest
from limbeck.teachers.rows import Rows

__all__ = ["StoredTeacher", "feature_bytes", "feature_limit", "store"]

Encoding = Literal["dense", "quantized", "topk", "sampled"] | AnyEncoding
"""How answers are stored on disk."""

_AT_ONCE = 1024  # samples that a teacher is asked about together


class StoredTeacher:
    """Stored logits, and perhaps features, looked up by sample index.

    A batch from another set than `source`, a sample without a stored answer and, unless `clean`, an augmented batch
    raise an error: a stored answer for another view would be a wrong target.

    Args:
        logits: (n, K) floating point.
        index: (n,) int64, the position of each row's sample in the set `source`.
        source: the identity of that set.
        clean: use the answers to unaugmented samples for augmented batches too.
        origin: whose answers these are, class vectors included, for the fingerprint.
        members: for an ensemble, each member's logits (M, n, K).
        class_vectors: (K, d), the rows of the last linear layer of the network that answered.
        features: (n, ...) by the place in the network that they were read at.

    Raises:
        InputError: if the shapes disagree or an index is repeated.

    Example:
        >>> stored = StoredTeacher(torch.zeros(2, 4), torch.tensor([0, 1]), source="a set")
        >>> stored.logits.shape
        torch.Size([2, 4])
    """

    @checked
    def __init__(
        self,
        logits: Tensor,
        index: Tensor,
        *,
        source: str,
        clean: bool = False,
        origin: str = "",
        members: Members | None = None,
        class_vectors: Tensor | None = None,
        features: Mapping[str | Tap, Tensor] | None = None,
    ) -> None:
        if logits.ndim < 2 or len(logits) != len(index):
            raise InputError(f"logits {tuple(logits.shape)}, index {tuple(index.shape)}: expected (n, K) and (n,)")
        if members is not None and members.logits.shape[1:] != logits.shape:
            raise InputError(
                f"members' logits {tuple(members.logits.shape)}, logits {tuple(logits.shape)}: expected (M, n, K) and"
                " (n, K)"
            )
        for place, feature in (features or {}).items():
            if len(feature) != len(logits):
                raise InputError(
                    f"features: found {tuple(feature.shape)} for {_said(_place(place))}, expected ({len(logits)}, ...)"
                )
        self.logits = logits
        self.features = {_place(place): feature for place, feature in (features or {}).items()}
        self.origin = origin
        self.rows = Rows(index, source=source, clean=clean)
        self._mean = members
        self._members = None if members is None else members.logits.transpose(0, 1)
        self._vectors = class_vectors

    @property
    def index(self) -> Tensor:
        """The position of each row's sample in its set: (n,)."""
        return self.rows.index

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the stored logits and features of a batch's samples, and of an ensemble the logits of its members."""
        wanted = {name: _place(tap) for name, tap in (taps or {}).items()}
        if lacking := [place for place in wanted.values() if place not in self.features]:
            held = ", ".join(map(_said, self.features)) or "none"
            raise InputError(
                f"stored teacher: it does not hold the feature {_said(lacking[0])}, which the objective reads; it holds"
                f" {held}. Store it with the answers (store(..., taps=...)), or ask the teacher for every batch"
                " (store: false)"
            )
        tables = [self.logits, *(self.features[place] for place in wanted.values())]
        members = [] if self._mean is None or self._members is None else [self._members]
        logits, *found = self.rows.look_up(batch, [*tables, *members])
        answer = Outputs(logits, dict(zip(wanted, found, strict=False)))
        if self._mean is None or not members:
            return answer
        return replace(answer, members=replace(self._mean, logits=found[-1].transpose(0, 1)))

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the class vectors that were stored with the answers; ModelError where there are none."""
        if self._vectors is None or classes not in (None, len(self._vectors)):
            raise ModelError(
                f"stored teacher: it has no class vectors of {classes or 'its'} classes; store the answers of a network"
                " whose last layer is linear, and name the layer (last_linear) where it is not found"
            )
        return self._vectors

    def to(self, device: torch.device | str) -> "StoredTeacher":
        """Place the tables on a device."""
        self.logits = self.logits.to(device)
        self.features = {place: feature.to(device) for place, feature in self.features.items()}
        self._members = None if self._members is None else self._members.to(device)
        self._vectors = None if self._vectors is None else self._vectors.to(device)
        self.rows.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 over the tables and what they belong to."""
        digest = hashlib.sha256(f"{self.rows.source} {self.origin} {self.rows.clean}".encode())
        tables = [self.index, self.logits]
        if self._mean is not None and self._members is not None:
            digest.update(f" {self._mean.mean} {self._mean.weights}".encode())
            tables.append(self._members)
        if self._vectors is not None and not self.origin:
            tables.append(self._vectors)
        for place, feature in self.features.items():
            digest.update(f" {_said(place)} {tuple(feature.shape)}".encode())
            tables.append(feature)
        for tensor in tables:
            digest.update(raw_bytes(tensor))
        return digest.hexdigest()


@overload
def store(
    teacher: Teacher | nn.Module,
    samples: Any,
    *,
    batch_size: int | None = ...,
    device: torch.device | str = ...,
    clean: bool = ...,
    taps: Mapping[str, str | Tap] | None = ...,
    path: None = ...,
) -> StoredTeacher: ...


@overload
def store(
    teacher: Teacher | nn.Module,
    samples: Any,
    *,
    batch_size: int | None = ...,
    device: torch.device | str = ...,
    clean: bool = ...,
    taps: Mapping[str, str | Tap] | None = ...,
    path: str | Path,
    encoding: Encoding = ...,
    augment: Augment | None = ...,
    views: int = ...,
    seed: int = ...,
) -> CachedTeacher: ...


@checked
def store(
    teacher: Teacher | nn.Module,
    samples: Any,
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    clean: bool = False,
    taps: Mapping[str, str | Tap] | None = None,
    path: str | Path | None = None,
    encoding: Encoding = "dense",
    augment: Augment | None = None,
    views: int = 1,
    seed: int = 0,
) -> StoredTeacher | CachedTeacher:
    """Ask a teacher once about every sample, and return a teacher that looks the answers up.

    Without `path` the answers are held in memory.  For an ensemble, the members' answers are stored; for a network with
    a linear last layer, its class vectors.  Features are stored if they fit into a quarter of the machine's memory:
    vectors do, the maps of a large set may not.

    With `path` they are written to a folder, in shards that are read from disk; the answers to the tokens of texts can
    be stored too.  A call that was killed is repeated and builds what is missing, several processes may make the same
    call at once, and a call with more views adds these (`docs/stores.md`).

    Args:
        teacher: a network, which stays unchanged, or another `Teacher`.
        samples: a `SampleSet`, or arrays: a pair (inputs, labels), inputs alone, or a `TensorDataset`.
        batch_size: samples for each call of the teacher, 1024 by default, fewer for a network that enlarges its inputs.
        device: where the teacher answers.
        clean: use the answers for augmented samples too; the teacher then sees the clean view.
        taps: {name: path of a module, or a `Tap`}, the features to store, as for `limbeck.capture`.
        path: a folder for the answers.
        encoding: how they are stored there: "dense", "quantized", "topk", "sampled", or one of the classes of
            `limbeck.cache` with its settings.
        augment: the random views to store; None for the samples as they are.
        views: how many random views of each sample.  View 1 is that of a training's first epoch.
        seed: of the training whose views these are (`fit(seed=..., order=...)`: the order, where one is given).

    Returns:
        The stored answers.

    Raises:
        InputError: if the samples are a dataset or loader, which gives samples no identity to look answers up by.
        DataError: if the samples differ each time they are fetched.
        MemoryLimitError: if the features are too large to be stored.
        CheckpointError: if the folder holds answers of another teacher or to other samples, or is damaged.

    Example:
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.randint(4, (20,)), classes=4)
        >>> stored = store(nn.Linear(3, 4), samples)
        >>> stored.logits.shape, stored.class_vectors().shape
        (torch.Size([20, 4]), torch.Size([4, 3]))
    """
    if not isinstance(teacher, Teacher):
        teacher = ModelTeacher(teacher, frozen=False)
    samples = samples_of("samples", samples)
    if isinstance(samples, Source):
        raise InputError(
            "samples: found a dataset or a loader, expected samples with an identity; give"
            " limbeck.data.LazySet.of(dataset) to both store and fit"
        )
    if path is not None:
        if isinstance(encoding, str):
            encoding = encoding_of(encoding, {})
        checks.at_least("views", views, 1)
        checks.at_least("batch_size", 1 if batch_size is None else batch_size, 1)
        random_views = augment is not None and augment.active
        if random_views and clean:
            raise InputError(
                "clean: found with augment; expected one of them, since answers to the clean view serve all random"
                " views. Leave augment out, or clean"
            )
        if views > 1 and not random_views:
            raise InputError(
                f"views: found {views} without random views; expected 1, since all are the sample as it is."
                " Give augment, or leave views out"
            )
        order = Order(
            samples,
            encoding,
            augment=augment if random_views else None,
            seed=derive_seed(checks.seed(seed), "data"),
            views=tuple(range(1, views + 1)) if random_views else (0,),
            clean=clean,
            taps=taps,
            batch_size=batch_size,
            device=device,
        )
        return build_store(teacher, Path(path).expanduser(), order)
    for name, other in {"encoding": encoding != "dense", "augment": augment is not None, "views": views != 1}.items():
        if other:
            raise InputError(f"{name}: answers in memory are dense and to unaugmented samples; name a folder (path)")
    if samples.has_long_answers:
        raise InputError(
            f"samples: found '{samples.name}', whose answers are logits of {samples.classes:,} tokens at each place;"
            " expected one answer a sample. Store them on disk (path), or ask the teacher for every batch"
            " (store: false)"
        )
    teacher.to(device)
    samples = samples.to(device)
    samples.require_repeatable()
    if taps and (size := feature_bytes(teacher, samples, taps)) > feature_limit():
        named = ", ".join(dict.fromkeys(_said(_place(tap)) for tap in taps.values()))
        raise MemoryLimitError(
            f"taps: {named} of {len(samples):,} samples take {size:,} bytes,"
            f" more than a quarter of this machine's memory ({feature_limit():,}); store a smaller layer, such as the"
            " pooled one, or ask the teacher for every batch (store: false)"
        )
    batch_size = at_once(teacher, _AT_ONCE) if batch_size is None else batch_size
    loader = Loader(samples, batch_size, seed=0, shuffle=False, clean_view=clean)
    answers, index = [], []
    for batch in loader.epoch(0):
        answers.append(teacher(batch.to(device), taps) if taps else teacher(batch.to(device)))
        index.append(batch.index)
    logits = torch.cat([answer.logits for answer in answers])
    return StoredTeacher(
        logits,
        torch.cat(index),
        source=samples.source,
        clean=clean,
        origin=_origin(teacher),
        members=_joined([answer.members for answer in answers]),
        class_vectors=_class_vectors(teacher, logits.shape[-1]),
        features={tap: torch.cat([answer.features[name] for answer in answers]) for name, tap in (taps or {}).items()},
    )


def feature_bytes(teacher: Teacher, samples: SampleSet, taps: Mapping[str, str | Tap]) -> int:
    """Return how many bytes a teacher's features of a set take, from those of its first sample."""
    batch = samples.batch(torch.zeros(1, dtype=torch.int64), augment=None, seed=0, view=0, clean_view=True)
    features = teacher(batch, taps).features
    once = {_place(tap): features[name] for name, tap in taps.items()}
    return len(samples) * sum(feature.numel() * feature.element_size() for feature in once.values())


def feature_limit() -> int:
    """Return how many bytes of features are stored at most: a quarter of the machine's memory."""
    return memory_bytes() // 4


def _place(tap: str | Tap) -> Tap:
    """Return a tap by which a feature is looked up: its path as it is without wrappers."""
    tap = Tap(tap) if isinstance(tap, str) else tap
    return replace(tap, path=canonical_path(tap.path))


def _said(tap: Tap) -> str:
    return f"'{tap.path}'" if tap.side == "output" else f"'{tap.path}@{tap.side}'"


def _origin(teacher: Teacher) -> str:
    """Return who answered; the answers are digested too, so that of a network its weights are origin enough."""
    if not isinstance(teacher, ModelTeacher):
        return teacher.fingerprint()
    weights = state_digest(teacher.model)
    return weights if teacher.last_linear is None else f"{weights} {teacher.last_linear}"


def _joined(parts: Sequence[Members | None]) -> Members | None:
    known = [part for part in parts if part is not None]
    return replace(known[0], logits=torch.cat([part.logits for part in known], dim=1)) if known else None


def _class_vectors(teacher: Teacher, classes: int) -> Tensor | None:
    """Return a copy of a teacher's class vectors; None where it has none, which a term that reads them refuses."""
    if not isinstance(teacher, ClassVectors):
        return None
    try:
        return teacher.class_vectors(classes).detach().clone()
    except ModelError:
        return None
