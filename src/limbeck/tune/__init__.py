"""Choosing temperature and the rest on held-out data."""

from limbeck.tune.space import Choices, Range, Space, read_space, usual_space
from limbeck.tune.study import Trial, Tuned, check_study, tune

__all__ = ["Choices", "Range", "Space", "Trial", "Tuned", "check_study", "read_space", "tune", "usual_space"]
