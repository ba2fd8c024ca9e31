"""Samples made from others, unlabelled: what a teacher is asked about where there is too little to ask it about."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data.columns import Attribute
from limbeck.data.content import check_fits
from limbeck.data.sets import SampleSet, TensorSet
from limbeck.errors import DataError, InputError
from limbeck.randomness import normal, uniform

__all__ = ["Attributes", "Marginals", "Munge", "Synthesis", "UniformValues", "kinds", "munge", "nearest_neighbours"]

_BLOCK = 1024
_MOST = 10_000


@checked_fields
@dataclass(frozen=True)
class Synthesis(ABC):
    """How samples are made from those of a set: `multiple` for each, in as many rounds.

    Round 0 is the set itself: the random numbers of a round are a function of (seed, round, index).

    Attributes:
        multiple: samples made for each sample of the set; 1 or more.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import Munge
        >>> Munge(multiple=3).multiple
        3
    """

    kind: ClassVar[str]
    """The name that recipes use."""

    multiple: int = 10

    def __post_init__(self) -> None:
        checks.at_least("multiple", self.multiple, 1, at_most=_MOST)

    @abstractmethod
    def extended(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return a set of the samples, and after them those that are made, which have no label.

        The new set is a root of its own.  Raises DataError for samples of another kind.
        """


@checked_fields
@dataclass(frozen=True)
class Attributes(Synthesis):
    """How rows of numbers and categories are made from those of a set.

    Attributes:
        multiple: samples made for each sample of the set; 1 or more.
        nominal: for sets that are not tables, the positions in a row whose numbers are categories.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import Munge
        >>> Munge(nominal=(2,)).nominal
        (2,)
    """

    nominal: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for place in self.nominal:
            checks.at_least("nominal", place, 0)

    @abstractmethod
    def rows(self, rows: Tensor, attributes: Sequence[Attribute], index: Tensor, seed: int) -> Tensor:
        """Return (multiple · n, d) float32, made of rows (n, d); index: of their samples in the root."""

    def extended(self, samples: SampleSet, seed: int) -> TensorSet:
        """Return a set of the samples, and after them those that are made, which have no label.

        The new set is a root of its own.  Raises DataError for samples that are no rows of floating point.
        """
        check_fits("multiple", 8 * (1 + self.multiple) * len(samples) * math.prod(samples.input_shape))
        rows = _rows(samples)
        attributes = _attributes(samples, self.nominal)
        made = self.rows(rows, attributes, samples.index.cpu(), seed).reshape(-1, *samples.input_shape)
        inputs = torch.cat([rows.reshape(-1, *samples.input_shape), made])
        none = samples.task.without_labels(samples.labels[:1].cpu())
        labels = torch.cat([samples.labels.cpu(), none.expand(len(made), *none.shape[1:])])
        return TensorSet.of(
            inputs,
            labels,
            class_names=samples.class_names or None,
            classes=samples.classes,
            name=f"{samples.name} with {self.kind}",
            mean=None if samples.mean is None else samples.mean.flatten().tolist(),
            std=None if samples.std is None else samples.std.flatten().tolist(),
            groups=samples.groups,
            group_names=samples.group_names or None,
            task=samples.task,
            columns=samples.columns,
        )


@checked_fields
@dataclass(frozen=True)
class Munge(Attributes):
    """Let each sample and its nearest neighbour exchange attributes (MUNGE).

    Each round starts from the original samples.

    Attributes:
        multiple: samples made for each sample of the set; 1 or more.
        nominal: for sets that are not tables, the positions in a row whose numbers are categories.
        swap: p in [0, 1], the probability that an attribute is exchanged.
        spread: s > 0; a number is drawn anew with standard deviation |a - a'|/s, so a large s exchanges the values
            themselves.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Munge(swap=0.2).spread
        1.0

    Reference:
        Bucilă, Caruana & Niculescu-Mizil (2006), "Model Compression".
    """

    kind = "munge"

    swap: float = 0.5
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.unit_interval("swap", self.swap)
        checks.positive("spread", self.spread)

    def rows(self, rows: Tensor, attributes: Sequence[Attribute], index: Tensor, seed: int) -> Tensor:
        near = nearest_neighbours(rows, attributes)
        return torch.cat(
            [
                munge(rows, attributes, near, index, swap=self.swap, spread=self.spread, seed=seed, turn=turn)
                for turn in range(1, self.multiple + 1)
            ]
        )


@checked_fields
@dataclass(frozen=True)
class Marginals(Attributes):
    """Draw each attribute of a new sample independently from those of the set.

    Attributes:
        multiple: samples made for each sample of the set; 1 or more.
        nominal: for sets that are not tables, the positions in a row whose numbers are categories.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Marginals(multiple=3).multiple
        3

    Reference:
        Bucilă, Caruana & Niculescu-Mizil (2006), "Model Compression".
    """

    kind = "marginals"

    def rows(self, rows: Tensor, attributes: Sequence[Attribute], index: Tensor, seed: int) -> Tensor:
        made = []
        for turn in range(1, self.multiple + 1):
            drawn = uniform(seed, "marginals", torch.full_like(index, turn), index, len(attributes))
            whose = (drawn.double() * len(rows)).long().clamp_max(len(rows) - 1)
            made.append(torch.cat([rows[whose[:, i], a.start : a.stop] for i, a in enumerate(attributes)], dim=1))
        return torch.cat(made)


@checked_fields
@dataclass(frozen=True)
class UniformValues(Attributes):
    """Draw each number of a new sample uniformly between its least and largest value in the set, and categories alike.

    Attributes:
        multiple: samples made for each sample of the set; 1 or more.
        nominal: for sets that are not tables, the positions in a row whose numbers are categories.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> UniformValues(multiple=3).multiple
        3

    Reference:
        Bucilă, Caruana & Niculescu-Mizil (2006), "Model Compression".
    """

    kind = "uniform"

    def rows(self, rows: Tensor, attributes: Sequence[Attribute], index: Tensor, seed: int) -> Tensor:
        least, most = rows.amin(0), rows.amax(0)
        made = []
        for turn in range(1, self.multiple + 1):
            drawn = uniform(seed, "uniform", torch.full_like(index, turn), index, len(attributes))
            parts = []
            for i, each in enumerate(attributes):
                own = drawn[:, i : i + 1]
                if not each.nominal:
                    parts.append(least[each.start] + own * (most - least)[each.start])
                else:
                    seen = rows[:, each.start : each.stop].unique(dim=0)
                    parts.append(seen[(own[:, 0] * len(seen)).long().clamp_max(len(seen) - 1)])
            made.append(torch.cat(parts, dim=1))
        return torch.cat(made)


def kinds() -> dict[str, Any]:
    """Return the ways of making samples, by the name that a recipe gives them."""
    from limbeck.data.word_replacement import WordReplacement  # which is one of them, and of texts

    return {made.kind: made for made in (Marginals, Munge, UniformValues, WordReplacement)}


def nearest_neighbours(rows: Tensor, attributes: Sequence[Attribute]) -> Tensor:
    """Return the nearest other row of each: (n,) int64, exactly; of several as near, the first.

    rows: (n, d), at least two.  The distance is Euclidean over numbers scaled to [0, 1], and each category that differs
    adds 1 to its square.  A product of matrices tells who may be nearest, to rounding; where these are several, their
    distances are computed one by one.

    >>> rows = torch.tensor([[0.0], [1.0], [1.2], [9.0]])
    >>> nearest_neighbours(rows, [Attribute(0, 1, nominal=False)])
    tensor([1, 2, 1, 2])
    """
    if len(rows) < 2:
        raise DataError(f"found {len(rows)} sample, expected two or more: each needs a neighbour")
    scaled = _scaled(rows, attributes)
    scaled = scaled - scaled.mean(0)
    lengths = (scaled**2).sum(1)
    rounding = 1e-12 * float(lengths.max())
    near = torch.empty(len(rows), dtype=torch.int64)
    for start in range(0, len(rows), _BLOCK):
        block = scaled[start : start + _BLOCK]
        squares = torch.addmm(lengths, block, scaled.T, alpha=-2.0)  # less the length of the block's own row
        squares[torch.arange(len(block)), torch.arange(start, start + len(block))] = torch.inf
        least, first = squares.min(1, keepdim=True)
        near[start : start + _BLOCK] = first[:, 0]
        possible = squares <= least + rounding
        for row in torch.where(possible.sum(1) > 1)[0].tolist():
            places = torch.where(possible[row])[0]
            exact = ((scaled[places] - block[row]) ** 2).sum(1)
            near[start + row] = places[int((exact == exact.min()).nonzero()[0])]
    return near


def munge(
    rows: Tensor,
    attributes: Sequence[Attribute],
    near: Tensor,
    index: Tensor,
    *,
    swap: float,
    spread: float,
    seed: int,
    turn: int,
) -> Tensor:
    """Return one round of MUNGE over rows (n, d) float32.

    A working copy starts as the rows.  For each row e in turn, and its nearest neighbour e' (`near`, of the rows as
    they were), and each attribute, with probability `swap`: numbers a and a' of the working copy become draws from
    N(a', |a - a'|/spread) and N(a, |a - a'|/spread); categories change places.  What is drawn is a function of (seed,
    turn, index of e, attribute).
    """
    import numpy as np

    places = torch.tensor([a.start for a in attributes if not a.nominal], dtype=torch.int64)
    view = torch.full_like(index, turn)
    moves = (uniform(seed, "munge swap", view, index, len(attributes)) < swap).numpy()
    drawn = normal(seed, "munge draw", view, index, 2 * len(places)).double().numpy()
    numeric = places.numpy()
    chosen = moves[:, [i for i, a in enumerate(attributes) if not a.nominal]]
    nominal = [(i, slice(a.start, a.stop)) for i, a in enumerate(attributes) if a.nominal]
    work = rows.double().numpy().copy()
    for e, other in enumerate(near.tolist()):
        if len(numeric):
            here = numeric[chosen[e]]
            one, two = work[e, here], work[other, here]
            deviation = np.abs(one - two) / spread
            work[e, here] = two + deviation * drawn[e, : len(numeric)][chosen[e]]
            work[other, here] = one + deviation * drawn[e, len(numeric) :][chosen[e]]
        for number, where in nominal:
            if moves[e, number]:
                kept = work[e, where].copy()
                work[e, where] = work[other, where]
                work[other, where] = kept
    return torch.from_numpy(work).to(torch.float32)


def _scaled(rows: Tensor, attributes: Sequence[Attribute]) -> Tensor:
    """Return rows whose squared Euclidean distance is that of `nearest_neighbours`."""
    exact = rows.double()
    parts = []
    for each in attributes:
        own = exact[:, each.start : each.stop]
        if not each.nominal:
            least, most = own.amin(0), own.amax(0)
            parts.append((own - least) / torch.where(most > least, most - least, 1.0))
        elif each.stop - each.start > 1:
            parts.append(own * 0.5**0.5)  # two rows of other categories differ in two of these numbers
        else:
            seen = own.unique()
            parts.append((own == seen).double() * 0.5**0.5)
    return torch.cat(parts, dim=1)


def _rows(samples: SampleSet) -> Tensor:
    """Return all samples as rows (n, d) float32, not normalised."""
    rows = samples.gather_one(torch.arange(len(samples), device=samples.index.device)).cpu()
    if rows.dtype != torch.float32:
        kind = "pixels (uint8)" if rows.dtype == torch.uint8 else "token ids (int64)"
        raise DataError(f"'{samples.name}' holds {kind}; synthetic samples need floating-point attributes")
    return rows.flatten(1)


def _attributes(samples: SampleSet, nominal: tuple[int, ...]) -> tuple[Attribute, ...]:
    width = math.prod(samples.input_shape)
    if samples.columns is not None:
        if nominal:
            raise InputError("nominal: found for a table, which knows its nominal columns; leave it out")
        return samples.columns.attributes
    for place in nominal:
        if place >= width:
            raise InputError(f"nominal: found {place}, expected places 0 to {width - 1} of '{samples.name}'")
    return tuple(Attribute(place, place + 1, place in nominal) for place in range(width))
