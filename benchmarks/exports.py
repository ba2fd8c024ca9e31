"""Bytes and latency of exported students beside their teachers: a convolutional, a text and a language model.

    LIMBECK_DATA=DIR python benchmarks/exports.py [--json FILE]

Each recipe is run once with few epochs and one seed, since what is measured is the files.  Every model is exported as
ONNX, the students with 8-bit weights besides; an answer is timed at batch size 1 on one thread, of recurrent language
models one step.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

import limbeck as lb
from first_steps import trec
from limbeck.errors import ExportError
from measuring import machine

_ROWS = 32  # of a batch


def recipes() -> dict[str, dict[str, Any]]:
    """Return a recipe of each family."""

    def of(data: dict[str, Any], teacher: dict[str, Any], student: dict[str, Any], epochs: int) -> dict[str, Any]:
        training = {"epochs": epochs, "batch_size": _ROWS, "optimizer": "adamw", "learning_rate": 0.003}
        taught = {"model": teacher, "training": training}
        return {"name": "family", "data": data, "teacher": taught, "student": {"model": student}, "training": training}

    texts = {"kind": "sentences", "path": "texts.csv", "text": "text", "label": "label", "max_length": 32}
    text = {"kind": "synthetic_text", "lines": 1500, "words": 110, "lanes": _ROWS, "length": 16}
    return {
        "convolutional, digits": of(
            {"kind": "digits"}, {"kind": "resnet", "depth": 20}, {"kind": "cnn", "channels": [8, 16]}, 20
        ),
        "transformer, questions of TREC": of(
            texts,
            {"kind": "transformer", "layers": 4, "width": 128, "heads": 4},
            {"kind": "transformer", "layers": 2, "width": 48, "heads": 4},
            4,
        ),
        "recurrent language model, drawn sentences": of(
            text,
            {"kind": "lstm_lm", "embedding": 256, "hidden": 256, "layers": 2},
            {"kind": "lstm_lm", "embedding": 32, "hidden": 32, "layers": 1},
            4,
        ),
    }


def measured(model: lb.TrainedModel, folder: Path, quantize: str | None) -> dict[str, Any]:
    """Export a model as ONNX, and return what its file is."""
    found = model.export(folder, to="onnx", quantize=quantize)
    parity = found.parity if found.quantized is None else found.quantized.parity
    return {
        "bytes in the run": found.before,
        "bytes": found.bytes,
        "torch": found.torch.seconds,
        "exported": found.exported.seconds,
        "largest": parity.largest,
        "agreement": parity.agreement,
    }


def rows(name: str, recipe: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Run a recipe, and return what each of its exported models is."""
    (folder / "family.yaml").write_text(yaml.safe_dump(recipe))
    subprocess.run(["limbeck", "distill", "family.yaml", "--quiet", "--no-report"], check=True, cwd=folder)
    (run,) = (folder / "runs" / "family").iterdir()
    found: dict[str, dict[str, Any]] = {}
    for role, quantize in (("teacher", None), ("distilled", None), ("distilled", "int8")):
        of = f"{'student' if role == 'distilled' else role}{', int8' if quantize else ''}"
        try:
            found[of] = measured(lb.load(run, role), folder / of, quantize)
        except ExportError as error:
            found[of] = {"refused": str(error)}
        print(f"{name}, {of}: {found[of]}", flush=True)
    return found


def main() -> None:
    """Run each family, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name, recipe in recipes().items():
        with tempfile.TemporaryDirectory() as place:
            trec(Path(place))
            found[name] = rows(name, recipe, Path(place))
    if options.json:
        content = {"machine": machine(1), "families": found}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
