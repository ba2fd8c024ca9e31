"""Tasks: what a label is, and how a model's answer becomes logits whose class axis is last.

Everything else works on such logits: (..., K), with a label for each leading place.  A binary task with one logit z is
the task of two classes with logits (0, z); a multi-label one is as many of these as it has classes, whose losses add up
to that of the example; a dense one has a label for each pixel, and one of tokens for each place of a text; a ranking
has items for classes, several of which are to be found.  Only a regression has no classes.

A new task is a class in this package and one in `limbeck.evaluation.figures`, which measures it and names its figures.
Other code asks the task for a shape, a count or a requirement, and does not ask which task it is.
"""

from collections.abc import Mapping

from limbeck.errors import InputError, one_of
from limbeck.tasks.classes import BINARY, CLASSIFICATION, DENSE, MULTILABEL, TOKENS
from limbeck.tasks.others import RANKING, REGRESSION
from limbeck.tasks.task import FIRST_ITEMS, UNLABELLED, Need, Task

__all__ = [
    "BINARY",
    "CLASSIFICATION",
    "DENSE",
    "FIRST_ITEMS",
    "MULTILABEL",
    "RANKING",
    "REGRESSION",
    "TASKS",
    "TOKENS",
    "UNLABELLED",
    "Need",
    "Task",
    "task_named",
]

TASKS: Mapping[str, Task] = {
    task.name: task for task in (CLASSIFICATION, BINARY, MULTILABEL, DENSE, TOKENS, RANKING, REGRESSION)
}
"""All tasks by their names."""


def task_named(name: str) -> Task:
    """Return a task by the name that recipes use.

    Args:
        name: "classification", "binary", "multilabel", "dense", "tokens", "ranking" or "regression".

    Returns:
        The task.

    Raises:
        InputError: if there is no such task.

    Example:
        >>> task_named("multi-label")
        Traceback (most recent call last):
        limbeck.errors.InputError: task: found 'multi-label'; did you mean 'multilabel'?
    """
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(f"task: found {name!r}; {one_of(str(name), TASKS)}")
    return TASKS[name]
