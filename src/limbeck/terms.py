"""The terms that objectives are made of: thin holders around the pure losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from limbeck import checks, schedules
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED, Batch, Legend
from limbeck.errors import InputError, ModelError
from limbeck.losses import (
    CROSS_ENTROPY,
    KL,
    Dense,
    Divergence,
    Reduction,
    Sampled,
    TopK,
    cross_entropy,
    logit_matching,
    positives_log_loss,
    reduce,
    squared_error,
)
from limbeck.losses.fused import Hard, Part, Soft
from limbeck.losses.reduction import check_labels, check_mask, compute_dtype, only_counted
from limbeck.losses.sparse import sparse_target
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.targets import PLAIN, Softmax, Target, smooth_labels
from limbeck.tasks import RANKING, Need, Task

__all__ = [
    "HardLabels",
    "LogitMatching",
    "SoftTargets",
    "beside_logits",
    "count_labelled",
    "counted_outputs",
    "label_shares",
    "require_classes",
]


def _of_items(logits: Tensor, labels: Tensor, *, mask: Tensor | None, reduction: Reduction) -> Tensor:
    positives, known = RANKING.positives(labels), RANKING.known(labels)
    return positives_log_loss(logits, positives, known=known, mask=mask, reduction=reduction)


_LABEL_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "positives_log_loss": _of_items,
    "squared_error": squared_error,
}
"""The loss on labels by the name that a task gives it."""

Transform = Callable[[Tensor], Tensor]
"""Logits (..., K) to logits (..., K), row by row."""


class HardLabels(Term):
    """Cross-entropy on hard labels; it counts labelled examples, each by the weight of its class.

    For a regression it is half the mean squared error; for a ranking the log loss of the items to be found
    and of all others (`losses.positives_log_loss`).  For a sample mixed of a share λ of itself and 1-λ of another
    one it is λ·H(y, q) + (1-λ)·H(y', q), counted if both have a label.

    Args:
        weight: a number or schedule, finite and not negative.
        label_smoothing: ε in [0, 1].
        name: the name of the term in recipe, log and report.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> from limbeck.objective import Objective
        >>> objective = Objective([HardLabels(label_smoothing=0.1)])
        >>> batch = Batch.of(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> objective({"student": Outputs(torch.zeros(2, 4))}, batch).total
        tensor(1.3863)

    Reference:
        Szegedy et al. (2016), arXiv:1512.00567, for smoothing; Zhang et al. (2018), "mixup: Beyond Empirical Risk
        Minimization", arXiv:1710.09412.
    """

    takes_mixed = True
    takes_class_weights = True
    _class_weights: Tensor | None = None

    def __init__(self, weight: Schedule = 1.0, *, label_smoothing: float = 0.0, name: str = "hard") -> None:
        super().__init__(name, weight)
        checks.unit_interval("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def settle(self, legend: Legend) -> None:
        if self.label_smoothing:
            require_classes(legend.task, f"label_smoothing of term '{self.name}' smooths")
            legend.task.require(
                Need.EACH_LABELLED, what=f"label_smoothing of term '{self.name}' needs", mend="leave it out"
            )

    def weigh(self, weights: Tensor | None) -> None:
        if weights is None:
            vars(self).pop("_class_weights", None)  # what tells two terms apart is then as it was
        else:
            self._class_weights = weights

    def count(self, batch: Batch) -> Tensor | int:
        if self._class_weights is None or batch.labels is None:
            return count_labelled(batch)
        counted, weights = batch.labelled(), self._weights_of(batch.labels)
        if batch.mix is not None:
            weights = torch.lerp(self._weights_of(batch.mix.labels), weights, batch.mix.share.to(weights))
        return torch.where(counted, weights, 0).sum()

    def _weights_of(self, labels: Tensor) -> Tensor:
        """Return the weight of each label's class, float64 where the device has it; of no label, any."""
        assert self._class_weights is not None
        dtype = torch.float32 if labels.device.type == "mps" else torch.float64
        return self._class_weights.to(labels.device, dtype)[labels.clamp_min(0)]

    def on_logits(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Part | None:
        plain = type(self) is HardLabels and not self.label_smoothing and batch.mix is None
        plain = plain and self._class_weights is None
        if not plain or batch.task.loss != "cross_entropy":
            return None
        labels, logits = batch.labels, outputs["student"]
        if labels is None:
            if logits.head is None:
                return None
            labels = torch.full(logits.logits.shape[:-1], UNLABELLED, device=logits.logits.device)
        return Hard(labels, mask=batch.mask)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        logits = outputs["student"].logits
        if batch.labels is None:
            return compute_dtype(logits[:0]).sum()
        if batch.mix is None:
            return self._per_example(logits, batch.labels, batch.mask, batch.task).sum()
        counted = batch.labelled()
        own, other = (
            self._per_example(logits, labels, counted, batch.task) for labels in (batch.labels, batch.mix.labels)
        )
        return torch.lerp(other, own, batch.mix.share.to(own)).sum()

    def _per_example(self, logits: Tensor, labels: Tensor, mask: Tensor | None, task: Task) -> Tensor:
        """Return the loss of each place times the weight of its class, 0 where it does not count."""
        alike = self._alike(logits, labels, mask, task)
        return alike if self._class_weights is None else alike * self._weights_of(labels).to(alike.dtype)

    def _alike(self, logits: Tensor, labels: Tensor, mask: Tensor | None, task: Task) -> Tensor:
        """Return the loss of each place, all classes weighing alike, 0 where it does not count."""
        if not self.label_smoothing:
            return _LABEL_LOSSES[task.loss](logits, labels, mask=mask, reduction="none")
        check_labels(labels, logits.shape[:-1])
        if mask is not None:
            check_mask(mask, labels.shape)
        target = smooth_labels(labels, logits.shape[-1], self.label_smoothing, dtype=compute_dtype(logits).dtype)
        labelled = labels != UNLABELLED
        mask = labelled if mask is None else labelled & mask
        return reduce(CROSS_ENTROPY.per_example(logits, target, 1.0), mask, "none")


class SoftTargets(Term):
    """A divergence between a target and the student's softened distribution, times the factor that it declares.

    It counts all unmasked examples; labelled ones only if the target needs labels.

    Args:
        weight: a number or schedule, finite and not negative.
        temperature: T > 0, a number or schedule.
        target: the distribution to match, from `limbeck.targets`.
        divergence: from `limbeck.losses`.
        transform: a function of logits (..., K), applied to those of both models before the temperature, such as
            `losses.Standardise()`.
        name: the name of the term in recipe, log and report.

    Raises:
        InputError: if a value is out of range or of another type.

    Example:
        >>> from limbeck.objective import Objective
        >>> objective = Objective([SoftTargets(temperature=2.0)])
        >>> outputs = {"student": Outputs(torch.zeros(1, 2)), "teacher": Outputs(torch.tensor([[0.0, 4.0]]))}
        >>> objective(outputs, Batch.of(torch.zeros(1, 3))).total
        tensor(1.3113)

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """

    def __init__(
        self,
        weight: Schedule = 1.0,
        *,
        temperature: Schedule = 4.0,
        target: Target = PLAIN,
        divergence: Divergence = KL,
        transform: Transform | None = None,
        name: str = "soft",
    ) -> None:
        super().__init__(name, weight)
        if not callable(temperature):
            checks.positive("temperature", temperature)
        self.temperature = temperature
        self.target = target
        if not isinstance(divergence, Divergence):
            raise InputError(
                f"divergence: found {divergence!r}, expected one such as losses.divergence('js', beta=0.5)"
            )
        self.divergence = divergence
        self.transform = transform
        self._as_given = target

    @property
    def needs_labels(self) -> bool:
        """Whether it says nothing of an unlabelled example."""
        return self.target.needs_labels

    @property
    def takes_mixed(self) -> bool:  # type: ignore[override]
        """Whether the target is of the inputs alone, whatever they are made of."""
        return not self.needs_labels

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]
        """The student, and the teacher where the target is made of its answers."""
        return frozenset({"student", "teacher"} if self.target.reads_teacher else {"student"})

    @property
    def any_classes(self) -> frozenset[str]:  # type: ignore[override]
        """The teacher, where the target is of a subset of its classes."""
        return frozenset({"teacher"} if self.target.changes_classes else ())

    @property
    def takes_sparse(self) -> frozenset[str]:  # type: ignore[override]
        """What the divergence takes, where the target is the teacher's own distribution."""
        if type(self) is not SoftTargets or not isinstance(self.target, Softmax) or self.transform is not None:
            return frozenset()
        kinds = {"topk": self.divergence.topk, "sampled": self.divergence.sampled}
        return frozenset(kind for kind, value in kinds.items() if value is not None)

    @property
    def reads_class_cosines(self) -> bool:  # type: ignore[override]
        """Whether the target is made of the similarity of the classes."""
        return self.target.reads_class_cosines

    def settle(self, legend: Legend) -> None:
        require_classes(legend.task, f"term '{self.name}' compares distributions over")
        classes = legend.task.alternatives(len(legend.names))
        if 0 < classes < self.divergence.least_classes:
            raise InputError(
                f"divergence {self.divergence.name}: found {classes} classes, expected "
                f"{self.divergence.least_classes} or more; use another"
            )
        kind = self._as_given.kind
        what = f"target {kind}" if self._as_given.needs_labels else f"term '{self.name}'"
        if self.needs_labels:
            legend.task.require(Need.EACH_LABELLED, what=f"{what} needs", mend="use another")
        if self.needs_labels and not legend.labelled:
            raise InputError(f"{what}: needs the true class, but no sample has a label; use another")
        try:
            self.target = self._as_given.settled(legend)
        except InputError as error:
            raise InputError(f"target {kind}, {error}") from None

    def count(self, batch: Batch) -> Tensor | int:
        return count_labelled(batch) if self.needs_labels else super().count(batch)

    def on_logits(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Part | None:
        of_teacher = type(self) is SoftTargets and isinstance(self.target, Softmax) and self.transform is None
        if not of_teacher or outputs["teacher"].members is not None or self.divergence.formula is None:
            return None
        require_classes(batch.task, f"term '{self.name}' compares distributions over")
        teacher, temperature = outputs["teacher"], schedules.at(self.temperature, step)
        _check_shapes(outputs["student"].logits, "teacher", teacher.logits.shape, batch)
        whole = teacher.logits if teacher.head is None else teacher.head
        target = whole if teacher.sparse is None else sparse_target(teacher.sparse, temperature)
        return Soft(target, temperature, self.divergence, mask=batch.mask)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        require_classes(batch.task, f"term '{self.name}' compares distributions over")
        if self.needs_labels and batch.labels is None:
            return compute_dtype(outputs["student"].logits[:0]).sum()
        temperature = schedules.at(self.temperature, step)
        counted = batch.labelled() if self.needs_labels else batch.mask
        student = self._compared(outputs["student"], counted)
        reads_teacher = self.target.reads_teacher
        answers = self._compared(outputs["teacher"], counted) if reads_teacher else student.detach()
        if answers.sparse is not None:
            _check_shapes(student.logits, "teacher", answers.logits.shape, batch)
            return self._summed(student.logits, sparse_target(answers.sparse, temperature), counted, temperature)
        target = self.target(answers, batch, temperature)
        _check_shapes(student.logits, "teacher" if reads_teacher else "target", target.log_probs.shape, batch)
        return self.compare(student.logits, target, batch, counted, temperature)

    def _compared(self, outputs: Outputs, counted: Tensor | None) -> Outputs:
        """Return a model's outputs with the logits that are compared: 0 where nothing counts, then transformed."""
        outputs = counted_outputs(outputs, counted)
        return outputs if self.transform is None else outputs.transformed(self.transform)

    def compare(
        self, logits: Tensor, target: Dense, batch: Batch, counted: Tensor | None, temperature: float
    ) -> Tensor:
        """Return the loss of the student's logits (..., K), summed over what is counted; None counts all."""
        return self._summed(logits, target, counted, temperature)

    def _summed(
        self, logits: Tensor, target: Dense | TopK | Sampled, counted: Tensor | None, temperature: float
    ) -> Tensor:
        per_example = self.divergence.per_example(logits, target, temperature)
        return self.divergence.factor(temperature) * reduce(per_example, counted, "sum")


class LogitMatching(Term):
    """½·Σ(z-v)²/K between the student's logits z and the teacher's v; it counts all unmasked examples.

    Args:
        weight: a number or schedule, finite and not negative.
        zero_mean: subtract the mean over the classes from both logits first.
        name: the name of the term in recipe, log and report.

    Raises:
        InputError: if the weight is out of range.

    Example:
        >>> from limbeck.objective import Objective
        >>> outputs = {"student": Outputs(torch.zeros(1, 2)), "teacher": Outputs(torch.tensor([[0.0, 4.0]]))}
        >>> Objective([LogitMatching()])(outputs, Batch.of(torch.zeros(1, 3))).total
        tensor(4.)

    Reference:
        Ba & Caruana (2014), "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184.
    """

    reads = frozenset({"student", "teacher"})
    takes_mixed = True

    def __init__(self, weight: Schedule = 1.0, *, zero_mean: bool = False, name: str = "logits") -> None:
        super().__init__(name, weight)
        self.zero_mean = zero_mean

    def settle(self, legend: Legend) -> None:
        if self.zero_mean:
            require_classes(legend.task, f"zero_mean of term '{self.name}' is the mean over")

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        student, teacher = outputs["student"].logits, outputs["teacher"].logits
        _check_shapes(student, "teacher", teacher.shape, batch)
        return logit_matching(student, teacher, zero_mean=self.zero_mean, mask=batch.mask, reduction="sum")


@checked
def beside_logits(
    own: Sequence[Term], hard_weight: Schedule, soft_weight: Schedule, temperature: Schedule
) -> Objective:
    """Return the terms of a method together with hard labels and soft targets; those of weight 0 are left out.

    Args:
        own: the terms that the method adds.
        hard_weight: of the cross-entropy on labels; a number or schedule, finite and not negative.
        soft_weight: of T²·KL between teacher and student; a number or schedule, finite and not negative.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `hard`, `soft` and the method's.

    Raises:
        InputError: if a value is out of range, or all weights are 0.

    Example:
        >>> sorted(beside_logits([LogitMatching()], 1.0, 0.0, 4.0).terms)
        ['hard', 'logits']
    """
    terms: list[Term] = [] if hard_weight == 0 else [HardLabels(hard_weight)]
    soft = SoftTargets(soft_weight, temperature=temperature)
    return Objective([*terms, *([] if soft_weight == 0 else [soft]), *(term for term in own if term.weight != 0)])


@checked
def counted_outputs(outputs: Outputs, counted: Tensor | None) -> Outputs:
    """Return a model's outputs with logits 0 where nothing is counted, for each member of an ensemble too.

    Logits of another shape than `counted` are returned unchanged; the terms refuse them.

    Args:
        outputs: logits (..., K).
        counted: (...) bool; None counts all.

    Returns:
        The outputs.

    Example:
        >>> outputs = Outputs(torch.ones(2, 3))
        >>> counted_outputs(outputs, torch.tensor([True, False])).logits.sum(-1)
        tensor([3., 0.])
    """
    if counted is None or outputs.sparse is not None or outputs.logits.shape[:-1] != counted.shape:
        return outputs
    members = outputs.members
    if members is not None:
        members = replace(members, logits=torch.where(counted.unsqueeze(-1), members.logits, 0.0))
    return replace(outputs, logits=only_counted(outputs.logits, counted), members=members)


@checked
def count_labelled(batch: Batch) -> Tensor | int:
    """Return how many examples or tokens of a batch have a label and are not padding.

    Args:
        batch: with labels and mask, or without.

    Returns:
        A number, or a scalar int64 tensor.

    Example:
        >>> count_labelled(Batch.of(torch.zeros(2, 3), torch.tensor([1, -100])))
        tensor(1)
    """
    return 0 if batch.labels is None else batch.task.count(batch.labelled())


@checked
def label_shares(batch: Batch, teacher_logits: Tensor) -> Tensor:
    """Return the class of each example as a distribution: its label, or the teacher's top class where it has none.

    Args:
        batch: of one class an example, or mixed of two.
        teacher_logits: (N, K) floating point.

    Returns:
        (N, K) of 0 and 1, in the logits' type; for a mixed example the shares of its two labels.

    Raises:
        InputError: if the logits are not (N, K).

    Example:
        >>> label_shares(Batch.of(torch.zeros(2, 3), torch.tensor([1, -100])), torch.tensor([[4.0, 0.0], [4.0, 0.0]]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    if teacher_logits.dim() != 2 or len(teacher_logits) != len(batch) or not teacher_logits.is_floating_point():
        found = f"{str(teacher_logits.dtype).removeprefix('torch.')} {tuple(teacher_logits.shape)}"
        raise InputError(f"teacher_logits: found {found}, expected floating-point logits ({len(batch)}, K)")
    top = teacher_logits.argmax(1)

    def one_hot(labels: Tensor | None) -> Tensor:
        known = top if labels is None else torch.where(labels == UNLABELLED, top, labels)
        return torch.zeros_like(teacher_logits).scatter_(1, known[:, None], 1.0)

    own = one_hot(batch.labels)
    return own if batch.mix is None else torch.lerp(one_hot(batch.mix.labels), own, batch.mix.share.to(own)[:, None])


@checked
def require_classes(task: Task, what: str, *, alone: bool = False) -> None:
    """Raise unless the labels of a task are classes.

    Args:
        task: of the data.
        what: the clause of the error message before "classes", such as "term 'soft' compares distributions over".
        alone: require one class an example as well.

    Raises:
        InputError: if the labels are of another kind.

    Example:
        >>> from limbeck.tasks import REGRESSION
        >>> require_classes(REGRESSION, "term 'soft' compares distributions over")
        Traceback (most recent call last):
        limbeck.errors.InputError: term 'soft' compares distributions over classes, and the labels are numbers to ...
    """
    task.require(Need.CLASSES, what=what, mend="use logit_matching or bounded_regression")
    if alone:
        task.require(Need.ONE_CLASS, what=what, mend="use kd")


def _check_shapes(student: Tensor, name: str, other: torch.Size, batch: Batch) -> None:
    """Require that the student agrees with what it is compared to, and with what the batch counts."""
    if student.shape != other:
        raise ModelError(
            f"logits: student {tuple(student.shape)}, {name} {tuple(other)}; give both models the same classes"
        )
    if student.shape[:-1] != batch.places:
        raise InputError(
            f"logits: student {tuple(student.shape)}, but the batch counts {tuple(batch.places)} examples or tokens; "
            f"give it a mask of shape {tuple(student.shape[:-1])}"
        )
