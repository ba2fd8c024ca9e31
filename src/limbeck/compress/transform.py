"""What every transform says and does: a network in, a smaller one out, with a log of what was changed and why."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import nn

from limbeck.arguments import checked, checked_fields
from limbeck.compress.statistics import Statistics
from limbeck.errors import CheckpointError, InputError, LimbeckError, ModelError, one_line
from limbeck.networks import RECORDS, distinct

__all__ = ["Log", "Transform", "records_of"]


@checked_fields
@dataclass(frozen=True)
class Log:
    """What a transform did to a network.

    Attributes:
        changed: by the path of each layer that was changed, what became of it.
        kept: by the path of each layer with weights that stays, why.
        plan: plain values from which `Transform.rebuild` makes the same structure without the weights.
        figures: numbers about the whole, such as the share of weights that are 0.

    Raises:
        InputError: if a field has the wrong type.

    Example:
        >>> from limbeck.compress import LowRank
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        >>> _, log = LowRank(rank=2).apply(model)
        >>> log.changed, log.kept
        ({'0': 'Linear (8, 8): rank 2 of 8'}, {'1': 'low_rank does not change a BatchNorm1d'})
    """

    changed: Mapping[str, str]
    kept: Mapping[str, str]
    plan: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the log as text, a line for each layer."""
        return [
            *(f"{path or 'the model'}: {what}" for path, what in self.changed.items()),
            *(f"{path or 'the model'}: kept; {why}" for path, why in self.kept.items()),
        ]


class Transform(ABC):
    """What makes a network smaller.

    A subclass is a frozen dataclass, whose fields are the keys of a recipe.

    `apply` is pure: it returns a new network and leaves the given one unchanged.  It is a function of the network, the
    statistics and the seed.  The new network lists on its attribute `compressed_by` what was applied, and a file of its
    weights has that list, so that `rebuilt` makes the structure again before the weights are loaded.

    A subclass writes `change` and `restructure`, both on a copy that is theirs to change.

    Example:
        >>> from limbeck.compress import LowRank
        >>> small, log = LowRank(rank=2).apply(nn.Linear(8, 8))
        >>> records_of(small)[0]["plan"]
        {'ranks': {'': 2}}
    """

    @property
    def kind(self) -> str:
        """The name of the transform in a recipe: that of its file."""
        return type(self).__module__.rpartition(".")[2]

    ramp_steps: int = 0
    """Training steps that it takes until the network is as small as it says."""

    @property
    def needs_statistics(self) -> bool:
        """Whether `apply` reads the inputs of layers."""
        return False

    HOW_MADE: ClassVar[str] = "limbeck.compress has them, such as LowRank(rank=0.25)"

    @abstractmethod
    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Return the changed network, and what was done; the network is a copy that may be changed in place."""

    @abstractmethod
    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Return the structure that `change` made with this plan; its weights are loaded afterwards."""

    def apply(self, model: nn.Module, statistics: Statistics | None = None, seed: int = 0) -> tuple[nn.Module, Log]:
        """Return a new, smaller network and the log of what was changed, kept and why.

        statistics: of training data; needed where `needs_statistics`.
        Raises InputError where nothing is selected or a layer would become larger, ModelError where ties would break.
        """
        if self.needs_statistics and statistics is None:
            raise InputError(f"statistics: found none; expected Statistics of training data, which {self.kind} reads")
        with torch.no_grad():
            changed, log = self.change(deepcopy(model), statistics, seed)
        self._require_ties(model, changed)
        record = {"kind": self.kind, "keys": plain_keys(self), "plan": dict(log.plan)}
        setattr(changed, RECORDS, [*records_of(model), record])
        return changed, log

    def on_any_weights(self) -> Self:
        """Return a transform that fits a network if this one can, whatever its weights are, for a rehearsal."""
        return self

    def __call__(self, model: nn.Module) -> nn.Module:
        """Return the network that `apply` gives without statistics, as `Stage(before=...)` calls it."""
        return self.apply(model)[0]

    def rebuild(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Return a new network with the structure that `apply` gave, whose log had this plan; weights are not set.

        Raises CheckpointError where the plan does not fit the network.
        """
        try:
            with torch.no_grad():
                rebuilt = self.restructure(deepcopy(model), plan)
        except LimbeckError as error:
            raise CheckpointError(f"checkpoint: {self.kind} does not fit the model: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: the list of transforms does not fit the model ({self.kind}, {type(error).__name__}: "
                f"{one_line(error)}); write the file again"
            ) from None
        setattr(rebuilt, RECORDS, [*records_of(model), {"kind": self.kind, "keys": plain_keys(self), "plan": plan}])
        return rebuilt

    def _require_ties(self, before: nn.Module, after: nn.Module) -> None:
        """Require names that were one tensor and are still there to be one tensor; ModelError names the first."""
        _, aliases = distinct(before)
        state, now = after.state_dict(), distinct(after)[1]
        for name, kept in aliases.items():
            if name in state and kept in state and now.get(name, name) != now.get(kept, kept):
                raise ModelError(
                    f"{self.kind}: '{name}' is tied to '{kept}' and would be untied; select both, or skip both"
                )


@checked
def records_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return what was applied to a network, in order.

    Args:
        model: a network.

    Returns:
        The kind, keys and plan of each transform, as `rebuilt` takes them.

    Example:
        >>> records_of(nn.Linear(2, 2))
        []
    """
    found: Sequence[dict[str, Any]] = getattr(model, RECORDS, ())
    return list(found)


def plain_keys(transform: Transform) -> dict[str, Any]:
    """Return a transform's fields as a recipe writes them."""
    keys = asdict(transform)  # type: ignore[call-overload]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
