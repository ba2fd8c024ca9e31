"""Targets that know the true class: labels smoothed, a virtual teacher, and the teacher's confidence alone."""

import math

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.losses.reduction import check_labels, compute_dtype
from limbeck.losses.targets.dense import Dense

__all__ = ["at_label", "smooth_labels", "true_class", "virtual_teacher"]


@checked
def smooth_labels(labels: Tensor, classes: int, epsilon: float, *, dtype: torch.dtype = torch.float32) -> Dense:
    """Smooth hard labels: y(1-ε) + ε/K (Szegedy et al. 2016).

    labels: (...) int64 in [0, classes), or `UNLABELLED`, whose row is uniform and is for the caller to mask.
    epsilon: in [0, 1]; 0 gives the labels themselves.  Returns log-probabilities (..., classes).

    >>> smooth_labels(torch.tensor([1]), classes=4, epsilon=0.4).log_probs.exp()
    tensor([[0.1000, 0.7000, 0.1000, 0.1000]])
    """
    checks.unit_interval("epsilon", epsilon)
    checks.at_least("classes", classes, 1)
    log_rest = math.log(epsilon / classes) if epsilon / classes > 0 else -math.inf
    return _two_levels(labels, classes, math.log(1.0 - epsilon + epsilon / classes), log_rest, dtype)


@checked
def virtual_teacher(
    labels: Tensor,
    classes: int,
    confidence: float = 0.99,
    temperature: float = 1.0,
    *,
    softening: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dense:
    """Make the answer of a teacher that is always right: u on the true class, (1-u)/(K-1) on each other (Yuan 2020).

    labels: (...) int64 in [0, classes), or `UNLABELLED`, whose row is uniform and is for the caller to mask.
    confidence: u in [0.9, 1), and above 1/K.  temperature: the distribution is softened like any teacher's, its
    logits being the logarithms: ∝ u^(1/T).  softening: the paper's published code takes the probabilities themselves
    for logits; with a number s above 0 the answer is that code's softmax(ρ/s), ∝ exp(u/s), and the temperature is not
    used.  At s = 20 that is nearly uniform.  Returns log-probabilities (..., classes).

    >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9).log_probs.exp()
    tensor([[0.9000, 0.0500, 0.0500]])
    >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9, temperature=20.0).log_probs.exp()
    tensor([[0.3662, 0.3169, 0.3169]])
    >>> virtual_teacher(torch.tensor([0]), classes=3, confidence=0.9, softening=20.0).log_probs.exp()
    tensor([[0.3428, 0.3286, 0.3286]])
    """
    checks.finite("confidence", confidence)
    checks.positive("temperature", temperature)
    if softening is not None:
        checks.positive("softening", softening)
    checks.at_least("classes", classes, 2)
    if not 0.9 <= confidence < 1:
        raise InputError(f"confidence: found {confidence}, expected at least 0.9 and less than 1")
    rest = (1 - confidence) / (classes - 1)
    margin = math.log(confidence / rest) / temperature if softening is None else (confidence - rest) / softening
    log_rest = -margin - math.log1p((classes - 1) * math.exp(-margin))
    return _two_levels(labels, classes, margin + log_rest, log_rest, dtype)


@checked
def true_class(target: Dense, labels: Tensor) -> Dense:
    """Keep of a target its confidence alone: p_t on the true class, (1-p_t)/(K-1) on each other (KD-pt, Tang 2020).

    target: (..., K).  labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform and is for the caller to
    mask.  1-p_t is added up over the other classes, so that a p_t that rounds to 1 loses nothing.

    >>> true_class(Dense(torch.tensor([[0.7, 0.2, 0.1]]).log()), torch.tensor([0])).log_probs.exp()
    tensor([[0.7000, 0.1500, 0.1500]])
    """
    log_probs = target.log_probs
    index, labelled = at_label(labels, log_probs)
    others = log_probs.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    others = others - math.log(max(log_probs.shape[-1] - 1, 1))
    kept = others.expand(log_probs.shape).scatter(-1, index, log_probs.gather(-1, index))
    return Dense(torch.where(labelled, kept, -math.log(log_probs.shape[-1])))


def at_label(labels: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the true class stands: index and whether it is known, both (..., 1); an unknown one has index 0.

    Raises InputError when the labels do not fit (on a GPU, a label out of range is a device-side assertion).
    """
    check_labels(labels, log_probs.shape[:-1])
    _check_range(labels, log_probs.shape[-1])
    return labels.clamp_min(0).unsqueeze(-1), (labels != UNLABELLED).unsqueeze(-1)


def _check_range(labels: Tensor, classes: int) -> None:
    if labels.device.type != "cpu":
        return
    if bool(((labels >= classes) | ((labels < 0) & (labels != UNLABELLED))).any()):
        known = labels[labels != UNLABELLED]
        raise InputError(
            f"labels: found {int(known.min())} to {int(known.max())}, expected 0 to {classes - 1} (or {UNLABELLED})"
        )


def _two_levels(labels: Tensor, classes: int, log_true: float, log_rest: float, dtype: torch.dtype) -> Dense:
    """Return rows with one value at the label and another everywhere else; uniform where there is no label."""
    if labels.dtype != torch.int64:
        raise InputError(f"labels: found {labels.dtype}, expected torch.int64 class indices")
    _check_range(labels, classes)
    log_probs = compute_dtype(torch.full((*labels.shape, classes), log_rest, dtype=dtype, device=labels.device))
    log_probs.scatter_(-1, labels.clamp_min(0).unsqueeze(-1), log_true)
    return Dense(torch.where((labels != UNLABELLED).unsqueeze(-1), log_probs, -math.log(classes)))
