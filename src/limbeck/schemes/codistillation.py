"""Codistillation: copies of a network on data of their own learn from the mean of the others, which may be stale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from limbeck import checks
from limbeck.card import Card
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.objective import Objective
from limbeck.schemes.context import Builder, Context
from limbeck.schemes.peers import PeersScheme, labelled_alone, longer, shard
from limbeck.schemes.scheme import Planned
from limbeck.teacher import Teacher
from limbeck.training import Training

__all__ = ["CARD", "Codistillation"]

CARD = Card(
    name="codistillation",
    summary="networks train side by side, each also on the mean of what the others, perhaps stale, say of its batch",
    authors="Rohan Anil, Gabriel Pereyra, Alexandre Passos, Róbert Ormándi, George E. Dahl, Geoffrey E. Hinton",
    year=2018,
    title="Large scale distributed neural network training through online distillation",
    source="https://arxiv.org/abs/1804.03235",
    formula="φ(y, F(θ_i, x)) + ψ(mean_{j≠i} F(θ_j, x), F(θ_i, x)) after the burn-in; θ_j of every m-th step",
)


@dataclass(frozen=True)
class Codistillation(PeersScheme):
    """Networks that learn from labels and from the mean of the others' distributions, each on its own batches.

    The method gives both losses; {name: kd, temperature: 1, hard_weight: 1, soft_weight: 1} is the paper's, whose ψ
    is the cross-entropy, with the same gradient.  `limbeck codistill` trains each peer in a process group of its own.

    Attributes:
        burn_in: steps in which each learns alone.
        every: the peers publish what they are at the end of the burn-in and every so many steps from then on; in
            between they see each other as they were.
        exchange: "weights", by which each asks copies of the others about its own batches, or "predictions", for which
            all must see the same samples as they are: each answers for all of them whenever it publishes.
        data: "same", each sees all samples in an order of its own, or "shards", each a part, as often as to take as
            many steps.
        large_batch: whether one network is trained to compare with, for as many steps with the batches of all peers
            together.
    """

    burn_in: int = 0
    every: int = 1
    exchange: Literal["weights", "predictions"] = "weights"
    data: Literal["same", "shards"] = "same"
    large_batch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("burn_in", self.burn_in, 0)
        checks.at_least("every", self.every, 1)
        if self.data not in ("same", "shards"):
            raise InputError(f"data: found {self.data!r}, expected same or shards")
        if self.exchange not in ("weights", "predictions"):
            raise InputError(f"exchange: found {self.exchange!r}, expected weights or predictions")
        if self.exchange == "predictions" and self.data == "shards":
            raise InputError(
                "exchange: found predictions together with data: shards, but predictions need samples that all peers"
                " have; "
                "set data: same, or exchange: weights"
            )

    def check(self, builder: Builder) -> str | None:
        """Refuse also predictions for samples that the training changes."""
        if self.exchange == "predictions" and builder.training.augment.active:
            return (
                "exchange: predictions are for samples as they are, and training.augment changes them at every sight; "
                "leave it out, or set exchange: weights"
            )
        return super().check(builder)

    @property
    def listening_from(self) -> int:
        """The end of the burn-in."""
        return self.burn_in

    @property
    def period(self) -> int:
        """Every how many steps peers publish what they are."""
        return self.every

    def joined(self, objective: Objective) -> Objective:
        """Return the method, whose teacher is the mean of the others."""
        return objective

    def share(self, number: int, samples: SampleSet) -> SampleSet:
        """Return a peer's shard, or all of the set."""
        return shard(samples, number, self.count) if self.data == "shards" else samples

    def predicted(self, samples: SampleSet) -> SampleSet | None:
        """Return all of the set, or None for weights."""
        return samples if self.exchange == "predictions" else None

    def lasting(self, training: Training) -> Training:
        """Return a training of as many steps as the student alone takes."""
        return longer(training, self.count) if self.data == "shards" else training

    def roles(self) -> Mapping[str, str]:
        """Return the peers, their ensemble, and the network that had all their batches."""
        compared = {"large_batch": "one network, batches of all peers"} if self.large_batch else {}
        return {**super().roles(), **compared}

    def planned(self, builder: Builder, teacher: Teacher) -> list[Planned]:
        """Return the trainings of the peers, and before them that of the network with all their batches."""
        peers = super().planned(builder, teacher)
        if not self.large_batch:
            return peers
        distiller, training = self._with_all_batches(builder)
        label = self.roles()["large_batch"]
        return [Planned(label, distiller, builder.parts.alone, training, compared=True), *peers]

    def train(self, context: Context) -> dict[str, nn.Module]:
        """Train the peers, and what they are compared with."""
        models = super().train(context)
        if self.large_batch:
            distiller, training = self._with_all_batches(context)
            models["large_batch"] = context.fit(
                "large_batch", distiller, context.parts.alone, training=training
            ).student
        return models

    def _with_all_batches(self, builder: Builder) -> tuple[Distiller, Training]:
        training = longer(builder.training, self.count, batch_size=self.count * builder.training.batch_size)
        return labelled_alone(builder.student(), builder.objective()), training
