"""Write the recorded results into the documents, between their markers.

python docs/refresh.py

`<!-- table: NAME BUDGET -->` holds a reproduction's table, `<!-- benchmark: NAME -->` one of benchmarks/results, and
`<!-- recipe keys -->` the keys of recipes as the code describes them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from limbeck import papers
from limbeck.config import reference
from limbeck.diagnosis.attribution import ARMS
from limbeck.evaluation import Interval, t_interval

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
PAGES = tuple(
    DOCS / f"{name}.md"
    for name in (
        "architecture",
        "diagnosis",
        "export",
        "index",
        "methods",
        "recipes",
        "reproductions",
        "schemes",
        "speed",
        "stores",
    )
)


def results(name: str) -> Any:
    """Return a benchmark's results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows(head: Sequence[str], body: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Return a Markdown table; the first columns are texts."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *body))


def points(values: Sequence[float]) -> str:
    """Return differences of shares in points, with their 95 % interval."""
    return t_interval([100 * value for value in values]).written("{:+.1f}")


def hard_conditions() -> str:
    """Return what distillation gains in each condition, as it was set and as it is chosen on held-out images."""
    first, chosen = results("hard_conditions")["runs"], results("hard_conditions_search")["runs"]
    body = []
    for condition, runs in first.items():
        searched = [run["test"] for run in chosen[condition]]
        parts = {"": slice(0, 10)}
        if condition == "long tail":
            parts |= {", five frequent classes": slice(0, 5), ", five rare": slice(5, 10)}
        for name, classes in parts.items():
            cells = [f"{condition}{name}"]
            for every in (runs, searched):
                accuracy = {role: [fmean(run[role][classes]) for run in every] for role in every[0]}
                cells += [f"{100 * fmean(accuracy[role]):.1f}" for role in ("teacher", "alone", "distilled")]
                pairs = zip(accuracy["distilled"], accuracy["alone"], strict=True)
                cells.append(points([one - other for one, other in pairs]))
            del cells[5]  # the same teacher
            body.append(cells)
    head = ["condition", "teacher", "alone", "T = 4, alpha = 0.1", "gain", "alone, chosen", "distilled, chosen", "gain"]
    return rows(head, body)


def hard_settings() -> str:
    """Return the gain on held-out images by temperature, alpha and epochs."""
    found = results("hard_conditions_search")["runs"]
    body = []
    for condition in ("plain", "long tail", "wrong labels"):
        for epochs in (20, 60):
            budget = f"{epochs} epochs at 0.05"
            for alpha in (0.1, 0.5, 0.9):
                gains = [
                    [
                        run["held_out"]["distilled"][f"T = {temperature}, alpha = {alpha}, {budget}"]
                        - run["held_out"]["alone"][budget]
                        for run in found[condition]
                    ]
                    for temperature in (1, 2, 4, 8)
                ]
                body.append([f"{condition}, {epochs} epochs", f"{alpha:g}", *map(points, gains)])
    return rows(["condition", "alpha", "T = 1", "T = 2", "T = 4", "T = 8"], body)


_ARMS = {
    "alone": "one network, batch 128",
    "large": "one network, batch 256",
    "same, m = 1": "two, all images, m = 1",
    "apart": "two on halves, not learning from each other",
}


def codistillation() -> str:
    """Return what each arm came to; the losses also within the steps that all arms have."""
    arms = results("codistillation")["arms"]
    common = min(seed["steps"] for arm in arms.values() for seed in arm["seeds"])
    body = []
    for name, arm in arms.items():
        seeds = arm["seeds"]
        within = [min(loss for step, loss in seed["curve"] if step <= common) for seed in seeds]
        shares = []
        for goal in ("large", "alone"):
            known = [share for share in arm[f"share_of_{goal}"] if share is not None]
            every = len(known) == len(seeds)
            shares.append(
                t_interval(known).written("{:.2f}") if every else f"reached at {len(known)} of {len(seeds)} seeds"
            )
        body.append(
            [
                _ARMS.get(name) or name.replace("shards", "two on halves"),
                f"{arm['rate']:g}",
                f"{seeds[0]['steps']:,}",
                t_interval([seed["lowest"] for seed in seeds]).written("{:.4f}"),
                t_interval(within).written("{:.4f}"),
                *shares,
                t_interval([seed["errors"] for seed in seeds]).written("{:.0f}"),
                f"{fmean(arm['churn']['difference']):.4f}",
                f"{100 * fmean(arm['churn']['changed']):.1f} %",
            ]
        )
    head = [
        "networks", "rate", "steps", "lowest validation loss", f"the same within {common:,} steps",
        "steps to the loss of batch 256", "steps to the loss of batch 128", "test errors", "churn, mean abs Δp",
        "churn, answers changed",
    ]  # fmt: skip
    return rows(head, body)


def speed() -> str:
    """Return what limbeck takes beside others, in one run on one machine."""
    loop, start, share = results("loop")["mnist"]["seconds"], results("start_up"), results("loop")["options"]["share"]
    epoch = {name: f"{median(seconds['processor']):.2f} s" for name, seconds in loop.items()}
    ours = epoch["limbeck stored"]
    body = [
        [
            f"evaluating {each['samples']:,} samples, {each['classes']:,} classes; torchmetrics (evaluation_speed)",
            *(f"{each['medians'][name]:.2f} s" for name in ("limbeck", "torchmetrics")),
        ]
        for each in results("evaluation_speed")
    ]
    body += [
        [
            f"{100 * share:.0f} % of an epoch of MNIST, stored teacher; a tutorial's loop (loop)",
            ours,
            epoch["tutorial"],
        ],
        ["the same; a loop written by hand for this alone", ours, epoch["hand stored"]],
        [
            "importing all names; importing torch (start_up)",
            *(f"{start['medians'][name]:.2f} s" for name in ("import limbeck, all names", "import torch")),
        ],
    ]
    return rows(["what; beside what (benchmark)", "limbeck", "the other"], body)


def rescaling() -> str:
    """Return the median weight of an example against the teacher's confidence, early and late."""
    early, late = results("mnist_mechanics")["rescaling"]
    body = [
        [f"{100 * first[0]:.4f} %", f"{first[1]:,.1f}", f"{second[1]:,.1f}"]
        for first, second in zip(early["curve"], late["curve"], strict=True)
    ]
    body += [
        [f"{name} correlation, all examples", *(f"{each[name.lower()]:+.3f}" for each in (early, late))]
        for name in ("Pearson", "Spearman")
    ]
    body.append(["examples whose gradient turns round", *(f"{100 * each['reversed']:.1f} %" for each in (early, late))])
    return rows(["confidence of the teacher (a tenth of the examples each)", "w, after 1 epoch", "w, after 10"], body)


def nearness() -> str:
    """Return proposition 1's rank correlation, and the accuracy, by what the student learns from."""
    found = results("mnist_mechanics")
    body = [
        [
            ARMS[arm],
            Interval(**value).written("{:+.3f}"),
            Interval(**found["accuracies"][arm]).written("{:.2f}", 100) + " %",
        ]
        for arm, value in found["nearness"].items()
    ]
    return rows(["student learns from", "rank correlation", "accuracy, held out"], body)


def pretrained_teacher() -> str:
    """Return the test accuracy of each row, and what it gains over hard labels at the same seeds."""
    accuracy = results("pretrained_teacher")["test_accuracy"]
    hard = accuracy["hard labels"]
    body = []
    for row, by_seed in accuracy.items():
        each = [100 * value for value in by_seed.values()]
        gains = [by_seed[seed] - hard[seed] for seed in by_seed] if row not in ("teacher", "hard labels") else []
        body.append([row, ", ".join(f"{value:.2f}" for value in dict.fromkeys(each)), points(gains) if gains else ""])
    return rows(["row", "test accuracy by seed, %", "gain over hard labels, points"], body)


def costs() -> str:
    """Return what the losses on layers cost, as shares of a step of kd, the dearest last."""
    shares = results("feature_costs")["shares"]
    dearest = sorted(shares, key=lambda name: shares[name])
    return rows(
        ["method", "share of a step of `kd`"], [[f"`{name}`", f"{100 * shares[name]:.1f} %"] for name in dearest]
    )


def stores() -> str:
    """Return how large stores are and how fast they are read."""
    head = ["classes", "encoding", "bytes a row", "of dense fp32", "read in order, rows/s", "at random, rows/s"]
    body = []
    for each in results("stores"):
        rates = each["read_rows_a_second"]
        share = f"{100 * each['share_of_dense']:.3g} %"
        cells = [f"{each['classes']:,}", each["encoding"], f"{each['bytes_a_row']:,}", share]
        body.append([*cells, f"{rates['in order']:,.0f}", f"{rates['at random']:,.0f}"])
    return rows(head, body, texts=2)


def sparse_teachers() -> str:
    """Return what students of small answers reach, and how far they are from those of all logits."""
    found = results("sparse_teachers")["rows"]
    dense, body = found["dense fp32"], []
    for name, row in found.items():
        pairs = list(zip(row["accuracies"], dense["accuracies"], strict=True))
        gap = "" if row is dense else t_interval([own - other for own, other in pairs]).written("{:+.2f}")
        size = [f"{row['bytes']:,}", f"{100 * row['bytes'] / dense['bytes']:.1f} %"]
        body.append([name, *size, f"{fmean(row['accuracies']):.2f} %", gap])
    return rows(["answers", "bytes", "of dense fp32", "accuracy", "less dense, points"], body)


def spread(values: Mapping[str, float], form: str, scale: float = 1.0) -> str:
    """Return a median with the least and the most."""
    median, least, most = (format(scale * values[key], form) for key in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def processes() -> str:
    """Return the time of an epoch in one process and in two, and how many numbers each of them keeps."""
    head = ["networks", "an epoch in", "clock, s", "of one process", "student", "optimizer", "teacher"]
    body = [
        [problem, way, spread(row["clock"], ".2f"), spread(row["clock ratio"], ".2f")]
        + [f"{row[key]:,}" for key in ("student", "optimizer", "teacher")]
        for problem, ways in results("processes")["rows"].items()
        for way, row in ways.items()
    ]
    return rows(head, body, texts=2)


def growth() -> str:
    """Return how time and memory of a step grow."""
    head = ["what grows", "size", "processor, ms a step", "exponent", "memory of a step, MiB"]
    body = [
        [
            name,
            f"{each['size']:,}",
            spread(each["processor"], ".2f", 1_000),
            f"{each['exponent']:.2f}" if "exponent" in each else "",
            f"{each['bytes'] / 2**20:,.1f}",
        ]
        for name, points in results("growth")["rows"].items()
        for each in points
    ]
    return rows(head, body)


def exports() -> str:
    """Return the bytes of exported models and the time of an answer."""
    head = ["model", "bytes in the run", "bytes of `model.onnx`", "torch", "ONNX Runtime", "difference", "agreement"]
    body = []
    for family, models in results("exports")["families"].items():
        for name, found in models.items():
            if "refused" in found:
                body.append([f"{family}: {name}", "", "refused, see below", "", "", "", ""])
                continue
            sizes = [f"{found[key]:,}" for key in ("bytes in the run", "bytes")]
            times = [f"{1_000 * found[key]:.2f} ms" for key in ("torch", "exported")]
            near = [f"{found['largest']:.1e}", f"{100 * found['agreement']:.4g} %"]
            body.append([f"{family}: {name}", *sizes, *times, *near])
    return rows(head, body)


_JOBS = {
    "table": "a CSV file to an exported student",
    "texts": "5,452 labelled sentences in a CSV file to an exported student",
    "loop": "a `Dataset`, an `nn.Module` and a loop of your own to an exported student",
    "encoder": "a pretrained encoder of the Transformers library to a small exported student",
    "processes": "a recipe in two processes",
    "browser": "teacher and student side by side in a browser, where a digit is drawn",
}


def first_steps() -> str:
    """Return what a newcomer's jobs take: lines to write, words to read at 200 a minute, the time to run."""
    body = [
        [_JOBS[name], f"{job['lines']}", f"{job['words'] / 200:.0f} min", f"{job['seconds'] / 60:.1f} min"]
        for name, job in results("first_steps")["jobs"].items()
    ]
    return rows(["from nothing installed but limbeck", "lines to write", "to read", "to run on two processors"], body)


BENCHMARKS: Mapping[str, Callable[[], str]] = {
    "exports": exports,
    "feature_costs": costs,
    "first_steps": first_steps,
    "growth": growth,
    "codistillation": codistillation,
    "mnist_nearness": nearness,
    "mnist_rescaling": rescaling,
    "pretrained_teacher": pretrained_teacher,
    "processes": processes,
    "speed": speed,
    "sparse_teachers": sparse_teachers,
    "stores": stores,
    "hard_conditions": hard_conditions,
    "hard_conditions_search": hard_settings,
}


def refreshed(text: str) -> str:
    """Return a document with the body of every marked table as the recorded results have it."""

    def table(found: re.Match[str]) -> str:
        name, budget = found.group(1), found.group(2)
        paper = papers.load_table(name)
        body = papers.markdown(paper, papers.expected(paper), budget)
        return f"<!-- table: {name} {budget} -->\n{body}<!-- end -->"

    def benchmark(found: re.Match[str]) -> str:
        return f"<!-- benchmark: {found.group(1)} -->\n{BENCHMARKS[found.group(1)]()}<!-- end -->"

    keys = f"<!-- recipe keys -->\n{reference.markdown() if '<!-- recipe keys -->' in text else ''}<!-- end -->"
    text = re.sub(r"<!-- recipe keys -->\n.*?<!-- end -->", lambda _: keys, text, flags=re.DOTALL)
    text = re.sub(r"<!-- table: (\S+) (\S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)
    return re.sub(r"<!-- benchmark: (\S+) -->\n.*?<!-- end -->", benchmark, text, flags=re.DOTALL)


def main() -> None:
    """Refresh the documents."""
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
