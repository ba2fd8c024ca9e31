"""Time of a study whose settings are tried one at a time and several together, side by side in one run.

    LIMBECK_DATA=DIR python benchmarks/tune_together.py [--trials 8] [--together 4 8] [--rounds 2] [--json FILE]

A 784-1200-1200-10 network teaches 784-100-10 students on 5,950 MNIST images, for an epoch each; the temperature is
chosen.  None is cut short in its only epoch, so that all ways train as much.  The first trials of a study are drawn, so
that all ways try the same settings, and they must come to the same figures.  With a live teacher every batch is
augmented, with a stored one none is.  Teachers are trained before.  Figures are medians over rounds of wall and
processor time, and the ratios of the medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from limbeck.config import Recipe
from limbeck.runs import RunFolder, environment
from limbeck.tune import Range, tune

SPACE = {"method.temperature": Range(1.0, 20.0, log=True)}


def recipe(*, live: bool) -> Recipe:
    return Recipe.parse(
        {
            "name": "live" if live else "stored",
            "data": {"kind": "mnist", "transfer": {"fraction": 0.1}},
            "validation": 500,
            "teacher": {
                "model": {"kind": "mlp", "hidden": [1200, 1200]},
                "training": {"epochs": 1, "learning_rate": 0.05},
            },
            "student": {"model": {"kind": "mlp", "hidden": [100]}},
            "method": {"name": "kd"},
            "training": {
                "epochs": 1,
                "batch_size": 128,
                "learning_rate": 0.05,
                "augment": {"shift": 2 if live else 0},
            },
        }
    )


def study(one: Recipe, root: Path, trials: int, together: int) -> tuple[float, float, list[dict[str, Any]]]:
    """Return wall and processor seconds of a study, and what its trials came to."""
    folder = RunFolder.create(root / "runs", one.name, one.to_yaml(), ["benchmark"])
    began, used = time.perf_counter(), time.process_time()
    tuned = tune(one, SPACE, folder, trials=trials, together=together, cache=root / "cache")
    wall, processor = time.perf_counter() - began, time.process_time() - used
    return wall, processor, [{**trial.values, **trial.figures} for trial in tuned.trials]


def measure(one: Recipe, root: Path, trials: int, ways: list[int], rounds: int) -> list[dict[str, Any]]:
    study(one, root, 1, 1)  # trains the teacher
    seconds: dict[int, list[tuple[float, float]]] = {way: [] for way in ways}
    found: dict[int, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way in ways:
            wall, processor, found[way] = study(one, root, trials, way)
            seconds[way].append((wall, processor))
    medians = {way: [statistics.median(times) for times in zip(*each, strict=True)] for way, each in seconds.items()}
    return [
        {
            "teacher": one.name,
            "trials": trials,
            "together": way,
            "wall": medians[way][0],
            "processor": medians[way][1],
            "times as fast": [medians[1][kind] / medians[way][kind] for kind in (0, 1)],
            "equal": found[way] == found[1],
        }
        for way in ways
    ]


def shown(row: dict[str, Any]) -> str:
    wall, processor = row["times as fast"]
    return (
        f"{row['teacher']:6} teacher, {row['trials']} trials, {row['together']:2} together: {row['wall']:.2f} s by the"
        f" wall and {row['processor']:.2f} s of the processor, {wall:.2f} and {processor:.2f} times as fast,"
        f" {'the same figures' if row['equal'] else 'OTHER FIGURES'}"
    )


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--together", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        for live in (True, False):
            rows += measure(recipe(live=live), Path(root), given.trials, [1, *given.together], given.rounds)
    table = [shown(row) for row in rows]
    print("\n".join(table))
    if given.json is not None:
        content = {"table": table, "rows": rows, "environment": environment()}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
