"""Specialists beside a generalist: which classes they know, how they are made, and how they answer together."""

from limbeck.teachers.specialists.answering import Answer, answer, covering
from limbeck.teachers.specialists.cells import CERTIFIED
from limbeck.teachers.specialists.groups import cluster_classes, confusion_columns, covariance_columns, named_groups

__all__ = [
    "CERTIFIED",
    "Answer",
    "answer",
    "cluster_classes",
    "confusion_columns",
    "covariance_columns",
    "covering",
    "named_groups",
]
