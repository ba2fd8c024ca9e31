"""Specialists beside a generalist: which classes they know, how they are made, and how they answer together."""

from limbeck.teachers.specialists.answering import Answer, answer, covering
from limbeck.teachers.specialists.cells import CERTIFIED
from limbeck.teachers.specialists.groups import cluster_classes, confusion_columns, covariance_columns, named_groups
from limbeck.teachers.specialists.specialist import Specialist, dustbin_shift, specialise
from limbeck.teachers.specialists.teacher import GeneralistWithSpecialists, SpecialistTeacher, take_specialist

__all__ = [
    "CERTIFIED",
    "Answer",
    "GeneralistWithSpecialists",
    "Specialist",
    "SpecialistTeacher",
    "answer",
    "cluster_classes",
    "confusion_columns",
    "covariance_columns",
    "covering",
    "dustbin_shift",
    "named_groups",
    "specialise",
    "take_specialist",
]
