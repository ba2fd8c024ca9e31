"""Charts as SVG files for papers and slides: the charts of the page, with title and legend, in its light colours."""

import re
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path

from limbeck.errors import RunError
from limbeck.report import svg
from limbeck.report.charts import Chart, shortened

__all__ = ["save"]

_TITLE, _LINE = 24.0, 16.0  # heights of the title and of a line of the legend
_WIDE = 46  # letters of a title that fit


def save(charts: list[Chart], folder: Path) -> list[Path]:
    """Write each chart as <key>.svg and return the files.  RunError when the folder cannot be written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            path = folder / f"{chart.key}.svg"
            path.write_text(_alone(chart), encoding="utf-8", errors="backslashreplace")
            written.append(path)
    except OSError as error:
        raise RunError(
            f"report: cannot write '{folder}' ({error.strerror or error}); leave the figures out with --no-figures"
        ) from None
    return written


def _alone(chart: Chart) -> str:
    """Return a chart that needs no page: with its style, title and legend."""
    width, height, content = svg.parts(chart)
    series = svg.legend(chart)
    above = _TITLE + _LINE * len(series)
    head = [f'<text class="title" x="2" y="15">{escape(shortened(chart.title, _WIDE))}</text>']
    for row, (name, colour, dash) in enumerate(series):
        y = _TITLE + _LINE * row + 4
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        head.append(f'<line class="key line-{colour}" x1="2" x2="26" y1="{y}" y2="{y}"{dashed}/>')
        head.append(f'<text x="32" y="{y + 4}">{escape(shortened(name, _WIDE))}</text>')
    whole = height + above
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:g} {whole:g}" width="{width:g}"'
        f' height="{whole:g}" role="img" aria-label="{escape(chart.alternative)}">'
        f"<title>{escape(chart.title)}</title><style>{_style()}</style>"
        f'<rect width="{width:g}" height="{whole:g}" fill="#ffffff"/>'
        f'{"".join(head)}<g transform="translate(0 {above:g})">{content}</g></svg>\n'
    )


@cache
def _style() -> str:
    """Return the page's rules for charts with its light colours put in: not every reader of SVG knows variables."""
    page = resources.files("limbeck.report").joinpath("page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z]+):\s*(#[0-9a-f]{6})", page.partition("@media")[0]))
    rules = re.findall(r"^(?:\.chart |\.line-).*$", page, flags=re.MULTILINE)
    own = ".chart { font: 11px system-ui, sans-serif; fill: var(--muted); } .chart .title { font: bold 12px system-ui,"
    own += " sans-serif; fill: var(--ink); } .chart line.key { stroke-width: 2; }"
    text = " ".join([own, *(rule for rule in rules if not rule.startswith(".chart {"))])
    return re.sub(r"var\(--([a-z]+)\)", lambda found: colours[found[1]], text)
