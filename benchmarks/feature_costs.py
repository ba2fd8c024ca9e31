"""What each loss on features costs, as a share of one step of `kd`.

    python benchmarks/feature_costs.py [--rounds 5] [--only crd rkd] [--json FILE]

ResNet-56 teaches ResNet-20, 64 images of 32×32 pixels a step, 100 classes, one thread.  A step of `kd` is the teacher's
forward, the student's forward and backward, and SGD's step.  Of a term it is measured what it adds to given features:
its forward and its backward to them and to what it learns.  Terms that differentiate or ask the networks again are
measured as whole steps, of which one of `kd` is subtracted.  The rounds go through all rows in turn, with a step of
`kd` before each row; the figures are medians of the processor's time, in which other processes count little.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from limbeck import methods, models
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.objective import Objective
from limbeck.teachers import ModelTeacher

STAGES = ["stage1", "stage2", "stage3"]
ROWS = {
    "activation_boundary": {"layers": STAGES},
    "attention_transfer": {"layers": STAGES},
    "bss": {},
    "cat_kd": {"layers": "stage3"},
    "correlation_congruence": {"layers": "pool"},
    "crd": {"layers": "pool"},
    "factor_transfer": {"layers": "stage3", "paraphraser_steps": 1},
    "fsp": {"layers": ["stem", *STAGES]},
    "grad_cam": {"layers": "stage3"},
    "hint": {"layers": "stage2"},
    "ickd": {"layers": "stage3"},
    "input_gradient": {},
    "mgd": {"layers": "stage3"},
    "nst": {"layers": STAGES},
    "ofd": {"layers": STAGES},
    "pkt": {"layers": "pool"},
    "review_kd": {"layers": [*STAGES, "pool@output"]},
    "rkd": {"layers": "pool"},
    "similarity_preserving": {"layers": "stage3"},
    "srrl": {"layers": "pool"},
    "vid": {"layers": STAGES},
    "vkd": {"layers": "pool"},
}
WHOLE = ("bss", "grad_cam", "input_gradient")
SAMPLES, CLASSES, SIZE = 50_000, 100, 64


def built(objective: Objective) -> tuple[Distiller, Batch, torch.optim.Optimizer]:
    """A distiller of new networks, a batch, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    index = torch.randperm(SAMPLES, generator=generator)[:SIZE]
    batch = Batch.of(torch.randn(SIZE, 3, 32, 32, generator=generator), labels[index])
    batch = replace(batch, index=index)
    networks = [models.builder(name)((3, 32, 32), CLASSES) for name in ("resnet20", "resnet56")]
    if "bss" in objective.terms:  # all of one class that both networks get right, so that all samples are moved
        batch.labels = torch.zeros_like(index)
        for network in networks:
            network.fc.bias.data[0] = 1e6
    distiller = Distiller(networks[0], ModelTeacher(networks[1]), objective)
    distiller.build(batch, samples=(torch.arange(SAMPLES), labels))
    return distiller.train(), batch, torch.optim.SGD(distiller.parameters(), lr=0.01, momentum=0.9)


def whole_step(objective: Objective) -> Callable[[int], None]:
    """A function that does one step of training."""
    distiller, batch, optimizer = built(objective)

    def step(number: int) -> None:
        optimizer.zero_grad()
        distiller(batch, number).total.backward()
        optimizer.step()

    return step


def loss_on_features(name: str, objective: Objective) -> Callable[[int], None]:
    """A function that computes a term and its gradient on given features."""
    distiller, batch, _ = built(objective)
    outputs = distiller.outputs(batch, 1)
    student = outputs["student"]
    features = {place: each.detach().requires_grad_() for place, each in student.features.items()}
    outputs["student"] = replace(student, features=features, logits=student.logits.detach().requires_grad_())
    outputs["teacher"] = outputs["teacher"].detach()
    term = distiller.objective.terms[name]

    def step(number: int) -> None:
        term.zero_grad()
        for feature in features.values():
            feature.grad = None
        term(outputs, batch, number)[0].backward()

    return step


def seconds(step: Callable[[int], None], number: int) -> float:
    began = time.process_time()
    step(number)
    return time.process_time() - began


def main() -> None:
    """Run the rounds and print each row's share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=sorted(ROWS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kd = whole_step(methods.kd())
    rows: dict[str, Callable[[int], None]] = {}
    for name in options.only:
        objective = methods.builder(name)(**ROWS[name])
        rows[name] = whole_step(objective) if name in WHOLE else loss_on_features(name, objective)
    times: dict[str, list[float]] = {name: [] for name in rows}
    of_kd: list[float] = []
    for number in range(options.rounds + 1):
        for name, step in rows.items():
            base, own = seconds(kd, number), seconds(step, number + 1)
            if number:  # the first round is not counted
                of_kd.append(base)
                times[name].append(own - base if name in WHOLE else own)
    base = statistics.median(of_kd)
    shares = {name: statistics.median(each) / base for name, each in times.items()}
    print(f"a step of kd: {base:.3f} s")
    for name, share in sorted(shares.items(), key=lambda item: item[1]):
        print(f"{name:<24} {100 * share:6.1f} %")
    if options.json:
        content = {"kd": base, "shares": shares, "seconds": {"kd": of_kd, **times}}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
