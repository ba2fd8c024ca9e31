"""How teacher, student alone and distilled student stand to each other, and what of it chance does not explain.

Everything that tells a gain (the page, `distill`, `evaluate`, `compare`) asks here, so that all claim the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from limbeck.arguments import checked
from limbeck.evaluation.figures import Figures, Metrics, figures_of
from limbeck.evaluation.intervals import Interval, gap_closed, t_interval
from limbeck.tasks import Task

__all__ = ["Standing", "constant_accuracy", "standing"]

_ROLES = {
    "teacher": "The teacher",
    "alone": "The student alone",
    "alone_budget": "The student alone at equal compute",
    "distilled": "The distilled student",
}
_HARDLY = 0.05
"""The share of what a constant answer gets wrong that a model must get right, to be more than chance."""
_ENOUGH = 3
"""Seeds from which on an interval over seeds tells something: Student's t of two is 12.7 standard errors."""
_Z = 1.96
_AGAINST = {1: "is better than {}", 0: "differs from {} by no more than chance", -1: "is worse than {}"}


@dataclass(frozen=True)
class Standing:
    """What the test figures of a run support.

    Attributes:
        failures: a clause for each model that failed (near chance, or diverged) and is no baseline.
        share: of the gap to the teacher that was closed, if gap and gain are beyond noise; else None.
        said: a headline without figures and without a full stop.

    Example:
        >>> Standing(failures=(), share=None, said="no difference is beyond noise").failures
        ()
    """

    failures: tuple[str, ...]
    share: Interval | None
    said: str


@checked
def constant_accuracy(labels: Tensor, task: Task) -> float:
    """Return the accuracy of the best constant answer.

    Args:
        labels: as the set has them; unlabelled samples and places are not counted.
        task: what the labels are.

    Returns:
        A share in [0, 1]; for a regression R², which is 0.

    Example:
        >>> from limbeck.tasks import CLASSIFICATION
        >>> constant_accuracy(torch.tensor([0, 1, 1, 1, -100]), CLASSIFICATION)
        0.75
    """
    return figures_of(task).constant_accuracy(labels)


@checked
def standing(
    found: Mapping[str, Sequence[Metrics]],
    constant: float,
    task: Task,
    *,
    teaches: bool = True,
    compressed: bool = False,
) -> Standing:
    """Judge what the test figures of a run support.

    A difference is beyond noise if its t-interval over three or more seeds excludes 0.  With fewer seeds it is beyond
    noise if it exceeds 1.96 standard errors of two independent counts of errors; if errors are not counts of examples
    (`Figures.by_example`), it never is.

    Args:
        found: {role: figures, one for each seed in the same order}, with the roles "teacher", "alone" and "distilled";
            a teacher that all seeds share is repeated.
        constant: the accuracy of the best constant answer, see `constant_accuracy`.
        task: of the test set.
        teaches: whether the distilled student learns from this teacher; if not, the two are not compared.
        compressed: whether the distilled student was made smaller than the one trained alone.

    Returns:
        Failures, share of the gap closed, and a headline.

    Example:
        >>> from limbeck.tasks import CLASSIFICATION
        >>> errors = {"teacher": 100, "alone": 499, "distilled": 90}
        >>> found = {role: [Metrics(1000, n, 1 - n / 1000, 0.5)] for role, n in errors.items()}
        >>> standing(found, 0.501, CLASSIFICATION).failures[0][:59]
        'The student alone is no better than one answer for all test'
    """
    figures = figures_of(task)
    judged = [role for role in _ROLES if teaches or role != "teacher"]
    failures = {
        role: said for role in judged if role in found and (said := _failure(role, found[role], constant, figures))
    }
    teacher, alone, distilled = (found[role] for role in ("teacher", "alone", "distilled"))
    if failures:
        kept = tuple(failures.values())
        if "alone" in failures or "teacher" in failures:
            gap_to = "The share of the gap to the teacher is not given" if teaches else "The gain is not given"
            return Standing(kept, None, f"{gap_to}, since {'one of the two models' if teaches else 'it'} failed")
        return Standing(kept, None, "Distillation failed")
    gap, gain, above = (
        _moved(one, two, figures) for one, two in ((alone, teacher), (alone, distilled), (teacher, distilled))
    )
    if not teaches:
        second = _AGAINST[gain].format("the student alone")
        return Standing((), None, f"The recipe's reference network teaches nobody; the distilled student {second}")
    if gap == 0 and len(alone) < _ENOUGH and not figures.by_example:
        seeds = "One seed" if len(alone) == 1 else "These seeds"
        said = "cannot show whether the teacher is better than the student alone, or what distillation gained"
        return Standing((), None, f"{seeds} {said}")
    if gap <= 0:
        first = "The teacher is worse" if gap < 0 else "The teacher is not better by more than chance"
        second = _AGAINST[gain].format("it" if gain == 0 else "the student alone")
        return Standing(
            (), None, f"{first} than the student alone, so there is no gap to close; the distilled student {second}"
        )
    share = gap_closed(
        fmean(each.errors for each in teacher), [each.errors for each in alone], [each.errors for each in distilled]
    )
    few = len(alone) < _ENOUGH
    if share is None or gain == 0 or (not few and share.low <= 0 and share.high >= 1):
        seeds = "One seed" if len(alone) == 1 else "These seeds"
        return Standing((), None, f"{seeds} cannot show what share of the gap to the teacher distillation closed")
    share = Interval(share.mean, None, share.n) if few else share
    if share.mean > 1 and above > 0:
        said = "The distilled student does better than the teacher"
    elif share.mean > 1:
        said = "The distilled student is as good as the teacher, within the uncertainty"
    elif share.mean > 0:
        said = f"Distillation closed {100 * share.mean:.0f} % of the gap to the teacher"
    else:
        worse = "The compressed student does worse than the student alone, which is larger"
        said = worse if compressed else "Distillation did not help"
    return Standing((), share, said)


def _failure(role: str, found: Sequence[Metrics], constant: float, figures: Figures) -> str | None:
    """Say that a model failed, in how many of the seeds, and how; None where none did."""
    diverged = [each for each in found if not math.isfinite(each.nll) or not math.isfinite(each.accuracy)]
    near = [each for each in found if each not in diverged and _near(each, constant, figures)]
    failed = len(diverged) + len(near)
    if not failed:
        return None
    where = "" if len(found) == 1 else f", in {failed} of {len(found)} seeds"
    if not near:
        return f"{_ROLES[role]} diverged (its NLL or accuracy is not finite){where}"
    worst = figures.accuracy_text(min(each.accuracy for each in near), 1)
    told = f"{figures.accuracy} {worst}; {figures.constant_text(constant)}"
    return f"{_ROLES[role]} is no better than one answer for all test examples, or hardly ({told}){where}"


def _near(found: Metrics, constant: float, figures: Figures) -> bool:
    """Whether a model is as good as a constant answer, within noise, or hardly better."""
    if constant >= 1:
        return False  # every answer is the same, and right: nothing to tell it apart from
    room = (found.accuracy - constant) / (1 - constant)
    if not figures.share:
        return room < _HARDLY
    noise = math.sqrt(constant * (1 - constant) / found.examples) if figures.by_example else 0.0
    return found.accuracy <= constant + _Z * noise or (room < _HARDLY and found.accuracy < 2 * constant)


def _moved(one: Sequence[Metrics], two: Sequence[Metrics], figures: Figures) -> int:
    """Return 1 if `two` makes fewer errors than `one` beyond noise, -1 if more, 0 if that may be chance."""
    change = t_interval([first.errors - second.errors for first, second in zip(one, two, strict=True)])
    if change.n >= _ENOUGH:
        sure = change.low > 0 or change.high < 0
    elif figures.by_example:
        shares = [1 - fmean(each.accuracy for each in models) for models in (one, two)]
        sure = abs(change.mean) > _Z * math.sqrt(one[0].examples * sum(share * (1 - share) for share in shares))
    else:
        sure = False
    return int(math.copysign(1, change.mean)) if sure else 0
