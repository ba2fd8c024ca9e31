"""How fast limbeck evaluates, beside a plain torchmetrics loop on the same predictions, turn by turn, on one thread.

The torchmetrics loop goes over batches with top-1, top-5, accuracy by class, confusion matrix and ECE of 15
bins in one MetricCollection, which computes what they share once.  `assess` computes these and more: NLL, Brier score,
ECE of equal mass, a Wilson and a bootstrap interval.  The figures that both give are compared before anything is timed.

    python benchmarks/evaluation_speed.py [--rounds N] [--batch N] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.evaluation import assess

_SIZES = ((1_000_000, 10), (50_000, 1000))


def _metrics(classes: int) -> Any:
    try:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassCalibrationError,
            MulticlassConfusionMatrix,
        )
    except ImportError:
        sys.exit("evaluation_speed: torchmetrics is not installed; pip install torchmetrics")
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(classes, average="micro", top_k=5, validate_args=False),
            "by_class": MulticlassAccuracy(classes, average=None, validate_args=False),
            "confusion": MulticlassConfusionMatrix(classes, validate_args=False),
            "ece": MulticlassCalibrationError(classes, n_bins=15, validate_args=False),
        }
    )


def _loop(collection: Any, logits: Tensor, labels: Tensor, batch: int) -> dict[str, Tensor]:
    collection.reset()
    for some, their in zip(logits.split(batch), labels.split(batch), strict=True):
        collection.update(some, their)
    found: dict[str, Tensor] = collection.compute()
    return found


def _drawn(n: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    return logits, torch.where(torch.rand(n, generator=generator) < 0.7, logits.argmax(1), labels)


def _agree(collection: Any, logits: Tensor, labels: Tensor, batch: int) -> None:
    theirs, ours = _loop(collection, logits, labels, batch), assess(logits, labels)
    assert abs(ours.accuracy - float(theirs["top1"])) < 1e-5
    assert ours.top5 is not None
    assert abs(ours.top5 - float(theirs["top5"])) < 1e-5
    assert abs(ours.ece - float(theirs["ece"])) < 1e-4
    assert torch.equal(ours.confusion, theirs["confusion"])


def _time(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1000, help="of the torchmetrics loop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: list[dict[str, Any]] = []
    for n, classes in _SIZES:
        collection = _metrics(classes)
        logits, labels = _drawn(n, classes)
        _agree(collection, logits, labels, options.batch)
        seconds: dict[str, list[float]] = {"limbeck": [], "torchmetrics": []}
        for _ in range(options.rounds):
            seconds["limbeck"].append(_time(lambda: assess(logits, labels)))  # noqa: B023 - called at once
            seconds["torchmetrics"].append(_time(lambda: _loop(collection, logits, labels, options.batch)))  # noqa: B023
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratio = medians["torchmetrics"] / medians["limbeck"]
        for name, values in seconds.items():
            speed = n / medians[name]
            spread = f"{min(values):.3f} to {max(values):.3f}"
            print(
                f"{n:>9,} × {classes:<5,} {name:<13} median {medians[name]:.3f} s ({spread}), {speed:>11,.0f} samples/s"
            )
        print(f"{n:>9,} × {classes:<5,} limbeck is {ratio:.2f} times as fast")
        found.append({"samples": n, "classes": classes, "ratio": ratio, "medians": medians, "seconds": seconds})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
