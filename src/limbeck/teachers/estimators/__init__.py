"""Estimators of scikit-learn as teachers that a recipe names: fitted there, and kept as tensors, never as a pickle."""

from collections.abc import Callable

from limbeck.teachers.estimators.fitted import Fitted
from limbeck.teachers.estimators.linear import LinearScores, logistic_regression
from limbeck.teachers.estimators.trees import Trees, extra_trees, gradient_boosting, random_forest

__all__ = [
    "Fitted",
    "LinearScores",
    "Trees",
    "builder",
    "extra_trees",
    "gradient_boosting",
    "logistic_regression",
    "names",
    "random_forest",
]

_BUILDERS: tuple[Callable[..., Fitted], ...] = (random_forest, extra_trees, gradient_boosting, logistic_regression)


def names() -> list[str]:
    """Return the names of all estimators.

    >>> names()
    ['extra_trees', 'gradient_boosting', 'logistic_regression', 'random_forest']
    """
    return sorted(function.__name__ for function in _BUILDERS)


def builder(name: str) -> Callable[..., Fitted]:
    """Return the function that makes an estimator; its parameters beside the data's shape are the keys of a recipe.

    >>> import inspect
    >>> list(inspect.signature(builder("logistic_regression")).parameters)
    ['input_shape', 'classes', 'inverse_penalty', 'iterations']
    """
    return {function.__name__: function for function in _BUILDERS}[name]
