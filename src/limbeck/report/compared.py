"""Several runs on one page: their errors side by side, the tables, and what differs."""

from limbeck.evaluation import figures_of
from limbeck.report.charts import DotPlot, DotRange, spanning
from limbeck.results.comparison import Comparison

__all__ = ["errors_of_runs"]

_MODELS = (
    ("teacher", "Teacher", "teacher"),
    ("alone", "Student alone", "alone"),
    ("alone_budget", "Student alone, equal compute", "other"),
    ("distilled", "Student distilled", "distilled"),
)


def errors_of_runs(found: Comparison) -> DotPlot | None:
    """Draw the errors of each run's models with their intervals; None where the runs have other test samples."""
    if len({run.evaluation.test.digest for run in found.runs}) > 1:
        return None
    figures = figures_of(found.runs[0].task)
    rows = []
    for run in found.runs:
        entries = []
        for role, name, colour in _MODELS:
            if (value := run.figure(role, "errors")) is not None:
                low, high = value.ends
                entries.append(DotRange(name, colour, value.mean, max(low, 0.0), high))
        rows.append((run.label, entries))
    ends = [entry.high for _, entries in rows for entry in entries]
    named = f"test {figures.errors}"
    said = "; ".join(
        f"{label}: " + ", ".join(f"{entry.series.lower()} {entry.value:.4g}" for entry in entries)
        for label, entries in rows
    )
    axis = spanning(f"{named} ({figures.better} is better)", [0.0, *ends], zero=True)
    return DotPlot("runs", f"{named.capitalize()} of each run", f"Dot plot of {named}. {said}.", axis, rows)
