"""Training: the one loop, its settings, checkpoints and stages."""

from limbeck.training.apart import fit_apart
from limbeck.training.averaging import MeanOfWeights, WeightAverage, improves_no_more
from limbeck.training.job import Job
from limbeck.training.loop import fit
from limbeck.training.optimizers import constrain_norms
from limbeck.training.progress import Observer, Progress
from limbeck.training.settings import Averaging, Mean, Training
from limbeck.training.stages import Stage, fit_stages
from limbeck.training.state import Result
from limbeck.training.together import attempt_many, fit_many
from limbeck.training.transformers import TrainerModel
from limbeck.training.weights import load_weights, save_weights

__all__ = [
    "Averaging",
    "Job",
    "Mean",
    "MeanOfWeights",
    "Observer",
    "Progress",
    "Result",
    "Stage",
    "TrainerModel",
    "Training",
    "WeightAverage",
    "attempt_many",
    "constrain_norms",
    "fit",
    "fit_apart",
    "fit_many",
    "fit_stages",
    "improves_no_more",
    "load_weights",
    "save_weights",
]
