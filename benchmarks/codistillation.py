"""Codistillation beside one network of the same total batch: steps to a validation loss, staleness, churn.

    python benchmarks/codistillation.py --work DIR [--data DIR] [--train 55000] [--seeds 0 1 2] [--json FILE]

Fashion-MNIST: of its training part 5,000 images are drawn for validation and --train of the others to learn from; all
10,000 test images.  Network 784-128-128-10; SGD with momentum 0.9 and a constant rate; every arm takes the whole epochs
next to 3,200 steps: 3,010 (batches of 128 of all images) or 3,225.

alone: one network, batch 128.  large: one network, batch 256.  Both on all training images.
same: two networks, batch 128 each, on all images, each in an order of its own, m = 1.
shards, m: two networks, batch 128 each, on halves of the images; each is published every m steps.
apart: two networks on halves of the images that do not learn from each other.
All peers: temperature 1, both weights 1, burn-in of 160 steps, simultaneous updates.

The rate of each arm is chosen among four, by the lowest validation loss at a seed of its own.  Validation is at the end
of each epoch; in between, the loss is interpolated.  The loss that is to be reached is the lowest one of `large`, and
beside it the lowest one of `alone`, seed by seed.  Each training is kept in --work, and found there.
"""

import argparse
import itertools
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import limbeck as lb
from limbeck.data import SampleSet, kinds
from limbeck.evaluation import churn, evaluate, predict, t_interval
from limbeck.peers import Peer, circle, fit_together
from limbeck.randomness import derive_seed
from limbeck.schemes.peers import shard

STEPS, BATCH, VALIDATION = 3200, 128, 5_000
RATES = (0.01, 0.02, 0.05, 0.1)
CHOOSING = 100
"""The seed at which rates are chosen."""


def pairs_of(samples: int) -> dict[str, dict[str, Any]]:
    """Return the arms of two networks."""
    epoch = -(-samples // 2 // BATCH)
    periods = {str(every): every for every in (1, 10, 50)} | {f"{epoch}, an epoch": epoch}
    shards = {f"shards, m = {name}": {"every": every, "shards": True} for name, every in periods.items()}
    return {"same, m = 1": {"every": 1}, **shards, "apart": {"burn_in": STEPS, "shards": True}}


def network(seed: int, number: int) -> nn.Module:
    """Return a network with initial weights of its own."""
    torch.manual_seed(derive_seed(seed, "network", number))
    return lb.models.mlp((1, 28, 28), 10, hidden=(128, 128))


def training(samples: int, batch: int, rate: float) -> lb.Training:
    """Return settings of about as many steps for every set and batch."""
    epochs = round(STEPS / -(-samples // batch))
    return lb.Training(
        epochs=epochs, batch_size=batch, learning_rate=rate, schedule="constant", checkpoint_seconds=3600.0
    )


def one(train: SampleSet, validation: SampleSet, seed: int, rate: float, batch: int, folder: Path) -> list[lb.Result]:
    """Train one network."""
    distiller = lb.Distiller(network(seed, 0), None, lb.methods.hard())
    settings = training(len(train), batch, rate)
    return [lb.fit(distiller, train, validation, training=settings, seed=seed, folder=folder / "0")]


def pair(
    train: SampleSet,
    validation: SampleSet,
    seed: int,
    rate: float,
    folder: Path,
    *,
    every: int = 1,
    burn_in: int = 160,
    shards: bool = False,
) -> list[lb.Result]:
    """Train two networks beside each other."""
    objectives = [lb.methods.kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0) for _ in range(2)]
    distillers = circle([network(seed, number) for number in range(2)], objectives, burn_in=burn_in)
    parts = [shard(train, number, 2) if shards else train for number in (1, 2)]
    return fit_together(
        [
            Peer(
                distiller,
                part,
                validation,
                training=training(len(part), BATCH, rate),
                seed=derive_seed(seed, "peer", number),
                folder=folder / str(number),
                label=f"{folder.name}, {number}",
            )
            for number, (distiller, part) in enumerate(zip(distillers, parts, strict=True))
        ],
        every=every,
    )


def curve(results: Sequence[lb.Result]) -> list[tuple[int, float]]:
    """Return (step, validation loss), the loss a mean over the peers."""
    lines = zip(*(result.history for result in results), strict=True)
    return [(entries[0]["step"], statistics.fmean(each["validation"]["nll"] for each in entries)) for entries in lines]


def reached(points: Sequence[tuple[int, float]], loss: float) -> float | None:
    """Return the step at which a curve first falls to a loss, interpolated; None where it does not.

    >>> reached([(10, 2.0), (20, 1.0)], 1.5)
    15.0
    """
    if points[0][1] <= loss:
        return float(points[0][0])
    for (before, above), (after, below) in itertools.pairwise(points):
        if below <= loss:
            return before + (after - before) * (above - loss) / (above - below)
    return None


def measured(results: Sequence[lb.Result], test: SampleSet) -> dict[str, Any]:
    """Return what an arm came to at a seed."""
    points = curve(results)
    return {
        "curve": points,
        "lowest": min(loss for _, loss in points),
        "errors": statistics.fmean(float(evaluate(result.student, test).errors) for result in results),
        "steps": results[0].steps,
    }


def told(values: Sequence[float | None], pattern: str) -> str:
    """Return a mean with its interval; of what was not reached at every seed, how often it was."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"reached at {len(known)} of {len(values)} seeds"
    found = t_interval(known)
    return pattern.format(found.mean) + ("" if found.half_width is None else " ± " + pattern.format(found.half_width))


def _table(arms: dict[str, dict[str, Any]], goal: str) -> None:
    """Print the steps that each arm takes to the lowest loss of one of them, and note them in it."""
    losses = [each["lowest"] for each in arms[goal]["seeds"]]

    def steps_of(arm: str) -> list[float | None]:
        return [reached(each["curve"], loss) for each, loss in zip(arms[arm]["seeds"], losses, strict=True)]

    base = steps_of(goal)
    columns = f"{'rate':>5} {'lowest loss':>16} {'steps to goal':>24} {'of the goal arm':>24} {'test errors':>12}"
    print(f"\nto the lowest loss of {goal}\n{'arm':28} {columns}")
    for arm, each in arms.items():
        steps = steps_of(arm)
        shares = [None if a is None or b is None else a / b for a, b in zip(steps, base, strict=True)]
        each[f"steps_to_{goal}"], each[f"share_of_{goal}"] = steps, shares
        lowest = told([one["lowest"] for one in each["seeds"]], "{:.4f}")
        errors = told([one["errors"] for one in each["seeds"]], "{:.0f}")
        cells = f"{lowest:>16} {told(steps, '{:.0f}'):>24} {told(shares, '{:.2f}'):>24} {errors:>12}"
        print(f"{arm:28} {each['rate']:5g} {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=55_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = kinds()["fashion_mnist"](given.data)
    rest, validation = splits.train.split(VALIDATION, seed=0)
    train = rest.subset(torch.arange(given.train))
    pairs = pairs_of(len(train))

    def trained(arm: str, seed: int, rate: float) -> list[lb.Result]:
        folder = given.work / f"{given.train}, {arm}, rate {rate:g}, seed {seed}"
        folder.mkdir(parents=True, exist_ok=True)
        if arm in ("alone", "large"):
            return one(train, validation, seed, rate, BATCH * (2 if arm == "large" else 1), folder)
        return pair(train, validation, seed, rate, folder, **pairs[arm])

    rates: dict[str, float] = {}
    choices: dict[str, dict[float, float]] = {}
    for arm in ("alone", "large", *pairs):
        choices[arm] = {rate: min(loss for _, loss in curve(trained(arm, CHOOSING, rate))) for rate in RATES}
        rates[arm] = min(choices[arm], key=lambda rate: choices[arm][rate])
        print(f"{arm}: lowest validation loss by rate {choices[arm]}", flush=True)

    arms: dict[str, dict[str, Any]] = {}
    for arm, rate in rates.items():
        found, logits = [], []
        for seed in given.seeds:
            results = trained(arm, seed, rate)
            found.append(measured(results, splits.test))
            logits.append(predict(results[0].student, splits.test))
        retrained = [churn(first, second) for first, second in itertools.combinations(logits, 2)]
        arms[arm] = {
            "rate": rate,
            "seeds": found,
            "churn": {name: [getattr(each, name) for each in retrained] for name in ("difference", "changed")},
        }
        print(f"{arm}: done", flush=True)
    for goal in ("large", "alone"):
        _table(arms, goal)
    print("\nchurn between two retrains of the (first) network: mean |Δp|, share of changed answers")
    for arm, each in arms.items():
        lost = {name: statistics.fmean(values) for name, values in each["churn"].items()}
        print(f"{arm:28} {lost['difference']:.5f} {100 * lost['changed']:.2f} %")
    if given.json:
        content = {
            "steps": STEPS,
            "train": given.train,
            "rates": choices,
            "arms": arms,
            "platform": platform.platform(),
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
