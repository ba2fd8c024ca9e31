"""Which classes gained and which were harmed by distillation, the frequent first and the rare last."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.batch import UNLABELLED
from limbeck.evaluation.paired import ClassGain, class_gains
from limbeck.evaluation.scores import score
from limbeck.evaluation.tail import Tail, tail_gains
from limbeck.report.charts import Axis, DotPlot, DotRange, shortened, signed, spanning
from limbeck.report.gather import Gathered

__all__ = ["Gains", "gains"]

_MOST_DRAWN = 24
_MOST_LISTED = 300
_MOST_NAMED = 8


@dataclass(frozen=True)
class Gains:
    """Gain and harm by class.  said: in words, on rare classes above all.  head, rows: of the table of all classes."""

    chart: DotPlot
    said: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def gains(gathered: Gathered) -> Gains | None:
    """Compare the student distilled with the student alone, class by class, in the order of the training examples."""
    answers = gathered.answers
    if not answers.has("alone", "distilled"):
        return None
    alone, distilled = (_right(answers.logits[role], answers.labels) for role in ("alone", "distilled"))
    labels = answers.labels[answers.labels != UNLABELLED]
    classes, names = gathered.run.parts.test.classes, gathered.run.parts.test.class_names
    trained = gathered.run.parts.alone.class_counts()
    tail = tail_gains(alone, distilled, labels, trained)
    found = sorted(class_gains(alone, distilled, labels, classes), key=lambda gain: (-trained[gain.label], gain.label))
    rows = [_row(gain, tail, names[gain.label]) for gain in found[-_MOST_LISTED:]]
    head = ("class", "training examples", "test examples", "alone", "distilled", "mended", "spoiled", "change, points")
    return Gains(_chart(found, tail, names), _said(tail, names), head, rows)


def _right(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    return torch.stack([score(each, labels).correct for each in logits])


def _row(gain: ClassGain, tail: Tail, name: str) -> list[str]:
    change = gain.difference
    shares = (gain.first, gain.second, gain.gained, gain.harmed)
    return [
        f"{name} (rare)" if gain.label in tail.rare else name,
        f"{tail.trained[gain.label]:,}",
        f"{gain.examples:,}",
        *(f"{100 * share:.1f} %" for share in shares),
        f"{signed(100 * change.value)} ({signed(100 * change.low)} to {signed(100 * change.high)})",
    ]


def _chart(found: Sequence[ClassGain], tail: Tail, names: Sequence[str]) -> DotPlot:
    drawn, title = found, "Gain and harm of distillation, by class"
    if len(found) > _MOST_DRAWN:
        most = {gain.label for gain in sorted(found, key=lambda gain: -abs(gain.difference.value))[:_MOST_DRAWN]}
        drawn, title = [gain for gain in found if gain.label in most], f"{title}: the {_MOST_DRAWN} largest changes"
    rows = []
    for gain in drawn:
        colour = "distilled" if gain.difference.value >= 0 else "wrong"
        low, value, high = (100 * end for end in (gain.difference.low, gain.difference.value, gain.difference.high))
        count = f" · {tail.trained[gain.label]:,}"
        name = shortened(names[gain.label], 28 - len(count)) + count
        rows.append((name, (DotRange(name, colour, value, low, high),)))
    ends = [end for _, (entry,) in rows for end in (entry.low, entry.high)]
    span = spanning("", [0.0, *ends])
    axis = Axis("change in accuracy, points", max(span.low, -100.0), min(span.high, 100.0))
    best, worst = (end(found, key=lambda gain: gain.difference.value) for end in (max, min))
    said = "; ".join(
        f"{word} on {names[gain.label]}, {signed(100 * gain.difference.value)} points"
        for word, gain in (("the most is gained", best), ("the least", worst))
    )
    alternative = f"Dot plot of the change in accuracy of {len(drawn)} classes, by training examples: {said}."
    return DotPlot("class-gains", title, alternative, axis, rows, origin=0.0)


def _said(tail: Tail, names: Sequence[str]) -> str:
    """Say whether distillation hurts the rare classes."""
    counts = tail.trained
    if not tail.rare or tail.on_rare is None:
        none = "no class has fewer than half of an even share" if not tail.rare else "the test set has none of the rare"
        return f"Classes have from {min(counts):,} to {max(counts):,} training examples; {none}."
    change = tail.on_rare.difference
    verdict = "What distillation changes on the rare classes may be chance"
    if change.high < 0:
        verdict = "Distillation hurts the rare classes"
    elif change.low > 0:
        verdict = "Distillation helps the rare classes"
    named = ", ".join(f"{names[label]} ({counts[label]:,})" for label in tail.rare[:_MOST_NAMED])
    more = f" and {len(tail.rare) - _MOST_NAMED} more" if len(tail.rare) > _MOST_NAMED else ""
    said = (
        f"{verdict}: {_changed(tail.on_rare)} on {_these(tail.rare)} with fewer than half of an even share of the"
        f" training examples: {named}{more}"
    )
    return f"{said}. On the other classes: {_changed(tail.on_others)}." if tail.on_others is not None else f"{said}."


def _these(rare: Sequence[int]) -> str:
    return "the class" if len(rare) == 1 else f"the {len(rare)} classes"


def _changed(gain: ClassGain) -> str:
    change = gain.difference
    return (
        f"{signed(100 * change.value)} points of accuracy ({signed(100 * change.low)} to {signed(100 * change.high)};"
        f" {100 * gain.first:.1f} % alone, {100 * gain.second:.1f} % distilled)"
    )
