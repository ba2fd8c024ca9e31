"""The transfer set: what of the training data the student learns from."""

from dataclasses import dataclass

from limbeck import checks
from limbeck.data.sets import SampleSet
from limbeck.errors import InputError

__all__ = ["Transfer"]


@dataclass(frozen=True)
class Transfer:
    """Which samples of a set are transferred, and whether with their labels.

    fraction: share of each class that is kept, in (0, 1].
    labels: whether the samples keep their labels; without them only soft targets teach.
    omit: classes whose samples are left out.  only: classes whose samples alone are kept.  One of the two at most.

    Raises InputError for a value outside its range.

    >>> import torch
    >>> from limbeck.data import TensorSet
    >>> samples = TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    >>> Transfer(omit=(2,)).apply(samples, seed=0).labels
    tensor([0, 1, 0, 1])
    """

    fraction: float = 1.0
    labels: bool = True
    omit: tuple[int, ...] = ()
    only: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checks.positive("transfer.fraction", self.fraction)
        checks.unit_interval("transfer.fraction", self.fraction)
        if self.omit and self.only:
            raise InputError("transfer: omit and only both choose classes; give one of them")

    def apply(self, samples: SampleSet, seed: int) -> SampleSet:
        """Return the transfer set: classes first, then the fraction of each, then the labels.

        Raises InputError for a class that the set does not have, DataError when nothing is left.
        """
        if self.omit:
            samples = samples.without_classes(self.omit)
        if self.only:
            samples = samples.only_classes(self.only)
        if self.fraction < 1:
            samples = samples.fraction(self.fraction, seed)
        return samples if self.labels else samples.without_labels()
