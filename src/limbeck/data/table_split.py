"""Rows of a table in three parts, by groups that stay together or by time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.errors import DataError, InputError
from limbeck.randomness import permutation

__all__ = ["RowSplit"]


@checked_fields
@dataclass(frozen=True)
class RowSplit:
    """How the rows of a table are divided, where a random share of each class would be misleading.

    Attributes:
        group: a column; rows with the same value there (those of a patient, a shop) are all in one part.
        time: a column of dates or numbers; the latest rows are the test part, those before them the validation part.
        validation_share: share of all rows for choices, in [0, 1); 0 to have the recipe hold them out.

    Raises:
        InputError: unless exactly one column is given, and for a share out of range.

    Example:
        >>> RowSplit(time="day").validation_share
        0.1
    """

    group: str | None = None
    time: str | None = None
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if (self.group is None) == (self.time is None):
            found = "both group and time" if self.group is not None else "neither group nor time"
            raise InputError(f"split: found {found}, expected the column of one of them")
        checks.unit_interval("split: validation_share", self.validation_share)

    @property
    def column(self) -> str:
        """The column by which rows are divided."""
        return self.time if self.group is None else self.group  # type: ignore[return-value]

    def parts(self, values: Tensor, test_share: float, seed: int) -> dict[str, Tensor]:
        """Return the rows of each part, "train", "test" and perhaps "validation", in their order; none is empty.

        values: (n,) of each row, the number of its group, or its time.  A part that would cut through a group, or
        through rows of one time, becomes larger.

        >>> split = RowSplit(time="day", validation_share=0.0)
        >>> split.parts(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.25, 0)
        {'train': tensor([0, 1, 2]), 'test': tensor([3])}
        """
        checks.unit_interval("test_share", test_share)
        distinct, place = values.unique(return_inverse=True)
        if self.group is not None:
            turn = torch.empty_like(distinct, dtype=torch.int64)
            turn[permutation(seed, "groups", 0, len(distinct))] = torch.arange(len(distinct))
        else:
            turn = torch.arange(len(distinct)).flip(0)
        number = turn[place]  # 0 for the first to be taken
        reached = torch.bincount(number, minlength=len(distinct)).cumsum(0)
        wanted = {"test": test_share, "validation": self.validation_share}
        parts, taken, total = dict[str, Tensor](), 0, 0.0
        for name, share in wanted.items():
            if share:
                total += share
                upto = int(torch.searchsorted(reached, round(total * len(values)))) + 1
                upto = max(upto, taken + 1)
                parts[name] = torch.where((number >= taken) & (number < upto))[0]
                taken = upto
        train = torch.where(number >= taken)[0]
        if not len(train) or not all(map(len, parts.values())):
            what = "groups" if self.group is not None else "times"
            raise DataError(
                f"split: found {len(distinct):,} {what} in column '{self.column}'; expected enough for {len(parts) + 1}"
                " parts. Choose smaller shares, or another column"
            )
        return {"train": train, **parts}
