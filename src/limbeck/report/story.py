"""What a run came to, in plain words; numbers are written the same way everywhere on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import command
from limbeck.evaluation import Interval, Words, no_gap, t_interval
from limbeck.evaluation.cost import Timing
from limbeck.evaluation.fidelity import fidelity
from limbeck.evaluation.paired import mcnemar
from limbeck.evaluation.resampling import wilson
from limbeck.evaluation.scores import score
from limbeck.report.charts import short
from limbeck.report.gather import Answers, Gathered, Model
from limbeck.tasks import UNLABELLED

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
    "number",
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

    low, high: the ends of the interval of its errors.  over: what the interval is over, "seeds" or "examples".
    """

    model: Model
    errors: str
    accuracy: str
    low: float
    high: float
    over: str
    latency: str


def number(value: float, digits: int = 1) -> str:
    """Return a number with its thousands set apart, without decimals that are 0.

    >>> number(1234.0), number(15.64)
    ('1,234', '15.6')
    """
    return f"{value:,.0f}" if value == round(value) else f"{value:,.{digits}f}"


def error(value: float, words: Words) -> str:
    """Return a figure of errors as its task writes it: a count, or a mean squared error."""
    return number(value) if _counts(words) else words.pattern.format(value)


def _counts(words: Words) -> bool:
    """Whether errors are a number of things, be they examples or their places."""
    return words.pattern == Words.pattern


def accuracy(value: float, words: Words, digits: int = 2) -> str:
    """Return a figure of accuracy as its task writes it: a share in percent, or R² as the number that it is."""
    return f"{100 * value:.{digits}f} %" if _counts(words) else f"{value:.3f}"


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
    examples, words = examples_of(gathered), gathered.words
    for model in gathered.models:
        errors, right = model.errors, model.accuracy
        if errors.half_width is not None:
            text = f"{error(errors.mean, words)} ± {error(errors.half_width, words)}"
            width = accuracy(right.half_width or 0.0, words).removesuffix(" %")
            share = f"{accuracy(right.mean, words)} ± {width}"
            low, high, over = max(errors.low, 0.0), min(errors.high, float(examples)), "seeds"
        elif not words.counted:
            low, high, over = errors.mean, errors.mean, ""
            text, share = error(errors.mean, words), accuracy(right.mean, words)
        else:
            within = wilson(examples - round(errors.mean), examples)
            low, high, over = (1 - within.high) * examples, (1 - within.low) * examples, "examples"
            text = f"{number(errors.mean)} ({low:.0f} to {high:.0f})"
            share = f"{accuracy(right.mean, words)} ({100 * within.low:.1f} to {100 * within.high:.1f})"
        rows.append(ModelRow(model, text, share, low, high, over, latency(model.timing)))
    return rows


def examples_of(gathered: Gathered) -> int:
    """Return how many test examples the figures are over."""
    return int(gathered.run.outcome["seeds"][0]["distilled"]["examples"])


def verdict(gathered: Gathered) -> list[str]:
    """Return whether it worked, and how sure that is: one sentence each."""
    teacher, alone, distilled = (gathered.model(role) for role in ("teacher", "alone", "distilled"))
    if teacher is None or alone is None or distilled is None:
        return []
    examples = examples_of(gathered)
    words = gathered.words
    if words.errors == "errors":
        errors = (
            f"of {examples:,} test examples the student gets {number(distilled.errors.mean)} wrong when distilled,"
            f" {number(alone.errors.mean)} when trained alone; the teacher gets {number(teacher.errors.mean)} wrong"
        )
    else:
        of = [error(model.errors.mean, words) for model in (distilled, alone, teacher)]
        unit = "places of test examples" if gathered.run.parts.test.task.of_places else "test examples"
        errors = (
            f"of {examples:,} {unit} the student has {of[0]} {words.errors} when distilled, {of[1]} when trained"
            f" alone; the teacher has {of[2]}"
            if _counts(words)
            else f"on the test set the student's {words.errors} is {of[0]} when distilled, {of[1]} when trained alone;"
            f" the teacher's is {of[2]}"
        )
    if gathered.gap is None:
        said = no_gap(*(model.errors.mean for model in (teacher, alone, distilled)))
        first = f"{said[:1].upper()}{said[1:]}: {errors}."
    elif not _tells(gathered.gap):
        first = f"What share of the gap to the teacher distillation closed cannot be told from these seeds: {errors}."
    elif gathered.gap.mean > 1:
        first = f"The distilled student does better than the teacher: {errors}."
    elif gathered.gap.mean > 0:
        first = f"Distillation closed {100 * gathered.gap.mean:.0f} % of the gap to the teacher: {errors}."
    else:
        first = f"Distillation did not help: {errors}."
    return [first, _certainty(gathered, "alone"), *_equal_compute(gathered)]


def _equal_compute(gathered: Gathered) -> list[str]:
    """Say what the same compute gives without a teacher, where that was run; and what was cut short."""
    budget = gathered.model("alone_budget")
    notes = [f"{note[:1].upper()}{note[1:]}." for note in gathered.run.outcome.get("notes", [])]
    if budget is None:
        return notes
    came = error(budget.errors.mean, gathered.words)
    came = f"gets {came} wrong" if gathered.words.errors == "errors" else f"comes to {came} ({gathered.words.errors})"
    said = f"Trained alone with as much compute as the whole distillation took, the student {came}."
    return [f"{said} {_certainty(gathered, 'alone_budget')}", *notes]


def _certainty(gathered: Gathered, role: str) -> str:
    """Say whether the difference between the student distilled and another may be chance."""
    seeds = gathered.run.outcome["seeds"]
    if len(seeds) > 1:
        saved = t_interval([float(seed[role]["errors"] - seed["distilled"]["errors"]) for seed in seeds])
        if gathered.words.errors != "errors":
            words = gathered.words
            mean, width = (error(abs(value), words) for value in (saved.mean, saved.half_width or 0.0))
            alone = f"the student alone{' at equal compute' if role == 'alone_budget' else ''}"
            sure = "is more than chance." if _apart(saved) else "may be chance: run more seeds."
            less = ("fewer", "more") if _counts(words) else ("lower", "higher")
            which = less[0] if saved.mean >= 0 else less[1]
            said = (
                f"the distilled student has {mean} ± {width} {which} {words.errors} than {alone}"
                if _counts(words)
                else f"the {words.errors} of the distilled student is {mean} ± {width} {which} than that of {alone}"
            )
            return f"Seed by seed, over {len(seeds)} seeds, {said} (95 % interval), which {sure}"
        if saved.mean == 0:
            return f"Over {len(seeds)} seeds, both students make equally many errors."
        kind = "fewer" if saved.mean > 0 else "more"
        that = "that is" if role == "alone" else "the distilled one makes"
        said = (
            f"Seed by seed, over {len(seeds)} seeds, {that} {number(abs(saved.mean))} ±"
            f" {number(saved.half_width or 0)} errors {kind} (95 % interval)"
        )
        return f"{said}, {'which is more than chance.' if _apart(saved) else 'which may be chance: run more seeds.'}"
    answers = gathered.answers
    task = gathered.run.parts.test.task
    if (
        answers is not None
        and answers.has(role, "distilled")
        and (task.one_label or (task.several and task.has_classes))
    ):
        right = [_right(answers, each) for each in (role, "distilled")]
        test = mcnemar(right[0], right[1])
        said = f"On the same examples, distillation mends {test.second_better} and spoils {test.first_better}"
        return f"{said} (McNemar's exact test: p = {test.p_value:.2g}); one seed says nothing of other seeds."
    return "One seed was run, so this may be chance: run more seeds."


def _right(answers: Answers, role: str) -> Tensor:
    """Return whether each labelled test sample is right, all its labels together, at the first seed."""
    rows, labels = answers.logits[role][0], answers.samples.labels.cpu()
    if labels.dim() == 1:
        return score(rows, labels).correct
    known = labels != UNLABELLED
    return ((rows.argmax(-1).view(labels.shape) == labels) | ~known).all(1)[known.any(1)]


def _apart(difference: Interval) -> bool:
    return difference.low > 0 or difference.high < 0


def _tells(share: Interval) -> bool:
    """Return whether a share says anything: its interval does not reach from nothing to all."""
    return share.half_width is None or share.low > 0 or share.high < 1


def facts(gathered: Gathered) -> list[Fact]:
    """Return the few numbers that stand above everything else."""
    teacher, alone, distilled = (gathered.model(role) for role in ("teacher", "alone", "distilled"))
    found = []
    if gathered.gap is not None and _tells(gathered.gap):
        width = gathered.gap.half_width
        found.append(Fact(whole_percent(gathered.gap.mean), f"of the gap closed{_plus(width)}"))
    if alone is not None and distilled is not None:
        before, after = (accuracy(model.accuracy.mean, gathered.words, 1) for model in (alone, distilled))
        found.append(Fact(after, f"{gathered.words.accuracy} distilled, {before} alone"))
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


def _plus(half_width: float | None) -> str:
    return "" if half_width is None else f", ± {100 * half_width:.0f} over the seeds"


def footnote(gathered: Gathered, rows: Sequence[ModelRow]) -> str:
    """Say what the table's figures are over."""
    seeds = len(gathered.run.outcome["seeds"])
    kinds = {row.over for row in rows}
    task = gathered.run.parts.test.task
    said = [f"{examples_of(gathered):,} {'labelled places of ' if task.of_places else ''}test examples."]
    if "seeds" in kinds:
        said.append(f"±: 95 % t-interval over {seeds} seeds.")
    if "examples" in kinds:
        said.append("In brackets: Wilson's 95 % interval over the test examples, for what was trained once.")
    of = ", added up over the labels of an example" if task.several else " of a place" if task.of_places else ""
    loss = f"NLL: mean negative log-likelihood in nats{of}."
    said.append(loss if task.has_classes else "NLL: half the squared error.")
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
    if answers is None or not answers.has("teacher") or not gathered.run.parts.test.task.has_classes:
        return []
    rows = []
    for model in gathered.students:
        if answers.has(model.role):
            found = [fidelity(student, teacher) for teacher, student in answers.pairs(model.role)]
            rows.append((model, fmean(each.agreement for each in found), fmean(each.kl for each in found)))
    return rows


def temperature(keys: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[float, str]:
    """Return the temperature that is looked at first, and what the run says of it.

    keys: of the resolved recipe.  chosen: by its search for the distilled student, key.path -> value.

    >>> temperature({"method": {"name": "kd", "temperature": 2}}, {})
    (2.0, 'The recipe distils at T = 2.')
    >>> temperature({"method": {"name": "kd", "temperature": 2}}, {"method.temperature": 6.0})
    (6.0, 'The search chose T = 6.')
    """
    value = chosen.get("method.temperature", keys.get("method", {}).get("temperature"))
    if _is_temperature(value):
        at = f"T = {short(float(value))}"
        said = f"The search chose {at}." if "method.temperature" in chosen else f"The recipe distils at {at}."
        return float(value), said
    if isinstance(value, Mapping):
        told = ", ".join(f"{name} {each}" for name, each in value.items())
        first = next((value[name] for name in ("start", "value") if _is_temperature(value.get(name))), _USUAL)
        return float(first), f"The recipe's temperature changes as the student trains ({told})."
    return _USUAL, "The recipe's method has no temperature of its own."


def _is_temperature(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def provenance(gathered: Gathered) -> list[tuple[str, str]]:
    """Return what exactly ran, as names and values; what is not known is left out."""
    manifest, run = gathered.manifest, gathered.run
    known = manifest.get("environment", {})
    packages = [f"{name} {version}" for name, version in known.get("packages", {}).items()]
    reads: dict[str, list[str]] = {}
    for read in manifest.get("test_reads", []):
        reads.setdefault(read.get("for", ""), []).append(read.get("at", ""))
    told = [
        f"{at[0]}: {purpose}" + (f" ({len(at)} times, last {at[-1]})" if len(at) > 1 else "")
        for purpose, at in reads.items()
    ]
    chosen = [f"{role}: {values}" for role, values in run.outcome.get("chosen", {}).items() if values]
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
        "Readings of the test set": "\n".join(told),
    }
    return [(name, value) for name, value in found.items() if value]
