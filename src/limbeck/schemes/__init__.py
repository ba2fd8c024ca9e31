"""Schemes: who teaches whom, and when."""

from limbeck.schemes.offline import Outcome, SeedOutcome, distil
from limbeck.schemes.preparing import Parts, build_student, prepare
from limbeck.schemes.teaching import train_teacher

__all__ = ["Outcome", "Parts", "SeedOutcome", "build_student", "distil", "prepare", "train_teacher"]
