"""limbeck evaluate: every measure of a finished run's models, on the sets and seeds of the run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import app
from limbeck.cli.showing import Data, Trust, figure, over_seeds, reading, say, show, show_json, table
from limbeck.cli.streams import copied
from limbeck.errors import command

if TYPE_CHECKING:
    from limbeck.evaluation import ClassGain, Estimate, Interval, McNemar
    from limbeck.results.assessment import ClassComparison, RunAssessment

__all__ = ["evaluate"]

_FIGURES = (
    ("test errors", "errors", "{:.1f}"),
    ("top-1", "accuracy", ""),
    ("top-5", "top5", ""),
    ("NLL, nats", "nll", "{:.4f}"),
    ("Brier score", "brier", "{:.4f}"),
    ("ECE, 15 bins of equal width", "ece", "{:.4f}"),
    ("ECE, 15 bins of equal mass", "ece_mass", "{:.4f}"),
    ("temperature fitted on validation", "temperature", "{:.3f}"),
    ("NLL at that temperature", "scaled_nll", "{:.4f}"),
    ("ECE at that temperature", "scaled_ece", "{:.4f}"),
    ("agreement with the teacher", "agreement", ""),
    ("  on the validation part", "agreement_validation", ""),
    ("  on the transfer set", "agreement_transfer", ""),
    ("  where the teacher is wrong", "agreement_where_wrong", ""),
    ("KL(teacher ‖ student), nats", "kl", "{:.4f}"),
    ("  on the validation part", "kl_validation", "{:.4f}"),
    ("  on the transfer set", "kl_transfer", "{:.4f}"),
)
_PARTS = (("validation", "  on the validation part"), ("transfer", "  on the transfer set"))
_SHOWN_CLASSES = 3
_NAMED_RARE = 12
_UNLIKELY = 0.05


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    with_cost: Annotated[bool, typer.Option("--cost/--no-cost", help="measure time and memory")] = True,
    device: Annotated[str | None, typer.Option(help="device of the models; by default CUDA if available")] = None,
    trust: Trust = False,
    data: Data = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Measure a finished run: errors, calibration, fidelity, gain and harm by class, and cost."""
    from limbeck.results.assessment import assess_run
    from limbeck.results.evaluations import keep
    from limbeck.results.finished import FinishedRun

    found = assess_run(
        FinishedRun.read(run, trust=trust, data=data),
        with_cost=with_cost,
        device=device,
        say=(lambda line: None) if quiet else say,
    )
    path = keep(found, run)
    if as_json:
        show_json({"run": str(run), "file": str(path), **found.as_dict()})
    else:
        with copied():
            show(*(f"{failure}." for failure in found.standing().failures))
            _figures_table(found)
            _layers_table(found)
            _cost_table(found)
            show(*_lines(found))
    say(f"written to {path} · next: {command('limbeck', 'report', run, *reading(trust, data))}")


def _figures(found: "RunAssessment") -> tuple[tuple[str, str, str], ...]:
    """Return the figures of a run's task: what a table calls them, their names, and how they are written."""
    from limbeck.evaluation import figures_of

    if found.by_class is not None:
        return _FIGURES
    figures = figures_of(found.task)
    rows = [
        (figures.errors, "errors", figures.pattern),
        (figures.accuracy, "accuracy", ""),
        ("NLL, nats", "nll", "{:.4f}"),
    ]
    rows += [(each.title, each.name, each.pattern) for each in figures.more]
    for each in figures.near:
        rows.append((each.title, each.name, each.pattern))
        rows += [(title, f"{each.name}_{part}", each.pattern) for part, title in _PARTS]
    return tuple(rows)


def _figures_table(found: "RunAssessment") -> None:
    from limbeck.evaluation import figures_of

    rows = []
    for title, name, pattern in _figures(found):
        cells = [found.figure(role, name) for role in found.labels]
        if any(cell is not None for cell in cells):
            change = _change(found.advantage(name), pattern)
            rows.append([title, *(figure(cell, pattern) for cell in cells), change])
    over = over_seeds(len(found.of("distilled")))
    title = f"{found.name}: {found.test.examples:,} {figures_of(found.task).unit}; {over}"
    columns = ["on the test set", *found.labels.values(), "distilled - alone"]
    show(table(title, columns, rows))


def _layers_table(found: "RunAssessment") -> None:
    """Show how similar the compared layers are to the teacher's, before training, alone and distilled."""
    if not found.layers:
        return
    roles = {"initial": "before training", "alone": "alone", "distilled": "distilled"}
    rows = []
    for layer in found.layers:
        name = f"{layer.student}: {layer.teacher}"
        for title, values in ((name, layer.cka), ("  units whose activity differs", layer.sparsity)):
            pattern = "{:.3f}" if values is layer.cka else ""
            if values:
                rows.append([title, *(figure(values.get(role), pattern) for role in roles)])
    title = (
        f"similarity of the student's layers to the teacher's: linear CKA on {found.layers[0].examples:,} test examples"
    )
    show(table(title, ["student's layer: teacher's", *roles.values()], rows))


def _lines(found: "RunAssessment") -> list[str]:
    """Return what there is to say in words."""
    if found.by_class is None:
        return _paired_lines(found)
    return [*_temperature_lines(found), *_paired_lines(found), *_class_lines(found.by_class)]


def _change(value: "Interval | None", pattern: str) -> str:
    """Return a difference with its sign; of shares in points, which are percent of the whole."""
    if value is None:
        return ""
    if pattern:
        return value.written(pattern.replace("{:", "{:+"))
    return f"{value.written('{:+.1f}', 100)} points"


def _temperature_lines(found: "RunAssessment") -> list[str]:
    """Say for which models no temperature could be fitted, and why."""
    if any(model.temperature is None for model in found.models):
        return ["No temperature is fitted: the refit left no validation part to fit it on."]
    told = [model for model in found.models if model.temperature is not None and model.temperature.at_bound]
    if not told:
        return []
    names = ", ".join(f"{model.role} (seed {model.seed})" for model in told)
    return [
        f"The validation part tells no temperature for: {names}. It is fitted only where some predictions are wrong."
    ]


def _cost_table(found: "RunAssessment") -> None:
    if not found.cost:
        return
    teacher, student = found.cost["teacher"], found.cost["student"]
    rows = [
        _cost_row("parameters", "{:,.0f}", teacher.parameters, student.parameters),
        _cost_row("bytes on disk", "{:,.0f}", teacher.bytes, student.bytes),
        _cost_row("FLOPs of one sample", "{:,.0f}", teacher.flops, student.flops),
    ]
    for slow, fast in zip(teacher.timings, student.timings, strict=True):
        row = _cost_row(f"latency at batch {slow.batch}, ms", "{:.3f}", 1000 * slow.seconds, 1000 * fast.seconds)
        for cell, timing in ((1, slow), (2, fast)):
            row[cell] += f" ({1000 * timing.lower:.3f} to {1000 * timing.upper:.3f})"
        speeds = [f"{timing.samples_per_second:,.0f}" for timing in (slow, fast)]
        rows += [row, [f"samples/s at batch {slow.batch}", *speeds, ""]]
    for batch, size in teacher.memory.items():
        rows.append(
            _cost_row(f"peak memory at batch {batch}, KiB", "{:,.1f}", size / 1024, student.memory[batch] / 1024)
        )
    threads = "1 thread" if student.threads == 1 else f"{student.threads} threads"
    title = f"cost on {student.device}, {threads}; times are medians (and quartiles) after a warm-up"
    show(table(title, ["a forward pass", "teacher", "student", "teacher / student"], rows))


def _cost_row(name: str, pattern: str, teacher: float, student: float) -> list[str]:
    return [name, pattern.format(teacher), pattern.format(student), f"{teacher / student:.1f}" if student else ""]


def mcnemar_line(test: "McNemar", difference: "Estimate", names: tuple[str, str], *, seeds: bool) -> str:
    """Return McNemar's test in plain words.  names: first model, second model.  seeds: whether there are several."""
    first, second = names
    pattern, over = ("{:,.1f}", " on average over the seeds") if seeds else ("{:,.0f}", "")
    change = f"{100 * difference.value:+.2f} points of accuracy"
    within = f"[{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    verdict = f"{'' if test.p_value < _UNLIKELY else 'not '}statistically significant"
    p = "p < 1e-12" if seeds and test.p_value <= 1e-12 else f"p = {test.p_value:.2g}"
    mended, spoiled = pattern.format(test.second_better), pattern.format(test.first_better)
    return (
        f"On {test.examples:,} test examples, {second} fixes {mended} errors of {first} and introduces {spoiled}{over}:"
        f" {change} {within}, {verdict} (McNemar's exact test, {p})."
    )


def _paired_lines(found: "RunAssessment") -> list[str]:
    """Compare the distilled student with the student alone, and with that of the same compute where there is one."""
    several = len(found.of("distilled")) > 1
    pairs = []
    if found.pooled is not None and found.difference is not None:
        pairs.append((found.pooled, found.difference, "the student alone"))
    if found.by_class is not None and found.by_class.equal_compute is not None:
        pairs.append((*found.by_class.equal_compute, "the student alone at equal compute"))
    return [mcnemar_line(test, by, (other, "the distilled student"), seeds=several) for test, by, other in pairs]


def _class_lines(found: "ClassComparison") -> list[str]:
    ordered = sorted(found.classes, key=lambda gain: (gain.difference.value, gain.label))
    harmed = [gain for gain in ordered if gain.difference.value < 0][:_SHOWN_CLASSES]
    helped = [gain for gain in reversed(ordered) if gain.difference.value > 0][:_SHOWN_CLASSES]
    lines = []
    for title, gains in (("Classes that gain most", helped), ("Classes harmed most", harmed)):
        if gains:
            lines.append(f"{title}: " + "; ".join(_class_words(found, gain) for gain in gains) + ".")
    if lines:
        lines.append("Each interval is for its class alone; of many classes some will seem to differ by chance.")
    return [*lines, *_tail_lines(found)]


def _tail_lines(found: "ClassComparison") -> list[str]:
    """Say what happened on the classes that the student had few training examples of."""
    tail = found.tail
    if tail.on_rare is None or tail.on_others is None:
        return []
    named = [f"{found.class_names[label]} ({tail.trained[label]:,})" for label in tail.rare]
    more = f" and {len(named) - _NAMED_RARE} more" if len(named) > _NAMED_RARE else ""
    changes = [_points(gain) for gain in (tail.on_rare, tail.on_others)]
    return [
        f"On rare classes, with fewer than half of an even share of the training examples: {changes[0]}; on the others:"
        f" {changes[1]}. Rare are {', '.join(named[:_NAMED_RARE])}{more}."
    ]


def _class_words(found: "ClassComparison", gain: "ClassGain") -> str:
    return f"{found.class_names[gain.label]} {_points(gain)} of {gain.examples:,} examples"


def _points(gain: "ClassGain") -> str:
    value, low, high = (100 * end for end in (gain.difference.value, gain.difference.low, gain.difference.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"
