"""Epoch time of an MNIST distillation, three ways side by side in one run.

    python benchmarks/mnist_epoch.py [--data DIR] [--rounds 7] [--json FILE]

tutorial: a DataLoader over single samples, each turned from a picture into a tensor and normalised as torchvision's
    `MNIST`, `ToTensor` and `Normalize` do it, and the teacher's forward pass in every step, as most tutorials have it.
by hand: the tensors in memory, the teacher's logits computed once, a loop written for nothing but this.
limbeck: `limbeck.fit` with `limbeck.store`.

Teacher 784-1200-1200-10, student 784-800-800-10, batch 256, SGD with momentum, T = 4, alpha = 0.1, 60,000 images.
Each round runs one epoch of each, in turn, from the same weights; the figures are medians over rounds and their ratios.
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

TEMPERATURE, ALPHA, BATCH, RATE = 4.0, 0.1, 256, 0.05


class Samples(Dataset[tuple[Tensor, int]]):
    """One sample at a time: array to picture to tensor to normalised tensor, the steps of torchvision 0.21."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index, 0].numpy())
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
        tensor = tensor.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255)
        mean, std = torch.as_tensor([0.1307]).view(-1, 1, 1), torch.as_tensor([0.3081]).view(-1, 1, 1)
        return tensor.clone().sub_(mean).div_(std), int(self.labels[index])


def student() -> nn.Sequential:
    """Return the student from fixed weights."""
    torch.manual_seed(0)
    return lb.models.mlp((1, 28, 28), 10, hidden=(800, 800))


def kd_by_hand(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss as it is usually written."""
    soft = F.kl_div(
        F.log_softmax(student_logits / TEMPERATURE, 1),
        F.softmax(teacher_logits / TEMPERATURE, 1),
        reduction="batchmean",
    )
    return ALPHA * F.cross_entropy(student_logits, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft


def tutorial(teacher: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the seconds of an epoch with a DataLoader and a live teacher."""
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loader = DataLoader(Samples(images, labels), batch_size=BATCH, shuffle=True)
    began = time.perf_counter()
    for inputs, targets in loader:
        with torch.no_grad():
            answers = teacher(inputs)
        loss = kd_by_hand(model(inputs), answers, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def by_hand(answers: Tensor, images: Tensor, labels: Tensor) -> float:
    """Return the seconds of an epoch over tensors in memory with stored logits."""
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=True)
    floats = images.float() / 255
    began = time.perf_counter()
    for index in torch.randperm(len(images)).split(BATCH):
        inputs, targets, teacher = (tensor.index_select(0, index) for tensor in (floats, labels, answers))
        loss = kd_by_hand(model(inputs), teacher, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def with_limbeck(stored: lb.StoredTeacher, samples: lb.data.SampleSet) -> float:
    """Return the seconds of an epoch of `limbeck.fit`, everything in it included."""
    distiller = lb.Distiller(student(), stored, lb.methods.kd(temperature=TEMPERATURE, alpha=ALPHA))
    began = time.perf_counter()
    lb.fit(distiller, samples, epochs=1, batch_size=BATCH, learning_rate=RATE, schedule="constant")
    return time.perf_counter() - began


def main() -> None:
    """Run the rounds and print medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("LIMBECK_DATA"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(options.data) / "mnist" if options.data and (Path(options.data) / "mnist").is_dir() else options.data
    samples = lb.data.mnist(folder=None if folder is None else str(folder)).train
    images, labels = samples.inputs, samples.labels
    torch.manual_seed(1)
    teacher = lb.models.mlp((1, 28, 28), 10, hidden=(1200, 1200)).requires_grad_(False).eval()
    stored = lb.store(lb.ModelTeacher(teacher), samples)

    ways: dict[str, Callable[[], float]] = {
        "tutorial": lambda: tutorial(teacher, images, labels),
        "by hand": lambda: by_hand(stored.logits, images, labels),
        "limbeck": lambda: with_limbeck(stored, samples),
    }
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:<9} median {medians[name]:.3f} s an epoch ({min(values):.3f} to {max(values):.3f})")
    paired = statistics.median(a / b for a, b in zip(seconds["limbeck"], seconds["by hand"], strict=True))
    result = {
        "limbeck / by hand": medians["limbeck"] / medians["by hand"],
        "limbeck / by hand, median of rounds": paired,
        "tutorial / limbeck": medians["tutorial"] / medians["limbeck"],
    }
    for name, ratio in result.items():
        print(f"{name}: {ratio:.3f}")
    if options.json:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
        content = {"ratios": result, "medians": medians, "seconds": seconds, "machine": machine}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
