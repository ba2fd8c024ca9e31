"""What makes a trained network smaller: pure transforms, one file each with its `CARD` and a class of the file's name.

A transform's fields are the keys of a recipe.  `apply` returns a new network and a log; `rebuilt` makes the structure
of a compressed network again from what its file of weights says.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from limbeck.arguments import checked
from limbeck.card import Card, files_of
from limbeck.checks import shown
from limbeck.compress.clusters import centroid_gradient, gap_bits, gap_cost, gaps, kmeans, places, sharing_rate
from limbeck.compress.codes import Codes
from limbeck.compress.factors import (
    factorise,
    factorise_by_frequency,
    factorise_by_inputs,
    rank_bound,
    rank_of_energy,
    spectrum,
)
from limbeck.compress.fold import Fold
from limbeck.compress.gradients import first_step, learned_steps, movement, straight_through
from limbeck.compress.huffman import Stream, code_lengths, decode, encode, entropy
from limbeck.compress.kernels import with_torchao
from limbeck.compress.low_rank import LowRank
from limbeck.compress.prune import Prune
from limbeck.compress.pruning import (
    dropout_after_pruning,
    magnitude_masks,
    pruned_count,
    ramp,
    top_mask,
    two_of_four,
    unit_mask,
)
from limbeck.compress.quantisation import (
    Grid,
    activation_grid,
    activation_range,
    dequantize,
    pack,
    quantize_activations,
    signal_to_noise,
    to_16bit,
    unpack,
    weight_scales,
)
from limbeck.compress.quantize import Quantize
from limbeck.compress.settling import settled
from limbeck.compress.share import Share
from limbeck.compress.statistics import Statistics, second_moment
from limbeck.compress.streams import CodedSize, coded_size, ideal_stream_bytes, read_codes, write_codes
from limbeck.compress.transform import Log, Transform, records_of
from limbeck.compress.units import Units
from limbeck.errors import CheckpointError, InputError, LimbeckError, one_of

__all__ = [
    "CodedSize",
    "Codes",
    "Fold",
    "Grid",
    "Log",
    "LowRank",
    "Prune",
    "Quantize",
    "Share",
    "Statistics",
    "Stream",
    "Transform",
    "Units",
    "activation_grid",
    "activation_range",
    "builder",
    "card",
    "centroid_gradient",
    "code_lengths",
    "coded_size",
    "decode",
    "dequantize",
    "dropout_after_pruning",
    "encode",
    "entropy",
    "factorise",
    "factorise_by_frequency",
    "factorise_by_inputs",
    "first_step",
    "gap_bits",
    "gap_cost",
    "gaps",
    "ideal_stream_bytes",
    "kinds",
    "kmeans",
    "learned_steps",
    "magnitude_masks",
    "movement",
    "names",
    "pack",
    "places",
    "pruned_count",
    "quantize_activations",
    "ramp",
    "rank_bound",
    "rank_of_energy",
    "read_codes",
    "rebuilt",
    "records_of",
    "second_moment",
    "settled",
    "sharing_rate",
    "signal_to_noise",
    "spectrum",
    "straight_through",
    "to_16bit",
    "top_mask",
    "two_of_four",
    "unit_mask",
    "unpack",
    "weight_scales",
    "with_torchao",
    "write_codes",
]


def names() -> list[str]:
    """Return the kinds of all transforms.

    Returns:
        Names, as recipes give them: the files of this package that have a `CARD`.

    Example:
        >>> "low_rank" in names()
        True
    """
    return [name for name in files_of(__path__) if hasattr(_load(name), "CARD")]


@checked
def builder(name: str) -> type[Transform]:
    """Return the class of a transform.

    Args:
        name: its kind, one of `names()`.

    Returns:
        The dataclass: of low_rank, `LowRank`.

    Raises:
        InputError: if there is no such transform.

    Example:
        >>> builder("low_rank")(rank=8).rank
        8
    """
    return getattr(_module(name), name.title().replace("_", ""))  # type: ignore[no-any-return]


def kinds() -> dict[str, Callable[..., Transform]]:
    """Return the class of every transform.

    Returns:
        {kind: dataclass}, with kinds as recipes give them.

    Example:
        >>> kinds()["low_rank"](rank=8).rank
        8
    """
    return {name: builder(name) for name in names()}


@checked
def card(name: str) -> Card:
    """Return the card of a transform: its paper, summary and formula.

    Args:
        name: its kind, one of `names()`.

    Returns:
        The card.

    Raises:
        InputError: if there is no such transform.

    Example:
        >>> card("low_rank").year
        2014
    """
    return _module(name).CARD  # type: ignore[no-any-return]


@checked
def rebuilt(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Return a network with the structure that transforms gave it; its weights are then loaded from the same file.

    Args:
        model: as it was before the first transform.
        records: what was applied, in order, as `records_of` and a file of weights have it.

    Returns:
        A new network, or the given one where nothing was applied.

    Raises:
        CheckpointError: if a record is damaged, or does not fit the network.

    Example:
        >>> small, _ = LowRank(rank=2).apply(nn.Sequential(nn.Linear(8, 8)))
        >>> again = rebuilt(nn.Sequential(nn.Linear(8, 8)), records_of(small))
        >>> again.load_state_dict(small.state_dict())
        <All keys matched successfully>
    """
    for record in records:
        try:
            kind, keys, plan = record["kind"], record["keys"], record["plan"]
            given = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
            transform = builder(kind)(**given)
        except LimbeckError as error:
            raise CheckpointError(f"checkpoint: the list of transforms: {error}") from None
        except (KeyError, TypeError, AttributeError):
            raise CheckpointError(
                f"checkpoint: the list of transforms: found {shown(record)}, expected kind, keys and plan; write the "
                "file again"
            ) from None
        model = transform.rebuild(model, plan)
    return model


def _module(name: str) -> ModuleType:
    if name not in names():
        raise InputError(f"transform: there is no transform '{name}'; {one_of(name, names())}")
    return _load(name)


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
