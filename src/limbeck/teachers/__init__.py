"""Teachers: anything that answers a batch with `Outputs`, without gradient, in eval."""

from limbeck.teachers.mean import MeanOfModels
from limbeck.teachers.model import ModelTeacher, state_digest
from limbeck.teachers.stored import StoredTeacher, store

__all__ = ["MeanOfModels", "ModelTeacher", "StoredTeacher", "state_digest", "store"]
