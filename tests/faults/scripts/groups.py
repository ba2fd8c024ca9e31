"""Groups that tests/faults/test_groups.py runs as processes of their own: python groups.py JSON.

One group may be several processes: python -m torch.distributed.run --standalone --nproc_per_node=2 groups.py JSON
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.objective import Objective, Term
from limbeck.peers import (
    Exchange,
    Others,
    Peer,
    PeerDistiller,
    Predictions,
    circle,
    fit_group,
    fit_together,
    published_copy,
)
from limbeck.schemes.peers import shard
from limbeck.training import Result, Training, save_weights

RANK = int(os.environ.get("RANK", "0"))


WIRE: Any = logging.getLogger("tripwire")  # of which a training knows the name alone, whatever is called through it


class Tripwire(Term):
    """Zero; calls `act(step)` at every step."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__("tripwire")
        WIRE.act = act

    def sum(self, outputs: Any, batch: Any, step: int) -> torch.Tensor:
        WIRE.act(step)
        return outputs["student"].logits.sum() * 0


def samples() -> TensorSet:
    draw = torch.Generator().manual_seed(0)
    return TensorSet.of(
        torch.randn(96, 4, generator=draw), torch.randint(3, (96,), generator=draw), classes=3, name="groups"
    )


def network(number: int, dropout: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(number)
        return nn.Sequential(nn.Linear(4, 6), nn.Dropout(dropout), nn.Tanh(), nn.Linear(6, 3))


def objective(act: Callable[[int], None] = lambda step: None) -> Objective:
    method = methods.kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0)
    return Objective([*method.terms.values(), Tripwire(act)])


def peer(
    distiller: PeerDistiller, number: int, groups: int, folder: Path | None, *, predict: bool = False, **settings: Any
) -> Peer:
    """Return one of the peers, whichever way it is trained; all see the same samples where they predict them."""
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 0.2, "checkpoint_seconds": 0.0, **settings}
    return Peer(
        distiller,
        samples() if predict else shard(samples(), number, groups),
        samples(),
        training=Training(**training),
        seed=number,
        folder=folder,
        label=f"group {number}",
    )


def together(
    groups: int,
    *,
    every: int,
    burn_in: int,
    dropout: float = 0.0,
    update: Any = "simultaneous",
    predict: bool = False,
    **settings: Any,
) -> list[Result]:
    """Return what the reference gives: all in this process."""
    networks = [network(number, dropout) for number in range(1, groups + 1)]
    predicted = samples() if predict else None
    distillers = circle(networks, [objective() for _ in networks], burn_in=burn_in, predicted=predicted)
    settings["predict"] = predict
    peers = [peer(each, number, groups, None, **settings) for number, each in enumerate(distillers, start=1)]
    return fit_together(peers, update=update, every=every)


def apart(
    group: int,
    groups: int,
    exchange: str,
    folder: str,
    *,
    every: int,
    burn_in: int,
    dropout: float = 0.0,
    die_at: int = -1,
    hold_at: int = -1,
    resumed: bool = False,
    wait: bool = True,
    lost_after: float = 60.0,
    predict: bool = False,
    **settings: Any,
) -> Result:
    """Train one group in this process.  die_at: the step at which it is killed.
    hold_at: the step at which it stands still until there is a file "go" in its folder.
    """

    def act(step: int) -> None:
        while step == hold_at and not (Path(folder) / "go").exists():
            time.sleep(0.01)
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def say(line: str) -> None:
        with (Path(folder) / "said.txt").open("a") as file:
            file.write(f"{line}\n")

    others = [
        Predictions(samples()) if predict else published_copy(network(number, dropout))
        for number in range(1, groups + 1)
        if number != group
    ]
    distiller = PeerDistiller(network(group, dropout), Others(others), objective(act), burn_in=burn_in)
    door = Exchange(
        Path(exchange), group, groups, {"seed": 0}, run=f"run {group}", wait=wait, lost_after=lost_after, say=say
    )
    found = peer(distiller, group, groups, Path(folder), predict=predict, **settings)
    return fit_group(found, door, every=every, resumed=resumed)


def save_together(folder: str, **settings: Any) -> Result:
    """Train all peers in this group of processes, and keep what the first process found."""
    results = together(**settings)
    if RANK == 0:
        for number, each in enumerate(results, start=1):
            save_weights(each.student, Path(folder) / f"peer {number}.safetensors")
    return results[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    result = apart(**given) if "group" in given else save_together(**given)
    if RANK == 0:
        print(json.dumps({"steps": result.steps}))
