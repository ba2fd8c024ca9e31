"""What codistillation and deep mutual learning share: equal networks or others that learn beside each other."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from limbeck import checks
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import evaluate
from limbeck.objective import Objective
from limbeck.peers import Others, Peer, PeerDistiller, Predictions, circle, own_part, published_copy
from limbeck.randomness import derive_seed, permutation
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.scheme import Planned, Scheme
from limbeck.teacher import Teacher
from limbeck.teachers import MeanOfModels
from limbeck.training import Training

__all__ = ["PeersScheme"]

_MOST = 100
"""Peers."""


@dataclass(frozen=True)
class PeersScheme(Scheme):
    """Networks that learn beside each other; each has the labels, and what the others say of its own batch.

    The method's terms that read a teacher read the other peers, in eval mode and cut off from the graph; its other
    terms are each peer's own.  Peer 1 is the recipe's student, with the initial weights and the order of the student
    alone.

    Attributes:
        peers: how many there are; None for 2, or for one more than `models`.
        models: the networks of the peers after the first; the recipe's student by default.
        update: "simultaneous", all gradients before any update, or "sequential", where a peer sees the others as the
            step has left them so far.
    """

    peers: int | None = None
    models: tuple[dict[str, Any], ...] = ()
    update: Literal["simultaneous", "sequential"] = "simultaneous"

    uses_teacher: ClassVar[bool] = False
    needs_held_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.peers is not None:
            checks.at_least("peers", self.peers, 2, at_most=_MOST)
            if self.models and len(self.models) != self.peers - 1:
                raise InputError(
                    f"models: found {len(self.models)} for {self.peers} peers, expected one for each peer except the"
                    " first"
                )
        if len(self.models) >= _MOST:
            raise InputError(f"models: found {len(self.models)}, expected fewer than {_MOST}")
        if self.update not in ("simultaneous", "sequential"):
            raise InputError(f"update: found {self.update!r}, expected simultaneous or sequential")

    # -- what the two schemes differ in --------------------------------------------------------------------------------

    @property
    def listening_from(self) -> int:
        """The step from which peers learn from each other."""
        return 0

    @property
    def period(self) -> int:
        """Every how many steps peers publish what they are."""
        return 1

    @abstractmethod
    def joined(self, objective: Objective) -> Objective:
        """Return the recipe's method as the peers learn by it."""

    def order(self, context: Builder) -> int | None:
        """Return a seed of order and augmentation that the peers share; None where each has its own."""
        return None

    def share(self, number: int, samples: SampleSet) -> SampleSet:
        """Return what a peer sees of a set."""
        return samples

    def predicted(self, samples: SampleSet) -> SampleSet | None:
        """Return the samples of a set for which peers publish predictions; None where they publish their weights."""
        return None

    def lasting(self, training: Training) -> Training:
        """Return the training of a peer."""
        return training

    # -- roles --------------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many peers there are."""
        return len(self.models) + 1 if self.models else self.peers or 2

    @property
    def units(self) -> list[str]:
        """The peers."""
        return [f"peer_{number}" for number in range(1, self.count + 1)]

    def roles(self) -> Mapping[str, str]:
        """Return the peers, and their ensemble."""
        return {unit: f"peer {number}" for number, unit in enumerate(self.units, start=1)} | {
            "ensemble": "ensemble of the peers"
        }

    def means(self, role: str) -> Sequence[str]:
        """Return the members of the ensemble."""
        return self.units if role == "ensemble" else ()

    def build(self, role: str, builder: Builder) -> nn.Module:
        """Return a peer's network."""
        number = int(role.removeprefix("peer_")) if role in self.units else 1
        if number == 1:
            return builder.student()
        return builder.model(number - 2, role) if self.models else builder.student_as(role)

    def check(self, builder: Builder) -> str | None:
        """Refuse a method that no teacher takes part in, one without labels, and shares of nothing."""
        name = type(self).__name__.lower()
        objective = builder.inspected
        if "teacher" not in objective.reads():
            return f"name: {name} needs a method that reads a teacher; use kd, for example"
        if objective.taps("teacher"):
            return (
                f"name: peers of {name} have no features of each other, but the method reads some; use kd, for example"
            )
        try:
            own_part(objective)
        except InputError as error:
            return f"name: {error}"
        if len(builder.parts.transfer) < self.count:
            return f"peers: found {self.count} for {len(builder.parts.transfer)} samples; expected one or more for each"
        for role in self.units:
            self.build(role, builder)
        return None

    # -- training -----------------------------------------------------------------------------------------------------

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of the peers, peer 1's last, as if each listened to all others from the start."""
        distillers = circle(
            [self.build(role, builder) for role in self.units],
            [self.joined(builder.objective()) for _ in self.units],
            predicted=self.predicted(builder.parts.transfer),
        )
        samples, training = self.share(1, builder.parts.transfer), self.lasting(builder.training)

        def planned(label: str, distiller: PeerDistiller, count: int = 1) -> Planned:
            distiller.others.present = [True] * len(distiller.others.models)
            between, period = distiller.publish, self.period
            return Planned(label, distiller, samples, training, count, between=between, period=period)

        if not self.models:
            others = [planned("each other peer", distillers[1], self.count - 1)]
        else:
            labels = self.roles()
            others = [planned(labels[unit], each) for unit, each in zip(self.units[1:], distillers[1:], strict=True)]
        return [*others, planned("student distilled", distillers[0])]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the peers together, and choose one of equal peers on the held-out part."""
        context.require(self.units)
        networks = [self.build(role, context) for role in self.units]
        objectives = [self.joined(context.objective()) for _ in networks]
        predicted = self.predicted(context.parts.transfer)
        distillers = circle(networks, objectives, burn_in=self.listening_from, predicted=predicted)
        samples = [self.share(number, context.parts.transfer) for number in range(1, self.count + 1)]
        peers = {
            unit: self._peer(number, distiller, part, context, context.training)
            for number, (unit, distiller, part) in enumerate(zip(self.units, distillers, samples, strict=True), start=1)
        }
        results = context.fit_together(peers, update=self.update, every=self.period)
        models: dict[str, nn.Module] = {unit: result.student for unit, result in results.items()}
        chosen = 1
        if not self.models:
            if context.parts.held_out is None:
                chosen = context.recall("peer")
            else:
                scores = [(result.metrics["errors"], result.metrics["nll"]) for result in results.values()]
                chosen = context.note("peer", 1 + scores.index(min(scores)))
        context.copy(self.units[chosen - 1], "distilled")
        context.charge("ensemble", "distilled")
        models["ensemble"] = MeanOfModels([models[unit] for unit in self.units])
        models["distilled"] = models[self.units[chosen - 1]]
        return models

    def _peer(
        self, number: int, distiller: PeerDistiller, samples: SampleSet, builder: Builder, training: Training
    ) -> Peer:
        unit = self.units[number - 1]
        return Peer(
            distiller=distiller,
            train_set=samples,
            validation=builder.parts.held_out,
            training=self.lasting(training),
            seed=builder.seed if number == 1 else derive_seed(builder.seed, unit),
            order=self.order(builder),
            label=f"{unit} (seed {builder.seed})",
        )

    def alone_in_a_group(self, number: int, builder: Builder) -> Peer:
        """Return one of the peers as it trains in a group of its own, with copies of the others to be filled."""
        predicted = self.predicted(builder.parts.transfer)
        others = [
            published_copy(self.build(role, builder)) if predicted is None else Predictions(predicted)
            for role in self.units
            if role != self.units[number - 1]
        ]
        distiller = PeerDistiller(
            self.build(self.units[number - 1], builder),
            Others(others),
            self.joined(builder.objective()),
            burn_in=self.listening_from,
        )
        return self._peer(number, distiller, self.share(number, builder.parts.transfer), builder, builder.training)

    # -- figures ------------------------------------------------------------------------------------------------------

    def figures(self, models: Mapping[str, nn.Module], samples: SampleSet, builder: Builder) -> dict[str, Any]:
        """Return the mean of the peers' test figures."""
        each = [evaluate(models[unit], samples) for unit in self.units]
        return {
            "peers": {
                "errors": fmean(float(found.errors) for found in each),
                "accuracy": fmean(found.accuracy for found in each),
                "nll": fmean(found.nll for found in each),
            }
        }

    def notes(self, figures: Sequence[Mapping[str, Any]]) -> list[str]:
        """Say how the peers did in the mean, and which one is the distilled student."""
        errors = fmean(each["peers"]["errors"] for each in figures)
        accuracy = fmean(each["peers"]["accuracy"] for each in figures)
        which = "peer 1" if self.models else "the peer with the fewest held-out errors"
        return [
            f"The {self.count} peers in the mean: {errors:.1f} errors, accuracy {100 * accuracy:.1f} %; the distilled "
            f"student is {which}."
        ]


def shard(samples: SampleSet, number: int, count: int) -> SampleSet:
    """Return the part of a set that one of several peers sees: their sizes differ by at most one.

    number: of 1 to `count`.
    """
    order = permutation(0, "shards", count, len(samples))
    return samples.subset(torch.tensor_split(order, count)[number - 1].sort().values)


def longer(training: Training, times: float, *, batch_size: int | None = None) -> Training:
    """Return a training of so many times the epochs, its schedule stretched with it."""
    return replace(
        training,
        epochs=max(1, round(training.epochs * times)),
        milestones=tuple(milestone * times for milestone in training.milestones),
        warmup=training.warmup * times,
        patience=None if training.patience is None else max(1, round(training.patience * times)),
        batch_size=batch_size or training.batch_size,
    )


def labelled_alone(student: nn.Module, objective: Objective) -> Distiller:
    """Return what trains a student by the terms of a method that read no teacher."""
    return Distiller(student, None, own_part(objective))
