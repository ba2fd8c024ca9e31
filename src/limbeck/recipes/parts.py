"""What several tables share: published images in three parts, and a choice among settings on held-out samples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import data
from limbeck.data import SampleSet
from limbeck.errors import NonFiniteLossError, RunError
from limbeck.evaluation import measure, predict

__all__ = ["crossed", "fewest_errors", "image_sets", "percent_wrong"]

_FOLDERS = {"mnist": "mnist", "fashion_mnist": "fashion-mnist", "cifar100": "cifar-100"}


def image_sets(kind: str, folder: Path | None, *, train: int, held_out: int) -> dict[str, SampleSet]:
    """Return the first `train` training images, the `held_out` images after them, if any, and the test images.

    kind: of data.  folder: the images' own, or the one that holds it; None for LIMBECK_DATA or a download.
    """
    keys = {}
    if folder is not None:
        within = folder / _FOLDERS[kind]
        keys["folder"] = str(within if within.is_dir() else folder)
    splits = data.kinds()[kind](**keys)
    if train + held_out > len(splits.train):
        raise RunError(f"{kind}: found {len(splits.train)} training images, expected {train} and {held_out} held out")
    places = torch.arange(train + held_out)
    sets = {"train": splits.train.subset(places[:train]), "test": splits.test}
    return sets | ({"held_out": splits.train.subset(places[train:])} if held_out else {})


def crossed(*choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values of some keys, the first key's slowest.

    >>> crossed({"rate": [0.1, 0.3]}, {"temperature": [2, 4]})[1]
    {'rate': 0.1, 'temperature': 4}
    """
    found: list[dict[str, Any]] = [{}]
    for choice in choices:
        for key, values in choice.items():
            found = [{**known, key: value} for known in found for value in values]
    return found


def fewest_errors(
    candidates: Sequence[Mapping[str, Any]], fit: Callable[[Mapping[str, Any]], nn.Module], held_out: SampleSet
) -> dict[str, Any]:
    """Return the candidate whose model makes the fewest errors on held-out samples; of equally many, the smaller NLL.

    A candidate with which training diverges is passed over; RunError when all of them do.
    """
    scored = []
    for number, settings in enumerate(candidates):
        try:
            found = measure(predict(fit(settings), held_out), held_out.labels)
        except NonFiniteLossError:
            continue
        scored.append((found.errors, found.nll, number))
    if not scored:
        raise RunError(f"search: training diverged with all {len(candidates)} candidates")
    return dict(candidates[min(scored)[2]])


def percent_wrong(model: nn.Module, samples: SampleSet) -> float:
    """Return a model's error on a set, in percent."""
    return 100.0 * (1.0 - measure(predict(model, samples), samples.labels).accuracy)
