"""Generalist and specialists as one network, and as a teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, run_model
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.specialists.answering import answer, covering
from limbeck.teachers.specialists.cells import CERTIFIED
from limbeck.teachers.specialists.specialist import Specialist

__all__ = ["GeneralistWithSpecialists", "SpecialistTeacher", "take_specialist"]


def take_specialist(
    generalist: Tensor, specialists: Sequence[Tensor], groups: Sequence[Tensor], active: Tensor
) -> Tensor:
    """Return log-probabilities (N, K) by the plain rule: a specialist says how its classes share what they were given.

    Where several are active, the one whose dustbin is least is taken.  Arguments as for `answer`, of specialists that
    have a dustbin.

    >>> p, told = torch.tensor([[0.6, 0.2, 0.2]]), torch.tensor([[0.1, 0.3, 0.6]])
    >>> take_specialist(p.log(), [told.log()], [torch.tensor([0, 1])], torch.tensor([[True]])).exp()
    tensor([[0.2000, 0.6000, 0.2000]], dtype=torch.float64)
    """
    log_probs = generalist.double().log_softmax(1)
    told = [outputs.double().log_softmax(1) for outputs in specialists]
    dustbins = torch.stack([outputs[:, -1] for outputs in told], 1).masked_fill(~active, torch.inf)
    chosen = torch.where(active.any(1), dustbins.argmin(1), -1)
    taken = log_probs.clone()
    for number, group in enumerate(groups):
        rows = (chosen == number).nonzero()
        own = log_probs[rows, group].logsumexp(1, keepdim=True)
        taken[rows, group] = own + told[number][rows[:, 0], :-1].log_softmax(1)
    return taken


class GeneralistWithSpecialists(nn.Module):
    """A generalist and its specialists, which answer together.

    An example is put to the specialists whose set holds one of the generalist's `top` most probable classes, and to no
    others; `top` is part of the state.
    rule: "joint", the distribution nearest to all their answers (`answer`), or "take" (`take_specialist`).

    Gives Outputs: logits (N, K), log-probabilities of float32 at least; heads, the outputs of the parts by name
    ("generalist", "specialist_0", ...), NaN for the examples that a specialist was not asked.

    >>> from limbeck.teachers.specialists import specialise
    >>> generalist = nn.Linear(3, 5)
    >>> both = GeneralistWithSpecialists(generalist, [specialise(generalist, [0, 1]), specialise(generalist, [1, 2])])
    >>> both(torch.randn(4, 3)).logits.shape
    torch.Size([4, 5])
    """

    top: Tensor

    def __init__(
        self,
        generalist: nn.Module,
        specialists: Sequence[Specialist],
        *,
        top: int = 1,
        rule: Literal["joint", "take"] = "joint",
    ) -> None:
        super().__init__()
        if not specialists:
            raise InputError("specialists: found none, expected at least one")
        sizes = {len(each.member) for each in specialists}
        if len(sizes) > 1:
            raise InputError(f"specialists: found {sorted(sizes)} classes, expected those of one generalist")
        checks.at_least("top", top, 1)
        if rule not in ("joint", "take"):
            raise InputError(f"rule: found {rule!r}, expected one of: joint, take")
        self.generalist = generalist
        self.specialists = nn.ModuleList(specialists)
        self.register_buffer("top", torch.tensor(top))
        self.rule = rule

    @property
    def groups(self) -> list[Tensor]:
        """The classes of each specialist, (|S|,) int64."""
        return [each.classes for each in self._specialists]

    def covering(self, logits: Tensor) -> Tensor:
        """Return which specialists are asked (N, M) bool, by the generalist's logits (N, K)."""
        return covering(logits, self.groups, top=int(self.top))

    def forward(self, *inputs: Any, **named: Any) -> Outputs:
        """Return log q as logits, and the outputs of the parts as heads."""
        given = named or inputs[0]
        generalist = run_model(self.generalist, given).logits
        if generalist.dim() != 2 or generalist.shape[1] != len(self._specialists[0].member):
            known = len(self._specialists[0].member)
            raise ModelError(f"generalist: found answers {tuple(generalist.shape)}, expected (N, {known})")
        active = self.covering(generalist)
        told = [self._asked(each, given, active[:, m]) for m, each in enumerate(self._specialists)]
        heads = {"generalist": generalist} | {f"specialist_{m}": outputs for m, outputs in enumerate(told)}
        together = self._together(generalist, told, active)
        return Outputs(together.to(torch.promote_types(generalist.dtype, torch.float32)), heads=heads)

    def extra_repr(self) -> str:
        """Return what the parts do not say."""
        return f"top={int(self.top)}, rule={self.rule!r}"

    @property
    def _specialists(self) -> list[Specialist]:
        return list(self.specialists)  # type: ignore[arg-type]

    def _asked(self, specialist: Specialist, inputs: Any, active: Tensor) -> Tensor:
        """Return a specialist's outputs, NaN where it is not active."""
        wide = specialist.full and self.rule == "joint"
        width = len(specialist.member) if wide else int(specialist.member.sum()) + 1
        rows = active.nonzero().squeeze(1)
        told = torch.full((len(active), width), torch.nan, device=active.device)
        if len(rows):
            few = {name: value[rows] for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[rows]
            outputs = run_model(specialist, few)
            found = outputs.heads["full"] if wide else outputs.logits
            told = told.to(found.dtype).index_copy(0, rows, found)
        return told

    def _together(self, generalist: Tensor, told: Sequence[Tensor], active: Tensor) -> Tensor:
        if self.rule == "take":
            return take_specialist(generalist, told, self.groups, active)
        found = answer(generalist, told, [each.answered for each in self._specialists], active)
        if found.gap.numel() and not found.gap.max() <= CERTIFIED:
            raise ModelError(f"specialists: an answer has the gap {float(found.gap.max()):.1e}, above {CERTIFIED:g}")
        return found.log_probs


class SpecialistTeacher(ModelTeacher):
    """A generalist and its specialists as one teacher, to be distilled back into one network.

    top, rule: as for `GeneralistWithSpecialists`.  transform, view: as for `ModelTeacher`.

    >>> from limbeck.teachers.specialists import specialise
    >>> generalist = nn.Linear(3, 5)
    >>> teacher = SpecialistTeacher(generalist, [specialise(generalist, [0, 1])])
    >>> teacher(Batch.of(torch.randn(4, 3))).heads["specialist_0"].shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        generalist: nn.Module,
        specialists: Sequence[Specialist],
        *,
        top: int = 1,
        rule: Literal["joint", "take"] = "joint",
        transform: Callable[[Any], Any] | None = None,
        view: str | None = None,
    ) -> None:
        together = GeneralistWithSpecialists(generalist, specialists, top=top, rule=rule)
        super().__init__(together, transform=transform, view=view)
