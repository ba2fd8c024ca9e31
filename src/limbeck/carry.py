"""Recurrent state that is carried from batch to batch along the lanes of a stream of text."""

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError

__all__ = ["Carry", "map_state", "state_axis"]

_LANES = "lanes"


def state_axis(model: Any) -> int:
    """Return the batch axis of a model's recurrent state: its attribute `state_axis`, or 1 as in `torch.nn.LSTM`."""
    axis = getattr(model, "state_axis", 1)
    if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
        raise ModelError(f"state_axis: found {axis!r}; expected the batch axis of the model's state, 0 or above")
    return axis


def map_state(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a recurrent state, any nesting of tuples, lists and mappings of tensors, with a function of each tensor.

    >>> map_state((torch.ones(2), {"c": torch.ones(1)}), lambda each: each * 2)
    (tensor([2., 2.]), {'c': tensor([2.])})
    """
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Mapping):
        return {name: map_state(each, function) for name, each in state.items()}
    if isinstance(state, tuple | list):
        parts = [map_state(each, function) for each in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if state is None:
        return None
    raise ModelError(
        f"state: found a {type(state).__name__} in a model's recurrent state; expected tensors, and tuples, lists or"
        " mappings of them"
    )


def _leaves(state: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(each: Tensor) -> Tensor:
        found.append(each)
        return each

    map_state(state, note)
    return found


class Carry:
    """The recurrent states of some models, by name, and for each part of a batch by its lanes.

    A state is cut off from the graph.  It is given back for the same lanes only; rows that are fresh begin with zeros.

    Example:
        >>> from limbeck.batch import Lanes
        >>> batch = Batch.of(torch.zeros(2, 3))
        >>> batch.lanes = Lanes(torch.arange(2), torch.tensor([False, True]))
        >>> carry = Carry()
        >>> carry.keep("student", batch, torch.ones(1, 2, 4), axis=1)
        >>> carry.state("student", batch, axis=1).sum((0, 2))
        tensor([4., 0.])
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, tuple[Tensor, Any]]] = {}

    @checked
    def state(self, name: str, batch: Batch, axis: int = 1) -> Any:
        """Return the state with which a model continues a batch's lanes.

        Args:
            name: of the model.
            batch: with `lanes`.
            axis: the batch axis of the model's state.

        Returns:
            The state, or None where there is none yet: every lane begins anew.

        Raises:
            InputError: if rows continue lanes that were not carried, or other lanes were.
        """
        if batch.lanes is None:
            return None
        lanes, fresh = batch.lanes.number, batch.lanes.fresh
        if bool(fresh.all()):
            return None
        first = int(lanes[0])
        kept = self._kept.get(name, {}).get(first)
        if kept is None or not torch.equal(kept[0], lanes.cpu()):
            found = "none" if kept is None else _range(kept[0])
            raise InputError(
                f"lanes: the batch continues {_range(lanes)} of its stream, but the {name}'s state was carried for"
                f" {found}; give each step the same lanes, and begin with a batch whose rows are all fresh"
            )
        if not bool(fresh.any()):
            return kept[1]
        return map_state(kept[1], lambda each: each.masked_fill(_along(fresh, each, axis), 0.0))

    @checked
    def keep(self, name: str, batch: Batch, state: Any, axis: int = 1) -> None:
        """Keep the state that a model ended a batch with.

        Args:
            name: of the model.
            batch: that it answered; without lanes nothing is kept.
            state: of the model, batch axis `axis`; None for a model without one, which continues any lanes.
            axis: the batch axis.

        Raises:
            ModelError: if the state does not have a row for each of the batch.
        """
        if batch.lanes is None:
            return
        for each in _leaves(state):
            if each.dim() <= axis or each.shape[axis] != len(batch):
                raise ModelError(
                    f"{name}: its state has shape {tuple(each.shape)}; expected {len(batch)} rows along axis {axis}."
                    " Name the batch axis in the model's class: state_axis = 0"
                )
        lanes = batch.lanes.number.cpu()
        self._kept.setdefault(name, {})[int(lanes[0])] = lanes, map_state(state, Tensor.detach)

    def clear(self) -> None:
        """Forget every state."""
        self._kept.clear()

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is kept as named tensors, for a checkpoint: `student.0.1` is the second of lanes 0, ...

        >>> Carry().tensors()
        {}
        """
        found: dict[str, Tensor] = {}
        for name, parts in self._kept.items():
            for first, (lanes, state) in parts.items():
                found[f"{name}.{first}.{_LANES}"] = lanes
                for number, each in enumerate(_leaves(state)):
                    found[f"{name}.{first}.{number}"] = each
        return found

    def structure(self) -> dict[str, Any]:
        """Return how the tensors of each state are nested, for a checkpoint's JSON: numbers stand for tensors."""
        return {
            name: {str(first): _numbered(state, count()) for first, (_, state) in parts.items()}
            for name, parts in self._kept.items()
        }

    def restore(self, tensors: Mapping[str, Tensor], structure: Any, device: torch.device | str) -> None:
        """Take over what `tensors` and `structure` gave; ValueError or KeyError where they do not fit."""
        self.clear()
        for name, parts in dict(structure).items():
            for first, shape in dict(parts).items():
                key = f"{name}.{first}"
                lanes = tensors[f"{key}.{_LANES}"]
                if lanes.dtype != torch.int64 or lanes.dim() != 1 or int(lanes[0]) != int(first):
                    raise ValueError(f"the lanes of '{key}' are damaged")
                state = _nested(shape, key, tensors, device)
                self._kept.setdefault(str(name), {})[int(first)] = lanes.cpu(), state


def _numbered(state: Any, numbers: Iterator[int]) -> Any:
    """Return a state's nesting as JSON can hold it, with a number for each tensor."""
    if isinstance(state, Tensor):
        return next(numbers)
    if isinstance(state, Mapping):
        return {"mapping": {name: _numbered(each, numbers) for name, each in state.items()}}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return {"named": [[name, _numbered(each, numbers)] for name, each in zip(state._fields, state, strict=True)]}
    if isinstance(state, tuple | list):
        return {"tuple" if isinstance(state, tuple) else "list": [_numbered(each, numbers) for each in state]}
    return None


def _nested(shape: Any, key: str, tensors: Mapping[str, Tensor], device: torch.device | str) -> Any:
    if shape is None:
        return None
    if isinstance(shape, int):
        return tensors[f"{key}.{shape}"].to(device, copy=True)  # a file's memory is not aligned as that of an answer
    (kind, parts), *rest = shape.items()
    if rest or kind not in ("mapping", "named", "tuple", "list"):
        raise ValueError(f"the nesting of '{key}' is damaged")
    if kind == "mapping":
        return {name: _nested(each, key, tensors, device) for name, each in parts.items()}
    if kind == "named":
        values = [_nested(each, key, tensors, device) for _, each in parts]
        return namedtuple("State", [str(name) for name, _ in parts])(*values)
    made = [_nested(each, key, tensors, device) for each in parts]
    return tuple(made) if kind == "tuple" else made


def _range(lanes: Tensor) -> str:
    first, last = int(lanes.min()), int(lanes.max())
    return f"lane {first}" if first == last else f"lanes {first} to {last}"


def _along(rows: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Return (N,) shaped so that it runs along an axis of a tensor."""
    return rows.to(tensor.device).reshape([-1 if each == axis else 1 for each in range(tensor.dim())])
