"""Mixtures of experts: several networks of one kind and a gate, trained as one model (Jacobs et al. 1991)."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck import checks, models
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError, one_of
from limbeck.models.layers import MixtureOfExperts

__all__ = ["mixture"]

_MOST = 1000
_FROM_DATA = ("input_shape", "classes")


@checked
def mixture(
    input_shape: int | Sequence[int], classes: int, expert: Mapping[str, Any] | None = None, experts: int = 4
) -> MixtureOfExperts:
    """Build networks of one kind and a linear gate on the inputs, which says how much each of them counts.

    Args:
        input_shape: the shape of one sample.
        classes: K.
        expert: the keys of each network as a recipe has them, its kind among them; None for an `mlp`.
        experts: how many networks, at most 1,000.

    Returns:
        A network from (N, *input_shape) to log-probabilities (N, K), whose networks are `experts.0` and so on.

    Raises:
        InputError: if there is no such kind or key, or a value is out of range.

    Example:
        >>> model = mixture((3, 8, 8), 10, expert={"kind": "cnn", "channels": [4]}, experts=3)
        >>> len(model.experts), model.gate
        (3, Linear(in_features=192, out_features=3, bias=True))
    """
    checks.at_least("experts", experts, 1, at_most=_MOST)
    keys = {"kind": "mlp", **(expert or {})}
    kind = keys.pop("kind")
    if kind not in models.names() or kind == "mixture":
        raise InputError(f"expert.kind: found {checks.shown(kind)}; {one_of(str(kind), _kinds())}")
    build = models.builder(kind)
    known = [name for name in inspect.signature(build).parameters if name not in _FROM_DATA]
    for key in keys:
        if key not in known:
            raise InputError(f"expert.{key}: there is no such key; {one_of(str(key), known)}")
    try:
        networks = [build(input_shape, classes, **keys) for _ in range(experts)]
    except (InputError, ModelError) as error:
        raise type(error)(_named(str(error))) from None
    width = input_shape if isinstance(input_shape, int) else math.prod(input_shape)
    return MixtureOfExperts(networks, width)


def _kinds() -> list[str]:
    return [name for name in models.names() if name != "mixture"]


def _named(complaint: str) -> str:
    """Return a network's complaint with its key named as the mixture's; what comes of the data keeps its name."""
    return complaint if complaint.startswith(_FROM_DATA) else f"expert.{complaint}"
