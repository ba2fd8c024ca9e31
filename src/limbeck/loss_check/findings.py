"""What can be wrong with a distillation loss, in words, and the report of a check."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "LossReport", "Measured", "finding", "ratio", "ratios"]

Level = Literal["mistake", "warning", "note"]

_KINDS: dict[str, tuple[Level, str, str]] = {
    "missing_t2": (
        "mistake",
        "the factor T² is missing from the soft term",
        "multiply the soft term by temperature ** 2, so that its gradient keeps its size at every temperature",
    ),
    "wrong_power": (
        "mistake",
        "the soft term has the wrong power of T",
        "multiply the mean of the soft term by temperature ** 2 once",
    ),
    "t2_on_hard": (
        "mistake",
        "the hard term changes with T",
        "multiply the soft term alone by temperature ** 2; the hard term is computed at T = 1",
    ),
    "mean_over_classes": (
        "mistake",
        "the soft term is averaged over the classes too, so that it shrinks with their number",
        'use reduction="batchmean" in place of "mean", or .sum(-1).mean()',
    ),
    "hard_mean_over_classes": (
        "mistake",
        "the hard term is averaged over the classes too",
        "sum over the classes and average over the examples",
    ),
    "sum_over_rows": (
        "mistake",
        "the soft term is summed over the batch, so that it grows with the batch size",
        'use reduction="batchmean" in place of "sum", or divide by the number of examples',
    ),
    "hard_sum_over_rows": (
        "mistake",
        "the hard term is summed over the batch, so that it grows with the batch size",
        "average it over the examples",
    ),
    "divided_twice": (
        "mistake",
        "the loss is divided by the number of examples twice",
        "divide once: an averaged loss is not divided again",
    ),
    "wrong_constant": ("mistake", "a term has a factor that the weights do not explain", "remove the factor"),
    "weights_swapped": (
        "mistake",
        "alpha weighs the soft targets and 1 - alpha the hard labels",
        "swap the two weights; or, if your alpha is meant as the weight of the soft targets, pass 1 - alpha for it:"
        ' --call "student, teacher, labels, T, 1 - alpha"',
    ),
    "other_weights": ("note", "the weights are not alpha and 1 - alpha", "no change is needed if that is intended"),
    "swapped_arguments": (
        "mistake",
        "the arguments of KL are swapped: it is KL(student ‖ teacher), not KL(teacher ‖ student)",
        "call F.kl_div(student_log_probs, teacher_probs): the student comes first and the teacher is the target",
    ),
    "temperature_ignored": (
        "mistake",
        "the soft term does not divide the logits by T",
        "divide the logits of student and teacher by the temperature before the softmax",
    ),
    "temperature_on_teacher_alone": (
        "mistake",
        "the temperature divides the teacher's logits alone",
        "divide the student's logits in the soft term by it too",
    ),
    "temperature_on_student_alone": (
        "mistake",
        "the temperature divides the student's logits alone",
        "divide the teacher's logits by it too",
    ),
    "temperature_inverted": (
        "mistake",
        "the logits are multiplied by T",
        "divide them by the temperature",
    ),
    "inverted": ("mistake", "the logits of one side are multiplied by T", "divide them by the temperature"),
    "student_softmaxed_twice": (
        "mistake",
        "the student's answer goes through softmax twice",
        "give the loss logits, and take one log_softmax",
    ),
    "teacher_softmaxed_twice": (
        "mistake",
        "the teacher's answer goes through softmax twice",
        "give the loss logits, and take one softmax",
    ),
    "axis": (
        "mistake",
        "softmax runs over the batch, not over the classes",
        "use softmax(..., dim=-1)",
    ),
    "probabilities_as_log": (
        "mistake",
        "probabilities are passed where log-probabilities are expected",
        "F.kl_div and nll_loss take log-probabilities first: use log_softmax in place of softmax",
    ),
    "logits_as_log": (
        "mistake",
        "the student's logits are passed where log-probabilities are expected",
        "use log_softmax on them",
    ),
    "log_probabilities_as_target": (
        "mistake",
        "the teacher's log-probabilities are passed where probabilities are expected",
        "use softmax for the target, or log_target=True",
    ),
    "logits_as_target": (
        "mistake",
        "the teacher's logits are passed where probabilities are expected",
        "use softmax on them",
    ),
    "hard_at_temperature": (
        "mistake",
        "the hard term divides the logits by T",
        "compute the cross-entropy on labels of the logits themselves, at T = 1",
    ),
    "hard_softmaxed_twice": (
        "mistake",
        "the hard term gets probabilities, so that softmax is taken twice",
        "give F.cross_entropy the logits",
    ),
    "hard_probabilities": (
        "mistake",
        "the hard term is -q of the true class, not -log q",
        "F.nll_loss takes log-probabilities: use F.cross_entropy on logits",
    ),
    "hard_of_teacher": (
        "warning",
        "the hard term is on the teacher's most probable class, not on the labels",
        "use the labels, unless that is intended",
    ),
    "squared_probabilities": (
        "mistake",
        "the soft term is a squared error of probabilities, not KL(teacher ‖ student)",
        "use KL: the gradient of a squared error of probabilities vanishes where the student is sure and wrong",
    ),
    "jensen_shannon": (
        "warning",
        "the soft term is a Jensen-Shannon divergence, not KL(teacher ‖ student)",
        "no change is needed if that is intended; limbeck.losses.js is one",
    ),
    "logit_matching": (
        "warning",
        "the soft term is a squared error of logits, not KL(teacher ‖ student)",
        "no change is needed if that is intended; limbeck.losses.logit_matching is one",
    ),
    "cosine": (
        "warning",
        "the soft term is a cosine similarity of logits, not KL(teacher ‖ student)",
        "no change is needed if that is intended",
    ),
    "teacher_gradient": (
        "warning",
        "a gradient reaches the teacher's logits",
        "detach them in the loss, or run the teacher under torch.no_grad(); an optimizer that holds its weights would"
        " train the teacher",
    ),
    "no_gradient": (
        "mistake",
        "no gradient reaches the student's logits",
        "compute the loss from the student's logits, without detach(), item() or argmax()",
    ),
    "teacher_unused": ("mistake", "the loss does not depend on the teacher", "add the soft term"),
    "labels_unused": (
        "warning",
        "the loss takes labels and does not use them",
        "add the hard term, or remove the parameter",
    ),
    "cross_entropy": (
        "note",
        "the soft term is a cross-entropy, not KL: the gradient is the same, and it is not 0 when both agree",
        "no change is needed",
    ),
    "value_and_gradient": (
        "mistake",
        "the value is not that of the gradient",
        "multiply what is differentiated, not the number that is reported",
    ),
    "not_finite": ("mistake", "the loss is not finite on ordinary logits", "look for logarithms of 0 or of negatives"),
    "ignored_labels": (
        "mistake",
        "labels of -100 are not ignored",
        "leave such examples out of the hard term, and divide by the number of those that remain",
    ),
    "ignored_refused": (
        "note",
        "labels of -100 raise an error",
        "no change is needed if your labels never have them",
    ),
    "mean_of_means": (
        "mistake",
        "the loss is a mean of means over parts of different size, so that rows of small parts weigh more",
        "sum over all rows, and divide once by their number",
    ),
    "unequal_rows": ("warning", "rows have different weights", "give every row the same weight, unless it is intended"),
    "mask": (
        "mistake",
        "the mask is not respected",
        "leave out rows whose mask is False, and divide by the number of the others",
    ),
    "without_labels": (
        "mistake",
        "without labels the soft term is another one",
        "keep the factor T² in every branch of the loss",
    ),
    "alpha_zero": ("mistake", "at alpha = 0 the loss is another one", "keep the factor T² in every branch of the loss"),
    "alpha_one": ("mistake", "at alpha = 1 the loss is another one", "keep both terms in one formula"),
    "overflow": (
        "mistake",
        "the loss overflows",
        "use log_softmax in place of log(softmax(...)), and compute half precision in float32",
    ),
    "sure_teacher": (
        "warning",
        "the loss is not finite when the teacher is sure",
        "use F.kl_div or torch.xlogy, which take 0·log 0 as 0, and compute half precision in float32",
    ),
    "positions": (
        "warning",
        "with logits (N, L, K) the loss is another one",
        "flatten to (N·L, K) before the loss if your logits are sequences",
    ),
    "channels": (
        "note",
        "with three axes it takes the classes on axis 1, (N, K, L), and not on the last",
        "for logits (N, L, K) use dim=-1",
    ),
    "two_axes": ("note", "it takes logits (N, K) alone", "no change is needed if your logits have two axes"),
    "per_example": ("note", "it returns one loss for each example; their mean was checked", "no change is needed"),
    "fixed_temperature": (
        "note",
        "it has no temperature that can be chosen, so the factor T² was judged at one temperature",
        "make the temperature a parameter to have it checked at several",
    ),
    "unexplained": (
        "mistake",
        "the loss is not the distillation loss, and no known mistake explains the difference",
        "compare it with limbeck.losses.kd term by term",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a loss, or worth knowing.

    Attributes:
        kind: its name, such as "missing_t2".
        level: "mistake", "warning" (wrong in some uses) or "note".
        what: one sentence.
        evidence: what was measured.
        fix: what to change.

    Example:
        >>> import limbeck as lb
        >>> report = lb.check_loss(lambda student, teacher, T: lb.losses.kl(student, teacher, temperature=T))
        >>> report.mistakes[0].kind
        'missing_t2'
    """

    kind: str
    level: Level
    what: str
    evidence: str
    fix: str

    @property
    def line(self) -> str:
        """What is wrong, what was measured and what to change, on one line."""
        measured = f" ({self.evidence})" if self.evidence else ""
        return f"{self.what}{measured}; {self.fix}"

    def __str__(self) -> str:
        return f"{self.level}: {self.line}"


def finding(kind: str, evidence: str = "", *, level: Level | None = None) -> Finding:
    """Return a finding with the words of its kind."""
    usual, what, fix = _KINDS[kind]
    return Finding(kind, level or usual, what, evidence, fix)


@dataclass(frozen=True)
class Measured:
    """What a loss gave at one temperature beside the reference.

    Attributes:
        temperature: T.
        value: of the loss.
        reference: the value of the reference with the same inputs and weights.
        gradient: the length of its gradient, as a share of the reference's.
        cosine: between the two gradients.
    """

    temperature: float
    value: float
    reference: float
    gradient: float
    cosine: float


@dataclass(frozen=True)
class LossReport:
    """What `check_loss` found.

    Attributes:
        loss: the name of the loss.
        called: how it was called.
        findings: mistakes first, then warnings and notes.
        measured: values and gradients at each temperature.

    Example:
        >>> import limbeck as lb
        >>> report = lb.check_loss(lb.losses.kd)
        >>> report.right, len(report.findings), [each.temperature for each in report.measured]
        (True, 0, [1.0, 2.0, 4.0])
    """

    loss: str
    called: str
    findings: tuple[Finding, ...]
    measured: tuple[Measured, ...]

    @property
    def mistakes(self) -> tuple[Finding, ...]:
        """The findings that are mistakes."""
        return tuple(each for each in self.findings if each.level == "mistake")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(each for each in self.findings if each.level == "warning")

    @property
    def right(self) -> bool:
        """Whether no mistake was found."""
        return not self.mistakes

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON writes it."""
        return {**asdict(self), "right": self.right}

    def __str__(self) -> str:
        verdict = "no mistake found" if self.right else f"{len(self.mistakes)} found wrong"
        return "\n".join([f"{self.loss}: {verdict}", f"called as {self.called}", *map(str, self.findings)])


def ratio(value: float) -> str:
    """Return a ratio as a person says it.

    >>> ratio(0.0625), ratio(16.0000001), ratio(1.37), ratio(1.0)
    ('1/16', '16 times', '1.37 times', 'equal to')
    """
    if abs(value - 1) < 1e-3:
        return "equal to"
    for number in (value, 1 / value if value else 0.0):
        if number > 1 and abs(number - round(number)) < 1e-3 * number and number < 1e4:
            return f"{round(number)} times" if number == value else f"1/{round(number)}"
    return f"{value:.3g} times"


def ratios(values: Sequence[tuple[str, float]], of: str) -> str:
    """Return ratios at several settings in one clause.

    >>> ratios([("T = 1", 1.0), ("T = 4", 1 / 16)], "the reference")
    'equal to the reference at T = 1, and 1/16 of it at T = 4'
    """
    parts = []
    for number, (where, value) in enumerate(values):
        said, it = ratio(value), "it" if number else of
        parts.append(f"{said} {it if not said.startswith('1/') else f'of {it}'} at {where}")
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
