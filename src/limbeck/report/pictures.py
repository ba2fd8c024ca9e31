"""Examples as pictures: what the teacher says of some training images, and where the student differs from it."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.data.text import TextSet
from limbeck.losses import KL, soften
from limbeck.report.gather import Gathered, Taught, TestAnswers
from limbeck.results.reading import unsure_and_others

__all__ = [
    "Disagreement",
    "Sample",
    "disagreeing",
    "disagreements",
    "encoded",
    "explored",
    "percent",
    "picture",
    "pictured",
    "showable",
    "shown",
    "taught",
    "temperatures",
]

_LARGEST = 64  # pixels, to keep the page small
_BARS = 10  # classes of an example that have a bar of their own


def pictured(samples: SampleSet) -> bool:
    """Whether the samples can be shown as pictures: (H, W), or (1 or 3, H, W), of 4 pixels at least."""
    shape = samples.input_shape
    sides = shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else shape
    if len(sides) != 2 or min(sides) < 4 or max(sides) > 8 * min(sides):
        return False
    dtype = samples.kept_dtype
    return dtype == torch.uint8 or (dtype is not None and dtype.is_floating_point and len(shape) == 3)


@dataclass(frozen=True)
class Sample:
    """An example as the page shows it: an image as a data URI, or a text; the other is empty."""

    image: str = ""
    text: str = ""


def showable(samples: SampleSet) -> bool:
    """Whether the samples can be shown, as pictures or as texts."""
    return isinstance(samples, TextSet) or pictured(samples)


def shown(samples: SampleSet, positions: Tensor) -> list[Sample]:
    """Return the samples at positions (n,) as pictures, or as texts."""
    if isinstance(samples, TextSet):
        return [Sample(text=text) for text in samples.texts(positions.tolist())]
    return [Sample(image=picture(image)) for image in samples.gather_one(positions)]


def picture(sample: Tensor) -> str:
    """Return a sample, (H, W) or (C, H, W), uint8 or float, as a PNG in a data URI.

    Floats outside [0, 1] are stretched to it.

    >>> picture(torch.zeros(1, 8, 8))[:22]
    'data:image/png;base64,'
    """
    pixels = sample.detach().cpu()
    if pixels.dtype != torch.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0.0 or high > 1.0:
            pixels = (pixels - low) / max(high - low, 1e-12)
        pixels = pixels.mul(255).round().to(torch.uint8)
    if pixels.dim() == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.permute(1, 2, 0)
    return encoded(pixels, most=_LARGEST)


def encoded(pixels: Tensor, most: int | None = None) -> str:
    """Return pixels (H, W) or (H, W, 3), uint8, as a PNG in a data URI.  most: of them, to a side."""
    from PIL import Image

    image = Image.fromarray(pixels.contiguous().numpy())
    if most is not None and max(image.size) > most:
        image.thumbnail((most, most))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def taught(gathered: Gathered, temperature: float) -> dict[str, Any] | None:
    """Return what the teacher says of some training images, whose classes share a whole; see `explored`."""
    samples = gathered.run.parts.train
    if gathered.taught is None or not showable(samples):
        return None
    labels = samples.labels[gathered.taught.positions].tolist()
    truths = [([label], samples.class_names[label] if label >= 0 else "") for label in labels]
    return explored(samples, gathered.taught, gathered.taught.logits, truths, temperature, _softmax, apart=False)


def _softmax(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_probs = soften(logits, temperature).log_probs
    return log_probs.exp(), -(log_probs.exp() * log_probs).sum(-1)


def explored(
    samples: SampleSet,
    told: Taught,
    logits: Tensor,
    truths: Sequence[tuple[list[int], str]],
    temperature: float,
    soft: Callable[[Tensor, float], tuple[Tensor, Tensor]],
    *,
    apart: bool,
) -> dict[str, Any]:
    """Return what the teacher says of some training images: of the most uncertain ones, and of others for comparison.

    logits: (n, K).  truths: the labels of each, by number and in words.  soft: gives their probabilities at a
    temperature, and the entropy in nats.  apart: whether each class has a probability of its own.

    {"classes": names, "temperatures": of the slider, "start": where it begins, "position": which of them that is,
    "apart": as given, "examples": [{"image", "text", "label", "true", "ids", "logits", "rest", ...}]}: `true` are
    its labels, `ids` the classes with the highest `logits`, `rest` holds the others' logits.
    """
    names = samples.class_names
    numbers = unsure_and_others(soft(logits, 1.0)[1])
    examples = []
    positions = told.positions[[number for number, _ in numbers]]
    for (number, unsure), sample in zip(numbers, shown(samples, positions), strict=True):
        row = logits[number]
        order = row.argsort(descending=True, stable=True)
        ids = order[:_BARS].tolist()
        kept, rest = ([round(float(row[i]), 5) for i in part] for part in (order[:_BARS], order[_BARS:]))
        shares, entropy = soft(torch.tensor(kept + rest, dtype=torch.float64), temperature)
        nats = float(entropy)
        top = ", ".join(f"{names[i]} {percent(float(p))}" for i, p in zip(ids[:3], shares, strict=False))
        true, label = truths[number]
        examples.append(
            {
                "image": sample.image,
                "text": sample.text,
                "who": "",
                "names": None,
                "counts": None,
                "label": label,
                "true": true,
                "unsure": unsure,
                "ids": ids,
                "logits": kept,
                "rest": rest,
                "probabilities": shares[: len(ids)].tolist(),
                "others": float(shares[len(ids) :].sum()),
                "entropy": nats,
                "spread": None if apart else math.exp(nats),
                "said": f"At temperature {temperature:g}: {top}; entropy {nats:.2f} nats",
            }
        )
    steps = temperatures(temperature)
    start = min(steps, key=lambda step: abs(step - temperature))
    slider = {"temperatures": steps, "start": start, "position": steps.index(start)}
    return {**slider, "classes": list(names), "apart": apart, "examples": examples}


def temperatures(own: float) -> list[float]:
    """Return the slider's temperatures: round ones from 0.5 to 20, evenly spaced on a log scale, and the recipe's own.

    >>> found = temperatures(4.2)
    >>> found[0], found[-1], 4.2 in found
    (0.5, 20.0, True)
    """
    steps = [(0.5, 0.05, 10), (1.0, 0.1, 10), (2.0, 0.25, 12), (5.0, 0.5, 10), (10.0, 1.0, 11)]
    grid = {round(start + i * step, 2) for start, step, count in steps for i in range(count)}
    return sorted(grid | ({own} if 0.5 <= own <= 20 else set()))


def percent(share: float) -> str:
    """Return a probability as the page and its script write it.

    >>> percent(1.0), percent(0.1234), percent(1e-5)
    ('100 %', '12.3 %', '<0.1 %')
    """
    return "100 %" if share >= 0.9995 else f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"


@dataclass(frozen=True)
class Disagreement:
    """A test example of which teacher and student say different things.  said: (who, class, probability)."""

    shown: Sample
    label: str
    divergence: float
    said: tuple[tuple[str, str, float], ...]


def disagreements(gathered: Gathered) -> list[Disagreement]:
    """Return the test images with the greatest KL(teacher ‖ student distilled) at the first seed."""
    return disagreeing(gathered, lambda answers, rows: rows, _top, _label)


def disagreeing(
    gathered: Gathered,
    read: Callable[[TestAnswers, Tensor], Tensor],
    answer: Callable[[Tensor, Sequence[str]], tuple[str, float]],
    truth: Callable[[Tensor, Sequence[str]], str],
    count: int = 12,
) -> list[Disagreement]:
    """Return the test images with the greatest KL(teacher ‖ student distilled), added up over an image's labels.

    read: a model's answer to each image, from its rows.  answer, truth: in words, the answer with its probability.
    """
    answers = gathered.answers
    if not answers.has("teacher", "distilled") or not showable(answers.samples):
        return []
    samples, names = answers.samples, answers.samples.class_names
    teacher, distilled = answers.pairs("distilled")[0]
    divergences = KL.per_example(distilled, soften(teacher), 1.0).view(len(samples), -1).sum(1)
    found = divergences.argsort(descending=True, stable=True)[:count]
    by = {name: read(answers, rows) for name, rows in answers.first(gathered.chief).items()}
    return [
        Disagreement(
            sample,
            truth(samples.labels[number], names),
            float(divergences[number]),
            tuple((who, *answer(rows[number], names)) for who, rows in by.items()),
        )
        for number, sample in zip(found.tolist(), shown(samples, found), strict=True)
    ]


def _label(label: Tensor, names: Sequence[str]) -> str:
    return names[int(label)] if label >= 0 else ""


def _top(row: Tensor, names: Sequence[str]) -> tuple[str, float]:
    probabilities = row.softmax(-1)
    best = int(probabilities.argmax())
    return names[best], float(probabilities[best])
