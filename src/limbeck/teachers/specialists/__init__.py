"""Specialists beside a generalist: how they answer together."""

from limbeck.teachers.specialists.answering import Answer, answer, covering
from limbeck.teachers.specialists.cells import CERTIFIED

__all__ = ["CERTIFIED", "Answer", "answer", "covering"]
