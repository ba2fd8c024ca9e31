"""One group of several that learn apart: its own processes, its own data; it meets the others in a folder alone."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from limbeck import checks
from limbeck.errors import InputError
from limbeck.locks import Waiting
from limbeck.networks import tensors_of
from limbeck.peers.exchange import Exchange
from limbeck.peers.predictions import Predictions
from limbeck.peers.together import Peer, check_predicted, exchanging
from limbeck.ranks import first_does
from limbeck.training import Observer, Result, checkpoints
from limbeck.training.engine import Signals, signals
from limbeck.training.loop import Moment
from limbeck.training.progress import ignore

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["fit_group"]

_UNSAVED = 8
"""Exchanges after which a group that goes in step is saved at the latest: the others keep what came since for it."""


def fit_group(
    peer: Peer, exchange: Exchange, *, every: int = 1, resumed: bool = False, watch: Observer = ignore
) -> Result:
    """Train one peer, which publishes and takes at the steps at which peers of one process do, and return its result.

    peer: its distiller's `others` are copies of the other groups' networks, in the order of their groups; where they
        are `Predictions`, those are what this group publishes too.
    resumed: whether its folder has been trained in before.
    Where the exchange waits, nobody is lost and all end at the same step, the result is that of `fit_together` with
    simultaneous updates.
    Of several processes the first alone looks into the folder, and tells the others.
    """
    checks.at_least("every", every, 1)
    others = peer.distiller.others
    if len(others.models) != len(exchange.others):
        raise InputError(f"groups: found {exchange.groups}, but the peer has {len(others.models)} others; name as many")
    check_predicted(peer)
    turns = peer.steps(watch)
    with signals(peer.folder is not None) as signal, closing(turns):
        moment, run = next(turns)
        door = _Door(exchange, others.models, run.accelerator)
        burn_in, unsaved = peer.distiller.burn_in, 0
        with door.entered(run.step, resumed=resumed):
            door.tell_needs(peer, every)
            while True:
                due = moment is Moment.UPDATED and run.due(peer.training.checkpoint_seconds, signal)
                if due or (moment is Moment.UPDATED and exchange.wait and unsaved >= _UNSAVED):
                    run.save()
                    unsaved = 0
                    door.tell_needs(peer, every)
                    signal.stop(run.last_good)
                between = moment in (Moment.READY, Moment.UPDATED) and not run.finished
                if moment is Moment.READY and run.step > burn_in:
                    # In step, what it had when it was saved; else also what it has missed since.
                    then = _last_exchange(run.step, burn_in, every) if exchange.wait else run.step
                    others.present = door.take(then, others.present)
                if between and exchanging(run.step, burn_in, every):
                    unsaved += 1
                    if door.first:
                        exchange.publish(_shown(peer, peer.distiller.student), run.step)
                    door.wait(run.step, signal)
                    others.present = door.take(run.step, others.present)
                    if signal.received is not None and peer.folder is not None:
                        run.save()
                        signal.stop(run.last_good)
                try:
                    moment, run = next(turns)
                except StopIteration as end:
                    result: Result = end.value
                    break
            if door.first:
                exchange.publish(_shown(peer, result.student), result.steps, ended=True)
        signal.share(run.accelerator)
        signal.stop(run.last_good)
    return result


def _last_exchange(step: int, burn_in: int, every: int) -> int:
    """Return the last step up to a given one before which peers publish; the first of all where there is none."""
    return burn_in + max(0, step - burn_in) // every * every


def _shown(peer: Peer, student: nn.Module) -> nn.Module:
    """Return what the others are to see of a network: what this peer sees of them."""
    theirs = peer.distiller.others.models[0]
    return theirs.of(student) if isinstance(theirs, Predictions) else student


class _Door:
    """The exchange as all processes of a group go through it: the first one reads, the others hear of it."""

    def __init__(self, exchange: Exchange, models: Sequence[nn.Module], accelerator: "Accelerator") -> None:
        self.exchange = exchange
        self.models = models
        self.accelerator = accelerator
        self.first = accelerator.is_main_process

    def entered(self, step: int, *, resumed: bool) -> AbstractContextManager[None]:
        """Return a scope in which the group has its place in the folder."""
        return self.exchange.entered(step, resumed=resumed) if self.first else nullcontext()

    def wait(self, step: int, signal: Signals) -> None:
        """Wait for the others to come as far, if that is wanted, or for a signal."""

        def wait() -> None:
            waiting = Waiting(None)
            while not self.exchange.ready(step) and signal.own is None:
                behind = ", ".join(map(str, self.exchange.awaited))
                waiting.reason = f"exchange: group {behind} has not come to step {step} in '{self.exchange.folder}'"
                waiting.pause()

        first_does(wait)
        signal.share(self.accelerator)

    def tell_needs(self, peer: Peer, every: int) -> None:
        """Tell the others what this group takes once more where it goes on from the oldest checkpoint that is kept."""
        if not self.first or not self.exchange.wait or peer.folder is None:
            return
        saved = checkpoints.steps(peer.folder / "checkpoints")
        self.exchange.needs(_last_exchange(min(saved, default=0), peer.distiller.burn_in, every))

    def take(self, step: int, present: Sequence[bool]) -> list[bool]:
        """Take what the others have published, and return who has published anything yet."""
        new = [False] * len(self.models)
        if self.first:
            pairs = zip(self.exchange.others, self.models, strict=True)
            new = [self.exchange.take(group, model, step) for group, model in pairs]
        if self.accelerator.num_processes > 1:
            new = self._told(new)
        return [here or now for here, now in zip(present, new, strict=True)]

    def _told(self, new: Sequence[bool]) -> list[bool]:
        """Tell the other processes of the group what is new, and give them the networks."""
        from accelerate.utils import broadcast

        flags = torch.tensor([int(each) for each in new], device=self.accelerator.device)
        told = [bool(each) for each in broadcast(flags).tolist()]
        for model, fresh in zip(self.models, told, strict=True):
            if fresh:
                for tensor in tensors_of(model).values():
                    tensor.copy_(broadcast(tensor.clone()))
        return told
