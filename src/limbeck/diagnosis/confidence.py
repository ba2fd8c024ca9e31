"""How sure a teacher is: of the true class, at several temperatures, and compared with how often it is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.evaluation import Temperature, fit_temperature, reliability, score
from limbeck.losses import soften
from limbeck.records import Number

__all__ = ["QUANTILES", "Confidence", "confidence", "entropy"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Confidence:
    """A model on a labelled set, at temperature 1 where nothing else is said.

    accuracy, nll: mean over the examples, nll in nats.
    true_class: the probabilities of the true class at the quantiles of `QUANTILES`.  mean: their mean.
    skewness: third standardised moment of them; below 0 where a long tail of doubtful examples hangs below the rest.
    histogram: share of the examples by their probability of the true class, in 20 bins of equal width.
    overconfidence: mean probability of the prediction, less the accuracy.  ece: of 15 bins of equal width.
    temperature: the one that fits the labels best, None where nothing is wrong and the labels tell none.
    entropies: mean entropy in nats by temperature.
    """

    examples: int
    accuracy: float
    nll: Number
    true_class: tuple[float, ...]
    mean: float
    skewness: Number
    histogram: tuple[float, ...]
    overconfidence: float
    ece: float
    temperature: float | None
    entropies: tuple[tuple[float, float], ...]


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy of softmax(logits / T) of each example, in nats: (n,) float64.

    >>> entropy(torch.zeros(1, 4))
    tensor([1.3863], dtype=torch.float64)
    """
    log_probs = soften(logits.double(), temperature).log_probs
    p = log_probs.exp()
    return -torch.where(p == 0, 0.0, p * log_probs).sum(1)


def confidence(
    logits: Tensor, labels: Tensor, temperatures: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0)
) -> Confidence:
    """Measure how sure logits (n, K) are of labels (n,); each is labelled.

    >>> found = confidence(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    >>> found.accuracy, round(found.overconfidence, 4)
    (0.5, 0.3808)
    """
    scores = score(logits, labels)
    true = (-scores.nll).exp()
    fitted: Temperature = fit_temperature(logits, labels)
    return Confidence(
        examples=len(true),
        accuracy=float(scores.correct.double().mean()),
        nll=float(scores.nll.mean()),
        true_class=tuple(true.quantile(torch.tensor(QUANTILES, dtype=torch.float64, device=true.device)).tolist()),
        mean=float(true.mean()),
        skewness=_skewness(true),
        histogram=tuple((torch.histc(true, 20, 0.0, 1.0) / len(true)).tolist()),
        overconfidence=float(scores.confidence.mean() - scores.correct.double().mean()),
        ece=reliability(scores.confidence, scores.correct).ece,
        temperature=None if fitted.at_bound else fitted.temperature,
        entropies=tuple((t, float(entropy(logits, t).mean())) for t in temperatures),
    )


def _skewness(values: Tensor) -> float:
    apart = values - values.mean()
    variance = float(apart.square().mean())
    return float(apart.pow(3).mean()) / variance**1.5 if variance > 1e-24 else 0.0
