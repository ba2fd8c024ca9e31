"""Charts as files for papers and slides: SVG and PNG, drawn by matplotlib on white."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import RunError
from limbeck.report.charts import Axis, Chart, Heat, Matrix, Plane, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save"]

_COLOURS = {
    "ink": "#1b2330",
    "teacher": "#6b3fb8",
    "alone": "#b25408",
    "distilled": "#0b7468",
    "other": "#2563a8",
    "third": "#2563a8",
    "fourth": "#b4235a",
    "fifth": "#5d7a12",
    "wrong": "#b3261e",
}
_LOOK: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    "text.parse_math": False,
    "legend.frameon": False,
}


def save(charts: list[Chart], folder: Path) -> list[Path]:
    """Write each chart as <key>.svg and <key>.png; return the files.  RunError when the folder cannot be written."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(_LOOK):
            for chart in charts:
                wide = isinstance(chart, Rows | Matrix | Heat)  # names of classes may need room
                rows = len(chart.rows) if isinstance(chart, Rows) else 0
                figure = Figure(figsize=(5.0, max(3.2, 1.2 + 0.25 * rows) if rows != 3 else 2.2))
                FigureCanvasAgg(figure)
                axes = figure.add_axes((0.16, 0.17, 0.8, 0.72))
                _draw(chart, axes)
                axes.set_title(chart.title, loc="left", fontweight="bold")
                for kind, more in (("svg", {"Date": None}), ("png", {})):
                    path = folder / f"{chart.key}.{kind}"
                    figure.savefig(path, dpi=150, metadata=more, bbox_inches="tight" if wide else None)
                    written.append(path)
    except OSError as error:
        raise RunError(
            f"report: cannot write '{folder}' ({error.strerror or error}); leave the figures out with --no-figures"
        ) from None
    return written


def _draw(chart: Chart, axes: "Axes") -> None:
    match chart:
        case Plane():
            _plane(chart, axes)
        case Rows():
            _rows(chart, axes)
        case Matrix():
            _matrix(chart, axes)
        case Heat():
            _heat(chart, axes)


def _scale(axis: Axis, of: Any, letter: str) -> None:
    getattr(of, f"set_{letter}scale")("log" if axis.log else "linear")
    getattr(of, f"set_{letter}lim")(axis.low, axis.high)
    getattr(of, f"set_{letter}label")(axis.label)
    ticks = axis.ticks()
    getattr(of, f"set_{letter}ticks")([value for value, _ in ticks], [label for _, label in ticks])
    getattr(of, f"{letter}axis").minorticks_off()


def _dashed(dash: str) -> Any:
    return (0, tuple(float(part) / 2 for part in dash.split())) if dash else "-"


def _plane(chart: Plane, axes: "Axes") -> None:
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for bar in chart.bars:
        colour = (_COLOURS[chart.colour], bar.strength)
        axes.bar(bar.left, bar.height, bar.right - bar.left, align="edge", color=colour, ec="white")
    if chart.cloud:
        axes.plot(*zip(*chart.cloud, strict=True), "o", color=_COLOURS[chart.colour], markersize=3, alpha=0.55, mew=0)
    for line in chart.lines:
        if line.band:
            at, low, high = zip(*line.band, strict=True)
            axes.fill_between(at, low, high, color=_COLOURS[line.colour], alpha=0.15, linewidth=0)
        at, values = zip(*line.points, strict=True)
        axes.plot(at, values, color=_COLOURS[line.colour], linestyle=_dashed(line.dash), label=line.name or None)
    for dot in chart.dots:
        axes.plot(dot.x, dot.y, "o", color=_COLOURS[dot.colour])
        axes.annotate(dot.name, (dot.x, dot.y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    if sum(bool(line.name) for line in chart.lines) > 1:
        axes.legend(fontsize=8)
    _scale(chart.x, axes, "x")
    _scale(chart.y, axes, "y")


def _rows(chart: Rows, axes: "Axes") -> None:
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    if chart.origin is not None:
        axes.axvline(chart.origin, color=_COLOURS["ink"], linewidth=0.8)
    named: set[str] = set()
    for number, (_, entries) in enumerate(chart.rows):
        for place, entry in enumerate(entries):
            at = number + (place - (len(entries) - 1) / 2) * 0.2
            label = entry.series if entry.series not in named and len(entries) > 1 else None
            named.add(entry.series)
            axes.plot([entry.low, entry.high], [at, at], color=_COLOURS[entry.colour], linewidth=2)
            axes.plot(entry.value, at, "o", color=_COLOURS[entry.colour], markersize=5, label=label)
    axes.set_yticks(range(len(chart.rows)), [name for name, _ in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    _scale(chart.x, axes, "x")
    if any(len(entries) > 1 for _, entries in chart.rows):
        axes.legend(fontsize=8)


def _matrix(chart: Matrix, axes: "Axes") -> None:
    from matplotlib.colors import LinearSegmentedColormap

    wrong = [[0 if i == j else n for j, n in enumerate(row)] for i, row in enumerate(chart.counts)]
    colours = LinearSegmentedColormap.from_list("errors", ["white", _COLOURS[chart.colour]])
    edges = [i - 0.5 for i in range(len(chart.names) + 1)]
    axes.pcolormesh(edges, edges, wrong, cmap=colours, edgecolors="#eeeeee", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    most = max(max(row) for row in wrong) or 1
    for i, row in enumerate(chart.counts):
        for j, n in enumerate(row):
            if n:
                colour = "#888888" if i == j else "white" if n > 0.6 * most else "black"
                axes.text(j, i, str(n), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(chart.names)), chart.names, rotation=90 if max(map(len, chart.names)) > 2 else 0)
    axes.set_yticks(range(len(chart.names)), chart.names)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")


def _heat(chart: Heat, axes: "Axes") -> None:
    from matplotlib.colors import LinearSegmentedColormap

    size = len(chart.names)
    colours = LinearSegmentedColormap.from_list("resemblance", [_COLOURS["alone"], "white", _COLOURS["other"]])
    apart = [[0.0 if i == j or v is None else v for j, v in enumerate(row)] for i, row in enumerate(chart.values)]
    edges = [i - 0.5 for i in range(size + 1)]
    drawn = axes.pcolormesh(edges, edges, apart, cmap=colours, vmin=-chart.most, vmax=chart.most)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    if size <= 20:
        axes.set_xticks(range(size), chart.names, rotation=90 if max(map(len, chart.names)) > 2 else 0)
        axes.set_yticks(range(size), chart.names)
    else:
        axes.set_xlabel("classes, group by group")
    axes.get_figure().colorbar(drawn, ax=axes, shrink=0.8)  # type: ignore[union-attr]
