"""Anything with `predict_proba` as teacher: a forest, a boosted ensemble, a pipeline, or a function of one's own."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError, lacks_memory, one_line
from limbeck.identity import content_digest
from limbeck.outputs import Outputs, Tap
from limbeck.tasks import Need
from limbeck.teacher import refuse_taps

__all__ = ["PredictTeacher"]

_TOLERANCE = 1e-3


class PredictTeacher:
    """A model outside of torch that answers with probabilities, or with the numbers of a regression.

    Args:
        model: an object with `predict_proba(rows) -> (n, k)` and, for a regression, `predict(rows) -> (n,) or (n, D)`,
            or a function of rows.  Rows are NumPy (n, d) float32, each sample flattened.  Two threads never call it at
            once.
        classes: the number of classes of the data; by default that of the model's answer.  The model's `classes_` say
            which class each column is, and must be whole numbers from 0 to classes - 1; without them the columns are
            the classes in order.
        missing: for classes of the data that the model does not know: "refuse", or "floor" their probability.
        floor: in (0, 1], the least probability.  The outputs' logits are log(max(p, floor)), which are finite; a target
            at temperature T is ∝ max(p, floor)^(1/T).
        view: name in `batch.views` to read instead of `batch.inputs`.
        batch_size: rows for each call of the model.
        identity: a text that stands for the model in the teacher's fingerprint.  By default the model's parameters and
            fitted values are digested, without pickle; a function needs an identity.

    Raises:
        InputError: if the object is not such a model.
        ModelError: when asked, if the answers are not probabilities of the classes.

    Example:
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> data = lb.data.digits()
        >>> rows = data.train.inputs[data.train.index].flatten(1).numpy()
        >>> forest = RandomForestClassifier(20, random_state=0).fit(rows, data.train.labels.numpy())
        >>> teacher = PredictTeacher(forest)
        >>> teacher(data.test.batch(torch.arange(4), augment=None, seed=0, view=0)).logits.shape
        torch.Size([4, 10])
    """

    @checked
    def __init__(
        self,
        model: Any,
        *,
        classes: int | None = None,
        missing: Literal["refuse", "floor"] = "refuse",
        floor: float = 1e-6,
        view: str | None = None,
        batch_size: int = 4096,
        identity: str | None = None,
    ) -> None:
        if isinstance(model, torch.nn.Module):
            raise InputError("teacher: found a torch module, which does not take NumPy rows; use limbeck.ModelTeacher")
        if not (callable(model) or hasattr(model, "predict_proba") or hasattr(model, "predict")):
            raise InputError(f"teacher: {type(model).__name__} has no predict_proba and is not a function of rows")
        if identity is None and not hasattr(model, "predict_proba") and not hasattr(model, "predict"):
            raise InputError("identity: found none for a function; give a name that changes when its answers change")
        if classes is not None:
            checks.at_least("classes", classes, 1)
        checks.positive("floor", floor)
        checks.unit_interval("floor", floor)
        checks.at_least("batch_size", batch_size, 1)
        if missing not in ("refuse", "floor"):
            raise InputError(f"missing: found {missing!r}, expected refuse or floor")
        self.model = model
        self.classes = classes
        self.missing = missing
        self.floor = floor
        self.view = view
        self.batch_size = batch_size
        self.identity = identity
        self._asking = threading.Lock()

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the floored logarithms of the probabilities of a batch, or the numbers of a regression."""
        refuse_taps(taps, "predict teacher", "probabilities", "use a network as the teacher")
        inputs = batch.inputs
        if self.view is not None:
            if self.view not in batch.views:
                raise InputError(f"teacher view: the batch has no view '{self.view}'; ask for it, or leave view out")
            inputs = batch.views[self.view]
        if not isinstance(inputs, Tensor):
            raise InputError("predict teacher: found named inputs, expected one tensor")
        batch.task.require(
            Need.ONE_LABEL, Need.NUMBERS, what="predict teacher: it answers", mend="use a network as the teacher"
        )
        rows = inputs.detach().flatten(1).to("cpu", torch.float32)
        ask = self._probabilities if batch.task.has_classes else self._numbers
        parts = [ask(part) for part in rows.split(self.batch_size)]
        return Outputs(torch.cat(parts).to(inputs.device))

    def to(self, device: torch.device | str) -> "PredictTeacher":
        """Return itself: it answers on the CPU, and its answers go where the batch is."""
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model's content, or of its `identity`, and of how it is read."""
        mend = "give identity, a name that changes whenever its answers do"
        content = self.identity if self.identity is not None else content_digest(self.model, "teacher", mend)
        return content_digest(["predict", content, self.classes, self.missing, self.floor, self.view])

    def _ask(self, function: Callable[[Any], Any], rows: Tensor) -> Tensor:
        """Return what the model says of rows, in float64."""
        import numpy as np

        with self._asking:
            try:
                answer = function(rows.numpy())
            except Exception as error:
                if lacks_memory(error):
                    raise
                raise ModelError(
                    f"teacher: {type(self.model).__name__} cannot take rows of {rows.shape[1]} numbers "
                    f"({type(error).__name__}: {one_line(error)})"
                ) from error
        found = np.asarray(answer)
        if found.dtype.kind not in "fiu" or found.ndim not in (1, 2) or len(found) != len(rows):
            raise ModelError(
                f"teacher: {type(self.model).__name__} answers {found.dtype} {found.shape} for {len(rows)} rows, "
                "expected a row of numbers for each"
            )
        return torch.from_numpy(found.astype("float64"))

    def _numbers(self, rows: Tensor) -> Tensor:
        predict = getattr(self.model, "predict", self.model)
        answer = self._ask(predict, rows)
        if not bool(torch.isfinite(answer).all()):
            raise ModelError(f"teacher: {type(self.model).__name__} predicts numbers that are not finite")
        return answer.reshape(len(rows), -1).to(torch.float32)

    def _probabilities(self, rows: Tensor) -> Tensor:
        answer = self._ask(getattr(self.model, "predict_proba", self.model), rows)
        if answer.ndim != 2:
            raise ModelError(
                f"teacher: {type(self.model).__name__} answers {tuple(answer.shape)} for {len(rows)} rows, expected a "
                "probability for each class"
            )
        wrong = ~torch.isfinite(answer).all(1) | (answer < 0).any(1) | ((answer.sum(1) - 1).abs() > _TOLERANCE)
        if bool(wrong.any()):
            row = answer[int(wrong.nonzero()[0])]
            raise ModelError(
                f"teacher: {type(self.model).__name__} answers {[round(float(p), 4) for p in row[:8]]}, expected "
                "probabilities that sum to 1"
            )
        columns = self._columns(answer.shape[1])
        total = self.classes or int(columns.max()) + 1
        whole = answer.new_zeros(len(answer), total)
        whole[:, columns] = answer
        return whole.clamp_min(self.floor).log().to(torch.float32)

    def _columns(self, count: int) -> Tensor:
        """Return the class that each column of an answer is of."""
        import numpy as np

        known = getattr(self.model, "classes_", None)
        names = np.arange(count) if known is None else np.asarray(known)
        total = count if self.classes is None and known is None else self.classes
        if names.dtype.kind not in "iub" or names.ndim != 1 or len(names) != count:
            raise ModelError(
                f"teacher: its classes_ are {names.dtype} {names.shape} for {count} columns, expected the number of a "
                "class for each column; fit it to class numbers"
            )
        columns = torch.from_numpy(names.astype("int64"))
        highest = (int(columns.max()) if total is None else total - 1, int(columns.max()))
        if int(columns.min()) < 0 or highest[1] > highest[0]:
            raise ModelError(
                f"teacher: found the classes {int(columns.min())} to {highest[1]}, expected 0 to {highest[0]}"
            )
        absent = sorted(set(range(highest[0] + 1)) - set(columns.tolist()))
        if absent and self.missing == "refuse":
            raise ModelError(
                f"teacher: found no class {absent[0]}"
                + (f" and {len(absent) - 1} others" if len(absent) > 1 else "")
                + f" of {highest[0] + 1}; fit it to samples of every class, or set missing='floor'"
            )
        return columns
