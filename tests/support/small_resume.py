"""A small training that can be broken at any of its steps."""

import hashlib
import json
import logging

import torch
from torch import nn

from limbeck import schedules
from limbeck.batch import UNLABELLED
from limbeck.data import Augment, TensorSet
from limbeck.distiller import Distiller
from limbeck.objective import Objective, Term
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Training, fit


def samples_of(size, seed, unlabelled=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    labels[:unlabelled] = UNLABELLED
    return TensorSet.of(torch.rand(size, 1, 4, 4, generator=generator), labels, classes=4)


SAMPLES, HELD_OUT = samples_of(46, 0, unlabelled=7), samples_of(30, 1)  # 46 in batches of 16: 16, 16, 14


WIRE = logging.getLogger("tripwire")  # of which a training knows the name alone, whatever is called through it


class Tripwire(Term):
    """Zero; calls `act(step)` at every step."""

    def __init__(self, act=lambda step: None):
        super().__init__("tripwire")
        WIRE.act = act

    def sum(self, outputs, batch, step):
        WIRE.act(step)
        return outputs["student"].logits.sum() * 0


class Regression(Term):
    """A projection of the student's logits onto the teacher's, made when shapes are known."""

    reads = frozenset({"student", "teacher"})

    def __init__(self):
        super().__init__("regression", schedules.linear(1.0, 0.5, steps=9))

    def build(self, outputs, setup):
        self.layer = nn.Linear(outputs["student"].logits.shape[-1], outputs["teacher"].logits.shape[-1])

    def sum(self, outputs, batch, step):
        return (self.layer(outputs["student"].logits) - outputs["teacher"].logits).square().sum()


def networks(seed, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(width, 4),
        )
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    return student, teacher


SETTINGS = {
    "everything": {
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.05,
        "accumulate": 2,
        "averaging": 0.8,
        "keep": "best",
        "patience": 5,
        "clip": 1.0,
        "max_norm": 1.0,
        "schedule": "one_cycle",
        "augment": Augment(shift=1, noise=0.1),
    },
    "momentum": {"momentum": 0.9, "schedule": "cosine", "warmup": 0.5, "augment": Augment(flip=0.5)},
    "bf16": {"precision": "bf16", "optimizer": "adamw", "learning_rate": 0.01, "keep": "best", "max_norm": 0.7},
    "early stop": {"learning_rate": 0.1, "patience": 1, "keep": "best", "schedule": "constant", "epochs": 9},
    "plain": {"momentum": 0.0, "schedule": "step", "milestones": (1.0, 2.0), "averaging": 0.9},
}


def run(folder, kind="everything", act=lambda step: None, *, watch=lambda look: None, seed=3, initial=0, **changes):
    """Train a student from scratch or go on: every call makes everything anew, as a new process would."""
    student, teacher = (
        networks(initial)[0],
        ModelTeacher(networks(0)[1], view="clean" if kind == "everything" else None),
    )
    objective = Objective([HardLabels(0.5), SoftTargets(0.5, temperature=2.0), Regression(), Tripwire(act)])
    settings = Training(**{"epochs": 3, "batch_size": 16, "checkpoint_seconds": 0.0} | SETTINGS[kind] | changes)
    return fit(
        Distiller(student, teacher, objective),
        SAMPLES,
        HELD_OUT,
        training=settings,
        seed=seed,
        folder=folder,
        watch=watch,
    )


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ended(folder):
    """Return everything that a finished training leaves, to be compared bit for bit."""
    result = json.loads((folder / "result.json").read_text())
    return {
        "student": sha256(folder / "student.safetensors"),
        "metrics": (folder / "metrics.jsonl").read_text(),
        **{key: json.dumps(result[key]) for key in ("progress", "best", "history")},  # 9 is not 9.0
        "files": sorted(path.name for path in folder.iterdir()),
    }


class Crash(Exception):
    pass


def once(at, work):
    """Return an `act` that does `work` the first time that it is called at a step."""
    done = []

    def act(step):
        if step == at and not done:
            done.append(step)
            work()

    return act


def crash():
    raise Crash
