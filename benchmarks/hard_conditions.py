"""Does distillation help where data is hard: classes of unequal size, wrong labels, noisy inputs?

    LIMBECK_DATA=DIR python benchmarks/hard_conditions.py [--seeds 5] [--json FILE] [--search]

Fashion-MNIST, 4,000 training images drawn by the seed, teacher 784-400-400-10, student 784-32-10, 20 epochs of each,
learning rate 0.05, T = 4, alpha = 0.1, the same for all: nothing is chosen.  Teacher and students learn under the same
condition; the student on hard labels and the distilled one have the same initial weights and order (`fit_many`).  All
are measured on the 10,000 test images as published, and differences are paired by seed, with 95 % t-intervals.

plain: as published.  long tail: of class k a share 0.05^(k/9), so that the rarest has a twentieth.
wrong labels: 30 % of the labels are another class's.  noisy inputs: Gaussian noise of 0.5 (pixels are 0 to 1) in
training, another at each epoch.  noisy student: the same, but the teacher sees the clean images.

--search: temperature, alpha and the budget (epochs, learning rate) are chosen, for each seed, by the accuracy on 4,000
other training images as published; the student on hard labels has the same budgets to choose from.  The test set is
read once, for the two students that were chosen.
"""

import argparse
import itertools
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
TEMPERATURES, ALPHAS = (1.0, 2.0, 4.0, 8.0), (0.1, 0.5, 0.9)
BUDGETS = {f"{epochs} epochs at {rate}": replace(PLAIN, epochs=epochs, learning_rate=rate)
           for epochs, rate in ((20, 0.05), (60, 0.05), (20, 0.2))}  # fmt: skip
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


def noise_of(condition: str) -> Augment:
    return Augment(noise=0.5) if condition in ("noisy inputs", "noisy student") else Augment()


def taught_by(samples: SampleSet, condition: str, seed: int) -> tuple[nn.Module, lb.ModelTeacher]:
    """Return the network that learns under a condition, and the same as a teacher."""
    clean = condition == "noisy student"
    training = PLAIN if clean else replace(PLAIN, augment=noise_of(condition))
    distiller = lb.Distiller(network(seed, (400, 400)), None, methods.hard())
    teacher = lb.fit(distiller, samples, training=training, seed=seed).student
    return teacher, lb.ModelTeacher(teacher, view="clean" if clean else None)


def run(whole: SampleSet, test: SampleSet, condition: str, seed: int) -> dict[str, list[float]]:
    """Return the accuracy by class of teacher, student alone and distilled student."""
    samples = learnt_from(whole, condition, seed)
    training = replace(PLAIN, augment=noise_of(condition))
    teacher, asked = taught_by(samples, condition, seed)
    distillers = [
        lb.Distiller(network(seed + 100, (32,)), None, methods.hard()),
        lb.Distiller(network(seed + 100, (32,)), asked, methods.kd(temperature=4.0, alpha=0.1)),
    ]
    alone, distilled = lb.fit_many(distillers, samples, training=training, seed=seed)
    models = {"teacher": teacher, "alone": alone.student, "distilled": distilled.student}
    return {role: accuracy_by_class(model, test).tolist() for role, model in models.items()}


def search(whole: SampleSet, test: SampleSet, condition: str, seed: int) -> dict[str, Any]:
    """Choose settings on held-out images; return what each gives there, and what the chosen ones give on the test set.

    {"held_out": {role: {setting: accuracy}}, "teacher_held_out": accuracy, "chosen": {role: setting}, "test": {role:
    accuracy by class}}.
    """
    samples = learnt_from(whole, condition, seed)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1000 + seed))
    held_out = whole.subset(order[~torch.isin(whole.index[order], samples.index)][:SAMPLES].sort().values)
    teacher, asked = taught_by(samples, condition, seed)
    settings: list[tuple[str, str, lb.Distiller, lb.Training]] = []
    for named, budget in BUDGETS.items():
        training = replace(budget, augment=noise_of(condition))
        alone = lb.Distiller(network(seed + 100, (32,)), None, methods.hard())
        settings.append(("alone", named, alone, training))
        for temperature, alpha in itertools.product(TEMPERATURES, ALPHAS):
            method = methods.kd(temperature=temperature, alpha=alpha)
            distiller = lb.Distiller(network(seed + 100, (32,)), asked, method)
            settings.append(("distilled", f"T = {temperature:g}, alpha = {alpha:g}, {named}", distiller, training))
    results = lb.fit_many(
        [each for *_, each, _ in settings], samples, training=[each[3] for each in settings], seed=seed
    )
    students: dict[str, dict[str, nn.Module]] = {"alone": {}, "distilled": {}}
    for (role, named, *_), result in zip(settings, results, strict=True):
        students[role][named] = result.student
    reached = {
        role: {named: float(accuracy_by_class(model, held_out).mean()) for named, model in models.items()}
        for role, models in students.items()
    }
    chosen = {role: max(values, key=lambda named: values[named]) for role, values in reached.items()}
    tested = {"teacher": teacher, **{role: students[role][named] for role, named in chosen.items()}}
    return {
        "held_out": reached,
        "teacher_held_out": float(accuracy_by_class(teacher, held_out).mean()),
        "chosen": chosen,
        "test": {role: accuracy_by_class(model, test).tolist() for role, model in tested.items()},
    }


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
    parser.add_argument("--search", action="store_true")
    given = parser.parse_args()
    sets = lb.data.fashion_mnist()
    attempt = search if given.search else run
    found: dict[str, list[dict[str, Any]]] = {condition: [] for condition in CONDITIONS}
    for seed, condition in itertools.product(range(given.seeds), CONDITIONS):
        found[condition].append(attempt(sets.train, sets.test, condition, seed))
        tested = [each["test"] if given.search else each for each in found[condition]]
        print(f"{seed + 1} of {given.seeds} seeds: {line(condition, tested)}", flush=True)
        if given.json:
            seen = {name: [each["test"] if given.search else each for each in runs] for name, runs in found.items()}
            table = [line(name, each) for name, each in seen.items() if each]
            machine = {"threads": 1, "torch": torch.__version__, "machine": platform.machine()}
            options = " --search" if given.search else ""
            command = f"python benchmarks/hard_conditions.py --seeds {given.seeds}{options} --json FILE"
            whole = {"command": command, "table": table, "machine": machine, "runs": found}
            given.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
