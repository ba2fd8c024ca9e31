"""How often the diagnosis names a planted cause, and how often it raises a false alarm.

Thresholds were set on digits and MNIST; Fashion-MNIST, CIFAR-100 and synthetic classes were then scored with the frozen
ones.  One condition went after two cases of Fashion-MNIST at seed 0 had been seen (docs/log.md): its seeds begin at 1.
A case is a set, a cause at the fixed strengths of `limbeck.diagnosis.planted.Strengths`, and a seed, from which
everything random follows: sub-sample, split, initial weights.  It counts as named when the cause is among the findings.
Healthy cases are false alarms when anything is found.

    LIMBECK_DATA=DIR python benchmarks/diagnosis_planted.py [--sets fashion-mnist ...] [--cases ...] [--seeds N]
        [--json FILE] [--minutes M]

Cases that FILE holds already are not run again, so that the table can grow; after M minutes no case is begun.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from limbeck.data import SampleSet, TensorSet, digits, fashion_mnist, mnist
from limbeck.data.cifar import cifar100
from limbeck.data.synthetic import synthetic
from limbeck.diagnosis import THRESHOLDS
from limbeck.diagnosis.classroom import Classroom
from limbeck.diagnosis.examining import examine
from limbeck.diagnosis.planted import PLANTED, Strengths, plant
from limbeck.diagnosis.subject import ask
from limbeck.runs import environment

SAMPLES = 2000
SET_ON = ("digits", "mnist")


def some(samples: SampleSet, seed: int) -> SampleSet:
    """Return a random sub-sample."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.subset(order[:SAMPLES].sort().values)


def small_cifar(seed: int) -> SampleSet:
    """Return two classes of each of four super-classes, drawn by the seed, as 8×8 colour images."""
    whole = cifar100().train
    generator = torch.Generator().manual_seed(seed)
    groups = torch.tensor(whole.groups)
    chosen = torch.randperm(20, generator=generator)[:4]
    classes = [int(label) for group in chosen for label in (groups == group).nonzero().squeeze(1)[:2]]
    part = some(whole.only_classes(classes), seed)
    images = part.batch(torch.arange(len(part)), augment=None, seed=0, view=0).inputs
    place = torch.full((100,), -1)
    place[torch.tensor(classes)] = torch.arange(len(classes))
    return TensorSet.of(F.avg_pool2d(images, 4), place[part.labels], classes=len(classes), name="cifar-100")


def classes_of_tau(tau: float, seed: int) -> SampleSet:
    return synthetic(
        tau, train=SAMPLES, test=1, classes=8, groups=4, dimensions=12, terms=1, frequency=1.0, seed=seed
    ).train


SETS: dict[str, Callable[[int], SampleSet]] = {
    "digits": lambda seed: digits(seed=seed).train,
    "mnist": lambda seed: some(mnist().train, seed),
    "fashion-mnist": lambda seed: some(fashion_mnist().train, seed),
    "cifar-100": small_cifar,
    "synthetic": lambda seed: classes_of_tau(0.8, seed),
}


def score(name: str, case: str, seed: int) -> dict[str, Any]:
    """Run one case."""
    began = time.perf_counter()
    if name == "synthetic" and case == "unrelated_classes":  # the paper's own way to plant it
        subject = plant("healthy", classes_of_tau(0.0, seed), seed)
    else:
        subject = plant(case, SETS[name](seed), seed)
    found = examine(Classroom(subject, ask(subject)), seed)
    return {
        "set": name,
        "case": case,
        "seed": seed,
        "found": [finding.cause for finding in found.findings],
        "signs": found.signs.as_dict(),
        "limit": found.capacity.limit,
        "seconds": round(time.perf_counter() - began, 2),
    }


def table(cases: list[dict[str, Any]]) -> list[str]:
    """Return the rates, a line each."""
    lines = []
    for name in SETS:
        for case in PLANTED:
            ran = [each for each in cases if (each["set"], each["case"]) == (name, case)]
            if not ran:
                continue
            if case == "healthy":
                alarms = sum(bool(each["found"]) for each in ran)
                lines.append(f"{name:14} {case:24} false alarms {alarms} of {len(ran)}")
            else:
                named = sum(case in each["found"] for each in ran)
                others = sum(bool(set(each["found"]) - {case}) for each in ran)
                lines.append(f"{name:14} {case:24} named {named} of {len(ran)}, with another cause {others}")
    return lines


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--cases", nargs="+", default=list(PLANTED), choices=list(PLANTED))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    began = time.monotonic()
    about = {
        "thresholds": asdict(THRESHOLDS),
        "strengths": asdict(Strengths()) | {"training": None},
        "samples": SAMPLES,
        "thresholds_set_on": SET_ON,
    }
    known: list[dict[str, Any]] = []
    if given.json is not None and given.json.is_file():
        content = json.loads(given.json.read_text())
        if json.loads(json.dumps(about)) == content["about"]:
            known = content["cases"]
    done = {(each["set"], each["case"], each["seed"]) for each in known}
    for seed in range(given.first, given.first + given.seeds):
        for name in given.sets:
            for case in given.cases:
                if (name, case, seed) in done or time.monotonic() - began > 60 * given.minutes:
                    continue
                known.append(score(name, case, seed))
                print(f"{name} {case} {seed}: {', '.join(known[-1]['found']) or 'nothing'}", flush=True)
                if given.json is not None:
                    content = {"about": about, "environment": environment(), "table": table(known), "cases": known}
                    given.json.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table(known)))


if __name__ == "__main__":
    main()
