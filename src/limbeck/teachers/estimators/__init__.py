"""Estimators of scikit-learn as teachers that a recipe names: fitted there, and kept as tensors, never as a pickle."""

from collections.abc import Callable, Mapping

from limbeck.teachers.estimators.fitted import Fitted
from limbeck.teachers.estimators.linear import LinearScores, logistic_regression
from limbeck.teachers.estimators.trees import Trees, extra_trees, gradient_boosting, random_forest

__all__ = [
    "Fitted",
    "LinearScores",
    "Trees",
    "extra_trees",
    "gradient_boosting",
    "kinds",
    "logistic_regression",
    "random_forest",
]

_BUILDERS: tuple[Callable[..., Fitted], ...] = (random_forest, extra_trees, gradient_boosting, logistic_regression)


def kinds() -> Mapping[str, Callable[..., Fitted]]:
    """Return what makes each estimator, by the name that a recipe gives it.

    The parameters of each, beside the data's shape, are the keys of the recipe.

    >>> import inspect
    >>> list(inspect.signature(kinds()["logistic_regression"]).parameters)
    ['input_shape', 'classes', 'inverse_penalty', 'iterations']
    """
    return {function.__name__: function for function in _BUILDERS}
