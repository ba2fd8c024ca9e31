"""The numbers that the rules of the diagnosis read, gathered in one flat record."""

from dataclasses import dataclass

from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.confidence import confidence
from limbeck.diagnosis.inputs import TeacherAnswers
from limbeck.diagnosis.relations import (
    class_correlation,
    off_diagonal,
    other_classes,
    seconded,
    seconded_classes,
)
from limbeck.diagnosis.students import TrainedStudent
from limbeck.records import Number

__all__ = ["HIGH", "Signs", "read_signs"]

HIGH = 10.0
"""The high temperature of the class correlations."""


@dataclass(frozen=True)
class Signs:
    """What was measured, as plain numbers; None where it cannot be.

    train_accuracy, accuracy: of the teacher on training and held-out data.  overconfidence, temperature: on held-out
    data, see `Confidence`.  epsilon, evenness, tightness: on held-out data, see `OtherClasses`.
    reliability, class_share: on training data, see there.  correlation_spread: standard deviation of the class
    correlations at a high temperature.  seconded: agreement with an independent student beside the label, on held-out
    data.  seconded_classes: the same of which classes are alike, on training data.
    student_accuracy: of that student, trained on hard labels.  limit: what holds the student back.
    """

    classes: int
    train_accuracy: float
    accuracy: float
    overconfidence: float
    temperature: float | None
    epsilon: float
    evenness: Number
    tightness: Number
    reliability: float | None
    class_share: float | None
    correlation_spread: float
    seconded: float | None
    seconded_classes: float | None
    student_accuracy: float
    limit: str | None


def read_signs(answers: TeacherAnswers, alone: TrainedStudent, capacity: Capacity | None) -> Signs:
    """Read the signs off a teacher's answers and a student's that was trained on hard labels.

    alone: that student.  capacity: None where it was not looked into.
    """
    sure, on_training = (
        confidence(logits, labels)
        for logits, labels in (
            (answers.held_out, answers.held_out_labels),
            (answers.on_probe, answers.probe_labels),
        )
    )
    beside = other_classes(answers.held_out, answers.held_out_labels)
    relations = other_classes(answers.on_probe, answers.probe_labels)
    return Signs(
        classes=answers.train.shape[1],
        train_accuracy=on_training.accuracy,
        accuracy=sure.accuracy,
        overconfidence=sure.overconfidence,
        temperature=sure.temperature,
        epsilon=beside.epsilon,
        evenness=beside.evenness,
        tightness=beside.tightness,
        reliability=relations.reliability,
        class_share=relations.class_share,
        correlation_spread=float(
            off_diagonal(class_correlation(answers.on_probe, HIGH)).nan_to_num().std(correction=0)
        ),
        seconded=seconded(answers.held_out, alone.held_out, answers.held_out_labels),
        seconded_classes=seconded_classes(answers.on_probe, alone.probe, answers.probe_labels),
        student_accuracy=float((alone.held_out.argmax(1) == answers.held_out_labels).double().mean()),
        limit=None if capacity is None else capacity.limit,
    )
