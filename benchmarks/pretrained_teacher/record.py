"""Record what runs of `recipe.yaml` came to, by the names of their rows.

    python record.py kd=runs/pretrained-teacher/RUN [ROW=RUN ...] --json ../results/pretrained_teacher.json

The first run gives the teacher and the students alone as well; the others have the same ones.
"""

import argparse
import json
import platform
from pathlib import Path

import torch

from limbeck.results.finished import FinishedRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--held-out", type=float, nargs="*", default=[], help="as finetune.py prints it")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for number, given in enumerate(options.runs):
        row, _, path = given.partition("=")
        run = FinishedRun.read(Path(path), trust=True)
        roles = {"distilled": row} if number else {"teacher": "teacher", "alone": "hard labels", "distilled": row}
        for role, name in roles.items():
            rows[name] = {str(each.seed): each.metrics[role].accuracy for each in run.outcome.seeds}
    content = {
        "command": "limbeck distill recipe.yaml",
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
        "held_out_accuracy_of_teacher": options.held_out,
        "test_accuracy": rows,
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
