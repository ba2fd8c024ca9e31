"""Teachers: anything that answers a batch with `Outputs`, without gradient, in eval."""

from limbeck.teachers.arrays import ArrayTeacher
from limbeck.teachers.copied import copy_blocks
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.graft import Graft, graft
from limbeck.teachers.mean import MeanOfModels
from limbeck.teachers.model import ModelTeacher, state_digest
from limbeck.teachers.predict import PredictTeacher
from limbeck.teachers.restricted import RestrictedModel
from limbeck.teachers.stored import StoredTeacher, store

__all__ = [
    "ArrayTeacher",
    "EnsembleTeacher",
    "Graft",
    "MeanOfModels",
    "ModelTeacher",
    "PredictTeacher",
    "RestrictedModel",
    "StoredTeacher",
    "copy_blocks",
    "graft",
    "state_digest",
    "store",
]
