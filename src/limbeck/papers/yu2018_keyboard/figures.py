"""What a keyboard's model of each stage answers, costs and saves, beside the student that learnt from labels alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.compress import Quantize
from limbeck.evaluation import evaluate
from limbeck.exporting import exported_bytes
from limbeck.papers.measures import RowView

__all__ = ["in_bfloat16", "perplexity", "stage", "worse"]

_MIB = 2.0**20
_KNOWN: dict[tuple[Path, int], Mapping[str, Any]] = {}
"""By the folder of a run and its seed."""


def stage(view: RowView) -> Mapping[str, float]:
    """Return MiB on disk, keystroke savings, word prediction rate and milliseconds a word of a row's model."""
    found = _measured(view)
    own = next(each for each in (*found["stages"], *found["beside"]) if each["role"] == view.row.role)
    typing, latency = own["typing"], own["latency"]
    first = next(each for each in found["beside"] if each["role"] == "alone")
    return {
        "mib": own["bytes"] / _MIB,
        "times_smaller": first["bytes"] / own["bytes"],
        "ks": typing["keystroke_savings"],
        "wpr": typing["word_prediction_rate"],
        "known_ks": typing["known_keystroke_savings"],
        "known_wpr": typing["known_word_prediction_rate"],
        "ms": 1000 * latency["median"],
        "ms_lower": 1000 * latency["lower"],
        "ms_upper": 1000 * latency["upper"],
    }


def _measured(view: RowView) -> Mapping[str, Any]:
    """Return the figures of all networks of a run, measured once for all rows."""
    key = (view.experiment.folder.path, view.seed)
    if key not in _KNOWN:
        _KNOWN[key] = view.experiment.figures(view.seed)
    return _KNOWN[key]


def perplexity(view: RowView) -> float:
    """Return the perplexity of a row's model on the test text."""
    return float(evaluate(view.model(view.row.role), view.samples()).errors)


def worse(view: RowView) -> float:
    """Return by how many per cent the perplexity of a row's model is above that of the student alone."""
    own, alone = (float(evaluate(view.model(role), view.samples()).errors) for role in (view.row.role, "alone"))
    return 100.0 * (own / alone - 1)


def in_bfloat16(view: RowView) -> Mapping[str, float]:
    """Return the perplexity and the MiB of a row's model with weights of 16 bits, of which 8 are the exponent's."""
    model, _ = Quantize(to="bf16").apply(view.model(view.row.role))
    return {
        "perplexity": float(evaluate(model, view.samples()).errors),
        "mib": exported_bytes(model) / _MIB,
    }
