"""Schemes: a recipe carried out: who teaches whom, and when, is said by its plan (`limbeck.plans`)."""

from limbeck.schemes.assessing import AssessedModel, RunAssessment, assess_run
from limbeck.schemes.attempting import Bench
from limbeck.schemes.distilling import distil
from limbeck.schemes.finished import FinishedRun
from limbeck.schemes.outcome import Outcome, RoleOutcome, SeedOutcome
from limbeck.schemes.preparing import Parts, Shop, build_student, prepare, vet
from limbeck.schemes.tasks import TaskAssessment, TaskModel
from limbeck.schemes.teaching import train_teacher
from limbeck.schemes.work import Work

__all__ = [
    "AssessedModel",
    "Bench",
    "FinishedRun",
    "Outcome",
    "Parts",
    "RoleOutcome",
    "RunAssessment",
    "SeedOutcome",
    "Shop",
    "TaskAssessment",
    "TaskModel",
    "Work",
    "assess_run",
    "build_student",
    "distil",
    "prepare",
    "train_teacher",
    "vet",
]
