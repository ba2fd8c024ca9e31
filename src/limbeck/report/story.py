"""What a run came to, in plain words; numbers are written the same way everywhere on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from limbeck.config.methods import method_sections
from limbeck.errors import command
from limbeck.evaluation import Figures, t_interval
from limbeck.evaluation.cost import Timing
from limbeck.evaluation.fidelity import fidelity
from limbeck.evaluation.figures import number
from limbeck.evaluation.paired import mcnemar
from limbeck.evaluation.resampling import wilson
from limbeck.report.charts import short
from limbeck.report.gather import Gathered, Model

_USUAL = 4.0
"""The temperature that is shown where a run tells of none."""

__all__ = [
    "Fact",
    "ModelRow",
    "bytes_in_words",
    "examples_of",
    "facts",
    "faithful",
    "footnote",
    "model_rows",
    "provenance",
    "temperature",
    "verdict",
]


@dataclass(frozen=True)
class Fact:
    """A number that stands out, with what it says."""

    value: str
    label: str


@dataclass(frozen=True)
class ModelRow:
    """A model's line in the first table, as text.

    low, high: the ends of the interval of its errors.  over: what the interval is over, "seeds" or "examples"; of
    "two seeds" both values.
    """

    model: Model
    errors: str
    accuracy: str
    low: float
    high: float
    over: str
    latency: str


def bytes_in_words(size: int | None) -> str:
    """Return a size on disk.

    >>> bytes_in_words(9920), bytes_in_words(None)
    ('9.92 kB', '')
    """
    if size is None:
        return ""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size} bytes"


def latency(timing: Timing | None) -> str:
    """Return the time of a forward pass.

    >>> latency(Timing(1, 0.00031, 0.0003, 0.00032, 10))
    '0.31 ms'
    """
    return "" if timing is None else f"{1e3 * timing.seconds:.3g} ms"


def model_rows(gathered: Gathered) -> list[ModelRow]:
    """Return the models with the intervals of their errors: over the seeds; over the examples where there is one."""
    rows = []
    examples, figures = examples_of(gathered), gathered.figures
    for model in gathered.models:
        errors, right = model.errors, model.accuracy
        if errors.half_width is not None:
            joint = " and " if errors.n == 2 else " ± "
            both = errors.ends if errors.n == 2 else (errors.mean, errors.half_width)
            text = joint.join(figures.error_text(value) for value in both)
            both = right.ends if right.n == 2 else (right.mean, right.half_width or 0.0)
            first, second = (figures.accuracy_text(value) for value in both)
            share = (
                f"{first.removesuffix(' %')}{joint}{second}"
                if errors.n == 2
                else f"{first} ± {second.removesuffix(' %')}"
            )
            over = "two seeds" if errors.n == 2 else "seeds"
            low, high = max(errors.ends[0], 0.0), errors.ends[1]
            high = min(high, float(examples)) if figures.counts else high
        elif not figures.by_example:
            low, high, over = errors.mean, errors.mean, ""
            text, share = figures.error_text(errors.mean), figures.accuracy_text(right.mean)
        else:
            within = wilson(examples - round(errors.mean), examples)
            low, high, over = (1 - within.high) * examples, (1 - within.low) * examples, "examples"
            text = f"{number(errors.mean)} ({low:.0f} to {high:.0f})"
            share = f"{figures.accuracy_text(right.mean)} ({100 * within.low:.1f} to {100 * within.high:.1f})"
        rows.append(ModelRow(model, text, share, low, high, over, latency(model.timing)))
    return rows


def examples_of(gathered: Gathered) -> int:
    """Return how many test examples the figures are over."""
    return gathered.run.outcome.seeds[0].distilled.examples


def verdict(gathered: Gathered) -> list[str]:
    """Return whether it worked, and how sure that is: one sentence each."""
    teacher, alone, distilled = (gathered.model(role) for role in ("teacher", "alone", "distilled"))
    if alone is None or distilled is None:
        return []
    by_teacher = None if teacher is None else teacher.errors.mean
    errors = gathered.figures.result(examples_of(gathered), distilled.errors.mean, alone.errors.mean, by_teacher)
    stands = gathered.standing
    failures = [f"{failure}." for failure in stands.failures]
    return [*failures, f"{stands.said}: {errors}.", _certainty(gathered, "alone"), *_equal_compute(gathered)]


def _equal_compute(gathered: Gathered) -> list[str]:
    """Say what the same compute gives without a teacher, where that was run; and what was cut short."""
    budget = gathered.model("alone_budget")
    notes = [f"{note[:1].upper()}{note[1:]}." for note in gathered.run.outcome.notes]
    if budget is None:
        return notes
    came = gathered.figures.came_to(budget.errors.mean)
    said = f"Trained alone with as much compute as the whole distillation took, the student {came}."
    return [f"{said} {_certainty(gathered, 'alone_budget')}", *notes]


def _certainty(gathered: Gathered, role: str) -> str:
    """Say whether the difference between the student distilled and another may be chance."""
    seeds, figures = gathered.run.outcome.seeds, gathered.figures
    if len(seeds) > 1:
        apart = [float(seed.metrics[role].errors - seed.distilled.errors) for seed in seeds]
        return _seed_by_seed(figures, role, apart)
    answers = gathered.answers
    if answers.has(role, "distilled") and figures.by_example:
        labels = answers.samples.labels.cpu()
        places = figures.task.places(labels)
        rows = [answers.logits[each][0].view(*places, -1) for each in (role, "distilled")]
        right = [figures.correct(each, labels) for each in rows]
        test = mcnemar(right[0], right[1])
        said = (
            f"On the same examples, distillation fixes {test.second_better} errors and introduces {test.first_better}"
        )
        return f"{said} (McNemar's exact test: p = {test.p_value:.2g}); one seed says nothing of other seeds."
    return "One seed was run, so this may be chance: run more seeds."


def _seed_by_seed(figures: Figures, role: str, saved: Sequence[float]) -> str:
    """Say how many errors the distilled student has less than another.  saved: of each seed."""
    whole = t_interval(saved)
    other = "the student alone at equal compute" if role == "alone_budget" else "the student alone"
    if not any(saved):
        return f"Over {len(saved)} seeds, the distilled student and {other} have the same {figures.errors}."
    if len(saved) == 2:
        each = " and ".join(_moved_by(value, figures) for value in saved)
        sure = "two seeds allow no interval: run more seeds."
    else:
        each = f"{_moved_by(whole.mean, figures, whole.half_width or 0.0)} (95 % interval)"
        sure = (
            "a statistically significant difference."
            if whole.low > 0 or whole.high < 0
            else "not statistically significant: run more seeds."
        )
    has = f"the {figures.errors} of the distilled student, against {other}: {each}"
    return f"Seed by seed, over {len(saved)} seeds, {has}, {sure}"


def _moved_by(change: float, figures: Figures, half_width: float | None = None) -> str:
    """Return by how much a main figure is better or worse."""
    within = "" if half_width is None else f" ± {figures.error_text(half_width)}"
    return f"{figures.error_text(abs(change))}{within} {figures.better if change >= 0 else figures.worse}"


def facts(gathered: Gathered) -> list[Fact]:
    """Return the few numbers that stand above everything else."""
    teacher, alone, distilled = (gathered.model(role) for role in ("teacher", "alone", "distilled"))
    found = []
    share = gathered.standing.share
    if share is not None:
        width = "" if share.half_width is None else f", ± {100 * share.half_width:.0f} over the seeds"
        found.append(Fact(whole_percent(share.mean), f"of the gap closed{width}"))
    if alone is not None and distilled is not None:
        before, after = (gathered.figures.accuracy_text(model.accuracy.mean, 1) for model in (alone, distilled))
        found.append(Fact(after, f"{gathered.figures.accuracy} distilled, {before} alone"))
    if teacher is not None and distilled is not None:
        times = teacher.parameters / max(distilled.parameters, 1)
        found.append(Fact(f"{times:.1f}×", f"fewer parameters: {distilled.parameters:,} of {teacher.parameters:,}"))
    return found


def whole_percent(share: float) -> str:
    """Return a share in whole percent.

    >>> whole_percent(0.333), whole_percent(-0.1)
    ('33 %', '−10 %')
    """
    return f"{100 * share:.0f} %".replace("-", "−")


def footnote(gathered: Gathered, rows: Sequence[ModelRow]) -> str:
    """Say what the table's figures are over."""
    seeds = len(gathered.run.outcome.seeds)
    kinds = {row.over for row in rows}
    said = [f"{examples_of(gathered):,} {gathered.figures.unit}."]
    if "seeds" in kinds:
        said.append(f"±: 95 % t-interval over {seeds} seeds.")
    if "two seeds" in kinds:
        said.append("Of two seeds both values are given: they allow no interval.")
    if "examples" in kinds:
        said.append("In brackets: Wilson's 95 % interval over the test examples, for what was trained once.")
    said.append(gathered.figures.nll)
    if any(model.compute is not None for model in gathered.models):
        said.append(
            "Compute: FLOPs of all trainings that led to a model, its teacher's included, as a multiple of the student"
            " alone's."
        )
    timing = next((model.timing for model in gathered.models if model.timing is not None), None)
    if timing is not None:
        said.append(
            "FLOPs and latency (median) are of one forward pass of one example, timed on the machine that made this"
            f" page, with {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}."
        )
    return " ".join(said)


def faithful(gathered: Gathered) -> list[tuple[Model, float, float]]:
    """Return each student's agreement with its teacher and their mean divergence on the test set, over its seeds."""
    answers = gathered.answers
    if not answers.has("teacher"):
        return []
    rows = []
    for model in gathered.students:
        found = [fidelity(student, teacher) for teacher, student in answers.pairs(model.role)]
        rows.append((model, fmean(each.agreement for each in found), fmean(each.kl for each in found)))
    return rows


def temperature(keys: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[float, str]:
    """Return the temperature that is looked at first, and what the run says of it.

    keys: of the resolved recipe.  chosen: by its search for the distilled student, key.path -> value.

    >>> temperature({"method": {"name": "kd", "temperature": 2}}, {})
    (2.0, 'The recipe distills at T = 2.')
    >>> temperature({"method": {"name": "kd", "temperature": 2}}, {"method.temperature": 6.0})
    (6.0, 'The search chose T = 6.')
    """
    taught = [each for each in method_sections(keys.get("method", {})) if each.get("soft_weight") != 0]
    named = [each["temperature"] for each in taught if "temperature" in each]
    searched = [value for key, value in chosen.items() if key.startswith("method.") and key.endswith(".temperature")]
    value: Any = next(iter([*searched, *named]), None)
    if _is_temperature(value):
        at = f"T = {short(float(value))}"
        said = f"The search chose {at}." if searched else f"The recipe distills at {at}."
        return float(value), said
    if isinstance(value, Mapping):
        told = ", ".join(f"{name} {each}" for name, each in value.items())
        first = next((value[name] for name in ("start", "value") if _is_temperature(value.get(name))), _USUAL)
        return float(first), f"The recipe's temperature changes as the student trains ({told})."
    return _USUAL, "The recipe's method has no temperature of its own."


def _is_temperature(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


_DETAILS = (
    "Data, SHA-256",
    "Teacher's weights, SHA-256",
    "Distilled weights, SHA-256",
    "Versions",
    "Machine",
    "Threads",
)
"""What few readers look for."""


def provenance(gathered: Gathered) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what exactly ran, and the details of it, as names and values; what is not known is left out."""
    manifest, run = gathered.manifest, gathered.run
    known = manifest.get("environment", {})
    packages = [f"{name} {version}" for name, version in known.get("packages", {}).items()]
    reads: dict[str, list[str]] = {}
    for read in manifest.get("test_reads", []):
        reads.setdefault(read.get("for", ""), []).append(read.get("at", ""))
    readings = [
        f"{at[0]}: {purpose}" + (f" ({len(at)} times, last {at[-1]})" if len(at) > 1 else "")
        for purpose, at in reads.items()
    ]
    chosen = [f"{role}: {values}" for role, values in run.outcome.chosen.items() if values]
    found = {
        "Command": command(*manifest.get("command", [])),
        "To repeat it": command("limbeck", "distill", run.folder / "recipe.yaml"),
        "Started": manifest.get("started", ""),
        "Seeds": ", ".join(str(seed) for seed in run.seeds),
        "Chosen by search": "\n".join(chosen),
        "Samples": f"{len(run.parts.train):,} to train the teacher, {len(run.parts.transfer):,} of them for the"
        f" student, {0 if run.parts.held_out is None else len(run.parts.held_out):,} held out for choices,"
        f" {len(run.parts.test):,} to test",
        "Data, SHA-256": run.parts.train.source,
        "Teacher's weights, SHA-256": "\n".join(gathered.digests.get("teacher", ())),
        "Distilled weights, SHA-256": "\n".join(gathered.digests.get("distilled", ())),
        "Versions": ", ".join([f"Python {known['python']}", *packages] if "python" in known else packages),
        "Machine": ", ".join([known.get("platform", ""), *known.get("devices", [])]).strip(", "),
        "Threads": str(known.get("threads", "")),
        "Commit": manifest.get("git") or "",
        "Readings of the test set": "\n".join(readings),
    }
    told = [(name, value) for name, value in found.items() if value]
    return [each for each in told if each[0] not in _DETAILS], [each for each in told if each[0] in _DETAILS]
