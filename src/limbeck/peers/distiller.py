"""One of several networks that teach each other, as a distiller: its teacher is what the others have published."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck import checks, schedules
from limbeck.batch import Batch
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.networks import tensors_of
from limbeck.objective import Loss, Objective, Term, TermAround
from limbeck.outputs import Members, Outputs, Tap
from limbeck.peers.predictions import Predictions, PredictionsTeacher
from limbeck.teacher import Teacher, refuse_taps
from limbeck.teachers import EnsembleTeacher, ModelTeacher

__all__ = [
    "MeanOverPeers",
    "Others",
    "PeerDistiller",
    "circle",
    "copy_state",
    "mean_over_peers",
    "own_part",
    "published_copy",
]


def published_copy(model: nn.Module) -> nn.Module:
    """Return a frozen copy of a network in eval mode: what others see of it."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def own_part(objective: Objective) -> Objective:
    """Return the terms of an objective that read no teacher; InputError where there are none.

    >>> from limbeck.methods import kd
    >>> sorted(own_part(kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0)).terms)
    ['hard']
    """
    terms = [term for term in _terms(objective) if "teacher" not in term.reads]
    if not terms:
        raise InputError(
            "method: found only terms that read a teacher, but peers learn from labels too; set hard_weight"
        )
    return Objective(terms)


class MeanOverPeers(TermAround):
    """The mean over the peers of a term that reads a teacher, each peer being the teacher in its turn."""

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        members = outputs["teacher"].members
        if members is None:
            return self.term.sum(outputs, batch, step)
        each = [
            weight * self.term.sum({**outputs, "teacher": _alone(members, number)}, batch, step)
            for number, weight in enumerate(members.weights)
        ]
        return torch.stack(each).sum()


def _alone(members: Members, number: int) -> Outputs:
    return Outputs(members.logits[number])


def mean_over_peers(objective: Objective) -> Objective:
    """Return an objective whose teacher terms are means over the peers: mean_j D(p_j, q) instead of D(mean_j p_j, q).

    >>> from limbeck.methods import kd
    >>> sorted(mean_over_peers(kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0)).terms)
    ['hard', 'soft']
    """
    return Objective([MeanOverPeers(term) if "teacher" in term.reads else term for term in _terms(objective)])


class Others:
    """The other peers as one teacher: the mean of the distributions of those who have published anything yet.

    models: frozen copies of the networks, or the `Predictions` of each, which the exchange fills anew;
        `present` says which of them were filled.
    origin: a digest of the trainings that the others begin, where these are known.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        checks.at_least("peers besides oneself", len(models), 1)
        self.models = list(models)
        self.present = [False] * len(models)
        self.origin = ""
        self._members: list[Teacher] = [
            PredictionsTeacher(model) if isinstance(model, Predictions) else ModelTeacher(model) for model in models
        ]
        self._asked: tuple[list[bool], EnsembleTeacher] = ([], EnsembleTeacher(self._members))

    @property
    def speak(self) -> bool:
        """Whether any of them has published something."""
        return any(self.present)

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the answers of those who are present; while nobody is, of all as they began."""
        refuse_taps(taps, "peers", "logits in common", "use kd, for example")
        if batch.lanes is not None:
            raise InputError(
                "peers: found a stream of text, along which the other peers would have states of their own; expected"
                " sentences. Use the scheme offline, or data of kind sentences"
            )
        if self.present != self._asked[0]:
            speaking = [member for member, here in zip(self._members, self.present, strict=True) if here]
            self._asked = (list(self.present), EnsembleTeacher(speaking or self._members))
        return self._asked[1](batch)

    def to(self, device: torch.device | str) -> "Others":
        """Place the copies on a device."""
        for member in self._members:
            member.to(device)
        return self

    def fingerprint(self) -> str:
        """Return what decides the answers: nothing but the peers' own trainings, by what they begin with."""
        return f"{len(self.models)} other peers {self.origin}"


class PeerDistiller(Distiller):
    """A distiller whose teacher is the other peers, and which learns alone while none of them has spoken.

    burn_in: steps before the peers are listened to.
    published: what the others see of this one; it is part of the state, so that a resumed training is seen as it was.
        None where that lies elsewhere, as in a folder that groups share.
    """

    def __init__(
        self,
        student: nn.Module,
        others: Others,
        objective: Objective,
        *,
        burn_in: int = 0,
        published: nn.Module | None = None,
    ) -> None:
        if "teacher" not in objective.reads():
            raise InputError("method: found one that reads no teacher, but peers teach each other; use kd, for example")
        checks.at_least("burn_in", burn_in, 0)
        super().__init__(student, others, objective)
        self.others = others
        self.burn_in = burn_in
        self.published = published
        self._alone = (own_part(objective),)  # not registered: its terms are the objective's

    def publish(self) -> None:
        """Let the others see this peer as it is now."""
        if self.published is None:
            raise ValueError("this peer publishes elsewhere")
        if isinstance(self.published, Predictions):
            self.published.fill(self.student)
        else:
            copy_state(self.student, self.published)

    def forward(self, batch: Batch, step: int | None = None, counts: Mapping[str, Tensor | int] | None = None) -> Loss:
        """Return the loss of a batch: of the peer's own terms alone, where no other is to be listened to."""
        step = self.step if step is None else step
        listens = not self.burn_in or schedules.step_of(step, f"burn_in={self.burn_in}") >= self.burn_in
        if listens and self.others.speak:
            return super().forward(batch, step, counts)
        own = self._alone[0]
        loss: Loss = own(self._outputs(batch, own.reads_at(step)), batch, step, counts)
        return loss


@torch.no_grad()
def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Copy a network's parameters and buffers into another of the same build, in place."""
    own = tensors_of(target)
    for name, tensor in tensors_of(source).items():
        own[name].copy_(tensor)


def circle(
    students: Sequence[nn.Module],
    objectives: Sequence[Objective],
    *,
    burn_in: int = 0,
    predicted: SampleSet | None = None,
) -> list[PeerDistiller]:
    """Return distillers of networks that teach each other in one process, each seeing what the others publish.

    objectives: one for each.
    predicted: samples that all of them hold, where they publish predictions for these instead of their weights.

    >>> from limbeck.methods import kd
    >>> objectives = [kd(temperature=1.0, hard_weight=1.0, soft_weight=1.0) for _ in range(3)]
    >>> [len(peer.others.models) for peer in circle([nn.Linear(3, 4) for _ in range(3)], objectives)]
    [2, 2, 2]
    """
    if len(students) < 2:
        raise InputError(f"peers: found {len(students)}, expected 2 or more; a single one has no other to learn from")
    copies = [published_copy(student) if predicted is None else Predictions(predicted) for student in students]
    return [
        PeerDistiller(
            student,
            Others(copies[:number] + copies[number + 1 :]),
            objective,
            burn_in=burn_in,
            published=copies[number],
        )
        for number, (student, objective) in enumerate(zip(students, objectives, strict=True))
    ]


def _terms(objective: Objective) -> list[Term]:
    return list(objective.terms.values())  # type: ignore[arg-type]
