"""What a row's model generates for the test sources, with one beam and with five."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from limbeck.generation import sequence_figures
from limbeck.papers.measures import RowView

__all__ = ["generated"]

_MEASURED: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()
"""By model, so that the figures of a row share one search."""


def generated(view: RowView) -> Mapping[str, Any]:
    """Return `sequence_figures` of a row's model, with shares in per cent, and what five beams gain over one."""
    model = view.model(view.row.role)
    if model not in _MEASURED:
        found = sequence_figures(model, view.samples(), beams=(1, 5))
        one, five = ({name: 100 * value for name, value in found[f"beam_{beam}"].items()} for beam in (1, 5))
        gain = {name: five[name] - one[name] for name in five}
        _MEASURED[model] = {"perplexity": found["perplexity"], "beam_1": one, "beam_5": five, "gain": gain}
    return _MEASURED[model]
