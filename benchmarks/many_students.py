"""Time to train several students in one process, together and one after another, side by side in one run.

    LIMBECK_DATA=DIR python benchmarks/many_students.py [--rounds 3] [--students 1 4 16] [--pairs mnist]
        [--json FILE]

Students of one architecture differ in temperature and initial weights, and have the same order of samples; together
(`limbeck.fit_many`) and apart (`limbeck.fit`, one after another) they end with the same weights, which is checked.
Two pairs of networks, each with a teacher that answers every augmented batch (live), and with one whose answers to the
plain samples were computed before (stored):

mnist: 784-1200-1200-10 into 784-100-10, 2,560 images, batch 128, one epoch.
cifar: ResNet-56 into ResNet-8, 128 colour images of 32×32, batch 64, one epoch.

Each round trains all ways in turn; the figures are medians over rounds of wall time, and their ratios.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import limbeck as lb
from limbeck.data import Augment


@dataclass(frozen=True)
class Pair:
    """A teacher and a kind of student, on a set of their own."""

    samples: lb.data.SampleSet
    teacher: lb.Teacher
    student: Callable[[], nn.Module]
    batch_size: int


def mnist_pair() -> Pair:
    samples = lb.data.mnist().train
    torch.manual_seed(0)
    teacher = lb.ModelTeacher(lb.models.mlp((1, 28, 28), 10, hidden=(1200, 1200)))
    part = samples.subset(torch.arange(2560))
    return Pair(part, teacher, lambda: lb.models.mlp((1, 28, 28), 10, hidden=(100,)), 128)


def cifar_pair() -> Pair:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(128, 3, 32, 32, generator=generator)  # their content does not change what they cost
    samples = lb.data.TensorSet.of(pictures, torch.randint(100, (128,), generator=generator), classes=100)
    torch.manual_seed(0)
    teacher = lb.ModelTeacher(lb.models.resnet((3, 32, 32), 100, depth=56))
    return Pair(samples, teacher, lambda: lb.models.resnet((3, 32, 32), 100, depth=8), 64)


PAIRS = {"mnist": mnist_pair, "cifar": cifar_pair}


def settings(pair: Pair, *, live: bool) -> lb.Training:
    augment = Augment(shift=2) if live else Augment()
    return lb.Training(epochs=1, batch_size=pair.batch_size, learning_rate=0.05, augment=augment)


def distillers(pair: Pair, teacher: lb.Teacher, count: int) -> list[lb.Distiller]:
    made = []
    for number in range(count):
        torch.manual_seed(number)
        made.append(lb.Distiller(pair.student(), teacher, lb.methods.kd(temperature=1.0 + number)))
    return made


def train(pair: Pair, teacher: lb.Teacher, count: int, *, live: bool, together: bool) -> tuple[float, list[nn.Module]]:
    """Return the seconds that so many students took, and the students."""
    training, made = settings(pair, live=live), distillers(pair, teacher, count)
    seeds = list(range(count))
    began = time.perf_counter()
    if together:
        results = lb.fit_many(made, pair.samples, training=training, seed=seeds, order=0)
    else:
        results = [
            lb.fit(distiller, pair.samples, training=training, seed=seed, order=0)
            for distiller, seed in zip(made, seeds, strict=True)
        ]
    return time.perf_counter() - began, [result.student for result in results]


def equal(some: list[nn.Module], others: list[nn.Module]) -> bool:
    return all(
        torch.equal(tensor, other.state_dict()[name])
        for one, other in zip(some, others, strict=True)
        for name, tensor in one.state_dict().items()
    )


def measure(pair: Pair, count: int, rounds: int, *, live: bool) -> dict[str, Any]:
    """Return the medians of both ways, and their ratio round by round."""
    teacher = pair.teacher if live else lb.store(pair.teacher, pair.samples)
    seconds: dict[str, list[float]] = {"apart": [], "together": []}
    same = True
    train(pair, teacher, 1, live=live, together=True)  # what is done once in a process is not timed
    for _ in range(rounds):
        took, apart = train(pair, teacher, count, live=live, together=False)
        seconds["apart"].append(took)
        took, together = train(pair, teacher, count, live=live, together=True)
        seconds["together"].append(took)
        same = same and equal(apart, together)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = [apart / together for apart, together in zip(seconds["apart"], seconds["together"], strict=True)]
    return {"students": count, "equal": same, "medians": medians, "apart / together": statistics.median(ratios)} | {
        "seconds": seconds
    }


def shown(row: dict[str, Any]) -> str:
    seconds = ", ".join(f"{way} {value:.3f} s" for way, value in row["medians"].items())
    return (
        f"{row['pair']}, {row['teacher']:6} teacher, {row['students']:2} students: {seconds},"
        f" {row['apart / together']:.2f} times as fast, {'the same weights' if row['equal'] else 'OTHER WEIGHTS'}"
    )


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--students", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--json", type=Path, help="rows that it holds already are not measured again")
    options = parser.parse_args()
    content = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {"rows": []}
    found = content["rows"]
    known = {(row["pair"], row["teacher"], row["students"]) for row in found}
    for name in options.pairs:
        pair = PAIRS[name]()
        for live in (True, False):
            kind = "live" if live else "stored"
            for count in options.students:
                if (name, kind, count) in known:
                    continue
                row = {"pair": name, "teacher": kind, **measure(pair, count, options.rounds, live=live)}
                found.append(row)
                print(shown(row), flush=True)
                if options.json:
                    machine = {"threads": 1, "torch": torch.__version__, "machine": platform.machine()}
                    table = [shown(each) for each in found]
                    content = {"table": table, "rows": found, "machine": machine}
                    options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
