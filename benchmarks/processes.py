"""An epoch of distillation in one process and in two: DDP, and networks divided among them (FSDP2).

    python benchmarks/processes.py [--rounds 5] [--only cnn] [--json FILE]

cnn: 1,280 images of 32×32 pixels in three channels, batches of 128; student of 16 and 32 channels, teacher of 32 and
    64.
transformer: 192 texts of 64 tokens, batches of 32, AdamW; student of 4 layers of width 128, teacher of 8 of width
    256.

A live teacher answers each batch.  Each process has one thread, on a CPU with gloo; on GPUs each has one (NCCL).  An
epoch is `limbeck.fit` with all that belongs to it, dividing the networks and making them whole again included; what is
run first, and the start of processes, is left out.  Each round is a launch of one process and one of two, which run
every way once, in an order that turns.  A ratio is the median over rounds of the ratio within the round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import limbeck as lb
from limbeck import ranks
from limbeck.networks import own_part
from limbeck.training.state import Run
from measuring import machine

WAYS = {1: ("none",), 2: ("none", "student", "both")}
NAMES = {
    (1, "none"): "one process",
    (2, "none"): "two, DDP",
    (2, "student"): "two, `fsdp: student`",
    (2, "both"): "two, `fsdp: both`",
}


def cnn() -> tuple[Callable[[], nn.Module], nn.Module, lb.data.TensorSet, dict[str, Any]]:
    """Return the student's maker, the teacher, the set and the settings of small convolutional networks."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (1_280, 3, 32, 32), dtype=torch.uint8)
    samples = lb.data.TensorSet.of(images, torch.randint(10, (1_280,)), classes=10)
    teacher = lb.models.cnn((3, 32, 32), 10, channels=(32, 64))
    return lambda: lb.models.cnn((3, 32, 32), 10, channels=(16, 32)), teacher, samples, {"batch_size": 128}


def transformer() -> tuple[Callable[[], nn.Module], nn.Module, lb.data.TensorSet, dict[str, Any]]:
    """Return the same of small encoders."""

    def encoder(layers: int, width: int) -> nn.Module:
        return lb.models.transformer((64,), 4, vocabulary=5_000, layers=layers, width=width, heads=4)

    torch.manual_seed(1)
    samples = lb.data.TensorSet.of(torch.randint(1, 5_000, (192, 64)), torch.randint(4, (192,)), classes=4)
    settings = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-4}
    return lambda: encoder(4, 128), encoder(8, 256), samples, settings


PROBLEMS = {"cnn": cnn, "transformer": transformer}


def epoch(problem: str, fsdp: str, batches: int | None = None) -> dict[str, float]:
    """Train for an epoch; return the seconds of all processes, and how many numbers this one kept.

    batches: of the epoch; None for all.
    """
    make, teacher, samples, settings = PROBLEMS[problem]()
    if batches is not None:
        samples = samples.subset(torch.arange(batches * settings["batch_size"]))
    torch.manual_seed(0)
    distiller = lb.Distiller(make(), lb.ModelTeacher(teacher))
    kept: dict[str, float] = {}
    due = Run.due

    def look(run: Run, *more: Any) -> bool:
        if not kept:
            states = [each for state in run.optimizer.state.values() for each in state.values() if each.dim()]
            kept["student"] = sum(own_part(each).numel() for each in run.distiller.student.parameters())
            kept["optimizer"] = sum(own_part(each).numel() for each in states)
            kept["teacher"] = sum(own_part(each).numel() for each in run.distiller.teacher.model.parameters())  # type: ignore[union-attr]
        return due(run, *more)

    Run.due = look  # type: ignore[method-assign]
    try:
        if ranks.world_size() > 1:
            distributed.barrier()
        clock, processor = time.perf_counter(), time.process_time()
        lb.fit(distiller, samples, epochs=1, schedule="constant", fsdp=fsdp, **settings)
        seconds = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    finally:
        Run.due = due  # type: ignore[method-assign]
    return seconds | kept


def work(options: argparse.Namespace) -> None:
    """Run every way of a launch once, in this process of it, and write what the first one measured."""
    ranks.join()
    world, found = ranks.world_size(), {}
    ways = WAYS[world]
    for problem in options.only:
        for way in ways:  # what is made once
            epoch(problem, way, batches=1)
        turn = options.round % len(ways)
        found[problem] = {way: epoch(problem, way) for way in ways[turn:] + ways[:turn]}
    if ranks.is_first():
        options.work.write_text(json.dumps(found))


def launch(world: int, turn: int, options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Start a launch of so many processes, and return what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
        command = [sys.executable, *start, __file__, "--work", str(file), "--round", str(turn), "--only", *options.only]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found: dict[str, dict[str, dict[str, float]]] = json.loads(file.read_text())
    return found


def measured(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Run the rounds; return what each epoch took, by problem and way."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in options.only}
    for turn in range(options.rounds):
        for world in (1, 2) if turn % 2 else (2, 1):
            for problem, ways in launch(world, turn, options).items():
                for way, numbers in ways.items():
                    found[problem].setdefault(NAMES[world, way], []).append(numbers)
    return found


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return the median and the spread of each way's seconds, and of its ratio to one process within a round."""
    rows: dict[str, dict[str, Any]] = {}
    for name in NAMES.values():
        row: dict[str, Any] = {key: found[name][0][key] for key in ("student", "optimizer", "teacher")}
        for kind in ("clock", "processor"):
            seconds = [each[kind] for each in found[name]]
            pairs = zip(found[name], found["one process"], strict=True)
            ratios = [own[kind] / one[kind] for own, one in pairs]
            for key, values in ((kind, seconds), (f"{kind} ratio", ratios)):
                row[key] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        rows[name] = row
    return rows


def markdown(problem: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return the table of a problem."""
    lines = [
        f"## {problem}",
        "",
        "| an epoch in | clock, s (least to most) | of one process (least to most) | student | optimizer | teacher |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        seconds, ratio = row["clock"], row["clock ratio"]
        numbers = " | ".join(f"{row[key]:,}" for key in ("student", "optimizer", "teacher"))
        lines.append(
            f"| {name} | {seconds['median']:.2f} ({seconds['least']:.2f} to {seconds['most']:.2f}) |"
            f" {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) | {numbers} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the problems, and print and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.work:
        work(options)
        return
    before = os.getloadavg()
    found = measured(options)
    rows = {problem: summary(each) for problem, each in found.items()}
    for problem, each in rows.items():
        print(markdown(problem, each), flush=True)
    content = {
        "rows": rows,
        "epochs": found,
        "load": {"before": before, "after": os.getloadavg()},
        "options": {"rounds": options.rounds},
        "machine": machine(1),
    }
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
