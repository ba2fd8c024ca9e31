"""Trainings that tests/faults/test_processes.py runs in one process and, through a launcher, in two.

python -m torch.distributed.run --standalone --nproc_per_node=2 processes.py FOLDER
"""

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from limbeck import methods, schedules
from limbeck.batch import UNLABELLED
from limbeck.cli import main as command_line
from limbeck.data import Augment, TensorSet, synthetic_text
from limbeck.distiller import Distiller
from limbeck.errors import Interrupted
from limbeck.methods.dist import IntraClass
from limbeck.models import lstm_lm
from limbeck.objective import Objective, Term
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Result, Training, fit, save_weights

RANK = int(os.environ.get("RANK", "0"))


def samples_of(size: int, seed: int, unlabelled: int = 0) -> TensorSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    labels[torch.randperm(size, generator=generator)[:unlabelled]] = UNLABELLED
    return TensorSet.of(torch.rand(size, 1, 4, 4, generator=generator), labels, classes=4)


class Hint(Term):
    """Regresses a hidden layer of the teacher from one of the student through a projection of its own."""

    reads = frozenset({"student", "teacher"})

    def __init__(self, weight: schedules.Schedule) -> None:
        super().__init__("hint", weight)
        self.taps = {"student": {"hidden": "1"}, "teacher": {"hidden": "1"}}

    def build(self, outputs: Any, setup: Any) -> None:
        self.layer = nn.Linear(*(outputs[model].features["hidden"].shape[-1] for model in ("student", "teacher")))
        with torch.no_grad():  # the same whatever numbers a process draws
            for parameter in self.layer.parameters():
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))

    def sum(self, outputs: Any, batch: Any, step: int) -> torch.Tensor:
        return (
            (self.layer(outputs["student"].features["hidden"]) - outputs["teacher"].features["hidden"]).square().sum()
        )


WIRE: Any = logging.getLogger("tripwire")  # of which a training knows the name alone, whatever is called through it


class Tripwire(Term):
    """Zero; calls `act(step)` at every step."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__("tripwire")
        WIRE.act = act

    def sum(self, outputs: Any, batch: Any, step: int) -> torch.Tensor:
        WIRE.act(step)
        return outputs["student"].logits.sum() * 0


def network(seed: int, width: int, dropout: float = 0.0, *, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = nn.BatchNorm1d(width) if norm else nn.Dropout(dropout)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width), middle, nn.Tanh(), nn.Linear(width, 4))


SETTINGS: dict[str, dict[str, Any]] = {
    "even": {"size": 48},
    "uneven": {"size": 33},  # of the last batch of one sample, one process has nothing
    "unlabelled": {"size": 46, "unlabelled": 38, "optimizer": "adamw", "learning_rate": 0.01},
    "accumulated": {"size": 33, "accumulate": 2, "unlabelled": 12},
    "everything": {
        "size": 45,
        "optimizer": "adamw",
        "learning_rate": 0.02,
        "averaging": 0.8,
        "keep": "best",
        "clip": 0.5,
        "max_norm": 0.7,
        "augment": Augment(shift=1, noise=0.1),
    },
    "hint": {"size": 45, "hint": schedules.until(4, 0.05)},  # its layer is idle from step 4 on
    "dist": {
        "size": 33,
        "unlabelled": 5,
        "dist": True,
    },  # its rows are gathered, of the last batch one process has none
    "layers": {
        "size": 33,
        "unlabelled": 5,
        "layers": True,
    },  # whose projection each process draws, and rows are gathered
    "class weights": {"size": 33, "unlabelled": 9, "accumulate": 2, "class_weights": "balanced"},
    "chunked head": {"size": 33, "accumulate": 2, "unlabelled": 12, "chunked_head": True},
    "batch norm": {"size": 46, "norm": True},
    "long": {"size": 46, "batch_size": 4, "epochs": 3},
    "long with dropout": {"size": 46, "batch_size": 4, "epochs": 3, "dropout": 0.3},
}


def train(kind: str, folder: Path, act: Callable[[int], None] = lambda step: None) -> Result:
    """Run one of the trainings; in a second process the student begins as another."""
    given = {"size": 46, "unlabelled": 0, "dropout": 0.0, "hint": None, "dist": False, "norm": False}
    given |= {"layers": False} | SETTINGS[kind]
    size, unlabelled, dropout, hint, norm = map(given.pop, ("size", "unlabelled", "dropout", "hint", "norm"))
    terms = [HardLabels(0.5), SoftTargets(0.5, temperature=2.0)] + ([Hint(hint)] if hint else [])
    terms += [] if given.get("chunked_head") else [Tripwire(act)]  # it reads logits
    terms += [IntraClass(0.7, temperature=2.0)] if given.pop("dist") else []
    objective = Objective(terms)
    if given.pop("layers"):
        objective += methods.hint({"3": "3"}, weight=0.5, hard_weight=0) + methods.rkd("3", weight=1.0, hard_weight=0)
    return fit(
        Distiller(network(RANK, 8, dropout, norm=norm), ModelTeacher(network(9, 6)), objective),
        samples_of(size, 0, unlabelled),
        samples_of(30, 1),
        training=Training(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "checkpoint_seconds": 0.0} | given),
        folder=folder,
    )


class Recurrent(nn.Module):
    """An LSTM over token ids, whose state is carried along the lanes of a stream."""

    def __init__(self, seed: int, tokens: int, width: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding, self.lstm = nn.Embedding(tokens, width), nn.LSTM(width, width, batch_first=True)
            self.output = nn.Linear(width, tokens)

    def forward(self, ids: torch.Tensor, state: Any = None) -> Any:
        hidden, state = self.lstm(self.embedding(ids), state)
        return self.output(hidden), state


STREAM = synthetic_text(lines=60, words=4, lanes=5, length=6, evaluation_lanes=2, test_lanes=2)


def stream(folder: Path, act: Callable[[int], None] = lambda step: None) -> Result:
    """Train a language model on a stream whose five lanes are shared out, each to one process in every step."""
    held_out, tokens = STREAM.test, len(STREAM.train.vocabulary)
    objective = Objective([HardLabels(0.5), SoftTargets(0.5, temperature=2.0), Tripwire(act)])
    distiller = Distiller(Recurrent(RANK, tokens, 6), ModelTeacher(Recurrent(9, tokens, 8)), objective)
    settings = Training(epochs=2, learning_rate=0.5, accumulate=2, checkpoint_seconds=0.0)
    return fit(distiller, STREAM.train, held_out, training=settings, folder=folder)


def tied_stream(folder: Path, *, chunked: bool) -> Result:
    """Train a language model whose softmax has the embedding's matrix, with whole logits or in chunks of its head."""
    tokens = len(STREAM.train.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(RANK)
        student = lstm_lm((6,), tokens, vocabulary=tokens, embedding=6, hidden=8).double()
    distiller = Distiller(student, ModelTeacher(Recurrent(9, tokens, 8).double()))
    settings = Training(epochs=2, learning_rate=0.5, accumulate=2, chunked_head=chunked)
    return fit(distiller, STREAM.train, STREAM.test, training=settings, folder=folder)


def hint_alone(folder: Path) -> Result:
    """Train only what lies below the hint: the rest of the student has no gradient."""
    distiller = Distiller(network(RANK, 8), ModelTeacher(network(9, 6)), Objective([Hint(0.05)]))
    return fit(distiller, samples_of(45, 0), epochs=2, batch_size=16, learning_rate=0.1, folder=folder)


class Crash(Exception):
    pass


def crash_at(step: int) -> Callable[[int], None]:
    def act(now: int) -> None:
        if now == step:
            raise Crash

    return act


def kill_at(step: int, rank: int) -> Callable[[int], None]:
    def act(now: int) -> None:
        if now == step and rank == RANK:
            os.kill(os.getpid(), signal.SIGTERM)

    return act


RECIPE = {
    "name": "digits-in-two",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"model": {"kind": "mlp", "hidden": [16]}, "training": {"epochs": 2, "batch_size": 128}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd", "temperature": 4.0},
    "training": {"epochs": 2, "batch_size": 128, "keep": "best"},
    "search": {"training.learning_rate": [0.1, 0.2]},
    "refit": True,
    "seeds": [0, 1],
    "validation": 300,
}


def distilled(folder: Path, *more: str) -> dict[str, Any]:
    """Carry out a recipe as the command line does; return what is printed and how it ends."""
    recipe, out, err = folder / f"recipe {RANK}.yaml", io.StringIO(), io.StringIO()
    recipe.write_text(json.dumps(RECIPE))
    argv = ["limbeck", "distill", str(recipe), "--no-report", "--json", *more]
    place = patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache"))
    with patch("sys.argv", argv), place, redirect_stdout(out), redirect_stderr(err):
        try:
            command_line()
        except SystemExit as end:
            code = end.code
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}


def main(folder: Path) -> None:
    told: dict[str, Any] = {}

    def tell(name: str, result: Result, **more: Any) -> None:
        told[name] = {"history": result.history, "steps": result.steps, "epoch": result.epoch, **more}
        save_weights(result.student, folder / f"{name} of rank {RANK}.safetensors")

    for kind in SETTINGS:
        tell(kind, train(kind, folder / kind))
    tell("hint alone", hint_alone(folder / "hint alone"))
    tell("stream", stream(folder / "stream"))
    tell("tied stream", tied_stream(folder / "tied stream", chunked=True))
    try:  # in the middle of an epoch, in which both carry states
        stream(folder / "stream, broken", crash_at(25))
    except Crash:
        tell("stream, broken", stream(folder / "stream, broken"))

    for kind in ("long", "long with dropout"):  # broken in both processes, then gone on with
        name = f"{kind}, broken"
        try:
            train(kind, folder / name, crash_at(30))
        except Crash:
            tell(name, train(kind, folder / name))

    name = "long, terminated in one"
    try:
        train("long", folder / name, kill_at(9, rank=1))
    except Interrupted as caught:
        tell(name, train("long", folder / name), code=caught.exit_code)
    name = "long, terminated at the end"
    try:
        train("long", folder / name, kill_at(35, rank=1))
    except Interrupted as caught:
        tell(name, train("long", folder / name, crash_at(0)), code=caught.exit_code)  # it is read, no step is taken

    tell("long, begun by one", train("long", folder / "begun by one"))
    try:
        train("long", folder / "begun by two", crash_at(25))
    except Crash:
        told["long, begun by two"] = "broken"
    told["distill"] = distilled(folder, "--runs", str(folder / "runs"))
    (folder / "file").touch()
    told["distill, no folder"] = distilled(folder, "--runs", str(folder / "file" / "runs"))
    told["distill, no such key"] = distilled(folder, "training.rate=0.1")
    (folder / f"rank {RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
