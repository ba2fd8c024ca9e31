"""What a diagnosis costs, in trainings of the student on hard labels, by processor time.

    LIMBECK_DATA=DIR python benchmarks/diagnosis_cost.py [--epochs 5] [--json FILE]

Teacher 784-800-800-10 and student 784-100-10 on 2,000 images of MNIST, 500 more held out, three seeds.  With a teacher
whose answers were computed once, and with one that answers each batch, since the images are shifted at random; the
students of a seed on the same batches in one process, as `limbeck diagnose` trains them, and each by itself.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.data import Augment
from limbeck.diagnosis import diagnose, trainer
from limbeck.diagnosis.inputs import DiagnosisInput, ask


def network(hidden: tuple[int, ...]) -> Callable[[int], nn.Module]:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return lb.models.mlp((1, 28, 28), 10, hidden=hidden)

    return make


def subject_of(epochs: int) -> DiagnosisInput:
    samples = lb.data.mnist().train
    train, held_out = samples.subset(torch.arange(2000)), samples.subset(torch.arange(2000, 2500))
    training = lb.Training(epochs=epochs, batch_size=128, learning_rate=0.05)
    larger = network((800, 800))
    teacher = lb.fit(lb.Distiller(larger(0), None, methods.hard()), train, training=training).student
    return DiagnosisInput("mnist", lb.ModelTeacher(teacher), train, held_out, network((100,)), larger, training)


def processor_seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    stored = subject_of(given.epochs)
    live = replace(stored, training=replace(stored.training, augment=Augment(shift=2)))
    rows = []
    together = trainer.TOGETHER
    diagnose(stored, quick=True)  # what is done once in a process is not counted
    for name, subject in (("stored", stored), ("live", live)):
        room = trainer.StudentTrainer(subject, ask(subject))
        room.train("hard", methods.hard(), 0)
        plain = (
            processor_seconds(lambda room=room: [room.train("hard", methods.hard(), seed) for seed in (0, 1, 2)]) / 3
        )
        for kind, settings in (("quick", {"quick": True}), ("no search", {"search": False}), ("search", {})):
            for way, at_a_time in (("shared", together), ("apart", 1)):
                trainer.TOGETHER = at_a_time
                took = processor_seconds(lambda subject=subject, settings=settings: diagnose(subject, **settings))
                rows.append({"teacher": name, "kind": kind, "way": way, "plain trainings": took / plain})
                print(f"{name:6} teacher, {kind:9}, {way:6}: {took / plain:.1f} plain trainings", flush=True)
    if given.json:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
        given.json.write_text(json.dumps({"epochs": given.epochs, "rows": rows, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
