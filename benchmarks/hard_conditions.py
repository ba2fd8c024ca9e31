"""Does distillation help where data is hard: classes of unequal size, wrong labels, noisy inputs?

    LIMBECK_DATA=DIR python benchmarks/hard_conditions.py [--seeds 5] [--json FILE]

Fashion-MNIST, 4,000 training images drawn by the seed, teacher 784-400-400-10, student 784-32-10, 20 epochs of each,
learning rate 0.05, T = 4, alpha = 0.1, the same for all: nothing is chosen.  Teacher and students learn under the same
condition; the student on hard labels and the distilled one have the same initial weights and order (`fit_many`).  All
are measured on the 10,000 test images as published, and differences are paired by seed, with 95 % t-intervals.

plain: as published.  long tail: of class k a share 0.05^(k/9), so that the rarest has a twentieth.
wrong labels: 30 % of the labels are another class's.  noisy inputs: Gaussian noise of 0.5 (pixels are 0 to 1) in
training, another at each epoch.  noisy student: the same, but the teacher sees the clean images.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.evaluation import predict, t_interval

SAMPLES, CLASSES = 4000, 10
PLAIN = lb.Training(epochs=20, batch_size=128, learning_rate=0.05)
CONDITIONS = ("plain", "long tail", "wrong labels", "noisy inputs", "noisy student")


def network(seed: int, hidden: Sequence[int]) -> nn.Module:
    torch.manual_seed(seed)
    return lb.models.mlp((1, 28, 28), CLASSES, hidden=hidden)


def learnt_from(whole: SampleSet, condition: str, seed: int) -> SampleSet:
    """Return the training set of a condition."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(whole), generator=generator)
    if condition == "long tail":
        labels = whole.labels[order]
        wanted = [round(SAMPLES / CLASSES * 0.05 ** (k / (CLASSES - 1))) for k in range(CLASSES)]
        order = torch.cat([order[labels == k][:count] for k, count in enumerate(wanted)])
    samples = whole.subset(order[:SAMPLES].sort().values)
    if condition == "wrong labels":
        wrong = torch.rand(len(samples), generator=generator) < 0.3
        other = (samples.labels + torch.randint(1, CLASSES, (len(samples),), generator=generator)) % CLASSES
        samples = replace(samples, labels=torch.where(wrong, other, samples.labels))
    return samples


def accuracy_by_class(model: nn.Module, test: SampleSet) -> Tensor:
    """Return the accuracy on each class, (K,)."""
    right = (predict(model, test).argmax(1) == test.labels).double()
    return torch.stack([right[test.labels == k].mean() for k in range(CLASSES)])


def run(whole: SampleSet, test: SampleSet, condition: str, seed: int) -> dict[str, list[float]]:
    """Return the accuracy by class of teacher, student alone and distilled student."""
    samples = learnt_from(whole, condition, seed)
    noisy = condition in ("noisy inputs", "noisy student")
    training = replace(PLAIN, augment=Augment(noise=0.5)) if noisy else PLAIN
    taught_clean = condition == "noisy student"
    teacher = lb.fit(
        lb.Distiller(network(seed, (400, 400)), None, methods.hard()),
        samples,
        training=PLAIN if taught_clean else training,
        seed=seed,
    ).student
    asked = lb.ModelTeacher(teacher, view="clean" if taught_clean else None)
    distillers = [
        lb.Distiller(network(seed + 100, (32,)), None, methods.hard()),
        lb.Distiller(network(seed + 100, (32,)), asked, methods.kd(temperature=4.0, alpha=0.1)),
    ]
    alone, distilled = lb.fit_many(distillers, samples, training=training, seed=seed)
    models = {"teacher": teacher, "alone": alone.student, "distilled": distilled.student}
    return {role: accuracy_by_class(model, test).tolist() for role, model in models.items()}


def shown(differences: Tensor) -> str:
    found = t_interval([100 * float(value) for value in differences])
    return f"{found.mean:+.2f} ± {found.half_width or 0:.2f}"


def line(condition: str, found: Sequence[dict[str, list[float]]]) -> str:
    """Return what a condition came to: accuracies, and the gain on all classes, the frequent and the rare."""
    of = {role: torch.tensor([each[role] for each in found]) for role in ("teacher", "alone", "distilled")}
    gain = of["distilled"] - of["alone"]
    means = ", ".join(f"{role} {100 * float(values.mean()):.2f}" for role, values in of.items())
    said = f"{condition:13} {means}; gain {shown(gain.mean(1))}"
    if condition == "long tail":
        said += f", five frequent classes {shown(gain[:, :5].mean(1))}, five rare {shown(gain[:, 5:].mean(1))}"
    return said


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sets = lb.data.fashion_mnist()
    found: dict[str, list[dict[str, Any]]] = {}
    for condition in CONDITIONS:
        found[condition] = [run(sets.train, sets.test, condition, seed) for seed in range(given.seeds)]
        print(line(condition, found[condition]), flush=True)
        if given.json:
            table = [line(name, each) for name, each in found.items()]
            machine = {"threads": 1, "torch": torch.__version__, "machine": platform.machine()}
            given.json.write_text(json.dumps({"table": table, "machine": machine, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
