"""How much of what ten networks gain over one a single network has."""

from statistics import fmean

from limbeck.evaluation import evaluate
from limbeck.papers.measures import RowView
from limbeck.teachers import MeanOfModels

__all__ = [
    "fewest_errors_of_a_member",
    "mean_errors_of_a_member",
    "most_errors_of_a_member",
    "share_of_the_gain_of_ten",
]


def mean_errors_of_a_member(view: RowView) -> float:
    """Return the mean test errors of the networks of a row's teacher."""
    return fmean(_errors(view))


def fewest_errors_of_a_member(view: RowView) -> float:
    """Return the test errors of the best of them."""
    return min(_errors(view))


def most_errors_of_a_member(view: RowView) -> float:
    """Return the test errors of the worst of them."""
    return max(_errors(view))


def share_of_the_gain_of_ten(view: RowView) -> float:
    """Return how much of what ten members gain over one, by their arithmetic mean, a model has, in per cent."""
    case = "fashion-mnist" if view.row.name.startswith("fashion-mnist") else "mnist"
    single, ten = (view.beside(f"{case}-{row}").value("errors") for row in ("single", "ensemble-10"))
    return 100.0 * (single - view.value("errors")) / (single - ten) if single != ten else 0.0


def _errors(view: RowView) -> list[float]:
    model = view.model("teacher")
    if not isinstance(model, MeanOfModels):
        raise TypeError("the teacher is one network")
    return [float(evaluate(member, view.samples()).errors) for member in model.members]
