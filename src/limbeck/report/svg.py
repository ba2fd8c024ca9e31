"""Charts as inline SVG, in the colours of the page's style sheet, so that they are legible on light and dark."""

import itertools
import math
from collections.abc import Callable, Iterable
from html import escape

from limbeck.report.charts import Axis, Chart, DotPlot, Heat, Line, Matrix, Plane, breadth, shortened

__all__ = ["draw", "legend", "parts"]

_Scale = Callable[[float], float]
_Box = tuple[float, float, float, float]  # left, top, right, bottom
_Drawn = tuple[float, float, str]  # width, height, content

_WIDTH, _HEIGHT = 360.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 26.0, 40.0
_ROW, _WIDEST_ROW, _FEW_ROWS = 24.0, 44.0, 144.0
"""Height of a row; of a chart with few rows, whose rows share a height of their own."""
_NOTED = 60  # letters of a name in the note of a cell
_ROOM = 27  # letters of the name of a row
_DEEPEST = 0.5  # opacity of a matrix's cell
_NAMED = 20  # classes whose names fit beside a heatmap
_SHADES = 10
_LEGIBLE = 1.5  # height of a name, in its own units, that another may cover
_LETTER = 6.3  # mean width of a letter, to place names


def draw(chart: Chart) -> str:
    """Return a chart as one <svg>; everything that a run named is escaped.

    >>> from limbeck.report.charts import Axis, Plane
    >>> draw(Plane("k", "title", "a <b>", Axis("x", 0, 1), Axis("y", 0, 1)))[:44]
    '<svg class="chart" viewBox="0 0 360 240" rol'
    """
    width, height, content = parts(chart)
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(chart.alternative)}">'
        f"{content}</svg>"
    )


def parts(chart: Chart) -> _Drawn:
    """Return a chart's width and height, and what is drawn within them."""
    match chart:
        case Plane():
            return _plane(chart)
        case DotPlot():
            return _rows(chart)
        case Matrix():
            return _matrix(chart)
        case Heat():
            return _heat(chart)
    raise TypeError(f"chart: found {type(chart).__name__}, expected Plane, DotPlot, Matrix or Heat")


def legend(chart: Chart) -> list[tuple[str, str, str]]:
    """Return the series of a chart with more than one: name, colour and dash."""
    found: dict[str, tuple[str, str, str]] = {}
    if isinstance(chart, Plane):
        found = {line.name: (line.name, line.colour, line.dash) for line in chart.lines if line.name}
    elif isinstance(chart, DotPlot):
        rows = [(name, each) for name, entries in chart.rows for each in entries]
        found = {each.series: (each.series, each.colour, "") for name, each in rows if name != each.series}
    return list(found.values()) if len(found) > 1 else []


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _name(x: float, y: float, name: str, anchor: str, most: int = 10, more: str = "") -> str:
    """Draw a name; one that is cut has the whole of it as its tooltip."""
    shown = shortened(name, most)
    whole = "" if shown == name else f"<title>{escape(name)}</title>"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{whole}{escape(shown)}</text>'


def _below(x: float, bottom: float, name: str, *, upright: bool) -> str:
    """Draw the name of a column below it."""
    if upright:
        return _name(x, bottom + 12, name, "end", more=f' transform="rotate(-90 {x:.1f} {bottom + 8:.1f})"')
    return _name(x, bottom + 15, name, "middle")


def _plane(chart: Plane) -> _Drawn:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + chart.x.place(value) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - chart.y.place(value) * (bottom - _TOP)

    drawn = [_text(2, 12, chart.y.label, "start", ' class="label"')]
    for value, label in chart.y.ticks(5):
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        drawn.append(_text(_LEFT - 6, y(value) + 4, label, "end"))
    drawn += [_text(x(value), bottom + 16, label) for value, label in _fitting(chart.x, x)]
    drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    drawn.append(_text((_LEFT + right) / 2, _HEIGHT - 6, chart.x.label, more=' class="label"'))
    for bar in chart.bars:
        left, width = x(bar.left), max(x(bar.right) - x(bar.left) - 1.5, 1.0)
        drawn.append(
            f'<rect class="fill-{chart.colour} bar" x="{left:.1f}" y="{y(bar.height):.1f}" width="{width:.1f}"'
            f' height="{bottom - y(bar.height):.1f}" fill-opacity="{bar.strength:.2f}">'
            f"<title>{escape(bar.note)}</title></rect>"
        )
    drawn += [
        f'<circle class="fill-{chart.colour}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.5" fill-opacity="0.55"/>'
        for at, value in chart.cloud
    ]
    drawn += [_curve(line, x, y) for line in chart.lines]
    drawn += _dots(chart, x, y, bottom)
    if chart.marker is not None:
        at = x(chart.marker)
        drawn.append(
            f'<line class="marker" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"'
            f' data-left="{_LEFT}" data-right="{right}" data-low="{chart.x.low}" data-high="{chart.x.high}"/>'
        )
    return _WIDTH, _HEIGHT, "".join(drawn)


def _dots(chart: Plane, x: _Scale, y: _Scale, bottom: float) -> list[str]:
    """Draw points, and beside each its name, where it covers the least of the others."""
    circles, names, taken = [], [], list[_Box]()
    at = [(x(dot.x), y(dot.y)) for dot in chart.dots]
    points = [(left - 6, top - 6, left + 6, top + 6) for left, top in at]
    points += [box for line in chart.lines for box in _along(line, x, y)]
    for dot, (left, top) in sorted(zip(chart.dots, at, strict=True), key=lambda each: each[1][1]):
        circles.append(
            f'<circle class="fill-{dot.colour}" cx="{left:.1f}" cy="{top:.1f}" r="5">'
            f"<title>{escape(dot.note)}</title></circle>"
        )
        if not dot.name:
            continue
        wide = _LETTER * breadth(dot.name)
        places: list[tuple[str, float, float]] = [
            (side, left + (9 if side == "start" else -9), top + below)
            for below in (4, -7, 15, -18, 26)
            for side in ("start", "end")
        ]
        boxes = [(at if side == "start" else at - wide, low - 9, at + wide if side == "start" else at, low + 2)
                 for side, at, low in places]  # fmt: skip
        best = min(range(len(places)), key=lambda i: (_covered(boxes[i], [*taken, *points], bottom), i))
        if _covered(boxes[best], taken, math.inf) > _LEGIBLE * wide:
            continue  # it could not be read; the circle has it as its tooltip
        taken.append(boxes[best])
        side, start, low = places[best]
        names.append(_text(start, low, dot.name, side, ' class="named"'))
    return [*names, *circles]


def _along(line: Line, x: _Scale, y: _Scale) -> Iterable[_Box]:
    """Return small boxes along a curve, which names should not cover."""
    ends = [(x(at), y(value)) for at, value in line.points]
    for (left, top), (right, bottom) in itertools.pairwise(ends):
        count = max(1, round(math.hypot(right - left, bottom - top) / 4))
        for step in range(count + 1):
            at, low = left + (right - left) * step / count, top + (bottom - top) * step / count
            yield at - 2, low - 2, at + 2, low + 2


def _covered(box: _Box, others: Iterable[_Box], bottom: float) -> float:
    """Return how much of other boxes a box covers, and of what lies outside the chart and on its axes."""
    shared = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )
    outside = max(0.0, box[2] - _WIDTH) + max(0.0, _LEFT - box[0]) + max(0.0, box[3] - bottom)
    return round(shared + 30.0 * outside, 3)


def _curve(line: Line, x: _Scale, y: _Scale) -> str:
    drawn = ""
    if line.band:
        edge = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in line.band]
        edge += [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(line.band)]
        drawn = f'<polygon class="fill-{line.colour} band" points="{" ".join(edge)}"/>'
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'{drawn}<polyline class="line-{line.colour}" points="{points}"{dash}/>'


def _fitting(axis: Axis, place: _Scale) -> list[tuple[float, str]]:
    """Return the ticks whose texts do not run into each other; the first and the last where no two would be left."""
    kept: list[tuple[float, str]] = []
    found = axis.ticks(7)
    for value, label in found:
        if not kept or place(value) - place(kept[-1][0]) > _LETTER * (len(label) + len(kept[-1][1])) / 2 + 8:
            kept.append((value, label))
    return kept if len(kept) > 1 else [found[0], found[-1]]


def _rows(chart: DotPlot) -> _Drawn:
    longest = max((breadth(shortened(name, _ROOM)) for name, _ in chart.rows), default=0)
    left, right = min(max(longest * _LETTER + 14, 40.0), 185.0), _WIDTH - 18.0
    top = 6.0
    tall = max(_ROW, min(_WIDEST_ROW, _FEW_ROWS / max(len(chart.rows), 1)))
    bottom = top + tall * len(chart.rows)
    height = bottom + 40

    def x(value: float) -> float:
        return left + chart.x.place(value) * (right - left)

    drawn = []
    for value, label in _fitting(chart.x, x):
        drawn.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{bottom}"/>')
        drawn.append(_text(x(value), bottom + 16, label))
    middle = min((left + right) / 2, _WIDTH - _LETTER * len(chart.x.label) / 2)  # a long name stays inside
    drawn.append(_text(middle, height - 6, chart.x.label, more=' class="label"'))
    if chart.origin is not None:
        at = x(chart.origin)
        drawn.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
    for number, (name, entries) in enumerate(chart.rows):
        middle = top + tall * (number + 0.5)
        drawn.append(_name(left - 8, middle + 4, name, "end", _ROOM))
        if len(entries) > 1 and number:  # else it is hard to see which row a point is of
            edge = middle - tall / 2
            drawn.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{edge}" y2="{edge}"/>')
        for place, entry in enumerate(entries):
            at = middle + (place - (len(entries) - 1) / 2) * min(6.0, 16.0 / max(len(entries), 1))
            note = f"{shortened(name, _NOTED)}, {shortened(entry.series, _NOTED)}: {entry.value:.4g}"
            if entry.high > entry.low:
                drawn.append(
                    f'<line class="line-{entry.colour} whisker" x1="{x(entry.low):.1f}" x2="{x(entry.high):.1f}"'
                    f' y1="{at:.1f}" y2="{at:.1f}"/>'
                )
            drawn.append(
                f'<circle class="fill-{entry.colour}" cx="{x(entry.value):.1f}" cy="{at:.1f}" r="4">'
                f"<title>{escape(note)}</title></circle>"
            )
    return _WIDTH, height, "".join(drawn)


def _matrix(chart: Matrix) -> _Drawn:
    size = len(chart.names)
    longest = max((breadth(shortened(name, 10)) for name in chart.names), default=0)
    left = min(longest * _LETTER + 26, 90.0)
    cell = (_WIDTH - left - 4) / max(size, 1)
    upright = longest * _LETTER > cell
    top = 6.0
    below = (longest * _LETTER if upright else 14.0) + 26
    most = max((n for i, row in enumerate(chart.counts) for j, n in enumerate(row) if i != j), default=0)
    drawn = []
    for i, row in enumerate(chart.counts):
        y = top + cell * i
        drawn.append(_name(left - 6, y + cell / 2 + 4, chart.names[i], "end"))
        for j, count in enumerate(row):
            x = left + cell * j
            # The diagonal would drown what is wrong, so it is drawn apart and has a scale of its own.  No cell is so
            # dark that its number could not be read.
            depth = _DEEPEST * (count / max(sum(row), 1) / 2 if i == j else count / max(most, 1))
            colour = "ink" if i == j else chart.colour
            true, answer = shortened(chart.names[i], _NOTED), shortened(chart.names[j], _NOTED)
            note = f"{true} taken for {answer}: {count}" if i != j else f"{true}: {count}"
            drawn.append(
                f'<rect class="cell fill-{colour}" x="{x + 0.75:.2f}" y="{y + 0.75:.2f}" width="{cell - 1.5:.2f}"'
                f' height="{cell - 1.5:.2f}" fill-opacity="{depth:.3f}"><title>{escape(note)}</title></rect>'
            )
            if count and cell >= 15:
                drawn.append(_text(x + cell / 2, y + cell / 2 + 4, str(count), more=' class="label"'))
    bottom = top + cell * size
    drawn += [_below(left + cell * (j + 0.5), bottom, name, upright=upright) for j, name in enumerate(chart.names)]
    drawn.append(_text(left + cell * size / 2, bottom + below - 6, "answer", more=' class="label"'))
    middle = top + cell * size / 2
    drawn.append(_text(11, middle, "true class", more=f' class="label" transform="rotate(-90 11 {middle:.1f})"'))
    return _WIDTH, bottom + below, "".join(drawn)


def _heat(chart: Heat) -> _Drawn:
    """Draw resemblances as cells of two colours; those of one shade are one path, so that many classes stay small."""
    size = len(chart.names)
    named = size <= _NAMED
    longest = max((breadth(shortened(name, 10)) for name in chart.names), default=0) if named else 0
    left = min(longest * _LETTER + 10, 74.0) if named else 4.0
    cell = (_WIDTH - left - 4) / max(size, 1)
    shades: dict[int, list[str]] = {}
    for i, row in enumerate(chart.values):
        for j, value in enumerate(row):
            shade = 0 if value is None or i == j else round(_SHADES * chart.shade(value))
            if shade:
                shades.setdefault(shade, []).append(_square(left + cell * j, 4 + cell * i, cell, cell))
    drawn = [
        f'<rect class="grid" x="{left:.1f}" y="4" width="{cell * size:.1f}" height="{cell * size:.1f}" fill="none"/>'
    ]
    cells = "".join(_shaded(shade, "".join(each)) for shade, each in sorted(shades.items()))
    drawn.append(f'<g class="cells">{cells}</g>')
    bottom = 4 + cell * size
    if not named:
        drawn.append(_text(_WIDTH / 2, bottom + 16, f"{size} classes, group by group", more=' class="label"'))
        return _WIDTH, bottom + 64, "".join([*drawn, *_scale_of(chart, bottom + 30)])
    upright = longest * _LETTER > cell
    for k, name in enumerate(chart.names):
        at = 4 + cell * (k + 0.5)
        drawn.append(_name(left - 6, at + 4, name, "end"))
        drawn.append(_below(left + cell * (k + 0.5), bottom, name, upright=upright))
    below = bottom + (longest * _LETTER + 20 if upright else 30)
    return _WIDTH, below + 34, "".join([*drawn, *_scale_of(chart, below)])


def _scale_of(chart: Heat, top: float) -> list[str]:
    """Draw the legend of a heatmap's colours: from the least resemblance over the median to the largest."""
    left, right = _WIDTH * 0.2, _WIDTH * 0.8
    step = (right - left) / (2 * _SHADES + 1)
    drawn = [_shaded(n - _SHADES, _square(left + step * n, top, step, 12)) for n in range(2 * _SHADES + 1)]
    drawn.append(
        f'<rect class="grid" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="12" fill="none"/>'
    )
    ends = zip((left, (left + right) / 2, right), chart.scale, ("", "median ", ""), strict=True)
    return drawn + [_text(x, top + 26, f"{word}{value:+.3g}".replace("-", "−")) for x, value, word in ends]


def _square(x: float, y: float, wide: float, high: float) -> str:
    return f"M{x:.1f} {y:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}z"


def _shaded(shade: int, path: str) -> str:
    colour = "other" if shade > 0 else "alone"
    return f'<path class="fill-{colour}" fill-opacity="{abs(shade) / _SHADES:.2f}" d="{path}"/>'
