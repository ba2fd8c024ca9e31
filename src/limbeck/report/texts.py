"""Texts on the page: the next tokens under the temperature slider, and tokens shaded by their losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.losses import soften
from limbeck.report.gather import Model
from limbeck.report.pictures import temperatures
from limbeck.results.reading import NextToken, Passage, ReadTexts, shown_token

__all__ = ["binned", "explored_texts", "nearness_said", "shaded"]

_BARS = 8
_BINS = 200
_SHADES = 5
"""Shades of a token's loss."""


def binned(logits: Tensor, bins: int = _BINS) -> tuple[list[float], list[int]]:
    """Return logits (n,) as means of bins of equal width, with how many are in each: their softmax hardly changes.

    >>> binned(torch.tensor([0.0, 0.0, 1.0]))
    ([0.0, 1.0], [2, 1])
    """
    if not len(logits):
        return [], []
    logits = logits.double()
    low, high = float(logits.min()), float(logits.max())
    width = max((high - low) / bins, 1e-12)
    places = ((logits - low) / width).long().clamp(0, bins - 1)
    counts = torch.bincount(places, minlength=bins)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, logits)
    kept = counts > 0
    return [round(value, 4) for value in (sums[kept] / counts[kept]).tolist()], counts[kept].tolist()


def explored_texts(
    samples: SampleSet, places: Sequence[NextToken], names: Mapping[str, str], temperature: float
) -> dict[str, Any] | None:
    """Return the next tokens at some places of texts for the slider; None without any.

    names: of the models that are shown, by role.  The form is that of `pictures.explored`.  An example has a `text` in
    place of an image, the `names` of its tokens, and `counts`: of how many logits each of `rest` is the mean.
    """
    if not places:
        return None
    examples = []
    for place in places:
        for role, name in names.items():
            if role in place.logits:
                examples.append(_example(samples, place, role, name, temperature))
    steps = temperatures(temperature)
    start = min(steps, key=lambda step: abs(step - temperature))
    slider = {"temperatures": steps, "start": start, "position": steps.index(start)}
    return {**slider, "classes": [], "apart": False, "examples": examples}


def _example(samples: SampleSet, place: NextToken, role: str, name: str, temperature: float) -> dict[str, Any]:
    row = place.logits[role]
    order = row.argsort(descending=True, stable=True)
    ids = order[:_BARS].tolist()
    rest, counts = binned(row[order[_BARS:]])
    logs = soften(row.double(), temperature).log_probs
    shares = logs.exp()
    entropy = float(-(shares * logs).sum())
    words = {i: shown_token(samples, i).strip() or "␣" for i in ids}
    top = ", ".join(f"{words[i]} {100 * float(shares[i]):.1f} %" for i in ids[:3])
    return {
        "image": "",
        "text": place.context,
        "who": name,
        "label": place.truth.strip(),
        "true": [place.number],
        "unsure": False,
        "ids": ids,
        "names": words,
        "logits": [round(float(row[i]), 5) for i in ids],
        "rest": rest,
        "counts": counts,
        "probabilities": shares[ids].tolist(),
        "others": float(1 - shares[ids].sum()),
        "entropy": entropy,
        "spread": float(torch.tensor(entropy).exp()),
        "said": f"At temperature {temperature:g}: {top}; entropy {entropy:.2f} nats",
    }


def _level(loss: float) -> int:
    """Return the shade of a token's loss: 0 below half a nat, then one more for every two nats.

    >>> [_level(loss) for loss in (0.1, 1.0, 3.0, 5.0, 30.0)]
    [0, 1, 2, 3, 5]
    """
    return 0 if loss < 0.5 else min(_SHADES, 1 + int(loss / 2))


def shaded(passage: Passage, models: Sequence[Model]) -> list[tuple[str, float, list[tuple[str, float, int]]]]:
    """Return for each model its name, its mean loss on a passage, and each token with its loss and shade."""
    return [
        (
            model.name,
            passage.mean(model.role),
            [(token, loss, _level(loss)) for token, loss in passage.read_by(model.role)],
        )
        for model in models
        if model.role in passage.losses
    ]


def nearness_said(models: Sequence[Model], told: ReadTexts | None) -> str:
    """Say how near the students are to their teacher."""
    if told is None or not told.near:
        return ""
    parts = [
        f"the {model.name.lower()} expects the teacher's token at {100 * told.near[model.role][0]:.1f} % of the places,"
        f" at a mean KL(teacher ‖ student) of {told.near[model.role][1]:.3f} nats"
        for model in models
        if model.role in told.near
    ]
    return f"On {told.compared:,} tokens of the test texts, at the first seed, {'; '.join(parts)}."
