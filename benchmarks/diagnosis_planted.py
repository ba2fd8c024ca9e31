"""How often the diagnosis names a planted cause, and how often it raises a false alarm.

Thresholds were set on digits and MNIST; Fashion-MNIST, CIFAR-100 and synthetic classes were then scored with the frozen
ones.  One condition went after two cases of Fashion-MNIST at seed 0 had been seen (docs/log.md): its seeds begin at 1.
A case is a set, a cause at the fixed strengths of `planted.Strengths`, and a seed, from which
everything random follows: sub-sample, split, initial weights.  It counts as named when the cause is among the findings.
Healthy cases are false alarms when anything is found.

A teacher of the colour images that is trained to its end over-fits, whatever else is planted. So there every teacher
but the over-fitted one is stopped at its lowest loss on a fifth of its training part, which the student is not given
either: that alone makes it healthy, whatever is found. Cases scored before that, and before what is said beside the
label was read off the examples that a teacher gets right, stand in the file as "earlier" (docs/log.md).
Synthetic classes without relations have orthonormal class vectors. (Those of τ = 0 are random: in as few dimensions as
here their cosines have a deviation of 0.35, and are relations that two networks agree on.)

    LIMBECK_DATA=DIR python benchmarks/diagnosis_planted.py [--sets fashion-mnist ...] [--cases ...] [--seeds N]
        [--json FILE] [--minutes M]

Cases that FILE holds already are not run again, so that the table can grow; after M minutes no case is begun.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from limbeck.data import SampleSet, TensorSet, digits, fashion_mnist, mnist
from limbeck.data.cifar import cifar100
from limbeck.data.synthetic import synthetic, synthetic_task
from limbeck.diagnosis import THRESHOLDS
from limbeck.diagnosis.inputs import ask
from limbeck.diagnosis.students import StudentTrainer
from limbeck.runs import environment
from planted import PLANTED, Strengths, examine, plant

SAMPLES = 2000
SET_ON = ("digits", "mnist")
STRENGTHS = {"cifar-100": Strengths(validation=0.2)}
"""Of the sets that have others than the usual ones."""


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


SYNTHETIC: dict[str, Any] = {"classes": 8, "groups": 4, "dimensions": 12, "terms": 1, "frequency": 1.0}


def related_classes(seed: int) -> SampleSet:
    return synthetic(0.8, train=SAMPLES, test=1, seed=seed, **SYNTHETIC).train


def orthonormal_classes(seed: int) -> SampleSet:
    """Return the same inputs with labels of orthonormal class vectors: no class is nearer to some than to others."""
    task = synthetic_task(0.0, function=0, seed=seed, **SYNTHETIC)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(task.vectors.T.shape, dtype=torch.float64, generator=generator))[0].T
    every = related_classes(seed)
    inputs = every.batch(torch.arange(len(every)), augment=None, seed=0, view=0).inputs
    labels = replace(task, vectors=vectors).labels(inputs)
    return TensorSet.of(inputs, labels, classes=len(vectors), name="orthonormal")


SETS: dict[str, Callable[[int], SampleSet]] = {
    "digits": lambda seed: digits(seed=seed).train,
    "mnist": lambda seed: some(mnist().train, seed),
    "fashion-mnist": lambda seed: some(fashion_mnist().train, seed),
    "cifar-100": small_cifar,
    "synthetic": related_classes,
}


def score(name: str, case: str, seed: int) -> dict[str, Any]:
    """Run one case."""
    began = time.perf_counter()
    if name == "synthetic" and case == "unrelated_classes":  # there the labels themselves can be made so
        subject = plant("healthy", orthonormal_classes(seed), seed)
    else:
        subject = plant(case, SETS[name](seed), seed, STRENGTHS.get(name))
    found = examine(StudentTrainer(subject, ask(subject)), seed, needed=True)
    return {
        "set": name,
        "case": case,
        "seed": seed,
        "found": [finding.cause for finding in found.findings],
        "signs": asdict(found.signs),
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
        "strengths_of": {name: asdict(own) | {"training": None} for name, own in STRENGTHS.items()},
        "samples": SAMPLES,
        "thresholds_set_on": SET_ON,
    }
    known: list[dict[str, Any]] = []
    earlier: list[dict[str, Any]] = []
    if given.json is not None and given.json.is_file():
        content = json.loads(given.json.read_text())
        earlier = content.get("earlier", [])
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
                    content["earlier"] = earlier
                    given.json.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(table(known)))


if __name__ == "__main__":
    main()
