"""The transfer set: what of the training data the student learns from."""

from dataclasses import dataclass, replace

import torch

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import UNLABELLED
from limbeck.data.sets import SampleSet
from limbeck.data.synthesis import Synthesis
from limbeck.errors import InputError
from limbeck.tasks import Need

__all__ = ["Transfer"]


@checked_fields
@dataclass(frozen=True)
class Transfer:
    """Which samples of a set are transferred, and whether with their labels.

    fraction: share of each class that is kept, in (0, 1].
    labels: whether the samples keep their labels; without them only soft targets teach.
    labelled: share of each class that keeps its labels, in (0, 1]; the rest is there without, for schemes that learn
        from such samples, too.
    synthetic: how further samples are made of these; they have no label but the teacher's.
    omit: classes whose samples are left out.  only: classes whose samples alone are kept.  One of the two at most.

    Raises InputError for a value outside its range.

    >>> from limbeck.data import TensorSet
    >>> samples = TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    >>> Transfer(omit=(2,)).apply(samples, seed=0).labels
    tensor([0, 1, 0, 1])
    """

    fraction: float = 1.0
    labels: bool = True
    omit: tuple[int, ...] = ()
    only: tuple[int, ...] = ()
    labelled: float = 1.0
    synthetic: Synthesis | None = None

    def __post_init__(self) -> None:
        checks.positive("transfer.fraction", self.fraction)
        checks.unit_interval("transfer.fraction", self.fraction)
        checks.positive("transfer.labelled", self.labelled)
        checks.unit_interval("transfer.labelled", self.labelled)
        if self.labelled < 1 and not self.labels:
            raise InputError(
                "transfer.labelled: a share of the labels, given beside labels: false; leave one of them out"
            )
        if self.omit and self.only:
            raise InputError("transfer: omit and only both choose classes; give one of them")

    def apply(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return the samples that are transferred: classes first, then the fraction of each, then the labels.

        Those that are made are added by `extend`.

        Raises InputError for a class that the set does not have, DataError when nothing is left.
        """
        if self.omit:
            samples = samples.without_classes(self.omit)
        if self.only:
            samples = samples.only_classes(self.only)
        if self.fraction < 1:
            samples = samples.fraction(self.fraction, seed)
        if self.labelled < 1:
            samples.task.require(Need.ONE_LABEL, what="labelled: a share needs", mend="leave it out")
            known = torch.isin(samples.index, samples.fraction(self.labelled, seed).index)
            return replace(samples, labels=torch.where(known, samples.labels, UNLABELLED))
        return samples if self.labels else samples.without_labels()

    def extend(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return what `apply` gave and the samples that are made of it; DataError where none can be."""
        return samples if self.synthetic is None else self.synthetic.extended(samples, seed)
