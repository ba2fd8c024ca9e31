"""How the models of a run trained: curves over the epochs, or over the share of each training where they differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.charts import Axis, Chart, Line, Plane, spanning
from limbeck.report.gather import Curve, Gathered

__all__ = ["training"]

_DASHES = {"teacher": "2 3", "alone": "7 3", "distilled": ""}
_TERMS = tuple((colour, dash) for dash in ("7 3", "2 3", "12 3 2 3", "4 1") for colour in ("third", "fourth", "fifth"))
"""Colour and dash of each term of a loss."""
_MOST_POINTS = 300
_ALIKE = 1.3  # how many times as long as another a training may be, for both to be drawn over their epochs


@dataclass(frozen=True)
class _Drawn:
    name: str
    colour: str
    dash: str
    curve: Curve


def training(gathered: Gathered) -> list[Chart]:
    """Draw every term of the distilled student's loss, the others' losses, held-out errors and loss, learning rates."""
    charts: list[Chart] = []
    errors = gathered.figures.errors
    distilled = gathered.curves.get("distilled", {})
    terms = {name.removeprefix("train."): curve for name, curve in distilled.items() if name.startswith("train.")}
    if terms:
        order = sorted(terms, key=lambda name: (name != "total", name))
        looks = (("ink", ""), *_TERMS * 3)
        drawn = [_Drawn(name, *look, terms[name]) for name, look in zip(order, looks, strict=False)]
        title = "Loss of the distilled student, term by term"
        charts.append(_chart("terms", title, "mean loss on the training set", drawn, log=True))
    for key, title, label, name, left_out in (
        ("losses", "Loss of the other models", "mean loss on the training set", "train.total", "distilled"),
        ("validation-errors", f"{errors.capitalize()} on held-out training data", errors, "validation.errors", ""),
        ("validation-loss", "Loss on held-out training data", "negative log-likelihood, nats", "validation.nll", ""),
    ):
        if name == "validation.nll" and gathered.figures.nll_is_errors:
            continue  # it is drawn already
        if drawn := [each for role, each in _of(gathered, name).items() if role != left_out]:
            charts.append(_chart(key, title, label, drawn, log=True))
    if rates := list(_of(gathered, "learning_rate").values()):
        charts.append(_chart("learning-rate", "Learning rate", "learning rate", _merged(rates), zero=True))
    return charts


def _of(gathered: Gathered, name: str) -> dict[str, _Drawn]:
    """Return a quantity of every model that has it, by role."""
    return {
        model.role: _Drawn(model.name, model.colour, _DASHES.get(model.role, "1 2"), curve)
        for model in gathered.models
        if (curve := gathered.curves.get(model.role, {}).get(name)) is not None
    }


def _merged(drawn: Sequence[_Drawn]) -> list[_Drawn]:
    """Draw curves that are the same as one, under all their names."""
    alike: list[list[_Drawn]] = []
    for each in drawn:
        known = next((group for group in alike if group[0].curve == each.curve), None)
        if known is None:
            alike.append([each])
        else:
            known.append(each)
    merged = []
    for first, *others in alike:
        names = ", ".join([first.name, *(_small(each.name) for each in others)])
        merged.append(_Drawn(names, "ink" if others or len(alike) == 1 else first.colour, first.dash, first.curve))
    return merged


def _small(name: str) -> str:
    return name[:1].lower() + name[1:]


def _chart(
    key: str, title: str, label: str, drawn: Sequence[_Drawn], *, log: bool = False, zero: bool = False
) -> Plane:
    """Draw curves over the epochs; where some trainings are much longer than others, over the share of each."""
    lengths = [each.curve.epochs[-1] for each in drawn]
    shares = max(lengths) > _ALIKE * min(lengths)
    lines = [_line(each, shares=shares) for each in drawn]
    values = [value for line in lines for _, value in line.points]
    ends = [value for line in lines for _, low, high in line.band for value in (low, high)]
    log = log and min([*values, *ends]) > 0
    ended = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines)
    if shares:
        x, over = Axis("share of each training", 0.0, 1.0, share=True), "each model's training"
    else:
        first, last = min(each.curve.epochs[0] for each in drawn), max(lengths)
        x, over = Axis("epoch", first, max(last, first + 1), whole=True), f"{last} epochs"
    y = spanning(f"{label} (log scale)" if log else label, [*values, *ends], log=log, zero=zero or not log)
    return Plane(key, title, f"Line chart over {over}: {ended}.", x, y, lines)


def _line(drawn: _Drawn, *, shares: bool) -> Line:
    curve = drawn.curve
    step = max(1, math.ceil(len(curve.epochs) / _MOST_POINTS))
    kept = [i for i in range(len(curve.epochs)) if i % step == 0 or i == len(curve.epochs) - 1]
    of = curve.epochs[-1] if shares else 1
    points = [(curve.epochs[i] / of, curve.mean[i]) for i in kept]
    spread = any(high > low for low, high in zip(curve.low, curve.high, strict=True))
    band = [(curve.epochs[i] / of, curve.low[i], curve.high[i]) for i in kept] if spread else []
    name = f"{drawn.name} ({of:,} epochs)" if shares else drawn.name
    return Line(name, drawn.colour, points, band, drawn.dash)
