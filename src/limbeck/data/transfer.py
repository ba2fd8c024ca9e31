"""Parts of the training data: the transfer set, which the student learns from, and what the teacher learns from."""

from dataclasses import dataclass, replace

import torch

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import UNLABELLED
from limbeck.data.sets import SampleSet
from limbeck.data.synthesis import Synthesis
from limbeck.errors import InputError
from limbeck.tasks import Need

__all__ = ["Subset", "Transfer"]


@checked_fields
@dataclass(frozen=True)
class Subset:
    """A part of a set of samples.

    Attributes:
        first: use only the first samples, this many; None for all.
        fraction: share of each class that is used, in (0, 1].
        omit: classes whose samples are left out.
        only: classes whose samples alone are used; not together with `omit`.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> Subset(first=5, omit=(2,)).of(samples, seed=0).labels
        tensor([0, 1, 0, 1])
    """

    first: int | None = None
    fraction: float = 1.0
    omit: tuple[int, ...] = ()
    only: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.first is not None:
            checks.at_least("first", self.first, 1)
        checks.positive("fraction", self.fraction)
        checks.unit_interval("fraction", self.fraction)
        if self.omit and self.only:
            raise InputError("omit: found together with only; give one of them")

    def of(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return the part: the first samples, of these the classes, and of each class the fraction.

        Raises InputError for more samples than there are or a class that the set does not have, DataError when nothing
        is left.
        """
        if self.first is not None:
            if self.first > len(samples):
                raise InputError(f"first: found {self.first:,}, expected at most {len(samples):,} training samples")
            samples = samples.subset(torch.arange(self.first))
        if self.omit:
            samples = samples.without_classes(self.omit)
        if self.only:
            samples = samples.only_classes(self.only)
        return samples.fraction(self.fraction, seed) if self.fraction < 1 else samples


@checked_fields
@dataclass(frozen=True)
class Transfer(Subset):
    """Which samples of a set form the transfer set, and whether they have labels.

    Attributes:
        first: use only the first samples, this many; None for all.
        fraction: share of each class that is used, in (0, 1].
        omit: classes whose samples are left out.
        only: classes whose samples alone are used; not together with `omit`.
        labels: whether the samples have labels; without them only soft targets teach.
        labelled: share of each class that keeps its labels, in (0, 1]; the other samples are unlabelled, for schemes
            that learn from them too.
        synthetic: how further samples are made; only the teacher labels them.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> Transfer(omit=(2,)).apply(samples, seed=0).labels
        tensor([0, 1, 0, 1])
    """

    labels: bool = True
    labelled: float = 1.0
    synthetic: Synthesis | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("labelled", self.labelled)
        checks.unit_interval("labelled", self.labelled)
        if self.labelled < 1 and not self.labels:
            raise InputError("labelled: found together with labels: false; leave out one of them")

    def apply(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return the samples that are transferred: the part, and of it the labels.

        Those that are made are added by `extend`.

        Raises InputError for a class that the set does not have, DataError when nothing is left.
        """
        samples = self.of(samples, seed)
        if self.labelled < 1:
            samples.task.require(Need.ONE_LABEL, what="labelled: a share needs", mend="leave it out")
            known = torch.isin(samples.index, samples.fraction(self.labelled, seed).index)
            return replace(samples, labels=torch.where(known, samples.labels, UNLABELLED))
        return samples if self.labels else samples.without_labels()

    def extend(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return what `apply` gave and the samples that are made of it; DataError where none can be."""
        return samples if self.synthetic is None else self.synthetic.extended(samples, seed)
