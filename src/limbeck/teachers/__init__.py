"""Teachers: anything that answers a batch with `Outputs`, without gradient, in eval."""

from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.stored import StoredTeacher, store

__all__ = ["ModelTeacher", "StoredTeacher", "store"]
