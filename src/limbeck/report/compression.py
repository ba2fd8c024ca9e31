"""The section on a compression: what each stage costs and answers, before and after its retraining."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.evaluation import Figures, Interval
from limbeck.evaluation.pareto import Point, pareto
from limbeck.report.charts import Axis, Dot, Line, Plane, short, spanning
from limbeck.report.gather import Gathered
from limbeck.report.story import bytes_in_words
from limbeck.results.compression import StageFigures, stages_of

__all__ = ["CompressionSection", "compression_section"]

_FOOTNOTE = (
    "On disk is the exported safetensors file, with each tied matrix once. An ideal code takes the entropy of each"
    " tensor's values and a table of them; such a code saves disk and download, and at run time the network is as large"
    " as without it. Latency is the median of one sample's answer, with the quartiles, where the run was made."
)
_HEAD = ("Network", "Parameters", "On disk", "Times smaller", "With an ideal code", "FLOPs")
_TYPING = (
    " Milliseconds are those of one word. KS is the share of keys that the offered words save, and WPR that of words"
    " offered before their first letter: of all words of the test text, and of those that can be offered."
)


@dataclass(frozen=True)
class CompressionSection:
    """What the template shows of a compression.  said: in words.  chart: bytes against the main figure.

    head, rows: the table of stages.  footnote: what its columns mean.
    """

    said: str
    chart: Plane
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    footnote: str


def compression_section(gathered: Gathered) -> CompressionSection | None:
    """Return what to show of a compression; None for a run of another scheme."""
    every = stages_of(gathered.run.outcome)
    stages = [each for each in every if not (each.smaller or each.compared)]
    beside = [each for each in every if each.smaller or each.compared]
    if not stages:
        return None
    figures = gathered.figures
    alone = gathered.run.outcome.errors("alone").mean
    typed = stages[0].typing is not None
    rows = [_row(each, stages[0], figures) for each in [*stages_of(gathered.run.outcome, beside=True), *every]]
    last = ("Milliseconds a word", "KS %", "WPR %") if typed else ("Milliseconds",)
    head = (*_HEAD, *last, f"Test {figures.errors}")
    footnote = _FOOTNOTE + (_TYPING if typed else "")
    return CompressionSection(_said(stages, figures), _chart(stages, beside, alone, figures), head, rows, footnote)


def _row(stage: StageFigures, first: StageFigures, figures: Figures) -> list[str]:
    low, median, high = (1000 * each for each in stage.latency)
    return [
        stage.label[:1].upper() + stage.label[1:],
        f"{stage.parameters:,}",
        bytes_in_words(stage.bytes),
        f"{first.bytes / stage.bytes:.2f}",
        bytes_in_words(stage.ideal_bytes),
        short(float(stage.flops)),
        f"{median:.3g} ({low:.3g} to {high:.3g})",
        *(
            [_both(stage.typing, rate) for rate in ("keystroke_savings", "word_prediction_rate")]
            if stage.typing
            else []
        ),
        stage.errors.written(figures.pattern),
    ]


def _both(typing: Mapping[str, Interval], rate: str) -> str:
    """Return a rate of a keyboard for all words, and for those that can be offered."""
    known = typing.get(f"known_{rate}")
    return " / ".join(each.written("{:.1f}") for each in (typing[rate], known) if each is not None)


def _said(stages: Sequence[StageFigures], figures: Figures) -> str:
    """Say how much smaller the student is, and what that costs."""
    first, last = stages[0], stages[-1]
    sizes = f"from {bytes_in_words(first.bytes)} to {bytes_in_words(last.bytes)} on disk"
    said = f"The student is {first.bytes / last.bytes:.2f} times smaller, {sizes}."
    was, now = (figures.pattern.format(each.errors.mean) for each in (first, last))
    said += f" Its test {figures.errors}: {was} before, {now} after."
    if last.retrained:
        untrained = next(each for each in reversed(stages) if each.stage == last.stage and not each.retrained)
        without = figures.pattern.format(untrained.errors.mean)
        said += f" Without retraining after the last stage: {without}."
    return said


def _chart(stages: Sequence[StageFigures], beside: Sequence[StageFigures], alone: float, figures: Figures) -> Plane:
    """Draw bytes on disk against the main figure, each stage before and after its retraining."""
    first, every = stages[0], [*stages, *beside]
    named = [(each, "Uncompressed" if not each.stage else f"Stage {each.stage}") for each in stages]
    skipped = {each.stage for each in stages if each.retrained}  # whose other network was not retrained
    dots = [
        Dot(
            each.bytes / 1024,
            each.errors.mean,
            "distilled" if each.retrained or each.stage not in skipped else "wrong",
            name if each.retrained or each.stage not in skipped else "",
            f"{each.label}: {each.errors.written(figures.pattern)} {figures.errors}, {bytes_in_words(each.bytes)}",
        )
        for each, name in named
    ]
    value = figures.pattern.format(alone)
    note = f"student alone: {value} {figures.errors}, {bytes_in_words(first.bytes)}"
    dots.append(Dot(first.bytes / 1024, alone, "alone", "Student alone", note))
    for each in beside:
        note = f"{each.label}: {each.errors.written(figures.pattern)} {figures.errors}, {bytes_in_words(each.bytes)}"
        name, colour = (each.label[:1].upper() + each.label[1:], "alone") if each.smaller else ("", "other")
        dots.append(Dot(each.bytes / 1024, each.errors.mean, colour, name, note))
    lines = []
    chain = [(each.bytes / 1024, each.errors.mean) for each in stages if each.retrained or each.stage not in skipped]
    lines.append(Line("retrained", "distilled", chain))
    for before, after in itertools.pairwise(stages):
        if after.retrained:
            gain = [(each.bytes / 1024, each.errors.mean) for each in (before, after)]
            name = "not retrained" if len(lines) == 1 else ""
            lines.append(Line(name, "wrong", gain, dash="2 3"))
    for each in every:
        low, high = each.errors.ends
        if high > low:
            lines.append(Line("", "ink", [(each.bytes / 1024, low), (each.bytes / 1024, high)]))
    ends = [end for each in every for end in each.errors.ends]
    x = spanning("KiB on disk (log scale)", [each.bytes / 1024 for each in every], log=True)
    y = spanning(f"test {figures.errors} ({figures.better} is better)", [*ends, alone])
    y = Axis(y.label, max(0.0, y.low) if min(ends) >= 0 else y.low, y.high)
    shown = "; ".join(
        f"{each.label}, {figures.pattern.format(each.errors.mean)} at {bytes_in_words(each.bytes)}" for each in every
    )
    best = pareto([Point(each.label, -each.errors.mean, float(each.bytes)) for each in every])
    front = ", ".join(point.name for point in best)
    alternative = f"Bytes on disk against test {figures.errors}: {shown}. No other network beats: {front}."
    return Plane("compression", "Size and what it costs", alternative, x, y, lines=lines, dots=dots)
