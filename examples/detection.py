"""A detector with few labelled images: its teacher shows the student classes and boxes of images without labels.

    python examples/detection.py [--steps 1500] [--labelled 150] [--unlabelled 2250] [--tested 300]

An image shows squares, discs and crosses, and is a grid of 8×8 cells. A cell that holds the centre of a shape has its
class; the others are background. So the classes are a dense task, and `lb.methods.kd` works for each cell, with
labels or without (-100). The boxes are a second head of the network: the terms below tap it by its path, and find the
known boxes of a sample by its position in the set, `batch.index`. It prints the mean average precision at an overlap
of 0.5 on images that no training saw.
"""

import argparse

import torch
from torch import nn

import limbeck as lb
from limbeck.data import TensorSet
from limbeck.objective import Objective, Term
from limbeck.tasks import DENSE

CLASSES = ("background", "square", "disc", "cross")
SIDE, STRIDE = 32, 4
CELLS = SIDE // STRIDE


def scenes(count: int, seed: int) -> tuple[TensorSet, torch.Tensor]:
    """Return noisy images (count, 1, 32, 32) with the class of each cell, and boxes (count, 8, 8, 4).

    A box is (y, x) of its centre within the cell, in cells, and the logarithm of its height and width, in cells.
    """
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    images = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=draw)
    cells, boxes = torch.zeros(count, CELLS, CELLS, dtype=torch.int64), torch.zeros(count, CELLS, CELLS, 4)
    for image, labels, places in zip(images, cells, boxes, strict=True):
        for _ in range(int(torch.randint(1, 4, (1,), generator=draw))):
            label = int(torch.randint(1, len(CLASSES), (1,), generator=draw))
            half = 2.5 + 3.5 * torch.rand(2, generator=draw)  # of the height and the width
            centre = half + (SIDE - 2 * half) * torch.rand(2, generator=draw)
            y, x = ((rows - centre[0]) / half[0]).abs(), ((columns - centre[1]) / half[1]).abs()
            inside = {1: y.maximum(x) <= 1, 2: y.hypot(x) <= 1, 3: (y.maximum(x) <= 1) & (y.minimum(x) <= 0.35)}[label]
            image[0][inside] = 0.9
            row, column = (centre // STRIDE).long().tolist()
            labels[row, column] = label
            places[row, column] = torch.cat([centre / STRIDE % 1, (2 * half / STRIDE).log()])
    return TensorSet.of(images, cells, class_names=CLASSES, name="scenes", task=DENSE), boxes


class Detector(nn.Module):
    """Three convolutions, a head for the class of each cell and one for its box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside in (1, channels, channels):
            layers += [nn.Conv2d(inside, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers[:-1])  # two poolings: a cell is 4 pixels
        self.classes, self.boxes = nn.Conv2d(channels, len(CLASSES), 3, padding=1), nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, images):
        features = self.body(images)
        return {"logits": self.classes(features), "boxes": self.boxes(features)}


class Boxes(Term):
    """Smooth L1 between the student's boxes and the known ones, in the cells whose label is a shape."""

    def __init__(self, boxes: torch.Tensor) -> None:
        super().__init__("boxes")
        self.taps = {"student": {"boxes": "boxes"}}
        self.register_buffer("known", boxes, persistent=False)

    def count(self, batch):
        return (batch.labels > 0).sum()

    def sum(self, outputs, batch, step):
        found = outputs["student"].features["boxes"].movedim(1, -1)
        here = batch.labels > 0
        return nn.functional.smooth_l1_loss(found[here], self.known[batch.index][here], reduction="sum")


class TeacherBoxes(Term):
    """Smooth L1 between the boxes of student and teacher, in each cell times the teacher's probability of a shape."""

    reads = frozenset({"student", "teacher"})

    def __init__(self) -> None:
        super().__init__("teacher boxes")
        self.taps = {name: {"boxes": "boxes"} for name in self.reads}

    def count(self, batch):
        return len(batch)

    def sum(self, outputs, batch, step):
        student, teacher = (outputs[name].features["boxes"] for name in ("student", "teacher"))
        shape = 1 - outputs["teacher"].logits.softmax(-1)[..., 0]
        return (shape * nn.functional.smooth_l1_loss(student, teacher, reduction="none").sum(1)).sum()


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """Return (…, 8, 8, 4) boxes as the corners (y, x, y, x) in cells."""
    cell = torch.stack(torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij"), -1)
    centre, half = cell + boxes[..., :2], boxes[..., 2:].clamp(max=4).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def overlap(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of one box (4,) with others (n, 4)."""
    shared = (one[2:].minimum(others[:, 2:]) - one[:2].maximum(others[:, :2])).clamp(min=0).prod(-1)
    areas = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1)
    return shared / (areas - shared)


def precision(found: list[tuple[float, bool]], known: int) -> float:
    """Return the average precision of detections (score, right?), of which `known` are to be found."""
    hits = torch.tensor([right for _, right in sorted(found, key=lambda each: -each[0])], dtype=torch.float64)
    if not len(hits):
        return 0.0
    precisions = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return float((precisions.flip(0).cummax(0).values.flip(0) * hits).sum() / max(known, 1))


@torch.no_grad()
def evaluate(network: nn.Module, samples: TensorSet, boxes: torch.Tensor) -> float:
    """Return the mean over the classes of the average precision at an overlap of 0.5."""
    network.eval()
    answer = network(samples.inputs)
    scores, places = answer["logits"].softmax(1), corners(answer["boxes"].movedim(1, -1))
    right, found = corners(boxes), {label: [] for label in range(1, len(CLASSES))}
    for image in range(len(samples)):
        for label, each in found.items():
            score, place = scores[image, label].flatten(), places[image].flatten(0, 1)
            known = right[image][samples.labels[image] == label]
            taken, kept = torch.zeros(len(known), dtype=torch.bool), torch.zeros(0, 4)
            for cell in score.argsort(descending=True)[: int((score > 0.05).sum())].tolist():
                if len(kept) and overlap(place[cell], kept).max() > 0.5:
                    continue  # a better detection of the same shape
                kept = torch.cat([kept, place[cell][None]])
                near = overlap(place[cell], known).masked_fill(taken, 0.0)
                hit = bool(len(near)) and float(near.max()) >= 0.5
                if hit:
                    taken[near.argmax()] = True
                each.append((float(score[cell]), hit))
    return sum(precision(each, int((samples.labels == label).sum())) for label, each in found.items()) / len(found)


def main(steps: int = 1500, labelled: int = 150, unlabelled: int = 2250, tested: int = 300) -> dict[str, float]:
    (train, boxes), (more, _), (test, truth) = scenes(labelled, 0), scenes(unlabelled, 1), scenes(tested, 2)
    unknown = torch.full_like(more.labels, -100)
    every = TensorSet.of(
        torch.cat([train.inputs, more.inputs]), torch.cat([train.labels, unknown]), class_names=CLASSES, task=DENSE
    )
    known = Objective([Boxes(torch.cat([boxes, torch.zeros(unlabelled, CELLS, CELLS, 4)]))])

    torch.manual_seed(0)
    networks = {"teacher": Detector(48), "alone": Detector(8), "distilled": Detector(8)}
    for name, network in networks.items():
        method, samples = lb.methods.hard() + known, train
        if name == "distilled":
            samples = every
            method = lb.methods.kd(temperature=1.0, alpha=0.5) + known + Objective([TeacherBoxes()])
        epochs = max(round(16 * steps / len(samples)), 1)  # as many steps for each
        taught = networks["teacher"] if name == "distilled" else None
        settings = {"batch_size": 16, "optimizer": "adam", "learning_rate": 0.01, "keep": "last", "epochs": epochs}
        lb.fit(network, samples, teacher=taught, method=method, **settings)
    precisions = {name: evaluate(network, test, truth) for name, network in networks.items()}
    for name, network in networks.items():
        size = sum(each.numel() for each in network.parameters())
        print(f"{name:>9}: {size:6,} parameters, mean average precision {precisions[name]:.3f}")
    return precisions


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--labelled", type=int, default=150)
    parser.add_argument("--unlabelled", type=int, default=2250)
    parser.add_argument("--tested", type=int, default=300)
    main(**vars(parser.parse_args()))
