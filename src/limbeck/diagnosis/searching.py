"""The same search for every arm: as many settings each, tried with one seed, the best on held-out data kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch.nn import functional as F

from limbeck.diagnosis.arms import match, objectives
from limbeck.diagnosis.students import StudentTrainer, StudentTraining, TrainedStudent
from limbeck.errors import NonFiniteLossError
from limbeck.objective import Objective

__all__ = ["CANDIDATES", "Arms", "ChosenSettings", "Setting", "search_settings", "settled"]

_STEP = 3.0  # between neighbouring learning rates
CANDIDATES = 5
"""Settings that are tried for each arm: learning rates, and of an arm with soft targets temperatures too."""


@dataclass(frozen=True)
class Setting:
    """How the students of an arm are trained.  temperature: None where there is none, on hard labels."""

    learning_rate: float
    temperature: float | None


class Arms:
    """The trainings of a trainer's arms, by their settings."""

    def __init__(self, trainer: StudentTrainer) -> None:
        self.trainer = trainer
        self._makers: dict[float, Mapping[str, Callable[[], Objective]]] = {}

    def plan(self, arm: str, setting: Setting, seed: int, *, early: bool) -> StudentTraining:
        """Return a training of an arm; label smoothing and KD-sim are matched to the teacher at its temperature."""
        subject = self.trainer.subject
        temperature = subject.temperature if setting.temperature is None else setting.temperature
        if temperature not in self._makers:
            matching = match(self.trainer.answers, temperature)
            self._makers[temperature], _ = objectives(replace(subject, temperature=temperature), matching)
        at = "" if setting.temperature is None else f", T {setting.temperature:g}"
        return StudentTraining(
            f"{arm}, rate {setting.learning_rate:g}{at}",
            self._makers[temperature][arm](),
            seed,
            training=replace(subject.training, learning_rate=setting.learning_rate),
            early=early,
        )

    def usual(self, arm: str) -> Setting:
        """Return the subject's own settings."""
        subject = self.trainer.subject
        return Setting(subject.training.learning_rate, None if arm == "hard" else subject.temperature)


@dataclass(frozen=True, eq=False)
class ChosenSettings:
    """The settings of every arm, and the students that were trained to find them.

    known: by arm and setting, of the seed that was searched with.
    """

    arms: Arms
    chosen: Mapping[str, Setting]
    known: Mapping[tuple[str, Setting], TrainedStudent]


def settled(trainer: StudentTrainer, arms: Sequence[str]) -> ChosenSettings:
    """Return the subject's own settings for every arm, without a search."""
    own = Arms(trainer)
    return ChosenSettings(own, {arm: own.usual(arm) for arm in arms}, {})


def search_settings(
    trainer: StudentTrainer,
    arms: Sequence[str],
    seed: int,
    *,
    early: Callable[[str], bool] = lambda arm: False,
    say: Callable[[str], None] = lambda line: None,
) -> ChosenSettings:
    """Choose for every arm among `CANDIDATES` settings the one with the fewest held-out errors.

    On hard labels they are learning rates: the subject's, thrice and nine times as much, a third and a ninth.  With
    soft targets they are three rates at the subject's temperature, and then, at the best of them, two other
    temperatures; label smoothing and KD-sim are matched to the teacher at each (see `match`).
    Each arm is offered as many settings, so that none gains more than another from being measured where it was chosen.
    A setting whose loss is no longer finite is passed over; NonFiniteLossError where none of an arm is left.
    """
    own = Arms(trainer)
    known: dict[tuple[str, Setting], TrainedStudent] = {}
    errors: dict[tuple[str, Setting], NonFiniteLossError] = {}

    def attempt(wanted: Sequence[tuple[str, Setting]]) -> None:
        plans = [own.plan(arm, setting, seed, early=early(arm)) for arm, setting in wanted]
        for key, outcome in zip(wanted, trainer.attempt_all(plans), strict=True):
            if isinstance(outcome, TrainedStudent):
                known[key] = outcome
            else:
                errors[key] = outcome

    def best(arm: str) -> Setting:
        scored = {setting: _score(trainer, student) for (of, setting), student in known.items() if of == arm}
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
    return ChosenSettings(own, chosen, known)


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


def _score(trainer: StudentTrainer, student: TrainedStudent) -> tuple[float, float]:
    """Return held-out errors and nll, both to be small; of equals the first that was tried is kept."""
    labels = trainer.answers.held_out_labels
    errors = float((student.held_out.argmax(1) != labels).sum())
    return errors, float(F.cross_entropy(student.held_out.double(), labels))
