"""What a temperature does: to six logits, whatever the data, and to the teacher of a run."""

import math

import torch
from torch import Tensor

from limbeck.data.selection import evenly
from limbeck.losses import soften
from limbeck.report.charts import Axis, Line, Plane, short
from limbeck.report.gather import Gathered

__all__ = ["entropies", "softening"]

_MOST = 20_000  # distributions whose entropy is drawn
_LOGITS = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0)


def softening(marker: float, *, two_way: bool = False) -> Plane:
    """Draw softmax of the logits -10, -5, 0, 5, 10, 15 over the temperature: what softening does to any answer.

    two_way: the sigmoid of each by itself, as where each label is yes or no.
    """
    steps = [0.5 * 40 ** (i / 120) for i in range(121)]
    logits = torch.tensor(_LOGITS, dtype=torch.float64)

    def shares(at: float) -> Tensor:
        return (logits / at).sigmoid() if two_way else soften(logits, at).log_probs.exp()

    table = torch.stack([shares(at) for at in steps])
    colours = ("third", "fourth", "fifth", "alone", "distilled", "teacher")
    lines = [
        Line(short(logit), colour, [(at, float(table[i, column])) for i, at in enumerate(steps)])
        for column, (logit, colour) in enumerate(zip(_LOGITS, colours, strict=True))
    ]
    x = Axis("temperature T (log scale)", 0.5, 20.0, log=True)
    y = Axis("probability", 0.0, 1.0, share=True)
    cold, hot = shares(1.0), shares(20.0)
    said = f"logit 15 falls from {float(cold[-1]):.1%} at T = 1 to {float(hot[-1]):.1%} at T = 20"
    rises = f"logit -10 rises from {float(cold[0]):.1g} to {float(hot[0]):.1%}"
    which = "sigmoid" if two_way else "softmax"
    alternative = f"Line chart of {which} probabilities of six logits over the temperature: {said}, {rises}."
    return Plane("softening", "What a temperature does to six logits", alternative, x, y, lines, marker=marker)


def entropies(gathered: Gathered, marker: float, even: str) -> Plane | None:
    """Draw the entropy of the teacher's targets on training samples over the temperature: how much they tell.

    even: the name of the distribution that tells nothing.
    """
    if gathered.taught is None:
        return None
    logits = gathered.taught.logits.double().flatten(0, -2)
    logits = logits[evenly(len(logits), _MOST)]
    steps = [0.5 * 40 ** (i / 40) for i in range(41)]
    spread = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    lows, medians, highs = zip(*(_entropy(logits, at).quantile(spread).tolist() for at in steps), strict=True)
    most = math.log(logits.shape[1])
    line = Line("median", "teacher", list(zip(steps, medians, strict=True)), list(zip(steps, lows, highs, strict=True)))
    bound = Line(even, "ink", [(0.5, most), (20.0, most)], dash="3 3")
    now = float(_entropy(logits, marker).median())
    said = f"the median rises from {medians[0]:.2f} nats at T = 0.5 to {medians[-1]:.2f} at T = 20"
    alternative = (
        f"Line chart of the teacher's entropy over the temperature: {said}; it is {now:.2f} at T = {marker:g}."
    )
    x = Axis("temperature T (log scale)", 0.5, 20.0, log=True)
    y = Axis("entropy, nats", 0.0, most * 1.06)
    title = "How much the teacher's targets tell"
    return Plane("entropy", title, alternative, x, y, [line, bound], marker=marker)


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    log_probs = soften(logits, temperature).log_probs
    return -(log_probs.exp() * log_probs).sum(-1)
