"""A network that was trained with masks and rounding, in the form in which it is stored and used."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from limbeck.arguments import checked
from limbeck.compress.transform import records_of
from limbeck.compress.weights import layers_of, named, places_of, settle, weights_of_layer
from limbeck.networks import RECORDS

__all__ = ["settled"]

_SETTLED = ("prune", "quantize", "codes")


@checked
def settled(model: nn.Module) -> nn.Module:
    """Return a network in the form in which it is stored.

    Masks are folded into the weights, rounded weights are codes with their scales, and shared values streams.  Its
    answers in eval mode are those of the given network, bit for bit; what was rounded or shared no longer learns.
    `rebuilt` makes its structure again from `records_of(network)`.

    Args:
        model: the network, which stays as it is.

    Returns:
        A new network.

    Raises:
        ModelError: if a weight is computed by something else than these transforms.

    Example:
        >>> from limbeck.compress import Quantize
        >>> model, _ = Quantize(skip=()).apply(nn.Sequential(nn.Linear(16, 4)))
        >>> small, inputs = settled(model), torch.randn(2, 16)
        >>> torch.equal(small(inputs), model(inputs)), sum(each.nbytes for each in small.state_dict().values())
        (True, 96)
    """
    records = records_of(model)
    if not any(record["kind"] in _SETTLED for record in records):
        return deepcopy(model)
    copied = deepcopy(model)
    with torch.no_grad():
        paths = [path for path, module in layers_of(copied) if weights_of_layer(module, 1)]
        for group in places_of(copied, paths, 1):
            settle(copied, group)
    if hasattr(copied, "before_step"):
        del copied.before_step
    noted: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] in _SETTLED:
            plan = {**record["plan"], "settled": True}
            if record["kind"] == "codes":
                plan["streams"] = _streams(copied, plan["layers"])
            record = {**record, "plan": plan}
        noted.append(record)
    setattr(copied, RECORDS, noted)
    return copied


def _streams(model: nn.Module, layers: list[str]) -> dict[str, int]:
    """Return the bytes of each stream of codes."""
    found: dict[str, int] = {}
    for path in layers:
        for name, chain in getattr(model.get_submodule(path), "parametrizations", {}).items():
            found[named((path, name))] = chain.original.numel()
    return found
