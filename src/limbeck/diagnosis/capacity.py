"""Whether a student is held back by its capacity, by its training, by its teacher or by its data."""

from dataclasses import dataclass
from typing import Literal

from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds
from limbeck.evaluation import Fidelity

__all__ = ["Capacity", "Fit", "Limit", "asks_larger", "asks_longer", "judge_capacity"]

Limit = Literal["teacher", "data", "optimisation", "capacity", "unlearnable"]


@dataclass(frozen=True)
class Fit:
    """A network that was asked to say what the teacher says, and nothing else.

    name: "student", "longer" or "larger".  train, held_out: its fidelity.  accuracy: on held-out data.
    """

    name: str
    epochs: int
    parameters: int
    train: Fidelity
    held_out: Fidelity
    accuracy: float

    @property
    def disagreement(self) -> float:
        """Share of the training examples on which it differs from the teacher."""
        return 1.0 - self.train.agreement


@dataclass(frozen=True)
class Capacity:
    """What holds the student back, and the fits that say so."""

    limit: Limit
    fits: tuple[Fit, ...]
    reason: str


def asks_longer(student: Fit, *, thresholds: Thresholds = THRESHOLDS) -> bool:
    """Return whether `judge_capacity` reads a longer fit: it does not where the student has learnt its teacher."""
    return student.disagreement > thresholds.small_disagreement


def asks_larger(student: Fit, longer: Fit, *, thresholds: Thresholds = THRESHOLDS) -> bool:
    """Return whether `judge_capacity` reads the fit of a larger network: it does not where a longer one is enough."""
    enough = max(thresholds.small_disagreement, (1.0 - thresholds.better_fit) * student.disagreement)
    return asks_longer(student, thresholds=thresholds) and longer.disagreement > enough


def judge_capacity(
    student: Fit, longer: Fit | None, larger: Fit | None, *, thresholds: Thresholds = THRESHOLDS
) -> Capacity:
    """Decide by explicit rules, in this order, what holds a student back (fidelity after Stanton et al. 2021).

    student: fitted with the recipe's budget.  longer: the same with more epochs, None where `asks_longer` is false.
    larger: of the teacher's kind, with the recipe's budget; None where there is none, or `asks_larger` is false.

    On the training examples, d is the share on which a network differs from the teacher:
    1. d(student) is small, and it is on held-out data: "teacher", whose errors it has taken over;
    2. d(student) is small on the training examples alone: "data", too few for it to follow the teacher elsewhere;
    3. d(longer) is small, or a longer fit takes most of d away: "optimisation";
    4. a larger network takes most of d(longer) away, or there is none to ask: "capacity";
    5. a longer fit takes some of d away: "optimisation" again, as all of them are still learning;
    6. else "unlearnable": a network of the teacher's own kind cannot learn what it says either.
    """
    small, cure = thresholds.small_disagreement, 1.0 - thresholds.better_fit
    fits = tuple(fit for fit in (student, longer, larger) if fit is not None)
    d = {fit.name: fit.disagreement for fit in fits}
    elsewhere = 1.0 - student.held_out.agreement
    first = f"the student differs from the teacher on {d['student']:.1%} of the training examples"
    if not asks_longer(student, thresholds=thresholds):
        if elsewhere <= 2 * small:
            return Capacity("teacher", fits, f"{first} and on {elsewhere:.1%} of the held-out ones: it has learnt it")
        return Capacity("data", fits, f"{first}, but on {elsewhere:.1%} of the held-out ones")
    if longer is None:
        raise ValueError("a longer fit is requested")
    longer_words = f"{first}, after {longer.epochs} epochs instead of {student.epochs} on {d['longer']:.1%}"
    if not asks_larger(student, longer, thresholds=thresholds):
        return Capacity("optimisation", fits, longer_words)
    if larger is None:
        return Capacity("capacity", fits, f"{longer_words}; no network of the teacher's kind was there to compare")
    both = f"{longer_words}; a network of the teacher's kind on {d['larger']:.1%}"
    if d["larger"] <= small or d["larger"] <= cure * d["longer"]:
        return Capacity("capacity", fits, both)
    learning = d["longer"] <= (1.0 - thresholds.still_learning) * d["student"]
    return Capacity("optimisation" if learning else "unlearnable", fits, both)
