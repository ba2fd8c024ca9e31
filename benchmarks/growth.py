"""How time and memory of a training step grow with samples, classes and teachers.

    python benchmarks/growth.py [--rounds 5] [--only classes] [--json FILE]

batch: samples in a batch.  set: samples of the whole set, of which each step has 128.  classes: K.  teachers: networks
of an ensemble, all of them asked in each step.  Other than that a step has 128 of 10,000 samples of 64 numbers, 100
classes, one teacher; student 64-256-K, teachers 64-512-512-K; `kd` with hard labels.

A step is that of `limbeck.fit`: batch, teacher, student, loss, backward pass and optimizer.  Each point is measured in
a process of its own with one thread, in turn with the others of its row.  Seconds are the median over rounds of the
mean of some steps.  Memory is the largest growth of the resident memory in a step, beyond sets, networks and optimizer
(Linux), the most of all rounds.  The exponent is the slope from the size before, in processor seconds: 1 is growth in
proportion.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import limbeck as lb
from limbeck.training.loop import Moment, steps
from measuring import growth_of, machine

USUAL = {"batch": 128, "set": 10_000, "classes": 100, "teachers": 1}
ROWS = {
    "batch": (32, 128, 512, 2_048),
    "set": (1_000, 10_000, 100_000, 1_000_000),
    "classes": (10, 100, 1_000, 10_000),
    "teachers": (1, 2, 4, 8),
}
_WARM, _LONG = 3, 0.3
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
"""What lets glibc give memory back at once, so that each step is seen to take its own."""


def point(sizes: dict[str, int]) -> dict[str, float]:
    """Measure a step at given sizes: seconds, by the clock and of the processor, and bytes."""
    torch.manual_seed(0)
    count, classes = max(sizes["set"], sizes["batch"]), sizes["classes"]
    samples = lb.data.TensorSet.of(torch.randn(count, 64), torch.randint(classes, (count,)), classes=classes)
    teachers = [lb.ModelTeacher(lb.models.mlp(64, classes, hidden=(512, 512))) for _ in range(sizes["teachers"])]
    teacher = teachers[0] if len(teachers) == 1 else lb.EnsembleTeacher(teachers)
    distiller = lb.Distiller(lb.models.mlp(64, classes, hidden=(256,)), teacher, lb.methods.kd(temperature=4.0))
    settings = lb.Training(epochs=10_000, batch_size=sizes["batch"], schedule="constant", learning_rate=1e-3)
    turns = steps(distiller, samples, training=settings)

    def step() -> None:
        while next(turns)[0] is not Moment.UPDATED:
            pass

    for _ in range(_WARM):
        step()
    began = time.perf_counter()
    step()
    many = max(1, min(200, round(_LONG / (time.perf_counter() - began))))
    grown = growth_of(lambda: [step() for _ in range(3)])
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(many):
        step()
    found = {"clock": (time.perf_counter() - clock) / many, "processor": (time.process_time() - processor) / many}
    turns.close()
    return found | {"bytes": grown}


def measured(row: str, rounds: int) -> list[dict[str, Any]]:
    """Return what a step takes at each size of a row."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in ROWS[row]}
    for turn in range(rounds):
        sizes = ROWS[row][turn % len(found) :] + ROWS[row][: turn % len(found)]
        for size in sizes:
            with multiprocessing.get_context("fork").Pool(1) as child:  # which need not load anything
                found[size].append(child.apply(point, (USUAL | {row: size},)))
    points: list[dict[str, Any]] = []
    for size, each in found.items():
        one: dict[str, Any] = {"size": size, "bytes": max(run["bytes"] for run in each)}
        for kind in ("clock", "processor"):
            seconds = [run[kind] for run in each]
            one[kind] = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        if points:
            last = points[-1]
            ratio = math.log(size / last["size"])
            one["exponent"] = math.log(one["processor"]["median"] / last["processor"]["median"]) / ratio
        points.append(one)
    return points


def markdown(row: str, points: list[dict[str, Any]]) -> str:
    """Return the table of a row."""
    lines = [
        f"## {row}",
        "",
        f"| {row} | processor, ms a step (least to most) | clock, ms | exponent | memory of a step |",
        "|---:|---:|---:|---:|---:|",
    ]
    for each in points:
        own = {key: 1_000 * value for key, value in each["processor"].items()}
        exponent = f"{each['exponent']:.2f}" if "exponent" in each else ""
        lines.append(
            f"| {each['size']:,} | {own['median']:.2f} ({own['least']:.2f} to {own['most']:.2f}) |"
            f" {1_000 * each['clock']['median']:.2f} | {exponent} | {each['bytes'] / 2**20:,.1f} MiB |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure the rows, and print and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not _GIVE_BACK.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_GIVE_BACK})
    torch.set_num_threads(1)
    before, rows = os.getloadavg(), {}
    for row in options.only:
        rows[row] = measured(row, options.rounds)
        print(markdown(row, rows[row]), flush=True)
    content = {
        "rows": rows,
        "load": {"before": before, "after": os.getloadavg()},
        "options": {"rounds": options.rounds, "usual": USUAL},
        "machine": machine(1),
    }
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
