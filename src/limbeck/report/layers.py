"""The section on the layers that a run compares: how similar they are to the teacher's, in numbers and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.data import SampleSet
from limbeck.evaluation import Interval
from limbeck.report.charts import Axis, Chart, DotPlot, DotRange
from limbeck.report.gather import Gathered
from limbeck.report.pictures import encoded, picture, pictured
from limbeck.report.places import Maps
from limbeck.results.representations import INITIAL, LayerMaps, LayerSimilarity

__all__ = ["LayersSection", "ends_of_scale", "heat", "layers_section"]

_STUDENTS = {
    INITIAL: ("Student before training", "other"),
    "alone": ("Student alone", "alone"),
    "distilled": ("Student distilled", "distilled"),
}
_HEADS = {"teacher": "Teacher", INITIAL: "Before", "alone": "Alone", "distilled": "Distilled"}
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis: dark to bright
_CKA = (
    "Linear CKA with the teacher's layer, debiased: 1 for the same features up to a rotation, a shift and a scale,"
    " about 0 for unrelated ones."
)
_SPARSITY = "Share of units that are active in one of the two layers only; given where both have one shape."
_MAPS = (
    "Where a layer is active: the sum of squares over its channels, each map divided by its largest value, for test"
    " examples spread evenly; the networks are those of the first seed."
)


@dataclass(frozen=True)
class LayersSection:
    """What the template shows of the compared layers.

    said: how near they came, in words.  charts: each with its note.
    explained: how the pictures are made.  maps: pairs of layers by name, with their pictures.
    """

    said: str
    charts: Sequence[tuple[Chart, str]]
    explained: str
    maps: Sequence[tuple[str, Maps]]


def layers_section(gathered: Gathered) -> LayersSection | None:
    """Return what to show of the layers that a run compares; None where it compares none, or they could not be read."""
    found = gathered.layers
    if found is None:
        return None
    examples = f"On {found.similarities[0].examples:,} test examples."
    charts: list[tuple[Chart, str]] = []
    for key, title, note in (
        ("cka", "Similarity to the teacher's layers", f"{_CKA} {examples}"),
        ("sparsity", "Units whose activity differs from the teacher's", f"{_SPARSITY} {examples}"),
    ):
        rows = {_name(each): getattr(each, key) for each in found.similarities if getattr(each, key)}
        if rows:
            charts.append((_chart(key, title, rows), note))
    shown = found.maps if pictured(found.samples) else ()
    maps = [(_name(each), _pictures(found.samples, each)) for each in shown]
    return LayersSection(_said(found.similarities), charts, _MAPS, maps)


def _name(layer: LayerSimilarity | LayerMaps) -> str:
    """Return the places of a pair, the student's first; one where they are the same."""
    return layer.student if layer.student == layer.teacher else f"{layer.student} – {layer.teacher}"


def _chart(key: str, title: str, found: Mapping[str, Mapping[str, Interval]]) -> DotPlot:
    """Draw a figure of every pair, for the student before training, alone and distilled."""
    rows = [
        (
            name,
            [
                DotRange(series, colour, by_role[role].mean, *by_role[role].ends)
                for role, (series, colour) in _STUDENTS.items()
                if role in by_role
            ],
        )
        for name, by_role in found.items()
    ]
    said = "; ".join(
        f"{name}: " + ", ".join(f"{each.series.lower()} {each.value:.2f}" for each in entries) for name, entries in rows
    )
    ends = [end for _, entries in rows for each in entries for end in (each.low, each.high)]
    if key == "cka":
        axis = Axis("CKA with the teacher's layer", min(0.0, *ends), max(1.0, *ends))
    else:
        axis = Axis("share of units", 0.0, max(ends) * 1.06, share=True)
    return DotPlot(f"layers-{key}", title, f"Dot plot by layer. {said}.", axis, rows)


def _said(layers: Sequence[LayerSimilarity]) -> str:
    """Say whether the compared layers are more similar to the teacher's than those of the student trained alone."""
    known = [each for each in layers if {"alone", "distilled"} <= each.cka.keys()]
    if not known:
        return "The method compares these layers of student and teacher."
    gains = [each.cka["distilled"].mean - each.cka["alone"].mean for each in known]
    largest = max(range(len(known)), key=lambda number: abs(gains[number]))
    shown = known[largest].cka
    before = f" and {shown[INITIAL].mean:.2f} before training" if INITIAL in shown else ""
    figures = f"CKA {shown['distilled'].mean:.2f}, against {shown['alone'].mean:.2f} alone{before}"
    than = "similar to the teacher's than in the student trained alone"
    if len(known) == 1:
        return f"After distillation, {_name(known[0])} is {'more' if gains[0] > 0 else 'no more'} {than}: {figures}."
    more = sum(gain > 0 for gain in gains)
    return (
        f"After distillation, {more} of {len(known)} compared layers are more {than}. The largest difference is at"
        f" {_name(known[largest])}: {figures}."
    )


def _pictures(samples: SampleSet, layer: LayerMaps) -> Maps:
    """Return examples with the attention maps of a pair of layers, side by side."""
    images = samples.gather(torch.arange(len(samples)))
    named = samples.class_names if samples.labels.dim() == 1 and not samples.labels.is_floating_point() else ()
    rows = []
    for number, image in enumerate(images):
        label = int(samples.labels[number]) if named else -1
        caption = f"Test example, labelled {named[label]}" if label >= 0 else "Test example"
        rows.append((caption, (picture(image), *(heat(each[number]) for each in layer.maps.values()))))
    heads = ("Input", *(_HEADS[role] for role in layer.maps))
    return Maps(heads, tuple(zip(("not active", "most active"), ends_of_scale(), strict=True)), rows)


def ends_of_scale() -> tuple[str, ...]:
    """Return the colours of 0 and of 1 in a picture of `heat`."""
    return tuple("#" + "".join(f"{part:02x}" for part in _SCALE[end]) for end in (0, -1))


def heat(values: Tensor) -> str:
    """Return values (H, W) in [0, 1] as a PNG in a data URI, in colours that stand out from a light and a dark page."""
    scale = torch.tensor(_SCALE, dtype=torch.float32)
    at = values * (len(scale) - 1)
    below = at.floor().long().clamp(0, len(scale) - 2)
    share = (at - below)[..., None]
    return encoded(((1 - share) * scale[below] + share * scale[below + 1]).round().to(torch.uint8))
