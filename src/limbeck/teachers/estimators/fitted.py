"""What all estimators share: a module that scikit-learn fits once, and whose tensors then answer alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.data import Loader, SampleSet
from limbeck.errors import CheckpointError, ModelError
from limbeck.tasks import Need, Task

__all__ = ["Fitted"]

_COMPARED = 256
"""Samples on which the tensors must answer as scikit-learn does."""
_CLOSE = 1e-4


class Fitted(nn.Module, ABC):
    """An estimator as tensors: fitted by scikit-learn, saved, loaded and asked like any network.

    input_shape: of one sample, which is read as one row.  outputs: numbers that it answers.
    floor: the least probability that it gives a class.
    Before it is fitted or loaded it answers 0 for everything.  Its tensors have the shapes that the data gave them, so
    that `grown` names those that a file may bring in any size.
    """

    grown: frozenset[str] = frozenset()
    regresses = True

    def __init__(self, input_shape: Sequence[int], outputs: int, floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.columns = prod(input_shape)
        self.outputs = outputs

    @abstractmethod
    def unfitted(self, task: Task, seed: int) -> Any:
        """Return scikit-learn's estimator for a task."""

    @abstractmethod
    def take(self, estimator: Any, task: Task, classes: int) -> None:
        """Make the tensors of a fitted estimator."""

    @abstractmethod
    def check_tensors(self) -> None:
        """Require tensors, as a file brought them, that can be run; ValueError otherwise."""

    @abstractmethod
    def answer(self, rows: Tensor) -> Tensor:
        """Return (N, outputs) for rows (N, columns)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the estimator answers: logits (N, K), one logit (N, 1), or numbers (N, D)."""
        rows = inputs.flatten(1)
        if rows.shape[1] != self.columns:
            raise ModelError(f"estimator: found rows of {rows.shape[1]} numbers, expected {self.columns}")
        return self.answer(rows.to(torch.float32))

    def complaint(self, samples: SampleSet) -> str | None:
        """Return the line that says why it cannot be fitted to a set; None if it can."""
        lack = samples.task.lacks(Need.ONE_LABEL, *([Need.NUMBERS] if self.regresses else []))
        if lack is not None:
            return f"is for samples with {lack}"
        if samples.labelled_count == 0:
            return f"needs labels, but no sample of '{samples.name}' has one"
        return None

    def fit(self, samples: SampleSet, seed: int) -> None:
        """Fit the estimator to the labelled samples of a set, unaugmented, and keep it as tensors.

        Raises ModelError where the tensors do not answer as scikit-learn's own `predict_proba` or `predict` does.
        """
        if complaint := self.complaint(samples):
            raise ModelError(f"estimator: it {complaint}")
        labelled = torch.where(samples.task.labelled(samples.labels).cpu())[0]
        rows, labels = _table(samples.subset(labelled))
        estimator = self.unfitted(samples.task, seed)
        narrow = labels.ndim == 2 and labels.shape[1] == 1
        estimator.fit(rows.numpy(), (labels[:, 0] if narrow else labels).numpy())
        self.take(estimator, samples.task, samples.classes)
        self._compare(estimator, rows[:_COMPARED], samples.task)

    @torch.no_grad()
    def _compare(self, estimator: Any, rows: Tensor, task: Task) -> None:
        ours = task.logits(self.answer(rows))
        if task.has_classes:
            ours = ours.double().softmax(-1)
            theirs = torch.zeros_like(ours)
            known = torch.from_numpy(estimator.classes_).long()
            theirs[:, known] = torch.from_numpy(estimator.predict_proba(rows.numpy())).double()
            theirs = theirs.clamp_min(self.floor)
            theirs = theirs / theirs.sum(1, keepdim=True)
        else:
            theirs = torch.from_numpy(estimator.predict(rows.numpy())).reshape(len(rows), -1)
        scale = max(1.0, float(theirs.abs().max()))
        if not bool(((ours - theirs).abs() <= _CLOSE * scale).all()):
            import sklearn

            raise ModelError(
                f"estimator: its tensors do not answer as {type(estimator).__name__} of scikit-learn "
                f"{sklearn.__version__} does; let limbeck.PredictTeacher ask that in Python"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take tensors of whatever size a file has, once they make an estimator."""
        for name in self.grown:
            if isinstance(found := state_dict.get(prefix + name), Tensor):
                own = getattr(self, name)
                fresh = torch.empty(found.shape, dtype=own.dtype, device=own.device)
                setattr(self, name, nn.Parameter(fresh, requires_grad=False) if name in self._parameters else fresh)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        try:
            self.check_tensors()
        except ValueError as error:
            raise CheckpointError(f"checkpoint: found no estimator for this data ({error}); fit it again") from None


def _table(samples: SampleSet) -> tuple[Tensor, Tensor]:
    """Return the rows (n, d) float32 and labels of all samples."""
    batches = list(Loader(samples, 4096, seed=0, shuffle=False).epoch(0))
    rows = torch.cat([batch.inputs.flatten(1) for batch in batches]).to("cpu", torch.float32)
    return rows, samples.labels.cpu()


def check_floor(floor: float) -> None:
    """Require a floor of probabilities."""
    checks.positive("floor", floor)
    checks.unit_interval("floor", floor)
