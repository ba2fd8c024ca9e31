"""Schemes: who teaches whom, and when."""

from limbeck.schemes.assessing import AssessedModel, RunAssessment, assess_run
from limbeck.schemes.finished import FinishedRun
from limbeck.schemes.offline import Outcome, SeedOutcome, distil
from limbeck.schemes.preparing import Parts, build_student, prepare, vet
from limbeck.schemes.teaching import train_teacher

__all__ = [
    "AssessedModel",
    "FinishedRun",
    "Outcome",
    "Parts",
    "RunAssessment",
    "SeedOutcome",
    "assess_run",
    "build_student",
    "distil",
    "prepare",
    "train_teacher",
    "vet",
]
