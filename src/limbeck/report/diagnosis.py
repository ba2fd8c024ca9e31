"""The section of a report that tells why a distillation helps or fails, from the diagnosis kept in the run's folder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.diagnosis.attribution import ARMS, Attribution
from limbeck.diagnosis.blocks import Blocks
from limbeck.diagnosis.capacity import Capacity
from limbeck.diagnosis.confidence import Confidence
from limbeck.diagnosis.diagnosing import Diagnosis
from limbeck.diagnosis.gradient import Rescaling
from limbeck.diagnosis.searching import CANDIDATES
from limbeck.diagnosis.signs import HIGH
from limbeck.diagnosis.teacher import TeacherFacts
from limbeck.report.charts import Axis, Bar, Chart, DotPlot, DotRange, Heat, Line, Plane, spanning
from limbeck.results.diagnoses import newest

__all__ = ["DiagnosisSection", "diagnosis_section"]

_FITS = {"student": "the student", "longer": "the student, for longer", "larger": "a network of the teacher's kind"}
_HIGHEST, _LOWEST = 4.0, -2.0  # of the rescaling factors that are drawn


@dataclass(frozen=True)
class DiagnosisSection:
    """What the template shows of a diagnosis.

    name: of what was diagnosed.  about: which student that is, where it is not plain.
    findings: what was said and its evidence.
    advice: question, answer, evidence, how sure.  verdicts: of the effects.
    charts: each with its note.  facts: names and values.  told: what everything is measured on.
    """

    name: str
    about: Sequence[str]
    told: str
    findings: Sequence[tuple[str, str]]
    advice: Sequence[tuple[str, str, str, str]]
    verdicts: Sequence[str]
    charts: Sequence[tuple[Chart, str]]
    facts: Sequence[tuple[str, str]]


def diagnosis_section(folder: Path) -> DiagnosisSection | None:
    """Return what to show of a folder's newest diagnosis, None where it has none; RunError when it is damaged."""
    content = newest(folder)
    return None if content is None else _section(content)


def _section(content: Diagnosis) -> DiagnosisSection:
    attribution, settings = content.attribution, content.settings
    charts: list[tuple[Chart, str]] = []
    verdicts: list[str] = []
    if attribution is not None:
        charts = [
            (
                _effects(attribution),
                "In points of accuracy, paired by seed. The lines are 95 % t-intervals over seeds.",
            ),
            (_arms(attribution), _searched(content)),
        ]
        verdicts = [each.verdict() for each in attribution.effects]
        verdicts += [f"{name} is left out: {reason}" for name, reason in attribution.left_out.items()]
    if any(each.curve for each in content.rescaling):
        charts.append((_rescaling(content.rescaling), _correlations(content.rescaling)))
    charts += [
        (_confidence(content.teacher.held_out), "A teacher of smoothed labels piles up below 1."),
        *_heats(content.teacher, content.class_names),
        (_capacity(content.capacity), f"{content.capacity.reason.capitalize()}."),
    ]
    return DiagnosisSection(
        name=content.name,
        about=settings["about"],
        told=(
            f"Measured on {settings['held_out']:,} held-out training samples, with {content.trainings}"
            f" trainings{_reused(content)}; the test set was not read."
        ),
        findings=[(each.said, each.evidence) for each in content.findings],
        advice=[(each.question, each.said, each.evidence, each.confidence) for each in content.advice],
        verdicts=verdicts,
        charts=charts,
        facts=_facts(content),
    )


def _reused(content: Diagnosis) -> str:
    return f", of which {content.reused} are the run's own" if content.reused else ""


def _searched(content: Diagnosis) -> str:
    """Say how the settings of the students came about."""
    if not content.settings["search"]:
        return "Same seeds, same budget; only what they learn from differs."
    said = []
    for name, setting in content.chosen.items():
        said.append(f"{ARMS.get(name, name)} {setting}")
    return (
        f"Same seeds, same budget, the same search: {CANDIDATES} settings each, the best kept by held-out errors of"
        f" the first seed: {'; '.join(said)}."
    )


def _effects(attribution: Attribution) -> DotPlot:
    """Draw what each part of the distillation does."""
    rows = []
    for each in attribution.effects:
        over = each.over_seeds
        colour = "distilled" if each.found else "other"
        value = DotRange(each.name, colour, *(100 * v for v in (over.mean, over.low, over.high)))
        rows.append((each.name, (value,)))
    ends = [end for _, (value,) in rows for end in (value.low, value.high)]
    said = "; ".join(each.verdict() for each in attribution.effects)
    axis = spanning("points of accuracy", [0.0, *ends])
    return DotPlot("effects", "What each part of the distillation does", f"Dot plot of effects. {said}.", axis, rows)


def _arms(attribution: Attribution) -> DotPlot:
    """Draw the accuracy of the students by target."""
    rows = []
    for name, over in attribution.accuracies.items():
        colour, title = {"hard": "alone", "kd": "distilled"}.get(name, "other"), ARMS.get(name, name)
        value = DotRange(title, colour, over.mean, *over.ends)
        rows.append((title, (value,)))
    ends = [end for _, (value,) in rows for end in (value.low, value.high)]
    said = "; ".join(f"{name} {value.value:.1%}" for name, (value,) in rows)
    axis = spanning("accuracy on held-out data", ends, share=True)
    return DotPlot("targets", "Students by what they learn from", f"Dot plot of accuracies: {said}.", axis, rows)


def _rescaling(found: Sequence[Rescaling]) -> Plane:
    """Draw how much an example weighs against how sure the teacher is of it."""
    lines = []
    for each, colour, dash in zip(found, ("third", "fourth"), ("7 3", ""), strict=False):
        points = [(at, value) for at, value, _ in each.curve if not math.isnan(at + value)]
        if points:
            name = f"{each.when} in training"
            lines.append(
                Line(name, colour, [(at, min(max(value, _LOWEST), _HIGHEST)) for at, value in points], dash=dash)
            )
    values = [value for line in lines for _, value in line.points]
    # Of a teacher that is sure of everything all points lie near 1: the axis begins where they do.
    least = min((at for line in lines for at, _ in line.points), default=0.0)
    low = max(0.0, least - 0.1 * (1.0 - least)) if least < 1.0 else 0.0
    axes = (
        Axis("teacher's confidence in the true class", low, 1.0, share=True),
        spanning("median weight w", [0.0, 1.0, *values]),
    )
    said = "; ".join(
        f"{line.name} from {line.points[0][1]:.2f} where it is least sure to {line.points[-1][1]:.2f}" for line in lines
    )
    title = "How much an example weighs, against the teacher's confidence"
    return Plane(
        "rescaling", title, f"Line chart of the rescaling of the gradient: {said or 'no values'}.", *axes, lines
    )


def _correlations(found: Sequence[Rescaling]) -> str:
    said = [f"{each.when} {each.spearman:+.2f}" for each in found if each.spearman is not None]
    told = f" Rank correlation: {', '.join(said)}." if said else ""
    return f"Medians of tenths of the examples; 1 is the weight under hard labels.{told}"


def _confidence(sure: Confidence) -> Plane:
    """Draw how the teacher's confidence in the true class is spread."""
    shares = sure.histogram
    bars = [
        Bar(i / 20, (i + 1) / 20, share, f"confidence {i / 20:.0%} to {(i + 1) / 20:.0%}: {share:.1%} of the examples")
        for i, share in enumerate(shares)
        if share
    ]
    said = (
        f"mean {sure.mean:.2f}, {shares[-1]:.0%} of the examples above 95 %, accuracy {sure.accuracy:.1%},"
        f" expected calibration error {sure.ece:.3f}"
    )
    axes = Axis("confidence in the true class", 0.0, 1.0, share=True), Axis("share of examples", 0.0, 1.0, share=True)
    title = "How sure the teacher is of held-out samples"
    return Plane("teacher-confidence", title, f"Histogram: {said}.", *axes, bars=bars, colour="teacher")


def _heats(teacher: TeacherFacts, names: Sequence[str]) -> list[tuple[Chart, str]]:
    """Draw which classes go together, sorted so that groups stand side by side."""
    found: list[tuple[Chart, str]] = []
    order = teacher.order
    for key, title, rows in (
        ("correlation-low", "Class correlations at temperature 1", teacher.correlation_low),
        ("correlation-high", f"Class correlations at temperature {HIGH:g}", teacher.correlation_high),
        ("cosines", "Cosines of the last layer's class vectors", teacher.cosines),
    ):
        if rows is None or sorted(order) != list(range(len(rows))) or any(len(row) != len(rows) for row in rows):
            continue
        values = [[rows[i][j] for j in order] for i in order]
        apart = [
            (value, i, j) for i, row in enumerate(values) for j, value in enumerate(row) if i < j and value is not None
        ]
        if not apart:
            continue
        own = [names[i] if len(names) == len(rows) else str(i) for i in order]
        most, i, j = max(apart)
        least, k, m = min(apart)
        said = f"most alike {own[i]} and {own[j]}, {most:+.2f}; least {own[k]} and {own[m]}, {least:+.2f}"
        note = "Blue pairs are more alike than the median pair, orange ones less; the scale stands below."
        found.append((Heat(key, title, f"Heatmap of {len(rows)} classes: {said}.", own, values), note))
    return found


def _capacity(capacity: Capacity) -> DotPlot:
    """Draw how far the fits of the teacher's soft targets differ from it."""
    rows = []
    for fit in capacity.fits:
        values = [
            ("training samples", "third", fit.disagreement),
            ("held-out samples", "fourth", 1.0 - fit.held_out.agreement),
        ]
        rows.append((_FITS[fit.name], [DotRange.exact(name, colour, v) for name, colour, v in values]))
    said = "; ".join(
        f"{name}: {entries[0].value:.1%} in training, {entries[1].value:.1%} held out" for name, entries in rows
    )
    axis = spanning(
        "share answered unlike the teacher", [v.value for _, entries in rows for v in entries], zero=True, share=True
    )
    title = "Who can follow the teacher"
    return DotPlot("capacity", title, f"Dot plot of disagreement with the teacher. {said}.", axis, rows)


def _facts(content: Diagnosis) -> list[tuple[str, str]]:
    teacher = content.teacher
    held_out = teacher.held_out
    found = [
        ("Teacher's accuracy, held out", f"{held_out.accuracy:.1%}, {teacher.train.accuracy:.1%} in training"),
        ("Its calibration error (ECE)", f"{held_out.ece:.3f}"),
        (
            "Its entropy, nats",
            ", ".join(f"{value:.2f} at T = {temperature:g}" for temperature, value in held_out.entropies),
        ),
    ]
    for title, blocks in (
        ("Blocks of the known hierarchy", teacher.given_blocks),
        ("Blocks that were looked for", teacher.found_blocks),
    ):
        if blocks is not None:
            found.append((title, _blocks(blocks)))
    if teacher.stability_of_blocks is not None:
        found.append(
            (
                "Their stability between halves of the data",
                f"{teacher.stability_of_blocks:.2f} (adjusted Rand index)",
            )
        )
    near = []
    for name, value in content.nearness.items():
        near.append(f"{value.written('{:+.3f}')}  {ARMS.get(name, name)}")
    return [
        *found,
        *([("Students' wrong classes in the teacher's order (rank correlation)", "\n".join(near))] if near else []),
    ]


def _blocks(blocks: Blocks) -> str:
    groups = len(set(blocks.groups))
    apart = f"correlation {blocks.within:+.3f} within, {blocks.between:+.3f} between"
    return f"{groups} groups, {apart}, p = {blocks.p_value:.3g}"
