"""References of the losses in float64 numpy that share no code with them."""

import math

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from limbeck import losses

UNLABELLED = -100
INF = math.inf
NAN = math.nan
LEADING = [(), (1,), (7,), (2, 3), (2, 3, 4)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def reference_kl(z, v, temperature=1.0):
    log_p, log_q = log_softmax(v / temperature, axis=-1), log_softmax(z / temperature, axis=-1)
    present = np.exp(log_p) > 0
    return np.where(present, np.exp(log_p) * np.where(present, log_p - log_q, 0.0), 0.0).sum(-1)


def reference_soft_cross_entropy(z, v, temperature=1.0):
    p = softmax(v / temperature, axis=-1)
    return -np.where(p > 0, p * np.where(p > 0, log_softmax(z / temperature, axis=-1), 0.0), 0.0).sum(-1)


def reference_cross_entropy(z, labels):
    rows = np.where(labels == UNLABELLED, 0, labels)
    return np.where(
        labels == UNLABELLED, 0.0, -np.take_along_axis(log_softmax(z, axis=-1), rows[..., None], -1)[..., 0]
    )


def reference_logit_matching(z, v, zero_mean=False):
    if zero_mean:
        z, v = z - z.mean(-1, keepdims=True), v - v.mean(-1, keepdims=True)
    return 0.5 * ((z - v) ** 2).sum(-1) / z.shape[-1]


def reference_reduce(per_example, counts, reduction):
    per_example = np.where(counts, per_example, 0.0)
    if reduction == "none":
        return per_example
    return per_example.sum() if reduction == "sum" else per_example.sum() / max(counts.sum(), 1)


def drawn(leading, classes=5, scale=3.0, seed=0):
    """Student and teacher logits, labels of which some are missing, and a mask that hides some."""
    rng = np.random.default_rng(seed)
    z, v = scale * rng.normal(size=(2, *leading, classes))
    labels = np.asarray(rng.integers(0, classes, size=leading))
    labels = np.where(rng.random(leading) < 0.3, UNLABELLED, labels)
    mask = np.asarray(rng.random(leading) < 0.7)
    return z, v, labels, mask


def tensor(array, *, grad=False, dtype=None):
    return torch.tensor(array, dtype=dtype).requires_grad_(grad)


SOFT = {
    "kl": (losses.kl, reference_kl, {"temperature": 2.5}),
    "soft_cross_entropy": (losses.soft_cross_entropy, reference_soft_cross_entropy, {"temperature": 2.5}),
    "logit_matching": (losses.logit_matching, reference_logit_matching, {}),
    "logit_matching, zero mean": (losses.logit_matching, reference_logit_matching, {"zero_mean": True}),
}
