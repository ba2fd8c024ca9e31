"""Evaluation: how good a model is, what it costs, and how sure one can be of it."""

from limbeck.evaluation.assessment import Assessment, assess, assess_scores
from limbeck.evaluation.attention import AttentionMap, compare_attention, token_attention
from limbeck.evaluation.bias import fit_bias, with_bias
from limbeck.evaluation.calibration import Reliability, Temperature, ece, fit_temperature, reliability
from limbeck.evaluation.churn import Churn, churn
from limbeck.evaluation.cost import Cost, Timing, cost, file_bytes, flops, parameters, peak_memory, time_forward
from limbeck.evaluation.exits import EarlyExit, early_exit, early_exit_curve
from limbeck.evaluation.fidelity import Fidelity, Nearness, fidelity
from limbeck.evaluation.figures import Figure, Figures, figures_of
from limbeck.evaluation.intervals import Interval, gap_closed, t_interval
from limbeck.evaluation.latency import time_word
from limbeck.evaluation.metrics import Metrics, evaluate, evaluate_together, measure, predict
from limbeck.evaluation.paired import ClassGain, McNemar, class_gains, mcnemar, paired_difference
from limbeck.evaluation.pareto import Point, pareto
from limbeck.evaluation.ranking import item_ranks, mean_reciprocal_rank, ndcg_at_k, recall_at_k
from limbeck.evaluation.representations import (
    MinibatchCKA,
    attention_map,
    has_attention_map,
    linear_cka,
    sparsity_difference,
)
from limbeck.evaluation.resampling import Estimate, bootstrap_mean, wilson
from limbeck.evaluation.robustness import Robustness, fgsm, robustness, value_range
from limbeck.evaluation.scores import Scores, brier, confusion_matrix, per_class_accuracy, score, top_k_accuracy
from limbeck.evaluation.standing import Standing, constant_accuracy, standing
from limbeck.evaluation.tail import Tail, tail_gains
from limbeck.evaluation.typing import Keyboard, Typing, measure_typing, require_words, simulate_typing

__all__ = [
    "Assessment",
    "AttentionMap",
    "Churn",
    "ClassGain",
    "Cost",
    "EarlyExit",
    "Estimate",
    "Fidelity",
    "Figure",
    "Figures",
    "Interval",
    "Keyboard",
    "McNemar",
    "Metrics",
    "MinibatchCKA",
    "Nearness",
    "Point",
    "Reliability",
    "Robustness",
    "Scores",
    "Standing",
    "Tail",
    "Temperature",
    "Timing",
    "Typing",
    "assess",
    "assess_scores",
    "attention_map",
    "bootstrap_mean",
    "brier",
    "churn",
    "class_gains",
    "compare_attention",
    "confusion_matrix",
    "constant_accuracy",
    "cost",
    "early_exit",
    "early_exit_curve",
    "ece",
    "evaluate",
    "evaluate_together",
    "fgsm",
    "fidelity",
    "figures_of",
    "file_bytes",
    "fit_bias",
    "fit_temperature",
    "flops",
    "gap_closed",
    "has_attention_map",
    "item_ranks",
    "linear_cka",
    "mcnemar",
    "mean_reciprocal_rank",
    "measure",
    "measure_typing",
    "ndcg_at_k",
    "paired_difference",
    "parameters",
    "pareto",
    "peak_memory",
    "per_class_accuracy",
    "predict",
    "recall_at_k",
    "reliability",
    "require_words",
    "robustness",
    "score",
    "simulate_typing",
    "sparsity_difference",
    "standing",
    "t_interval",
    "tail_gains",
    "time_forward",
    "time_word",
    "token_attention",
    "top_k_accuracy",
    "value_range",
    "wilson",
    "with_bias",
]
