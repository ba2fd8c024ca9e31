"""How far networks can follow the teacher: fits of its soft targets alone."""

from collections.abc import Callable, Sequence

from limbeck import methods
from limbeck.diagnosis.capacity import Capacity, Fit, asks_larger, asks_longer, judge_capacity
from limbeck.diagnosis.students import StudentTrainer, StudentTraining, TrainedStudent
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds
from limbeck.evaluation import fidelity, parameters
from limbeck.objective import Objective

__all__ = ["look_into_capacity"]

_LONGER = 3  # times the epochs


def look_into_capacity(
    trainer: StudentTrainer,
    seed: int,
    *,
    needed: bool = False,
    thresholds: Thresholds = THRESHOLDS,
    say: Callable[[str], None] = lambda line: None,
) -> Capacity:
    """Fit the teacher's soft targets alone: with the student, with the student for longer, with the teacher's kind.

    needed: only the fits that the verdict asks for, which is the same with all of them.
    """

    def objective() -> Objective:
        return methods.kd(temperature=trainer.subject.temperature, soft_weight=1.0)

    plans = {
        "student": StudentTraining("soft targets alone", objective(), seed),
        "longer": StudentTraining("soft targets alone, for longer", objective(), seed, times=_LONGER),
    }
    if trainer.subject.larger is not None:
        plans["larger"] = StudentTraining("soft targets alone, the teacher's kind", objective(), seed, larger=True)

    def fitted(names: Sequence[str]) -> dict[str, Fit]:
        present = [name for name in names if name in plans]
        students = trainer.train_all([plans[name] for name in present])
        return {name: _fit(name, student, trainer) for name, student in zip(present, students, strict=True)}

    if not needed:
        say(f"{len(plans)} fits of the teacher's soft targets: the student, for longer, and the teacher's kind")
        fits = fitted(["student", "longer", "larger"])
    else:
        say("a fit of the teacher's soft targets, and a longer and a larger one where they are asked for")
        fits = fitted(["student"])
        if asks_longer(fits["student"], thresholds=thresholds):
            fits |= fitted(["longer"])
            if asks_larger(fits["student"], fits["longer"], thresholds=thresholds):
                fits |= fitted(["larger"])
    return judge_capacity(fits["student"], fits.get("longer"), fits.get("larger"), thresholds=thresholds)


def _fit(name: str, student: TrainedStudent, trainer: StudentTrainer) -> Fit:
    answers = trainer.answers
    return Fit(
        name=name,
        epochs=student.epochs,
        parameters=parameters(student.network),
        train=fidelity(student.probe, answers.on_probe, answers.probe_labels),
        held_out=fidelity(student.held_out, answers.held_out, answers.held_out_labels),
        accuracy=float((student.held_out.argmax(1) == answers.held_out_labels).double().mean()),
    )
