"""Several teachers as one."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Members, Outputs, Tap
from limbeck.targets import softened
from limbeck.targets.sim import unit_rows
from limbeck.teacher import Carrying, ClassVectors, Teacher, refuse_taps, teacher_weights

__all__ = ["EnsembleTeacher"]


class EnsembleTeacher:
    """The mean of several teachers' distributions, at the temperature that a target asks for.

    The outputs' logits are the logarithm of the mean at T=1.  At another temperature the mean of softened distributions
    is not the softened mean; `targets.softened` therefore reads the members' logits, which are in the outputs too.  In
    a regression the answer is the mean of the members' answers.

    Args:
        members: teachers of the same classes.
        weights: w, 0 or above, summing to 1; equal by default.
        mean: "arithmetic", Σ w_m·softmax(v_m/T), or "geometric", softmax(Σ w_m·v_m/T).

    Raises:
        InputError: if there is no member, or the weights do not fit them.

    Example:
        >>> from torch import nn
        >>> import limbeck as lb
        >>> ensemble = EnsembleTeacher([lb.ModelTeacher(nn.Linear(3, 4)) for _ in range(5)])
        >>> outputs = ensemble(Batch.of(torch.ones(2, 3)))
        >>> outputs.logits.shape, outputs.members.logits.shape
        (torch.Size([2, 4]), torch.Size([5, 2, 4]))

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """

    @checked
    def __init__(
        self,
        members: Sequence[Teacher],
        *,
        weights: Sequence[float] | None = None,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
    ) -> None:
        if not members:
            raise InputError("members: found none, expected at least one teacher")
        for number, member in enumerate(members):
            if isinstance(member, torch.nn.Module) or not isinstance(member, Teacher):
                raise InputError(
                    f"members: found {type(member).__name__} at {number}, expected a teacher; wrap a model in"
                    " limbeck.ModelTeacher"
                )
        if mean not in ("arithmetic", "geometric"):
            raise InputError(f"mean: found {mean!r}, expected one of: arithmetic, geometric")
        if weights is not None:
            checks.shares("weights", weights, count=len(members))
        self.members = list(members)
        self.weights = tuple(float(w) for w in weights) if weights else (1.0 / len(members),) * len(members)
        self.mean: Literal["arithmetic", "geometric"] = mean

    @property
    def state_axis(self) -> int:
        """The batch axis of the members' recurrent states, which is one for all."""
        axes = {member.state_axis for member in self.members if isinstance(member, Carrying)}
        if len(axes) > 1:
            raise ModelError(
                f"ensemble: its members' states have their batch along the axes {sorted(axes)}; expected one axis. Let"
                " all members have the same state_axis"
            )
        return axes.pop() if axes else 1

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None, state: Any = None) -> Outputs:
        """Return the members' logits, and the logarithm of their mean at T=1.

        state: the members' recurrent states in a tuple; None to begin anew.
        """
        refuse_taps(taps, "ensemble", "logits in common", "give one network as the teacher")
        answers = self._answers(batch, state)
        for number, answer in enumerate(answers):
            if answer.members is not None:
                raise InputError(
                    f"ensemble: member {number} is an ensemble; give its members instead, each with a weight"
                )
            if answer.logits.shape != answers[0].logits.shape:
                raise ModelError(
                    f"ensemble: member {number} answers {tuple(answer.logits.shape)}, member 0"
                    f" {tuple(answers[0].logits.shape)}; give all members the same classes"
                )
        logits = torch.stack([compute_dtype(answer.logits) for answer in answers])
        states = tuple(answer.state for answer in answers)
        state = None if all(each is None for each in states) else states
        if not batch.task.has_classes:
            return Outputs(self._mean_of_numbers(logits))
        members = Members(logits, self.weights, self.mean)
        return Outputs(softened(Outputs(logits[0], members=members), 1.0).log_probs, members=members, state=state)

    def _answers(self, batch: Batch, state: Any) -> list[Outputs]:
        states = [None] * len(self.members) if state is None else state
        return [
            member(batch) if own is None or not isinstance(member, Carrying) else member(batch, state=own)
            for member, own in zip(self.members, states, strict=True)
        ]

    def _mean_of_numbers(self, answers: Tensor) -> Tensor:
        """Return the weighted mean of answers (M, N, D) that are numbers and no logits."""
        if self.mean == "geometric":
            raise InputError("mean: found 'geometric', which is for distributions; set mean='arithmetic' for numbers")
        counted = [(weight, answer) for weight, answer in zip(self.weights, answers, strict=True) if weight]
        return torch.stack([weight * answer for weight, answer in counted]).sum(0)

    def class_vectors(self, classes: int | None = None) -> Tensor:
        """Return the members' class vectors side by side, so that their cosine is the weighted mean of the members'.

        Each member's are scaled to length √w_m.  ModelError where a member has none.
        """
        parts = []
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            if not isinstance(member, ClassVectors):
                raise ModelError(f"ensemble: member {number} ({type(member).__name__}) has no class vectors")
            parts.append(math.sqrt(weight) * unit_rows(compute_dtype(member.class_vectors(classes).detach())))
        return torch.cat(parts, dim=1)

    def to(self, device: torch.device | str) -> "EnsembleTeacher":
        """Place all members on a device."""
        for member in self.members:
            member.to(device)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 over the members' fingerprints, their weights and the kind of mean."""
        each = [member.fingerprint() for member in self.members]
        return hashlib.sha256(repr((each, self.weights, self.mean)).encode()).hexdigest()

    def weights_digest(self) -> str:
        """Return the digests of the members' weights, which no training may change."""
        return " ".join(teacher_weights(member) or "" for member in self.members)
