"""The page: what was gathered, put into one self-contained HTML file."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from limbeck import __version__, schemes, targets
from limbeck.card import Card
from limbeck.config.methods import method_sections
from limbeck.errors import InputError, RunError
from limbeck.records import write_aside
from limbeck.report import curves, figures, panels, pictures, story, svg
from limbeck.report.attention import attention_pictures
from limbeck.report.charts import Chart, DotPlot, Heat, Matrix, Plane, short
from limbeck.report.compression import compression_section
from limbeck.report.diagnosis import DiagnosisSection, diagnosis_section
from limbeck.report.gather import Gathered, gather
from limbeck.report.layers import layers_section
from limbeck.report.views import view_of
from limbeck.results.comparison import Comparison
from limbeck.results.naming import names_of_runs

__all__ = ["build", "build_diagnosed", "render", "render_comparison", "section"]

_MARK = '<meta name="generator" content="limbeck">'
_ROWS = 12  # of the table below a curve


def build(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    files: bool = True,
    trust: bool = False,
    data: Path | None = None,
) -> Path:
    """Write the report of one or several finished runs and return its place.

    out: by default report.html in the folder of one run, or in the current folder for several.
    files: whether the figures are also written as SVG into `figures/` of each run.
    trust, data: see `FinishedRun.read`.
    Raises RunError when a folder is no finished run, or the page cannot be written.
    """
    if not folders:
        raise InputError("report: found no run folder, expected at least one")
    path = out or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
    if out is not None or path.exists():
        _check(path)
    runs = [gather(folder, trust=trust, data=data) for folder in folders]
    names = [runs[0].run.recipe.name]
    if len(runs) > 1:
        names = names_of_runs(folders, [gathered.run.recipe for gathered in runs])
    sections = [
        section(gathered, number, name) for number, (gathered, name) in enumerate(zip(runs, names, strict=True), 1)
    ]
    write_aside(path, render(runs, sections), what="report", mend="name another with --out")
    if files:
        for gathered, each in zip(runs, sections, strict=True):
            figures.save(_charts(each), gathered.run.folder / "figures")
    return path


def build_diagnosed(folder: Path, *, files: bool = True) -> Path:
    """Write the page of a folder's newest diagnosis alone, diagnosis.html, and return its place; see `build`.

    No model is run for it, so that no test set is read.
    """
    path, told = folder / "diagnosis.html", diagnosis_section(folder)
    if told is None:
        raise RunError(f"report: '{folder}' has no diagnosis; make one with: limbeck diagnose RECIPE")
    if path.exists():
        _check(path)
    text = _rendered("diagnosed.html.j2", title=told.name, told=told)
    write_aside(path, text, what="report", mend="name another with --out")
    if files:
        figures.save([chart for chart, _ in told.charts], folder / "figures")
    return path


def render(runs: Sequence[Gathered], sections: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of some runs and their sections."""
    return _rendered(
        "page.html.j2",
        title=runs[0].run.recipe.name if len(runs) == 1 else f"{len(runs)} runs compared",
        sections=sections,
        cost=panels.cost_plot(runs) if len(runs) > 1 else None,
        comparable=panels.same_test_set(runs),
        overview=[_overview(gathered, each) for gathered, each in zip(runs, sections, strict=True)],
    )


def render_comparison(
    found: Comparison,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
    lines: Sequence[str],
    failures: Sequence[str] = (),
) -> str:
    """Return the page of a comparison.

    tables: title, columns and rows of each.  lines: what there is to say of it.  failures: of models, which come first.
    """
    labels = [run.label for run in found.runs]
    title = " and ".join(labels) if len(labels) < 3 else f"{len(labels)} runs compared"
    chart = panels.errors_of_runs(found)
    return _rendered("compared.html.j2", title=title, tables=tables, lines=lines, failures=failures, chart=chart)


def _rendered(template: str, **content: Any) -> str:
    """Return a page from its template; whatever a run named is escaped."""
    inlined = {name: Markup(_source(f"page.{name}")) for name in ("css", "js")}
    page = _environment().get_template(template).render(mark=Markup(_MARK), version=__version__, **content, **inlined)
    return page.strip() + "\n"


@cache
def _environment() -> Environment:
    """Return what renders the templates, which are compiled once in a process."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "draw": lambda chart: Markup(svg.draw(chart)),
        "legend": svg.legend,
        "numbers": numbers_of,
        "share": lambda value: f"{100 * value:.1f} %",
        "percent": pictures.percent,
        "bytes": story.bytes_in_words,
        "times": lambda value: "" if value is None else f"{float(f'{value:.3g}'):,g}×",
        "quantity": lambda value: "" if value is None else short(float(value)),
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    return environment


def _source(name: str) -> str:
    """Return the text of a file that is installed beside this module."""
    return resources.files("limbeck.report").joinpath(name).read_text(encoding="utf-8")


def section(gathered: Gathered, number: int, name: str) -> dict[str, Any]:
    """Return what the template shows of a run.  number, name: tell the runs of a page apart."""
    rows = story.model_rows(gathered)
    keys = gathered.run.recipe.keys
    temperature, distils_at = story.temperature(keys, gathered.run.outcome.chosen.get("distilled", {}))
    view, target = view_of(gathered.run.parts.test.task), _target(keys["method"])
    return {
        "number": number,
        "name": name,
        "summary": keys.get("summary") or "",
        "cards": gathered.run.recipe.method.cards,
        "scheme": schemes.card(schemes.name_of(gathered.run.recipe.scheme)),
        "target": target,
        "facts": story.facts(gathered),
        "verdict": story.verdict(gathered),
        "rows": rows,
        "compute": any(model.compute is not None for model in gathered.models),
        "footnote": story.footnote(gathered, rows),
        "errors": panels.errors_chart(rows, gathered.figures),
        "figures": gathered.figures,
        "cost": panels.cost_plot([gathered]),
        "compression": compression_section(gathered),
        "training": curves.training(gathered),
        "given": view.given(gathered, temperature, distils_at, target),
        "differs": view.differences(gathered),
        "layers": layers_section(gathered),
        "attention": attention_pictures(gathered.attention),
        "trusted": view.trusted(gathered),
        "trust": view.trust,
        "diagnosis": _diagnosis(gathered),
        "recipe": gathered.recipe,
        "provenance": story.provenance(gathered),
        "notes": gathered.notes,
    }


def _target(method: Any) -> Card | None:
    named = [keys.get("target") for keys in method_sections(method)]
    return next((targets.card(each["kind"]) for each in named if isinstance(each, Mapping) and "kind" in each), None)


def _diagnosis(gathered: Gathered) -> DiagnosisSection | None:
    """Return the diagnosis kept in a run's folder, if there is one; a damaged one is left out and told of."""
    try:
        return diagnosis_section(gathered.run.folder)
    except RunError as error:
        gathered.notes.append(f"The diagnosis is left out: {error}")
        return None


def _overview(gathered: Gathered, section: Mapping[str, Any]) -> list[str]:
    """Return a run's line in the table of several runs."""
    of = {row.model.role: row.errors for row in story.model_rows(gathered)}
    errors = [of.get(role, "–") for role in ("teacher", "alone", "distilled")]
    share = gathered.standing.share
    gap = "–" if share is None else story.whole_percent(share.mean)
    return [f"{section['number']}. {section['name']}", str(gathered.run.folder), *errors, gap]


def _charts(section: dict[str, Any]) -> list[Chart]:
    found = [section["errors"], section["cost"], *section["training"]]
    found += [section["compression"].chart] if section["compression"] else []
    for charts in (section["given"].charts, section["differs"].charts, section["trusted"]):
        found += [chart for chart, _ in charts]
    for more in (section["layers"], section["diagnosis"]):
        found += [chart for chart, _ in (more.charts if more else [])]
    return found


def numbers_of(chart: Chart) -> tuple[list[str], list[list[str]]] | None:
    """Return a chart's numbers as a table: its head and its rows; None where the chart itself shows them."""
    match chart:
        case Plane(x=x, y=y, bars=bars) if bars:
            rows = [[f"{bar.left:.2f} to {bar.right:.2f}", f"{bar.height:.3f}"] for bar in bars]
            if y.label == "share right":
                counted = [bar.note.rsplit(" ", 1)[-1] for bar in bars]
                rows = [[*row, count] for row, count in zip(rows, counted, strict=True)]
                return ["confidence", "share right", "examples"], rows
            return [x.label, y.label], rows
        case Plane(x=x, lines=lines, dots=dots, cloud=cloud) if not dots and not cloud:
            at = [point[0] for point in lines[0].points]
            kept = sorted({round(i * (len(at) - 1) / (_ROWS - 1)) for i in range(_ROWS)}) if len(at) > _ROWS else None
            values = [dict(line.points) for line in lines]
            chosen = [at[i] for i in kept] if kept else at
            head = [x.label.removesuffix(" (log scale)"), *(line.name for line in lines)]
            return head, [
                [f"{place:.3g}", *(f"{v[place]:.4g}" if place in v else "" for v in values)] for place in chosen
            ]
        case DotPlot(rows=rows) if rows and len(rows[0][1]) > 1:
            of = {"runs": "run", "labels": "label", "capacity": "network", "layers": "layer"}
            named = of.get(chart.key.partition("-")[0], "class")
            head = [named, *(entry.series for entry in rows[0][1])]
            return head, [[name, *(f"{entry.value:.3f}" for entry in entries)] for name, entries in rows]
        case Heat():
            return ["class", "and class", "resemblance"], [
                [one, two, f"{v:+.3f}"] for one, two, v in chart.pairs(_ROWS)
            ]
        case Matrix(names=names, counts=counts):
            return ["true class", *names], [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
    return None


def _check(path: Path) -> None:
    """Refuse a place that cannot hold the page before anything is computed, and any file that is no report."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in '{path.parent}', which is no folder"
        raise RunError(f"report: '{path}' {what}; name a file in a folder that exists with --out")
    if path.exists():
        with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            if _MARK in file.read(1000):
                return
        raise RunError(f"report: '{path}' exists and is not a report of limbeck; name another file with --out")
