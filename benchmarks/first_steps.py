"""What a newcomer's jobs take: lines to write, words to read, and seconds of the documented commands.

    LIMBECK_DATA=DIR python benchmarks/first_steps.py --encoder FOLDER --modules FOLDER [--only table] [--json FILE]

table: a CSV file (scikit-learn's breast cancer data) to an exported student, `examples/table_to_onnx.sh`.
texts: sentences of TREC as CSV to an exported student, by commands alone.
loop: a `Dataset`, an `nn.Module` and a loop of one's own to an exported student, `examples/own_loop.py`.
encoder: a pretrained folder of the Transformers library, given by --encoder, and 1,500 sentences of TREC to a small
    exported student, `examples/pretrained_teacher.py`.
processes: a recipe in two processes, by torchrun.
browser: a run's networks in ONNX beside a page that draws digits; Chromium draws one.  --modules: a folder
    node_modules with onnxruntime-web.

Lines are those of commands, recipes and of the body of a script: no blank lines, comments, docstrings, imports or
arguments of the command line.  Words are those of the pages that the job's reader needs.  Seconds are of the clock.
"""

import argparse
import ast
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import machine

ROOT = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
_TEXTS = """limbeck init texts.yaml --data texts.csv --label label
limbeck distill texts.yaml --runs runs
limbeck export runs/texts/* --to onnx --out student
limbeck predict student new.txt
"""
_PROCESSES = """limbeck recipes cp digits-kd two.yaml
torchrun --nproc-per-node 2 -m limbeck distill two.yaml --runs runs
"""
_BROWSER = """limbeck distill digits-kd --runs runs
examples/browser/fetch.sh runs/digits-kd/*
"""


@dataclass
class Job:
    """What a job took."""

    lines: int
    words: int
    seconds: float
    result: str


def words(*pages: str) -> int:
    """Return how many words pages of docs have, code included."""
    return sum(len((ROOT / "docs" / page).read_text(encoding="utf-8").split()) for page in pages)


def section(page: str, heading: str) -> int:
    """Return how many words a section of a page has."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        sys.exit(f"docs/{page}: there is no section '{heading}'")
    return len(found[1].split())


def lines_of_shell(text: str) -> int:
    """Return how many commands a script has, its options and the folder that it makes left out."""
    return sum(bool(re.match(r"limbeck|torchrun|examples/|npm", line)) for line in text.splitlines())


def lines_of_python(path: Path) -> int:
    """Return how many lines the functions of a script have that are neither docstring, blank nor command line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    counted: set[int] = set()
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        for statement in body:
            own = range(statement.lineno - 1, statement.end_lineno or statement.lineno)
            counted |= {number for number in own if lines[number].strip() and "parse" not in lines[number]}
    return len(counted)


def run(commands: str, folder: Path) -> tuple[float, str]:
    """Run lines in a shell; return the seconds and the last line of stdout."""
    environment = os.environ | {"PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "c")}
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", "-euc", commands], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{commands}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    said = [line for line in done.stdout.splitlines() if line.strip()]
    return time.perf_counter() - began, said[-1] if said else ""


def trec(folder: Path, most: int | None = None) -> None:
    """Write questions of TREC into a folder as texts.csv, and two more as new.txt."""
    if "LIMBECK_DATA" not in os.environ:
        sys.exit("LIMBECK_DATA: found it unset; expected the folder that has trec/train_5500.label")
    source = Path(os.environ["LIMBECK_DATA"]) / "trec"
    with (folder / "texts.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["text", "label"])
        for line in (source / "train_5500.label").read_text(encoding="latin-1").splitlines()[:most]:
            label, _, text = line.strip().partition(" ")
            rows.writerow([text, label.partition(":")[0]])
    (folder / "new.txt").write_text("What is the capital of Peru ?\nWho wrote Emma ?\n")


def table(folder: Path, _: argparse.Namespace) -> Job:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(name.replace(" ", "_") for name in found.feature_names), "kind"])
        rows.writerows([*row, found.target_names[label]] for row, label in zip(found.data, found.target, strict=True))
    script = ROOT / "examples" / "table_to_onnx.sh"
    seconds, said = run(f"{script} rows.csv kind out", folder)
    return Job(lines_of_shell(script.read_text()), section("your-data.md", "Tables") + words("start.md"), seconds, said)


def texts(folder: Path, _: argparse.Namespace) -> Job:
    trec(folder)
    seconds, said = run(_TEXTS, folder)
    read = words("start.md") + section("text-data.md", "Sentences")
    return Job(lines_of_shell(_TEXTS), read, seconds, said)


def loop(folder: Path, _: argparse.Namespace) -> Job:
    script = ROOT / "examples" / "own_loop.py"
    seconds, said = run(f"python {script}", folder)
    read = section("your-loop.md", "Plain PyTorch") + section("your-loop.md", "The loss alone") + words("start.md")
    return Job(lines_of_python(script), read, seconds, said)


def encoder(folder: Path, options: argparse.Namespace) -> Job:
    trec(folder, most=1500)
    script = ROOT / "examples" / "pretrained_teacher.py"
    seconds, said = run(f"python {script} {shlex.quote(str(options.encoder))} texts.csv", folder)
    return Job(
        lines_of_python(script), words("start.md") + section("teachers.md", "timm and Transformers"), seconds, said
    )


def processes(folder: Path, _: argparse.Namespace) -> Job:
    seconds, said = run(_PROCESSES, folder)
    return Job(lines_of_shell(_PROCESSES), words("start.md"), seconds, said)


def browser(folder: Path, options: argparse.Namespace) -> Job:
    commands = _BROWSER.splitlines()[0] + "\nlimbeck export runs/digits-kd/* --role teacher --to onnx --out teacher"
    commands += "\nlimbeck export runs/digits-kd/* --role distilled --to onnx --out student"
    seconds, _ = run(commands, folder)
    test = f"python -m pytest -q -m slow -p no:cacheprovider {ROOT}/tests/browser/test_drawing.py"
    more, said = run(f"LIMBECK_NODE_MODULES={shlex.quote(str(options.modules))} {test} --rootdir {ROOT}", folder)
    return Job(lines_of_shell(_BROWSER), words("start.md"), seconds + more, said)


JOBS: dict[str, Callable[[Path, argparse.Namespace], Job]] = {
    each.__name__: each for each in (table, texts, loop, encoder, processes, browser)
}


def main() -> None:
    """Do the jobs, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(JOBS))
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--modules", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Job] = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = JOBS[name](Path(folder), options)
        print(name, found[name], flush=True)
        if options.json:  # after each job, since the next ones can take long
            jobs = {each: asdict(job) for each, job in found.items()}
            options.json.write_text(
                json.dumps({"machine": machine(os.cpu_count() or 1), "jobs": jobs}, indent=1) + "\n"
            )
    print("\n| job | lines | words | minutes to read them | seconds to run |\n|---|---:|---:|---:|---:|")
    for name, job in found.items():
        print(f"| {name} | {job.lines} | {job.words:,} | {job.words / 200:.0f} | {job.seconds:.0f} |")


if __name__ == "__main__":
    main()
