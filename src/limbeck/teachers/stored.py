"""A teacher whose answers were computed once and are looked up by sample."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Loader, SampleSet
from limbeck.distiller import Teacher
from limbeck.errors import InputError
from limbeck.outputs import Outputs, Tap
from limbeck.teachers.model import ModelTeacher, state_digest

__all__ = ["StoredTeacher", "store"]


class StoredTeacher:
    """Logits kept by sample index.

    logits: (n, K).  index: (n,) int64, the position of each row's sample in the set `source`.
    clean: the answers were given to unaugmented samples, whatever the student sees; otherwise an augmented batch is
    refused, because a stored answer to another view would silently be a wrong target.  A batch from another set than
    `source`, or a sample that was not stored, is refused too.
    """

    def __init__(self, logits: Tensor, index: Tensor, *, source: str, clean: bool = False, origin: str = "") -> None:
        if logits.ndim < 2 or len(logits) != len(index):
            raise InputError(f"logits {tuple(logits.shape)}, index {tuple(index.shape)}: expected (n, K) and (n,)")
        self.logits = logits
        self.index = index
        self.source = source
        self.clean = clean
        self.origin = origin
        self._row = torch.full((int(index.max()) + 1,), len(index), dtype=torch.int64)
        self._row[index.cpu()] = torch.arange(len(index))
        self._direct = torch.equal(index.cpu(), torch.arange(len(index)))

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the stored logits of a batch's samples."""
        if taps:
            raise InputError(
                f"stored teacher: it has logits only, the objective also reads the features {sorted(taps)};"
                " let the teacher answer every batch (store: false)"
            )
        if batch.source != self.source:
            raise InputError(
                "stored teacher: the batch comes from another set than the answers; store them for this set"
            )
        if batch.augmented and not self.clean:
            raise InputError(
                "stored teacher: the batch is augmented, the answers are not; let the teacher see the clean view"
                " (view: clean), or let it answer every batch (store: false)"
            )
        try:
            rows = batch.index if self._direct else self._row.index_select(0, batch.index)
            return Outputs(self.logits.index_select(0, rows))
        except IndexError:
            raise InputError(
                "stored teacher: the batch has samples without a stored answer; store them for the whole set"
            ) from None

    def to(self, device: torch.device | str) -> "StoredTeacher":
        """Place the table on a device."""
        self.logits, self._row = self.logits.to(device), self._row.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 over the table and what it belongs to."""
        digest = hashlib.sha256(f"{self.source} {self.origin} {self.clean}".encode())
        for tensor in (self.index, self.logits):
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def store(
    teacher: Teacher,
    samples: SampleSet,
    *,
    batch_size: int = 1024,
    device: torch.device | str = "cpu",
    clean: bool = False,
) -> StoredTeacher:
    """Ask `teacher` once about every sample, unaugmented, and return a teacher that looks the answers up.

    clean: promise the answers to students of augmented samples as well (the teacher sees the clean view).

    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.randint(4, (20,)), classes=4)
    >>> teacher = lb.ModelTeacher(nn.Linear(3, 4))
    >>> stored = store(teacher, samples)
    >>> stored.logits.shape
    torch.Size([20, 4])
    """
    teacher.to(device)
    samples = samples.to(device)
    loader = Loader(samples, batch_size, seed=0, shuffle=False, clean_view=clean)
    answers, index = [], []
    for batch in loader.epoch(0):
        answers.append(teacher(batch.to(device)).logits)
        index.append(batch.index)
    # The answers are digested too, so that of a network its weights are origin enough.
    origin = state_digest(teacher.model) if isinstance(teacher, ModelTeacher) else teacher.fingerprint()
    return StoredTeacher(torch.cat(answers), torch.cat(index), source=samples.source, clean=clean, origin=origin)
