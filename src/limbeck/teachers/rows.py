"""Answers that were given before: which row belongs to which sample, and whose samples they are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import InputError

__all__ = ["Rows"]


class Rows:
    """The rows of tables of answers, by sample.

    index: (n,) int64, the position of each row's sample in the set `source`, each once.
    clean: the answers were given to unaugmented samples, whatever the student sees.
    """

    def __init__(self, index: Tensor, *, source: str, clean: bool = False) -> None:
        if index.dtype != torch.int64 or index.dim() != 1 or not len(index) or int(index.min()) < 0:
            raise InputError(
                f"index: found {index.dtype} {tuple(index.shape)}, expected the places of samples, int64 (n,) from 0 on"
            )
        self.index = index
        self.source = source
        self.clean = clean
        self._row = torch.full((int(index.max()) + 1,), len(index), dtype=torch.int64)
        self._row[index.cpu()] = torch.arange(len(index))
        self._direct = torch.equal(index.cpu(), torch.arange(len(index)))

    def look_up(self, batch: Batch, tables: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of a batch's samples of each table (n, ...).

        Raises InputError for a batch of another set, of another view, of mixed or generated samples, or with a sample
        that has no row.
        """
        if batch.source != self.source:
            raise InputError(
                "stored teacher: the batch comes from another set than the answers; store them for this set"
            )
        if batch.mix is not None:
            raise InputError(
                "stored teacher: the batch has mixed samples, which have no stored answers; ask the teacher for"
                " every batch (store: false), or leave mixup and cutmix out"
            )
        if "generated" in batch.extras:
            raise InputError(
                "stored teacher: the batch holds sequences that were generated in training, which have no stored"
                " answers; ask the teacher for every batch (store: false)"
            )
        if batch.augmented and not self.clean:
            raise InputError(
                "stored teacher: the batch is augmented, the answers are not; give the teacher the clean view"
                " (view: clean), or ask it for every batch (store: false)"
            )
        try:
            rows = batch.index if self._direct else self._row.index_select(0, batch.index)
            return [table.index_select(0, rows) for table in tables]
        except IndexError:
            raise InputError(
                "stored teacher: the batch has samples without a stored answer; store them for the whole set"
            ) from None

    def to(self, device: torch.device | str) -> None:
        """Place the map from samples to rows on a device."""
        self._row = self._row.to(device)
