"""Examples as pictures: what the teacher says of some training images, and where the student differs from it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.evaluation import predict
from limbeck.losses import KL, soften
from limbeck.report.gather import Gathered

__all__ = ["Disagreement", "disagreements", "picture", "pictured", "taught"]

_LARGEST = 64  # pixels, to keep the page small
_LOOKED_AT = 4000  # training samples that the teacher is asked about
_BARS = 10


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


def taught(gathered: Gathered, count: int = 12) -> dict[str, Any] | None:
    """Return what the teacher says of some training images: of the most uncertain ones, and of others for comparison.

    {"classes": names, "examples": [{"image", "label", "ids", "logits", "rest", "unsure"}]}: `ids` are the classes with
    the highest `logits`, `rest` holds the others' logits.  None for inputs that are no pictures.
    """
    run = gathered.run
    samples = run.parts.train
    if not pictured(samples) or gathered.answers is None or not gathered.answers.has("teacher"):
        return None
    some = torch.linspace(0, len(samples) - 1, min(len(samples), _LOOKED_AT)).round().to(torch.int64).unique()
    logits = predict(run.teacher(run.seeds[0]), samples.subset(some)).float().cpu()
    log_probs = soften(logits).log_probs
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    order = entropy.argsort(descending=True, stable=True)
    unsure = order[: count // 2].tolist()
    others = order[torch.linspace(len(order) // 4, len(order) - 1, count - len(unsure)).long()].unique().tolist()
    others = [number for number in others if number not in unsure]
    images = samples.gather(some[unsure + others])
    examples = []
    for number, image in zip(unsure + others, images, strict=True):
        row = logits[number]
        ids = row.argsort(descending=True, stable=True)
        label = int(samples.labels[some[number]])
        examples.append(
            {
                "image": picture(image),
                "label": samples.class_names[label] if label >= 0 else "",
                "ids": ids[:_BARS].tolist(),
                "logits": [round(float(row[i]), 5) for i in ids[:_BARS]],
                "rest": [round(float(row[i]), 3) for i in ids[_BARS:]],
                "unsure": number in unsure,
            }
        )
    return {"classes": list(samples.class_names), "examples": examples}


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
        for model in gathered.models
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
