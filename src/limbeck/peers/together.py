"""Peers that train step by step together in one process: the reference of codistillation and mutual learning."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from limbeck import checks
from limbeck.distiller import check_answer
from limbeck.errors import InputError, RunError
from limbeck.identity import content_digest
from limbeck.outputs import run_model
from limbeck.peers.distiller import PeerDistiller, published_copy
from limbeck.peers.predictions import Predictions, check_samples
from limbeck.training import Job, Observer, Result, checkpoints
from limbeck.training.engine import signals
from limbeck.training.identity import identity_of
from limbeck.training.loop import Moment
from limbeck.training.progress import ignore
from limbeck.training.turns import Turn

__all__ = ["Peer", "check_predicted", "exchanging", "fit_together", "publications"]


@dataclass(frozen=True, eq=False)
class Peer(Job):
    """The training of one of the peers.

    order: the same for peers that see the same batches, though their dropout differs.
    """

    distiller: PeerDistiller


def fit_together(
    peers: Sequence[Peer],
    *,
    update: Literal["simultaneous", "sequential"] = "simultaneous",
    every: int = 1,
    watch: Observer = ignore,
) -> list[Result]:
    """Train peers whose distillers are a `circle`, each through the one loop, and return their results.

    At the end of the burn-in and every so many steps from then on each peer is published.  With `update:
    simultaneous` all publish, then all compute their gradients, and then all are updated; with `sequential` a peer is
    updated, and in a step at which peers publish it does so at once, before the next computes its gradients (Anil et
    al. 2018, algorithm 1).
    A peer that has ended teaches with the weights that it kept.

    Where the peers have folders, they are saved at the same steps, and a second call goes on from the newest one that
    all of them have: bit for bit as if it had not been broken off.

    Raises what `fit` does, and InputError for a peer of another burn-in.

    >>> import limbeck as lb
    >>> from torch import nn
    >>> from limbeck.peers import circle
    >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
    >>> objectives = [lb.methods.kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0) for _ in range(2)]
    >>> pair = circle([nn.Linear(3, 4), nn.Linear(3, 4)], objectives)
    >>> short = lb.Training(epochs=1, batch_size=16)
    >>> [result.steps for result in fit_together([Peer(each, samples, training=short) for each in pair])]
    [4, 4]
    """
    checks.at_least("every", every, 1)
    if update not in ("simultaneous", "sequential"):
        raise InputError(f"update: found {update!r}, expected simultaneous or sequential")
    found = {peer.distiller.burn_in for peer in peers}
    if len(found) != 1:
        raise InputError(f"burn_in: the peers have {sorted(found)}, expected the same for all")
    burn_in = found.pop()
    _check_classes(peers)
    for peer in peers:
        check_predicted(peer)
    folders = [peer.folder for peer in peers if peer.folder is not None]
    if folders and len(folders) != len(peers):
        raise InputError(f"folder: {len(folders)} of {len(peers)} peers have one, expected all or none")
    at = _newest_in_common(folders) if folders else None
    if folders:
        _know_each_other(peers, update, every)
    with signals(bool(folders)) as signal, ExitStack() as open_turns:
        turns = []
        for peer in peers:
            turns.append(Turn(peer.steps(watch, at=at)))
            open_turns.callback(turns[-1].close)
        seconds = min(peer.training.checkpoint_seconds for peer in peers)
        for number, turn in enumerate(turns):
            if turn.run.finished:
                peers[number].distiller.publish()
            if turn.run.finished or turn.run.step > burn_in:
                _see(peers, number)
        while running := [number for number, turn in enumerate(turns) if turn.running]:
            _step(peers, turns, running, update, exchanging_now=exchanging(turns[running[0]].run.step, burn_in, every))
            running = [number for number in running if turns[number].running]
            ended = [turn for turn in turns if turn.result is None and not turn.running]
            lead = turns[running[0]].run if running else None
            if ended or (lead is not None and lead.due(seconds, signal)):
                for turn in turns:
                    if turn.result is None and not turn.run.finished:
                        turn.save()
                if lead is not None:
                    signal.stop(lead.last_good)
            _finish(peers, turns)
        last = turns[-1].run
        signal.share(last.accelerator)
        signal.stop(last.last_good)
    return [turn.result for turn in turns if turn.result is not None]


def _know_each_other(peers: Sequence[Peer], update: str, every: int) -> None:
    """Let what each peer begins with be part of what decides the trainings of the others."""
    for peer in peers:
        peer.distiller.others.origin = ""
    begun = [
        identity_of(peer.distiller, peer.train_set, peer.validation, peer.training, peer.seed, order=peer.order)
        for peer in peers
    ]
    for number, peer in enumerate(peers):
        others = begun[:number] + begun[number + 1 :]
        peer.distiller.others.origin = content_digest([others, update, every, peer.distiller.burn_in])


def exchanging(step: int, burn_in: int, every: int) -> bool:
    """Whether peers publish before a step.

    >>> [step for step in range(12) if exchanging(step, burn_in=3, every=4)]
    [3, 7, 11]
    """
    return step >= burn_in and (step - burn_in) % every == 0


def _step(
    peers: Sequence[Peer], turns: Sequence[Turn], running: Sequence[int], update: str, *, exchanging_now: bool
) -> None:
    """Take the next step of those peers that have one; a peer that has none ends."""
    if exchanging_now:
        for number in running:
            _publish(peers, number)
    if update == "simultaneous":
        for number in running:
            turns[number].go_on()
    for number in running:
        turn = turns[number]
        if update == "sequential":
            turn.go_on()
        if turn.moment is Moment.COMPUTED:
            turn.go_on()
            if update == "sequential" and exchanging_now:
                _publish(peers, number)


def _publish(peers: Sequence[Peer], number: int) -> None:
    peers[number].distiller.publish()
    _see(peers, number)


def _see(peers: Sequence[Peer], number: int) -> None:
    """Let the others listen to a peer that has published something."""
    own = peers[number].distiller.published
    for peer in peers:
        others = peer.distiller.others
        others.present = [here or model is own for here, model in zip(others.present, others.models, strict=True)]


def _finish(peers: Sequence[Peer], turns: Sequence[Turn]) -> None:
    """Let those that have ended write their results, once all others are saved: they can be resumed from there."""
    for number, turn in enumerate(turns):
        if turn.result is None and not turn.running:
            turn.go_on()
            _publish(peers, number)


def _newest_in_common(folders: Sequence[Path]) -> int:
    """Return the step of the newest checkpoint that all who have not finished have; 0 where there is none."""
    unfinished = [folder for folder in folders if not (folder / "result.json").is_file()]
    saved = [set(checkpoints.steps(folder / "checkpoints")) for folder in unfinished]
    common = set.intersection(*saved) if saved else set()
    if not common and unfinished and len(unfinished) < len(folders):
        names = ", ".join(f"'{folder}'" for folder in unfinished)
        raise RunError(
            f"resume: some peers have finished, and {names} cannot be resumed (there is no checkpoint); delete "
            "the folders of all peers to train them anew"
        )
    return max(common, default=0)


def publications(steps: int, burn_in: int, every: int, update: str = "simultaneous") -> int:
    """Return how often a peer that takes so many steps is published, once after the last of them included.

    >>> publications(12, burn_in=3, every=4), publications(11, burn_in=3, every=4, update="sequential")
    (4, 6)
    """
    before, after = (max(0, -(-(end - burn_in) // every)) for end in (steps, steps + 1))
    return after + 1 + (before if update == "sequential" else 0)


def check_predicted(peer: Peer) -> None:
    """Require that what the others predict is what a peer learns from; InputError."""
    for model in peer.distiller.others.models:
        if isinstance(model, Predictions):
            check_samples(model, peer.train_set, peer.training)


def _check_classes(peers: Sequence[Peer]) -> None:
    """Require that each peer answers for the classes of the data."""
    for number, peer in enumerate(peers, start=1):
        samples = peer.train_set
        batch = samples.batch(torch.arange(min(2, len(samples))), augment=None, seed=0, view=0)
        if peer.distiller.published is None:
            raise InputError(f"peer {number}: its distiller publishes nothing; create all of them with circle(...)")
        model = published_copy(peer.distiller.student)
        with torch.no_grad():
            logits = run_model(model, batch.inputs, task=samples.task).logits
        check_answer(f"peer {number}", logits, samples.classes, samples.task)
