"""What a specialist learns from: its own classes and a dustbin, half of every epoch from each."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch
from limbeck.data.augment import Augment
from limbeck.data.content import Inputs
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError
from limbeck.randomness import permutation

__all__ = ["HalfSet", "half_and_half", "with_dustbin"]


@checked
def with_dustbin(samples: SampleSet, classes: Iterable[int | str]) -> SampleSet:
    """Return the same samples with a specialist's labels: positions in `classes`, and a class "dustbin" for the others.

    Unlabelled samples stay unlabelled.

    Args:
        samples: a classification set.
        classes: by number or name, each once.

    Returns:
        A set with one class more than `classes`.

    Raises:
        InputError: if a class does not exist or is repeated, or all are named.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), class_names=["cat", "dog", "eel"])
        >>> told = with_dustbin(samples, ["eel", "dog"])
        >>> told.labels, told.class_names
        (tensor([2, 1, 0, 1]), ('eel', 'dog', 'dustbin'))

    Reference:
        Hinton, Vinyals & Dean (2015), section 5.1, arXiv:1503.02531.
    """
    own = samples.relabelled(list(classes))
    if own.classes == samples.classes:
        raise InputError(
            f"classes: found all {own.classes} of '{samples.name}', so that no class is left for the dustbin"
        )
    elsewhere = (own.labels == UNLABELLED) & (samples.labels != UNLABELLED)
    return replace(
        own,
        classes=own.classes + 1,
        class_names=(*own.class_names, "dustbin"),
        groups=None,
        group_names=(),
        labels=torch.where(elsewhere, own.classes, own.labels),
    )


@checked
def half_and_half(samples: SampleSet, classes: Iterable[int | str]) -> "HalfSet":
    """Return a training set for a specialist: half of each epoch is from its classes.

    The labels are those of `with_dustbin`; unlabelled samples are left out.

    Args:
        samples: a classification set.
        classes: the specialist's classes, by number or name.

    Returns:
        The set; its `share` is that of the specialist's classes among all samples.

    Raises:
        DataError: if either half has no sample.
        InputError: if a class does not exist or is repeated, or all are named.

    Example:
        >>> from limbeck.data import TensorSet
        >>> samples = TensorSet.of(torch.zeros(8, 2), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
        >>> half = half_and_half(samples, [3])
        >>> len(half), half.share, half.labels[half.order(seed=0, epoch=0)].sort().values
        (4, 0.25, tensor([0, 0, 1, 1]))

    Reference:
        Hinton, Vinyals & Dean (2015), section 5.2, arXiv:1503.02531.
    """
    told = with_dustbin(samples, classes)
    dustbin = told.classes - 1
    own = ((told.labels != UNLABELLED) & (told.labels != dustbin)).nonzero().squeeze(1)
    rest = (told.labels == dustbin).nonzero().squeeze(1)
    for part, what in ((own, "of these classes"), (rest, "of other classes")):
        if not len(part):
            raise DataError(f"{samples.name}: found no samples {what}; a specialist needs both")
    fields = {name: getattr(told, name) for name in SampleSet.__dataclass_fields__}
    return HalfSet(**fields, inner=told, own=own.cpu(), rest=rest.cpu())


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class HalfSet(SampleSet):
    """A set whose epochs hold all samples of some classes, and as many samples of the other classes.

    The other classes are traversed in turn; no sample is repeated before all were seen.  The length is that of an
    epoch.  The further attributes are those of `SampleSet`; create one with `half_and_half`.

    Attributes:
        inner: all samples.
        own: int64, the positions in `inner` of the samples of the chosen classes.
        rest: int64, the positions of the other samples.

    Example:
        >>> from limbeck.data import TensorSet, half_and_half
        >>> len(half_and_half(TensorSet.of(torch.zeros(6, 2), torch.tensor([0, 1, 1, 1, 1, 1])), [0]))
        2
    """

    inner: SampleSet
    own: Tensor
    rest: Tensor

    def __len__(self) -> int:
        return 2 * len(self.own)

    @property
    def share(self) -> float:
        """The share π of the specialist's classes in all of the labelled samples."""
        return len(self.own) / (len(self.own) + len(self.rest))

    def order(self, seed: int, epoch: int, batch_size: int = 1) -> Tensor:
        """Return the positions of an epoch, in their order: a function of (seed, epoch) alone."""
        size = len(self.own)
        turns, taken = [], 0
        while taken < size:
            turn, first = divmod(epoch * size + taken, len(self.rest))
            seen = permutation(seed, "rest", turn, len(self.rest))[first : first + size - taken]
            turns.append(self.rest[seen])
            taken += len(seen)
        both = torch.cat([self.own, *turns])
        return both[permutation(seed, "order", epoch, len(both))]

    def gather(self, positions: Tensor) -> Inputs:
        """Return the stored samples at `positions` among all samples."""
        return self.inner.gather(positions)

    def assemble(
        self, gathered: Inputs, positions: Tensor, augment: Augment | None, seed: int, view: int, clean_view: bool
    ) -> Batch:
        """Return the batch of samples that `gather` gave; of texts as the set of all samples makes it."""
        if isinstance(gathered, Tensor):
            return super().assemble(gathered, positions, augment, seed, view, clean_view)
        return self.inner.assemble(gathered, positions, augment, seed, view, clean_view)

    def to(self, device: torch.device | str) -> Self:
        """Return the set with all its samples on `device`."""
        return replace(super().to(device), inner=self.inner.to(device))

    def subset(self, positions: Tensor) -> Self:
        """Refuse: an epoch is drawn anew each time, so that its places mean nothing."""
        raise InputError(
            f"{self.name}: half of this set is drawn again in each epoch; take the subset before half_and_half"
        )
