"""Privileged information: a network that sees a part of what its teacher sees (Vapnik & Vashist 2009)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data import SampleSet
from limbeck.errors import InputError, one_of

__all__ = ["InputPart", "PartialInput"]


@dataclass(frozen=True)
class InputPart:
    """Which part of a sample a network sees; one of three, and the rest is its teacher's privilege.

    Attributes:
        columns: of a table, by name.
        places: of a sample that is a row of numbers, from 0 on.
        half: of images (channels, height, width); of an odd number of rows the upper half is the smaller, of columns
            the left.

    Raises:
        InputError: for none of these, or several.
    """

    columns: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    half: Literal["upper", "lower", "left", "right"] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("columns", "places", "half") if getattr(self, name)]
        if len(given) != 1:
            raise InputError(f"sees: found {' and '.join(given) or 'nothing'}, expected one of: columns, half, places")
        for name in ("columns", "places"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise InputError(f"{name}: found a value more than once, expected each value once")

    def selection(self, samples: SampleSet) -> tuple[Tensor, tuple[int, ...]]:
        """Return the places of a flattened sample that are seen, and the shape of what they make up.

        >>> from limbeck.data import bundled
        >>> InputPart(columns=("alcohol", "hue")).selection(bundled("wine").train)
        (tensor([ 0, 10]), (2,))
        """
        places = torch.arange(prod(samples.input_shape))
        if self.half is not None:
            return self._half(places.view(samples.input_shape), samples)
        if self.columns:
            return self._columns(samples)
        if len(samples.input_shape) != 1:
            raise InputError(
                f"places: found for inputs that are not rows of numbers: samples of '{samples.name}' are"
                f" {samples.input_shape}"
            )
        for place in self.places:
            if not 0 <= place < len(places):
                raise InputError(f"places: found {place}, expected 0 to {len(places) - 1} of '{samples.name}'")
        return torch.tensor(self.places), (len(self.places),)

    def _columns(self, samples: SampleSet) -> tuple[Tensor, tuple[int, ...]]:
        if samples.columns is None:
            raise InputError(f"columns: '{samples.name}' is not a table; use places, or half for images")
        where = dict(zip((each.name for each in samples.columns.columns), samples.columns.attributes, strict=True))
        for name in self.columns:
            if name not in where:
                raise InputError(f"columns: '{samples.name}' has no column {name!r}; {one_of(name, where)}")
        chosen = torch.cat([torch.arange(where[name].start, where[name].stop) for name in self.columns])
        return chosen, (len(chosen),)

    def _half(self, places: Tensor, samples: SampleSet) -> tuple[Tensor, tuple[int, ...]]:
        if places.ndim != 3:
            raise InputError(
                f"half: found for inputs that are not images: samples of '{samples.name}' are {samples.input_shape}"
            )
        axis = 1 if self.half in ("upper", "lower") else 2
        size = places.shape[axis]
        start, stop = (0, size // 2) if self.half in ("upper", "left") else (size // 2, size)
        seen = places.narrow(axis, start, stop - start)
        if not seen.numel():
            raise InputError(f"half: the {self.half} half of samples {samples.input_shape} is empty")
        return seen.flatten(), tuple(seen.shape)

    def around(self, build: Callable[[tuple[int, ...]], nn.Module], samples: SampleSet) -> "PartialInput":
        """Build a network for what is seen of a set's samples, that takes whole samples."""
        chosen, shape = self.selection(samples)
        return PartialInput(build(shape), chosen, shape)


class PartialInput(nn.Module):
    """A network of a part of its inputs: whatever stands in the rest of them changes nothing.

    chosen: places of a flattened sample.  shape: of what the network is given.

    >>> network = PartialInput(nn.Linear(2, 3), torch.tensor([0, 4]), (2,))
    >>> torch.equal(network(torch.eye(5)[:1]), network(torch.tensor([[1.0, 9.0, 9.0, 9.0, 0.0]])))
    True
    """

    chosen: Tensor

    def __init__(self, model: nn.Module, chosen: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.module = model
        self.shape = tuple(shape)
        self.register_buffer("chosen", chosen, persistent=False)

    def forward(self, inputs: Tensor) -> Any:
        """Return what the network answers to the part that it sees."""
        return self.module(inputs.flatten(1).index_select(1, self.chosen).view(len(inputs), *self.shape))
