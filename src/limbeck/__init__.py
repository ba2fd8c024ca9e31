"""limbeck: knowledge distillation for PyTorch, exact and composable.

Names are imported when they are first used, so that `limbeck --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck import (
        cache,
        compress,
        data,
        errors,
        evaluation,
        generation,
        losses,
        methods,
        models,
        projections,
        schedules,
        targets,
        tasks,
        teachers,
        terms,
        tokenizers,
        training,
    )
    from limbeck.batch import UNLABELLED, Batch
    from limbeck.cache import CachedTeacher, import_answers
    from limbeck.distiller import Distiller
    from limbeck.errors import LimbeckError
    from limbeck.evaluation import evaluate
    from limbeck.loss_check import LossReport, check_loss
    from limbeck.objective import Loss, Objective, Part, Term
    from limbeck.outputs import Outputs, Tap, capture
    from limbeck.profiling import Profile
    from limbeck.results.export import export
    from limbeck.results.student import TrainedModel, load
    from limbeck.teacher import Teacher
    from limbeck.teachers import ArrayTeacher, EnsembleTeacher, ModelTeacher, PredictTeacher, StoredTeacher, store
    from limbeck.training import Progress, Result, Stage, Training, fit, fit_many, fit_stages

__version__ = "0.2.0"

__all__ = [
    "UNLABELLED",
    "ArrayTeacher",
    "Batch",
    "CachedTeacher",
    "Distiller",
    "EnsembleTeacher",
    "LimbeckError",
    "Loss",
    "LossReport",
    "ModelTeacher",
    "Objective",
    "Outputs",
    "Part",
    "PredictTeacher",
    "Profile",
    "Progress",
    "Result",
    "Stage",
    "StoredTeacher",
    "Tap",
    "Teacher",
    "Term",
    "TrainedModel",
    "Training",
    "cache",
    "capture",
    "check_loss",
    "compress",
    "data",
    "errors",
    "evaluate",
    "evaluation",
    "export",
    "fit",
    "fit_many",
    "fit_stages",
    "generation",
    "import_answers",
    "load",
    "losses",
    "methods",
    "models",
    "projections",
    "schedules",
    "store",
    "targets",
    "tasks",
    "teachers",
    "terms",
    "tokenizers",
    "training",
]

_HOMES = {
    "batch": ("UNLABELLED", "Batch"),
    "cache": ("CachedTeacher", "import_answers"),
    "distiller": ("Distiller",),
    "errors": ("LimbeckError",),
    "evaluation": ("evaluate",),
    "loss_check": ("LossReport", "check_loss"),
    "objective": ("Loss", "Objective", "Part", "Term"),
    "outputs": ("Outputs", "Tap", "capture"),
    "profiling": ("Profile",),
    "results.export": ("export",),
    "results.student": ("TrainedModel", "load"),
    "teacher": ("Teacher",),
    "teachers": ("ArrayTeacher", "EnsembleTeacher", "ModelTeacher", "PredictTeacher", "StoredTeacher", "store"),
    "training": ("Progress", "Result", "Stage", "Training", "fit", "fit_many", "fit_stages"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"limbeck.{_HOME[name]}"), name)
    elif name in __all__:
        value = importlib.import_module(f"limbeck.{name}")
    else:
        raise AttributeError(f"module 'limbeck' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
