"""The same search for every arm: as many settings each, tried with one seed, the best on held-out data kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch.nn import functional as F

from limbeck.diagnosis.arms import match, objectives
from limbeck.diagnosis.classroom import Classroom, Lesson, Pupil
from limbeck.errors import NonFiniteLossError
from limbeck.objective import Objective

__all__ = ["CANDIDATES", "Arms", "Schooling", "Setting", "search_settings", "settled"]

_STEP = 3.0  # between neighbouring learning rates
CANDIDATES = 5
"""Settings that are tried for each arm: learning rates, and of an arm with soft targets temperatures too."""


@dataclass(frozen=True)
class Setting:
    """How the students of an arm are trained.  temperature: None where there is none, on hard labels."""

    learning_rate: float
    temperature: float | None


class Arms:
    """The trainings of a classroom's arms, by their settings."""

    def __init__(self, classroom: Classroom) -> None:
        self.classroom = classroom
        self._makers: dict[float, Mapping[str, Callable[[], Objective]]] = {}

    def lesson(self, arm: str, setting: Setting, seed: int, *, early: bool) -> Lesson:
        """Return a training of an arm; label smoothing and KD-sim are matched to the teacher at its temperature."""
        subject = self.classroom.subject
        temperature = subject.temperature if setting.temperature is None else setting.temperature
        if temperature not in self._makers:
            matching = match(self.classroom.answers, temperature)
            self._makers[temperature], _ = objectives(replace(subject, temperature=temperature), matching)
        at = "" if setting.temperature is None else f", T {setting.temperature:g}"
        return Lesson(
            f"{arm}, rate {setting.learning_rate:g}{at}",
            self._makers[temperature][arm](),
            seed,
            training=replace(subject.training, learning_rate=setting.learning_rate),
            early=early,
        )

    def usual(self, arm: str) -> Setting:
        """Return the subject's own settings."""
        subject = self.classroom.subject
        return Setting(subject.training.learning_rate, None if arm == "hard" else subject.temperature)


@dataclass(frozen=True, eq=False)
class Schooling:
    """The settings of every arm, and the students that were trained to find them.

    known: by arm and setting, of the seed that was searched with.
    """

    arms: Arms
    chosen: Mapping[str, Setting]
    known: Mapping[tuple[str, Setting], Pupil]


def settled(classroom: Classroom, arms: Sequence[str]) -> Schooling:
    """Return the subject's own settings for every arm, without a search."""
    own = Arms(classroom)
    return Schooling(own, {arm: own.usual(arm) for arm in arms}, {})


def search_settings(
    classroom: Classroom,
    arms: Sequence[str],
    seed: int,
    *,
    early: Callable[[str], bool] = lambda arm: False,
    say: Callable[[str], None] = lambda line: None,
) -> Schooling:
    """Choose for every arm among `CANDIDATES` settings the one with the fewest held-out errors.

    On hard labels they are learning rates: the subject's, thrice and nine times as much, a third and a ninth.  With
    soft targets they are three rates at the subject's temperature, and then, at the best of them, two other
    temperatures; label smoothing and KD-sim are matched to the teacher at each (see `match`).
    Each arm is offered as many settings, so that none gains more than another from being measured where it was chosen.
    A setting whose loss is no longer finite is passed over; NonFiniteLossError where none of an arm is left.
    """
    own = Arms(classroom)
    known: dict[tuple[str, Setting], Pupil] = {}
    errors: dict[tuple[str, Setting], NonFiniteLossError] = {}

    def attempt(wanted: Sequence[tuple[str, Setting]]) -> None:
        lessons = [own.lesson(arm, setting, seed, early=early(arm)) for arm, setting in wanted]
        for key, outcome in zip(wanted, classroom.attempt_all(lessons), strict=True):
            if isinstance(outcome, Pupil):
                known[key] = outcome
            else:
                errors[key] = outcome

    def best(arm: str) -> Setting:
        scored = {setting: _score(classroom, pupil) for (of, setting), pupil in known.items() if of == arm}
        if not scored:
            raise next(error for (of, _), error in errors.items() if of == arm)
        return min(scored, key=lambda setting: scored[setting])

    say(f"search: {CANDIDATES} settings for each of {len(arms)} kinds of students, with one seed")
    attempt([(arm, setting) for arm in arms for setting in _rates(own.usual(arm))])
    softened = [(arm, best(arm)) for arm in arms if own.usual(arm).temperature is not None]
    attempt([(arm, setting) for arm, found in softened for setting in _temperatures(found)])
    chosen = {arm: best(arm) for arm in arms}
    for arm, setting in chosen.items():
        at = "" if setting.temperature is None else f", T = {setting.temperature:g}"
        say(f"search, {arm}: learning rate {setting.learning_rate:g}{at}")
    return Schooling(own, chosen, known)


def _rates(usual: Setting) -> list[Setting]:
    """Return the usual rate first, so that it is kept where others are no better."""
    powers = (0, 1, -1, 2, -2) if usual.temperature is None else (0, 1, -1)
    return [replace(usual, learning_rate=usual.learning_rate * _STEP**power) for power in powers]


def _temperatures(found: Setting) -> list[Setting]:
    """Return half and twice the temperature; where half would sharpen, twice and four times."""
    if found.temperature is None:
        return []
    factors = (0.5, 2.0) if found.temperature >= 2 else (2.0, 4.0)
    return [replace(found, temperature=factor * found.temperature) for factor in factors]


def _score(classroom: Classroom, pupil: Pupil) -> tuple[float, float]:
    """Return held-out errors and nll, both to be small; of equals the first that was tried is kept."""
    labels = classroom.answers.held_out_labels
    errors = float((pupil.held_out.argmax(1) != labels).sum())
    return errors, float(F.cross_entropy(pupil.held_out.double(), labels))
