"""A method as a weighted, scheduled sum of named terms."""

from limbeck.objective.loss import Loss, Part
from limbeck.objective.objective import Objective
from limbeck.objective.term import Setup, Term, TermAround

__all__ = ["Loss", "Objective", "Part", "Setup", "Term", "TermAround"]
