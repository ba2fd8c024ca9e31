"""Examples of a dense task: pictures of what each model says of every place."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.losses import soften
from limbeck.report.gather import Gathered
from limbeck.report.pictures import encoded, picture, pictured

__all__ = ["Maps", "differences", "taught"]

_COLOURS = ("#3a4454", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
_NO_LABEL = (255, 255, 255)
_SHOWN = 6


@dataclass(frozen=True)
class Maps:
    """Examples side by side.  head: of the columns.  key: classes with their colours.  rows: caption and pictures."""

    head: Sequence[str]
    key: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[str]]]


def taught(gathered: Gathered, temperature: float) -> Maps | None:
    """Show training examples, the teacher's answer, and how unsure it is of each place; half of them the least sure."""
    samples = gathered.run.parts.train
    if gathered.taught is None or not _of_two_axes(samples):
        return None
    positions, logits = gathered.taught.positions, gathered.taught.logits
    log_probs = soften(logits, temperature).log_probs
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    order = entropy.flatten(1).mean(1).argsort(descending=True, stable=True)
    spread = torch.linspace(len(order) // 4, len(order) - 1, _SHOWN // 2).long()
    chosen = torch.cat([order[: _SHOWN // 2], order[spread]]).tolist()
    chosen = list(dict.fromkeys(chosen))
    most = float(entropy.max().clamp_min(1e-12))
    rows = []
    for number in chosen:
        image, labels = samples.gather_one(positions[number : number + 1])[0], samples.labels[positions[number]]
        caption = f"Training example {int(positions[number])}: mean entropy {float(entropy[number].mean()):.2f} nats"
        drawn = (picture(image), _map(labels, samples), _map(logits[number].argmax(-1), samples))
        rows.append((caption, (*drawn, picture((entropy[number] / most)[None].float()))))
    head = ("Input", "Labels", "Teacher", f"Unsure, T = {temperature:g}")
    return Maps(head, _key(samples), rows)


def differences(gathered: Gathered) -> Maps | None:
    """Show the test examples on whose places the student distilled differs most from its teacher, at the first seed."""
    answers = gathered.answers
    if not answers.has("teacher", "distilled") or not _of_two_axes(answers.samples):
        return None
    samples = answers.samples
    shape = answers.samples.labels.shape
    said = {name: rows.argmax(-1).view(shape) for name, rows in answers.first(gathered.chief).items()}
    teacher, distilled = (rows.argmax(-1).view(shape) for rows in answers.pairs("distilled")[0])
    share = (teacher != distilled).flatten(1).double().mean(1)
    rows = []
    for number in share.argsort(descending=True, stable=True)[:_SHOWN].tolist():
        image = samples.gather_one(torch.tensor([number]))[0]
        caption = f"Test example: the student differs from its teacher on {float(share[number]):.1%} of the places"
        maps = [_map(samples.labels[number], samples), *(_map(each[number], samples) for each in said.values())]
        rows.append((caption.replace("%", " %"), (picture(image), *maps)))
    return Maps(("Input", "Labels", *said), _key(samples), rows)


def _of_two_axes(samples: SampleSet) -> bool:
    return samples.labels.dim() == 3 and pictured(samples)


def _colours(count: int) -> list[str]:
    """Return a colour for each class."""
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    hues = (colorsys.hsv_to_rgb(i / count, 0.65, 0.9 if i % 2 else 0.6) for i in range(count))
    return ["#" + "".join(f"{round(255 * part):02x}" for part in hue) for hue in hues]


def _key(samples: SampleSet) -> list[tuple[str, str]]:
    return list(zip(samples.class_names, _colours(samples.classes), strict=True))


def _map(labels: Tensor, samples: SampleSet) -> str:
    """Return the classes of places (H, W) as a PNG in a data URI; a place without a label is white."""
    palette = [int(colour[i : i + 2], 16) for colour in _colours(samples.classes) for i in (1, 3, 5)]
    table = torch.tensor([*palette, *_NO_LABEL], dtype=torch.uint8).view(-1, 3)
    pixels = table[torch.where(labels.cpu() < 0, samples.classes, labels.cpu()).long()]
    return encoded(pixels)
