"""Examples as pictures: what the teacher says of some training images, and where the student differs from it."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.losses import KL, soften
from limbeck.report.gather import Gathered

__all__ = [
    "BARS",
    "Disagreement",
    "chosen",
    "dial",
    "disagreements",
    "percent",
    "picture",
    "pictured",
    "taught",
    "temperatures",
]

_LARGEST = 64  # pixels, to keep the page small
BARS = 10
"""Classes of an example that have a bar of their own."""


def pictured(samples: SampleSet) -> bool:
    """Whether the samples can be shown as pictures: (H, W), or (1 or 3, H, W), of 4 pixels at least."""
    shape = samples.input_shape
    sides = shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else shape
    if len(sides) != 2 or min(sides) < 4 or max(sides) > 8 * min(sides):
        return False
    first = samples.gather(torch.zeros(1, dtype=torch.int64))
    return first.dtype == torch.uint8 or (first.is_floating_point() and len(shape) == 3)


def picture(sample: Tensor) -> str:
    """Return a sample, (H, W) or (C, H, W), uint8 or float, as a PNG in a data URI.

    Floats outside [0, 1] are stretched to it.

    >>> picture(torch.zeros(1, 8, 8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    pixels = sample.detach().cpu()
    if pixels.dtype != torch.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0.0 or high > 1.0:
            pixels = (pixels - low) / max(high - low, 1e-12)
        pixels = pixels.mul(255).round().to(torch.uint8)
    if pixels.dim() == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)
    image = Image.fromarray(pixels.contiguous().numpy())
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def taught(gathered: Gathered, temperature: float, count: int = 8) -> dict[str, Any] | None:
    """Return what the teacher says of some training images: of the most uncertain ones, and of others for comparison.

    {"classes": names, "temperatures": of the slider, "start": where it begins, "position": which of them that is,
    "apart": whether each class has a probability of its own, "examples": [{"image", "label", "true", "ids", "logits",
    "rest", ...}]}: `true` are its labels, `ids` the classes with the highest `logits`, `rest` holds the others' logits.
    None for inputs that are no pictures.
    """
    samples = gathered.run.parts.train
    if gathered.taught is None or not pictured(samples):
        return None
    some, logits = gathered.taught.positions, gathered.taught.logits
    log_probs = soften(logits).log_probs
    numbers = chosen(-(log_probs.exp() * log_probs).sum(-1), count)
    images = samples.gather(some[[number for number, _ in numbers]])
    labels = samples.labels[some].tolist()
    examples = [
        {
            "image": picture(image),
            "label": samples.class_names[labels[number]] if labels[number] >= 0 else "",
            "true": [labels[number]],
            "unsure": unsure,
            **_softened(logits[number], samples.class_names, temperature),
        }
        for (number, unsure), image in zip(numbers, images, strict=True)
    ]
    return {**dial(temperature), "classes": list(samples.class_names), "apart": False, "examples": examples}


def chosen(entropy: Tensor, count: int = 8) -> list[tuple[int, bool]]:
    """Return which examples are shown, by their entropy (n,), and whether for it: the largest, and others spread out.

    >>> chosen(torch.tensor([0.1, 0.9, 0.2, 0.3]), 2)
    [(1, True), (3, False)]
    """
    order = entropy.argsort(descending=True, stable=True)
    unsure = order[: count // 2].tolist()
    others = order[torch.linspace(len(order) // 4, len(order) - 1, count - len(unsure)).long()].unique().tolist()
    return [(number, True) for number in unsure] + [(number, False) for number in others if number not in unsure]


def dial(temperature: float) -> dict[str, Any]:
    """Return the slider: its temperatures, where it begins, and which of them that is."""
    steps = temperatures(temperature)
    start = min(steps, key=lambda step: abs(step - temperature))
    return {"temperatures": steps, "start": start, "position": steps.index(start)}


def temperatures(own: float) -> list[float]:
    """Return the slider's temperatures: round ones from 0.5 to 20, evenly spaced on a log scale, and the recipe's own.

    >>> found = temperatures(4.2)
    >>> found[0], found[-1], 4.2 in found
    (0.5, 20.0, True)
    """
    steps = [(0.5, 0.05, 10), (1.0, 0.1, 10), (2.0, 0.25, 12), (5.0, 0.5, 10), (10.0, 1.0, 11)]
    grid = {round(start + i * step, 2) for start, step, count in steps for i in range(count)}
    return sorted(grid | ({own} if 0.5 <= own <= 20 else set()))


def _softened(row: Tensor, names: Sequence[str], temperature: float) -> dict[str, Any]:
    """Return an example's highest logits, and what the page shows of it until its script runs."""
    order = row.argsort(descending=True, stable=True)
    ids = order[:BARS].tolist()
    logits, rest = ([round(float(row[i]), 5) for i in part] for part in (order[:BARS], order[BARS:]))
    log_probs = soften(torch.tensor(logits + rest, dtype=torch.float64), temperature).log_probs
    shares = log_probs.exp()
    nats = float(-(shares * log_probs).sum())
    top = ", ".join(f"{names[i]} {percent(float(p))}" for i, p in zip(ids[:3], shares, strict=False))
    return {
        "ids": ids,
        "logits": logits,
        "rest": rest,
        "probabilities": shares[: len(ids)].tolist(),
        "others": float(shares[len(ids) :].sum()),
        "entropy": nats,
        "spread": math.exp(nats),
        "said": f"At temperature {temperature:g}: {top}; entropy {nats:.2f} nats",
    }


def percent(share: float) -> str:
    """Return a probability as the page and its script write it.

    >>> percent(1.0), percent(0.1234), percent(1e-5)
    ('100 %', '12.3 %', '<0.1 %')
    """
    return "100 %" if share >= 0.9995 else f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"


@dataclass(frozen=True)
class Disagreement:
    """A test example of which teacher and student say different things.  said: (who, class, probability)."""

    image: str
    label: str
    divergence: float
    said: tuple[tuple[str, str, float], ...]


def disagreements(gathered: Gathered, count: int = 12) -> list[Disagreement]:
    """Return the test images with the greatest KL(teacher ‖ student distilled) at the first seed."""
    answers, samples = gathered.answers, gathered.run.parts.test
    if answers is None or not answers.has("teacher", "distilled") or not pictured(samples):
        return []
    teacher, distilled = answers.pairs("distilled")[0]
    divergences = KL.per_example(distilled, soften(teacher), 1.0)
    found = divergences.argsort(descending=True, stable=True)[:count]
    said_by: Mapping[str, Tensor] = {
        model.name.removeprefix("Student ").capitalize(): answers.logits[model.role][0]
        for model in gathered.chief
        if answers.has(model.role)
    }
    shown = []
    for number, image in zip(found.tolist(), samples.gather(found), strict=True):
        label = int(samples.labels[number])
        said = tuple((who, *_top(logits[number], samples.class_names)) for who, logits in said_by.items())
        name = samples.class_names[label] if label >= 0 else ""
        shown.append(Disagreement(picture(image), name, float(divergences[number]), said))
    return shown


def _top(row: Tensor, names: Sequence[str]) -> tuple[str, float]:
    probabilities = row.softmax(-1)
    best = int(probabilities.argmax())
    return names[best], float(probabilities[best])
