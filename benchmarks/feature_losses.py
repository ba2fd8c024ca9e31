"""What each method on layers costs: its loss, forward and backward, as a share of a step of KD.

ResNet-56 teaches ResNet-20 on inputs of CIFAR's size, with the layers that are published for each method.  The share is
that of the term alone, on features that are given, beside a whole step of KD (teacher, student, backward, update).
CRD's bank has 50,000 rows.  Each figure is the shortest of several rounds, which take turns.

    python benchmarks/feature_losses.py [--device DEVICE] [--batch N] [--rounds N] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from limbeck import Batch, Distiller, Objective, Training, methods, models
from limbeck.outputs import Outputs
from limbeck.training.optimizers import make_optimizer

_STAGES = ["stage1", "stage2", "stage3"]
_LAYERS = {
    "activation_boundary": _STAGES,
    "attention_transfer": _STAGES,
    "cat_kd": "stage3",
    "correlation_congruence": "pool",
    "crd": "pool",
    "factor_transfer": "stage3",
    "fsp": ["stem", *_STAGES],
    "hint": "stage2",
    "ickd": "stage3",
    "mgd": "stage3",
    "nst": _STAGES,
    "ofd": _STAGES,
    "pkt": "pool",
    "review_kd": [*_STAGES, "pool@output"],
    "rkd": "pool",
    "similarity_preserving": "stage3",
    "srrl": "pool",
    "vid": _STAGES,
    "vkd": "pool",
}
_SAMPLES, _CLASSES, _LATE = 50_000, 100, 1_000_000  # a step at which no weight rises from 0 any more


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    batch = Batch.of(torch.randn(options.batch, 3, 32, 32), torch.arange(options.batch) % _CLASSES).to(device)
    acts = {"kd": _step(batch, device)} | {name: _loss(name, batch, device) for name in _LAYERS}
    best = dict.fromkeys(acts, float("inf"))
    for act in acts.values():
        act()  # what its first call allocates is not of the step
    for _ in range(options.rounds):
        for name, act in acts.items():
            began = time.perf_counter()
            act()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - began)
    shares = {name: best[name] / best["kd"] for name in _LAYERS}
    print(f"a step of KD: {best['kd'] * 1000:.1f} ms, {device}, batches of {options.batch}, torch {torch.__version__}")
    for name, share in sorted(shares.items(), key=lambda each: each[1]):
        print(f"{name:24} {best[name] * 1000:8.2f} ms  {100 * share:6.1f} %")
    if options.json:
        place = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, one thread"
        found = {
            "device": place,
            "batch": options.batch,
            "torch": torch.__version__,
            "kd_seconds": best["kd"],
            "shares": shares,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return models.resnet((3, 32, 32), _CLASSES, depth=20), models.resnet((3, 32, 32), _CLASSES, depth=56)


def _step(batch: Batch, device: torch.device) -> Callable[[], None]:
    distiller = Distiller(*_networks(), methods.kd()).prepare(device)
    distiller.build(batch)
    distiller.train()
    optimizer = make_optimizer(distiller, Training(learning_rate=1e-3))

    def act() -> None:
        optimizer.zero_grad()
        distiller(batch, 0).total.backward()
        optimizer.step()

    return act


def _loss(name: str, batch: Batch, device: torch.device) -> Callable[[], None]:
    objective: Objective = methods.builder(name)(layers=_LAYERS[name])
    terms: list[Any] = [term for key, term in objective.terms.items() if key not in ("hard", "soft")]
    distiller = Distiller(*_networks(), Objective(terms)).prepare(device)
    known = torch.arange(_SAMPLES), torch.arange(_SAMPLES) % _CLASSES
    distiller.build(batch, samples=known)
    distiller.train()
    with torch.no_grad():
        given = distiller.outputs(batch, _LATE)

    def act() -> None:
        student = given["student"]
        features = {key: value.detach().requires_grad_() for key, value in student.features.items()}
        logits = student.logits.detach().requires_grad_()
        weights = {key: value.detach().requires_grad_() for key, value in student.weights.items()}
        own = Outputs(logits, features, weights=weights, ask=student.ask)
        distiller.objective.zero_grad()
        distiller.objective({"student": own, "teacher": given["teacher"]}, batch, _LATE).total.backward()

    return act


if __name__ == "__main__":
    main()
