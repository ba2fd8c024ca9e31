"""Measure what runs of `recipe.yaml` trained on the test set, once, and record it by the names of their rows.

    python record.py "hard labels=RUN/alone" KD=RUN/distilled "KD + SP=OTHER_RUN/distilled" --json FILE

A row is a run's folder and a role in it; seeds whose training has not ended are left out.  The teacher is that of the
first run.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from limbeck.config import load_recipe
from limbeck.evaluation import evaluate
from limbeck.experiment.building import build_student, build_teacher
from limbeck.experiment.parts import prepare
from limbeck.training import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--held-out", type=float, nargs="*", default=[], help="the teacher's, as finetune.py prints it")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    accuracy: dict[str, dict[str, float]] = {}
    for given in options.rows:
        row, _, place = given.partition("=")
        folder, role = Path(place).parent, Path(place).name
        recipe = load_recipe(folder / "recipe.yaml")
        parts = prepare(recipe)
        if not accuracy:
            teacher = build_teacher(recipe, parts, 0)
            accuracy["teacher"] = {"0": evaluate(teacher, parts.test).accuracy}
        found = {}
        for seed in recipe.seeds:
            unit = folder / f"{role}-{seed}"
            if (unit / "result.json").is_file():
                student = build_student(recipe, parts, seed)
                load_weights(student, unit / "student.safetensors")
                found[str(seed)] = evaluate(student, parts.test).accuracy
        accuracy[row] = found
    content = {
        "command": "limbeck distill recipe.yaml",
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}",
        "held_out_accuracy_of_teacher": options.held_out,
        "test_accuracy": accuracy,
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
