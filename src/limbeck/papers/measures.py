"""What a table measures: a row at a seed as figures see it, and the figures that every table may name."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.data import SampleSet
from limbeck.errors import RecipeError, one_of
from limbeck.evaluation import Metrics, evaluate, fidelity, measure, parameters, predict
from limbeck.experiment.run import Experiment, Trained
from limbeck.papers.table import Compared, FigureSpec, Part, Row, Table

__all__ = ["MEASURES", "RowView"]


class Views(Protocol):
    """Where the views of a table's rows come from."""

    def view(self, row: Row, seed: int) -> "RowView":
        """Return a row at a seed."""

    def trained(self, row: Row, role: str, seed: int) -> Trained:
        """Return what the training of a role gives, made or read."""


@dataclass
class RowView:
    """A row of a table at a seed: its models are trained when a figure asks for them."""

    table: Table
    row: Row
    seed: int
    experiment: Experiment
    views: Views
    _logits: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def trained(self, role: str) -> Trained:
        """Return the training that a role comes from."""
        own = {"member": "teacher", "teacher": "teacher", "alone": "alone", "alone_budget": "alone_budget"}
        return self.views.trained(self.row, own.get(role, "distilled"), self.seed)

    def model(self, role: str) -> nn.Module:
        """Return the model of a role; RecipeError with the nearest name where there is none."""
        models = self.trained(role).models
        if role not in models:
            raise RecipeError(f"rows.{self.row.name}: there is no role '{role}'; {one_of(role, models)}")
        return models[role]

    def samples(self, part: Part = "test") -> SampleSet:
        """Return the test set, the transfer set or the held-out part."""
        if part == "test":
            return self.experiment.final.test
        if part == "transfer":
            return self.experiment.final.transfer
        held_out = self.experiment.choosing.held_out
        if held_out is None:
            raise ValueError("choices are made with a held-out part")
        return held_out

    def logits(self, role: str, part: Part = "test") -> Tensor:
        """Return a model's answers to a set, (n, K), computed once."""
        if (role, part) not in self._logits:
            self._logits[role, part] = predict(self.model(role), self.samples(part)).cpu()
        return self._logits[role, part]

    def beside(self, row: str) -> "RowView":
        """Return another row of the table at the same seed."""
        return self.views.view(self.table.row(row), self.seed)

    def value(self, name: str) -> float:
        """Return a figure of the row."""
        return self.of(self.row.figure(name))

    def of(self, figure: FigureSpec) -> float:
        """Return what a figure comes to: what it measures, less what it is compared with."""
        value = self._measure(figure.measure)(self, figure) if figure.measure else self.value(str(figure.figure))
        if figure.above is not None:
            value -= self._compared(figure, figure.above)
        if figure.below is not None:
            value = self._compared(figure, figure.below) - value
        return value

    def _compared(self, figure: FigureSpec, other: Compared) -> float:
        view = self if other.row is None else self.beside(other.row)
        if other.figure is not None:
            return view.value(other.figure)
        if figure.measure is None:
            return view.value(str(figure.figure))
        role = other.role or (figure.role if other.row is None else view.row.role)
        return view.of(replace(figure, role=role, above=None, below=None))

    def _measure(self, name: str) -> "Measure":
        """Return a measure: one of all tables, a function of this one's figures.py, or a path into several figures.

        `scheme.PATH` is one of the scheme's own figures, `decided.PATH` what it chose on held-out samples, and
        `FUNCTION.PATH` one of those that a function of figures.py returns.
        """
        if name in MEASURES:
            return MEASURES[name]
        head, _, path = name.partition(".")
        if head == "scheme":
            return lambda view, _: _within(view, name, view.experiment.figures(view.seed), path)
        if head == "decided":
            return lambda view, figure: _within(view, name, view.trained(figure.role).decided, path)
        if (self.table.folder / "figures.py").is_file():
            own: Any = importlib.import_module(f"limbeck.papers.{self.table.folder.name}.figures")
            if hasattr(own, head):
                return lambda view, _: _within(view, name, getattr(own, head)(view), path)
        raise RecipeError(f"rows.{self.row.name}: there is no measure '{name}'; {one_of(name, MEASURES)}")


Measure = Callable[[RowView, FigureSpec], float]


def _within(view: RowView, measure: str, value: Any, path: str) -> float:
    """Return a value, or the one that a path leads to in a mapping of several."""
    for key in path.split(".") if path else ():
        if not isinstance(value, Mapping) or key not in value:
            known = value if isinstance(value, Mapping) else {}
            raise RecipeError(f"rows.{view.row.name}: there is no figure '{measure}'; {one_of(key, known)}")
        value = value[key]
    if isinstance(value, Mapping):
        raise RecipeError(f"rows.{view.row.name}: '{measure}' are several figures; name one of {', '.join(value)}")
    return float(value)


def _answers(view: RowView, figure: FigureSpec, role: str | None = None) -> tuple[Tensor, Tensor]:
    """Return logits and labels of the samples that a figure is of."""
    samples, logits = view.samples(figure.part), view.logits(role or figure.role, figure.part)
    labels = samples.labels.cpu()
    if figure.of is not None:
        kept = labels == figure.of
        logits, labels = logits[kept], labels[kept]
    if figure.among:
        places = torch.full((samples.classes,), -1)
        places[list(figure.among)] = torch.arange(len(figure.among))
        kept = places[labels] >= 0
        logits, labels = logits[kept][:, list(figure.among)], places[labels[kept]]
    return logits, labels


def _measured(view: RowView, figure: FigureSpec) -> Metrics:
    """Return all figures of the samples that a figure is of, by the task that they are for."""
    return measure(*_answers(view, figure), view.samples(figure.part).task)


def _errors(view: RowView, figure: FigureSpec) -> float:
    return float(_measured(view, figure).errors)


def _error_percent(view: RowView, figure: FigureSpec) -> float:
    return 100.0 * (1.0 - _measured(view, figure).accuracy)


def _accuracy_percent(view: RowView, figure: FigureSpec) -> float:
    return 100.0 * _measured(view, figure).accuracy


def _nll(view: RowView, figure: FigureSpec) -> float:
    return float(_measured(view, figure).nll)


def _mrr(view: RowView, figure: FigureSpec) -> float:
    return float(_measured(view, figure).more["mrr"])


def _ndcg(view: RowView, figure: FigureSpec) -> float:
    return float(_measured(view, figure).more["ndcg"])


def _perplexity(view: RowView, figure: FigureSpec) -> float:
    """Return exp of the mean loss of a language model's next token; its logits are not kept."""
    return float(evaluate(view.model(figure.role), view.samples(figure.part)).errors)


def _rmse(view: RowView, figure: FigureSpec) -> float:
    """Return the root of the mean square of what probabilities lack to the labels."""
    logits, labels = _answers(view, figure)
    wrong = logits.double().softmax(1) - functional.one_hot(labels, logits.shape[1])
    return float((wrong**2).mean().sqrt())


def _agreement_percent(view: RowView, figure: FigureSpec) -> float:
    own, other = _answers(view, figure)[0], _answers(view, figure, figure.to)[0]
    return 100.0 * fidelity(own, other).agreement


def _kl(view: RowView, figure: FigureSpec) -> float:
    """Return KL from the compared model's distribution to the role's own, in nats."""
    return fidelity(_answers(view, figure)[0], _answers(view, figure, figure.to)[0]).kl


def _epochs(view: RowView, figure: FigureSpec) -> float:
    return float(view.experiment.chosen(figure.role).recipe.training.epochs)


def _parameters(view: RowView, figure: FigureSpec) -> float:
    return float(parameters(view.model(figure.role)))


def _compute(view: RowView, figure: FigureSpec) -> float:
    """Return the FLOPs of all trainings that led to a role."""
    return float(view.trained(figure.role).compute[figure.role].total())


MEASURES: Mapping[str, Measure] = {
    "accuracy_percent": _accuracy_percent,
    "agreement_percent": _agreement_percent,
    "compute": _compute,
    "epochs": _epochs,
    "error_percent": _error_percent,
    "errors": _errors,
    "kl": _kl,
    "mrr": _mrr,
    "ndcg": _ndcg,
    "nll": _nll,
    "parameters": _parameters,
    "perplexity": _perplexity,
    "rmse": _rmse,
}
