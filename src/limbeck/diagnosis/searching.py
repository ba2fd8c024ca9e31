"""The same search for every arm: as many settings each, tried with one seed, the best on held-out data kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch.nn import functional as F

from limbeck.diagnosis.arms import match, objectives
from limbeck.diagnosis.hints import HintPlaces, HintSetting
from limbeck.diagnosis.students import StudentTrainer, StudentTraining, TrainedStudent
from limbeck.errors import NonFiniteLossError
from limbeck.objective import Objective

__all__ = ["CANDIDATES", "Arms", "ChosenSettings", "Setting", "search_settings", "settled"]

_STEP = 3.0  # between neighbouring learning rates
CANDIDATES = 5
"""Settings that are tried for each arm: learning rates, with soft targets temperatures too; of hints their layers and
strengths."""
_STRENGTHS = (0.1, 10.0, 0.3, 3.0)  # of hints, in shares of the best so far; two that were not tried


@dataclass(frozen=True)
class Setting:
    """How the students of an arm are trained.

    temperature: None where there is none, on hard labels.  hints: None where there are none.
    """

    learning_rate: float
    temperature: float | None
    hints: HintSetting | None = None

    def __str__(self) -> str:
        """Return the settings in words.

        >>> str(Setting(0.1, 4.0))
        'rate 0.1, T 4'
        """
        at = "" if self.temperature is None else f", T {self.temperature:g}"
        hints = "" if self.hints is None else f", {self.hints}"
        return f"rate {self.learning_rate:.3g}{at}{hints}"


class Arms:
    """The trainings of a trainer's arms, by their settings.

    places: that hints are given at, of the arm "hints".
    """

    def __init__(self, trainer: StudentTrainer, places: HintPlaces | None = None) -> None:
        self.trainer = trainer
        self.places = HintPlaces() if places is None else places
        self._makers: dict[float, Mapping[str, Callable[[], Objective]]] = {}

    def plan(self, arm: str, setting: Setting, seed: int, *, early: bool) -> StudentTraining:
        """Return a training of an arm; label smoothing and KD-sim are matched to the teacher at its temperature."""
        subject = self.trainer.subject
        temperature = subject.temperature if setting.temperature is None else setting.temperature
        if temperature not in self._makers:
            matching = match(self.trainer.answers, temperature)
            self._makers[temperature], _ = objectives(replace(subject, temperature=temperature), matching)
        objective = self._makers[temperature]["kd" if arm == "hints" else arm]()
        return StudentTraining(
            f"{arm}, {setting}",
            objective if setting.hints is None else objective + self.places.objective(setting.hints),
            seed,
            training=replace(subject.training, learning_rate=setting.learning_rate),
            early=early,
        )

    def usual(self, arm: str) -> Setting:
        """Return the subject's own settings; hints are given at the deepest layer."""
        subject = self.trainer.subject
        hints = self.places.choices()[0] if arm == "hints" else None
        return Setting(subject.training.learning_rate, None if arm == "hard" else subject.temperature, hints)


@dataclass(frozen=True, eq=False)
class ChosenSettings:
    """The settings of every arm, and the students that were trained to find them.

    known: by arm and setting, of the seed that was searched with.
    """

    arms: Arms
    chosen: Mapping[str, Setting]
    known: Mapping[tuple[str, Setting], TrainedStudent]


def settled(trainer: StudentTrainer, arms: Sequence[str], places: HintPlaces | None = None) -> ChosenSettings:
    """Return the subject's own settings for every arm, without a search."""
    own = Arms(trainer, places)
    return ChosenSettings(own, {arm: own.usual(arm) for arm in arms}, {})


def search_settings(
    trainer: StudentTrainer,
    arms: Sequence[str],
    seed: int,
    *,
    places: HintPlaces | None = None,
    early: Callable[[str], bool] = lambda arm: False,
    say: Callable[[str], None] = lambda line: None,
) -> ChosenSettings:
    """Choose for every arm among `CANDIDATES` settings the one with the fewest held-out errors.

    On hard labels they are learning rates: the subject's, thrice and nine times as much, a third and a ninth.  With
    soft targets they are three rates at the subject's temperature, and then, at the best of them, two other
    temperatures; label smoothing and KD-sim are matched to the teacher at each (see `match`).
    Hints are tried last, at the rate and temperature that were chosen for "kd": at the deepest layers, at those in the
    middle, with a third of the rate, and then, at the best of these, with two other strengths.
    Each arm is offered as many settings, so that none gains more than another from being measured where it was chosen.
    A setting whose loss is no longer finite is passed over; NonFiniteLossError where none of an arm is left.  Hints are
    left out then.
    """
    own = Arms(trainer, places)
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
    by_target = [arm for arm in arms if arm != "hints"]
    attempt([(arm, setting) for arm in by_target for setting in _rates(own.usual(arm))])
    softened = [(arm, best(arm)) for arm in by_target if own.usual(arm).temperature is not None]
    attempt([(arm, setting) for arm, found in softened for setting in _temperatures(found)])
    chosen = {arm: best(arm) for arm in by_target}
    if "hints" in arms:
        first = _hinted(chosen["kd"], own.places)
        attempt([("hints", setting) for setting in first])
        found = best("hints") if any(arm == "hints" for arm, _ in known) else first[-1]
        attempt([("hints", setting) for setting in _strengths(found, first)[: CANDIDATES - len(first)]])
        if any(arm == "hints" for arm, _ in known):
            chosen["hints"] = best("hints")
    for arm, setting in chosen.items():
        say(f"search, {arm}: {setting}")
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


def _hinted(base: Setting, places: HintPlaces) -> list[Setting]:
    """Return the first settings of hints: at the deepest layers; in the middle, or else weaker; with a lower rate."""
    deepest, *others = places.choices()
    other = others[0] if others else replace(deepest, strength=_STRENGTHS[0] * deepest.strength)
    lower = base.learning_rate / _STEP
    return [
        *(replace(base, hints=each) for each in (deepest, other)),
        replace(base, hints=deepest, learning_rate=lower),
    ]


def _strengths(found: Setting, tried: Sequence[Setting]) -> list[Setting]:
    """Return the same layers with other strengths of the hints, those farthest apart first, without those tried."""
    hints = found.hints
    if hints is None:
        return []
    settings = [replace(found, hints=replace(hints, strength=share * hints.strength)) for share in _STRENGTHS]
    return [each for each in settings if each not in tried]


def _score(trainer: StudentTrainer, student: TrainedStudent) -> tuple[float, float]:
    """Return held-out errors and nll, both to be small; of equals the first that was tried is kept."""
    labels = trainer.answers.held_out_labels
    errors = float((student.held_out.argmax(1) != labels).sum())
    return errors, float(F.cross_entropy(student.held_out.double(), labels))
