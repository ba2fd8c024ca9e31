"""An epoch of limbeck beside a loop written by hand and the loop of tutorials, alternated in one process.

    python benchmarks/loop.py [--rounds 7] [--only mnist] [--data DIR] [--json FILE]

tutorial: a DataLoader over single samples, each made from a picture by `ToTensor` and `Normalize` as torchvision does
    it, the teacher's forward pass and `loss.item()` in every step.
hand: the set in memory as bytes, batches taken by index, one fused optimizer, the same loss in four lines: with the
    teacher asked in every step, with its answers computed once (stored), and on the labels alone (supervised).
limbeck: the same three with `limbeck.fit`, everything in it included: set-up, the sums of the losses, the guard against
    NaN and the check that the teacher is unchanged.

mnist: teacher 784-1200-1200-10, student 784-800-800-10, batches of 256, 28×28 pixels.
cnn: images of 32×32 pixels in three channels, batches of 128; student of 16 and 32 channels, teacher of 32 and 64.

One thread.  Each round runs every way once, in an order that turns, from the same weights.  Figures are medians over
rounds of the processor's seconds, in which other processes count less than in those of the clock; both are written.
A ratio is the median over rounds of the ratio within the round.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import limbeck as lb

TEMPERATURE, ALPHA, RATE = 4.0, 0.1, 0.05
AIMS = {
    "limbeck / hand": ("limbeck", "hand", 1.03, "at most"),
    "limbeck stored / hand stored": ("limbeck stored", "hand stored", 1.03, "at most"),
    "limbeck supervised / hand supervised": ("limbeck supervised", "hand supervised", 1.03, "at most"),
    "tutorial / limbeck": ("tutorial", "limbeck", 3.0, "at least"),
    "tutorial / limbeck stored": ("tutorial", "limbeck stored", 3.0, "at least"),
    "limbeck stored / limbeck supervised": ("limbeck stored", "limbeck supervised", 1.05, "at most"),
    "limbeck stored / hand supervised": ("limbeck stored", "hand supervised", 1.05, "at most"),
}


class Samples(Dataset[tuple[Tensor, int]]):
    """One sample at a time: array to picture to tensor to normalised tensor, the steps of torchvision 0.21."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.images[index].permute(1, 2, 0).squeeze(2).numpy()
        picture = Image.fromarray(pixels)
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(*pixels.shape[:2], -1)
        tensor = tensor.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255)
        mean, std = (torch.as_tensor([each] * len(tensor)).view(-1, 1, 1) for each in (0.1307, 0.3081))
        return tensor.clone().sub_(mean).div_(std), int(self.labels[index])


def kd_by_hand(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss as it is usually written."""
    soft = F.kl_div(
        F.log_softmax(student_logits / TEMPERATURE, 1),
        F.softmax(teacher_logits / TEMPERATURE, 1),
        reduction="batchmean",
    )
    return ALPHA * F.cross_entropy(student_logits, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft


class Problem:
    """Networks and a set on which all ways are run."""

    def __init__(self, samples: lb.data.TensorSet, student: Callable[[], nn.Module], teacher: nn.Module, size: int):
        self.samples, self.student, self.size = samples, student, size
        self.teacher = teacher.requires_grad_(False).eval()
        self.stored = lb.store(lb.ModelTeacher(self.teacher), samples)

    def new(self) -> nn.Module:
        """Return the student from fixed weights."""
        torch.manual_seed(0)
        return self.student()

    def tutorial(self) -> None:
        """One epoch with a DataLoader and a live teacher."""
        model = self.new()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        loader = DataLoader(Samples(self.samples.inputs, self.samples.labels), batch_size=self.size, shuffle=True)
        running = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            with torch.no_grad():
                answers = self.teacher(inputs)
            loss = kd_by_hand(model(inputs), answers, targets)
            loss.backward()
            optimizer.step()
            running += loss.item()

    def hand(self, how: str) -> None:
        """One epoch over tensors in memory."""
        model = self.new()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=True)
        images, labels, stored = self.samples.inputs, self.samples.labels, self.stored.logits
        for index in torch.randperm(len(images)).split(self.size):
            inputs = images.index_select(0, index).float().div_(255)
            targets = labels.index_select(0, index)
            logits = model(inputs)
            if how == "supervised":
                loss = F.cross_entropy(logits, targets)
            elif how == "stored":
                loss = kd_by_hand(logits, stored.index_select(0, index), targets)
            else:
                with torch.no_grad():
                    answers = self.teacher(inputs)
                loss = kd_by_hand(logits, answers, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def limbeck(self, how: str) -> None:
        """One epoch of `limbeck.fit`, everything in it included."""
        teacher = {"supervised": None, "stored": self.stored, "live": lb.ModelTeacher(self.teacher)}[how]
        kd = lb.methods.kd(temperature=TEMPERATURE, alpha=ALPHA)
        distiller = lb.Distiller(self.new(), teacher, lb.methods.hard() if teacher is None else kd)
        lb.fit(distiller, self.samples, epochs=1, batch_size=self.size, learning_rate=RATE, schedule="constant")

    def ways(self) -> dict[str, Callable[[], None]]:
        """Return what is timed, by name."""
        return {
            "tutorial": self.tutorial,
            "hand": lambda: self.hand("live"),
            "limbeck": lambda: self.limbeck("live"),
            "hand stored": lambda: self.hand("stored"),
            "limbeck stored": lambda: self.limbeck("stored"),
            "hand supervised": lambda: self.hand("supervised"),
            "limbeck supervised": lambda: self.limbeck("supervised"),
        }


def mnist(data: str | None, count: int) -> Problem:
    """Images of MNIST and two perceptrons."""
    folder = Path(data) / "mnist" if data and (Path(data) / "mnist").is_dir() else data
    whole = lb.data.mnist(folder=None if folder is None else str(folder)).train
    samples = lb.data.TensorSet.of(whole.inputs[:count], whole.labels[:count], classes=10)
    torch.manual_seed(1)
    teacher = lb.models.mlp((1, 28, 28), 10, hidden=(1200, 1200))
    return Problem(samples, lambda: lb.models.mlp((1, 28, 28), 10, hidden=(800, 800)), teacher, 256)


def cnn(_data: str | None, count: int) -> Problem:
    """Images as large as CIFAR's, and two small convolutional networks."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    samples = lb.data.TensorSet.of(images, torch.randint(10, (count,)), classes=10)
    teacher = lb.models.cnn((3, 32, 32), 10, channels=(32, 64))
    return Problem(samples, lambda: lb.models.cnn((3, 32, 32), 10, channels=(16, 32)), teacher, 128)


PROBLEMS = {"mnist": (mnist, 60_000), "cnn": (cnn, 6_400)}


def measured(problem: Problem, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Run the rounds; return the seconds of the processor and of the clock, by way."""
    ways = problem.ways()
    for way in ways.values():
        way()
    found: dict[str, dict[str, list[float]]] = {name: {"processor": [], "clock": []} for name in ways}
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            clock, processor = time.perf_counter(), time.process_time()
            ways[name]()
            found[name]["processor"].append(time.process_time() - processor)
            found[name]["clock"].append(time.perf_counter() - clock)
    return found


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, object]]:
    """Return each ratio with its spread over rounds, and whether the aim is met."""
    rows: dict[str, dict[str, object]] = {}
    for name, (above, below, aim, how) in AIMS.items():
        row: dict[str, object] = {"aim": f"{how} {aim}"}
        for kind in ("processor", "clock"):
            pairs = zip(found[above][kind], found[below][kind], strict=True)
            ratios = sorted(first / second for first, second in pairs)
            row[kind] = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
        median = row["processor"]["median"]  # type: ignore[index]
        row["met"] = median <= aim if how == "at most" else median >= aim
        rows[name] = row
    return rows


def markdown(name: str, found: dict[str, dict[str, list[float]]], rows: dict[str, dict[str, object]]) -> str:
    """Return the tables of a problem."""
    lines = [f"## {name}", "", "| an epoch | processor, s | least to most | clock, s |", "|---|---|---|---|"]
    for way, seconds in found.items():
        own = seconds["processor"]
        lines.append(
            f"| {way} | {statistics.median(own):.3f} | {min(own):.3f} to {max(own):.3f} |"
            f" {statistics.median(seconds['clock']):.3f} |"
        )
    lines += ["", "| ratio | processor | least to most | clock | aim | met |", "|---|---|---|---|---|---|"]
    for ratio, row in rows.items():
        own, clock = row["processor"], row["clock"]
        lines.append(
            f"| {ratio} | {own['median']:.3f} | {own['least']:.3f} to {own['most']:.3f} | {clock['median']:.3f} |"  # type: ignore[index]
            f" {row['aim']} | {'yes' if row['met'] else 'no'} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the problems, and print and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--share", type=float, default=1.0, help="of the samples of each problem, for a quick look")
    parser.add_argument("--data", default=os.environ.get("LIMBECK_DATA"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, object] = {}
    for name in options.only:
        make, count = PROBLEMS[name]
        before = os.getloadavg()
        found = measured(make(options.data, round(count * options.share)), options.rounds)
        rows = summary(found)
        print(markdown(name, found, rows), flush=True)
        content[name] = {"ratios": rows, "seconds": found, "load": {"before": before, "after": os.getloadavg()}}
    content["options"] = {"rounds": options.rounds, "share": options.share}
    content["machine"] = {
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "model": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "limbeck": lb.__version__,
    }
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
