"""Evaluation: how good a model is, and how sure one can be of it."""

from limbeck.evaluation.bias import fit_bias, with_bias
from limbeck.evaluation.intervals import Interval, gap_closed, t_interval
from limbeck.evaluation.metrics import Metrics, evaluate, measure, predict

__all__ = [
    "Interval",
    "Metrics",
    "evaluate",
    "fit_bias",
    "gap_closed",
    "measure",
    "predict",
    "t_interval",
    "with_bias",
]
