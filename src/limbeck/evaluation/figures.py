"""The figures of each task: how its models are measured, and what the figures are called and mean.

One class a task, found with `figures_of`.  A new task is a class in `limbeck.tasks` and one here; see `Figures`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.errors import InputError
from limbeck.evaluation.fidelity import Nearness
from limbeck.evaluation.figure import (
    NO_NUMBERS,
    Figure,
    Figures,
    Metrics,
    labelled_places,
    largest_share,
    number,
    summed_nll,
)
from limbeck.evaluation.scores import score
from limbeck.evaluation.summed import ItemFigures, PlaceFigures, TokenFigures
from limbeck.losses import squared_error
from limbeck.tasks import (
    BINARY,
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    Task,
)

__all__ = ["FIGURES", "Figure", "Figures", "Metrics", "average_precision", "figures_of", "number"]


@checked
def figures_of(task: Task) -> Figures:
    """Return the figures of a task.

    Args:
        task: one of `limbeck.tasks`.

    Returns:
        The figures.

    Example:
        >>> from limbeck.tasks import MULTILABEL
        >>> figures_of(MULTILABEL).accuracy
        'exact matches'
    """
    if task.name not in FIGURES:
        raise InputError(f"task {task.name}: it has no figures; add a class to limbeck.evaluation.figures")
    return FIGURES[task.name]


class _Classes(Figures):
    task = CLASSIFICATION
    errors = "errors"
    accuracy = "accuracy"

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = labels != UNLABELLED
        examples = labelled_places(known)
        errors = int(((logits.argmax(-1) != labels) & known).sum())
        nll = summed_nll(logits, labels) / examples
        return Metrics(examples, errors, 1.0 - errors / examples, nll)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return score(logits, labels).correct

    def result(self, examples: int, distilled: float, alone: float, teacher: float | None) -> str:
        own, other = number(distilled), number(alone)
        said = f"of {examples:,} {self.unit} the student gets {own} wrong when distilled, {other} when trained alone"
        return said + ("" if teacher is None else f"; the teacher gets {number(teacher)} wrong")

    def came_to(self, value: float) -> str:
        return f"gets {number(value)} wrong"


class _TwoClasses(_Classes):
    task = BINARY


class _Labels(Figures):
    task = MULTILABEL
    errors = "examples with a wrong label"
    accuracy = "exact matches"
    nll = "NLL: mean negative log-likelihood in nats, added up over the labels of an example."
    more = (
        Figure("label_accuracy", "labels that are right", ""),
        Figure("map", "mean average precision", "{:.4f}"),
    )

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = labels != UNLABELLED
        examples = labelled_places(known.any(1))
        right = (logits.argmax(-1) == labels) | ~known
        errors = examples - int((right.all(1) & known.any(1)).sum())
        nll = summed_nll(logits, labels) / examples
        shares = (right & known).sum(0).double() / known.sum(0).double()
        more = {"label_accuracy": float(shares[known.any(0)].mean())}
        scores = logits[..., 1].double() - logits[..., 0].double()
        precisions = [
            average_precision(scores[known[:, label], label], labels[known[:, label], label] == 1)
            for label in range(labels.shape[1])
        ]
        defined = [precision for precision in precisions if precision is not None]
        if defined:
            more["map"] = sum(defined) / len(defined)
        return Metrics(examples, errors, 1.0 - errors / examples, nll, more)

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels != UNLABELLED
        return ((logits.argmax(-1) == labels) | ~known).all(1)[known.any(1)]

    def constant_accuracy(self, labels: Tensor) -> float:
        rows = labels[(labels != UNLABELLED).any(1)]
        return largest_share(torch.unique(rows, dim=0, return_counts=True)[1])


class _Numbers(Figures):
    task = REGRESSION
    errors = "mean squared error"
    pattern = "{:.4g}"
    counts = False
    by_example = False
    accuracy = "R²"
    share = False
    nll = "NLL: half the squared error."
    nll_is_errors = True
    more = (Figure("mae", "mean absolute error", "{:.4g}"),)
    near = (Figure("distance", "mean squared distance to the teacher", "{:.4g}"),)

    def measure(self, logits: Tensor, labels: Tensor) -> Metrics:
        known = self.task.labelled(labels)
        examples = labelled_places(known)
        answers, labels = logits[known].double(), labels[known].double()
        if not bool(answers.isfinite().all()):
            raise InputError(NO_NUMBERS.format("answers"))
        difference = answers - labels
        squares, spread = difference.square().sum(0), (labels - labels.mean(0)).square().sum(0)
        explained = torch.where(
            spread > 0, 1.0 - squares / torch.where(spread > 0, spread, 1.0), (squares == 0).double()
        )
        error = 2.0 * float(squared_error(answers, labels))
        more = {"mae": float(difference.abs().mean())}
        return Metrics(examples, error, float(explained.mean()), 0.5 * error, more)

    def nearness(self, student: Tensor, teacher: Tensor) -> Nearness:
        return Nearness(distance=float((student.double() - teacher.double()).square().mean()))

    def constant_accuracy(self, labels: Tensor) -> float:
        return 0.0

    def constant_text(self, constant: float) -> str:
        return "the mean of the labels gives 0"


FIGURES: Mapping[str, Figures] = {
    figures.task.name: figures
    for figures in (
        _Classes(),
        _TwoClasses(),
        _Labels(),
        PlaceFigures(),
        TokenFigures(),
        ItemFigures(),
        _Numbers(),
    )
}
"""The figures of all tasks, by their names."""


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """Return Σ (R_i - R_{i-1})·P_i over the distinct scores, highest first; None without a positive.

    scores: (n,).  positive: (n,) bool.  P_i and R_i: precision and recall of what scores at least the i-th.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    from sklearn.metrics import average_precision_score

    checks.shapes_match("scores", scores.shape, "positive", positive.shape)
    if bool(scores.isnan().any()):
        raise InputError(NO_NUMBERS.format("scores"))
    if not bool(positive.any()):
        return None
    finite = scores.double().nan_to_num().cpu().numpy()  # scikit-learn refuses infinity; the order stays
    return float(average_precision_score(positive.cpu().numpy(), finite))
