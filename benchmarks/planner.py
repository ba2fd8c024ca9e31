"""How far the times that `limbeck check` predicts are from those of the run: of the teacher, in each way to have it.

Each recipe is rehearsed and run by `limbeck distill --plan`, in a process of its own and with a cache of its own.  The
error is the time that was taken as a multiple of the predicted one, less 1.

    python benchmarks/planner.py [--rounds N] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_RECIPES: dict[str, dict[str, Any]] = {
    "digits, convolutional teacher": {
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "cnn", "channels": [64, 128]}, "training": {"epochs": 2, "batch_size": 128}},
        "student": {"model": {"kind": "mlp", "hidden": [32]}},
        "training": {"epochs": 15, "batch_size": 128},
        "validation": 300,
    },
    "digits, random views": {
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "cnn", "channels": [32, 64]}, "training": {"epochs": 2, "batch_size": 128}},
        "student": {"model": {"kind": "cnn", "channels": [8]}},
        "training": {"epochs": 12, "batch_size": 128, "augment": {"shift": 1}, "views": 4},
        "validation": 300,
    },
    "digits, three teachers": {
        "data": {"kind": "digits"},
        "teacher": {
            "model": {"kind": "mlp", "hidden": [800, 800]},
            "training": {"epochs": 2, "batch_size": 128},
            "members": 3,
        },
        "student": {"model": {"kind": "mlp", "hidden": [32]}},
        "training": {"epochs": 15, "batch_size": 128},
        "validation": 300,
    },
}
_STORES: list[Any] = [
    False,
    True,
    {"encoding": "dense"},
    {"encoding": "topk", "k": 4},
    {"encoding": "sampled"},
]
"""The teacher's answers: live, in memory, and on disk."""


def _run(keys: dict[str, Any], store: Any) -> dict[str, Any] | None:
    """Return the plan of a run, predicted and real; None where the recipe cannot have its teacher so."""
    whole = {"name": "planned", "method": {"name": "kd", "temperature": 4.0}} | keys
    whole["teacher"] = keys["teacher"] | {"store": store}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(json.dumps(whole))
        command = [sys.executable, "-m", "limbeck", "distill", "recipe.yaml", "--plan", "--json", "-q", "--no-report"]
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            print(ended.stderr.strip(), file=sys.stderr)
            return None
        plan: dict[str, Any] = json.loads(ended.stdout)["plan"]
        return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    print("| recipe | teacher | predicted, s | took, s | error | of all trainings |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, keys in _RECIPES.items():
        for store in _STORES:
            if store is True and "augment" in keys["training"]:
                continue
            plans = [plan for _ in range(options.rounds) if (plan := _run(keys, store)) is not None]
            if not plans:
                continue
            middle = sorted(plans, key=lambda plan: plan["teacher"]["error"])[len(plans) // 2]
            taught, all_of = middle["teacher"], middle["trainings"]
            cells = [name, taught["way"], f"{taught['predicted']['seconds']:.2f}", f"{taught['real']['seconds']:.2f}"]
            cells += [f"{100 * part['error']:+.0f} %" for part in (taught, all_of)]
            print(f"| {' | '.join(cells)} |", flush=True)
            found.append({"recipe": name, **middle})
    for part in ("teacher", "trainings"):
        errors = [abs(each[part]["error"]) for each in found]
        print(
            f"{part}: median absolute error {100 * statistics.median(errors):.0f} %, largest {100 * max(errors):.0f} %"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
