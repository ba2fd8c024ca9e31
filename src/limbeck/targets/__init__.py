"""Targets: what the student is asked to match, one file a kind, each with its `CARD`, formula and frozen dataclass.

The formula is a pure function from log-probabilities to log-probabilities, class axis last, any number of leading axes.
The dataclass is called with the teacher's outputs, the batch and a temperature, and returns a distribution for each
example.  Targets compose: some are made of others (`of`, `parts`).
"""

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType

from limbeck.arguments import checked
from limbeck.card import Card, files_of
from limbeck.errors import InputError, one_of
from limbeck.targets.decision import Decision
from limbeck.targets.dkpp import Permuted, permute
from limbeck.targets.geometric import GeometricMean, geometric_mean
from limbeck.targets.mixture import Mixture, mixture
from limbeck.targets.pt import TrueClass, true_class
from limbeck.targets.rel import RelatedClasses, related_classes
from limbeck.targets.sim import SimilarClasses, class_cosines, similar_classes
from limbeck.targets.smoothing import SmoothedLabels, smooth_labels
from limbeck.targets.softmax import PLAIN, Softmax, softened
from limbeck.targets.subset import Restricted, label_positions, restrict
from limbeck.targets.target import Target
from limbeck.targets.topk import TopK, top_k
from limbeck.targets.uniform import Uniform, uniform
from limbeck.targets.virtual import VirtualTeacher, virtual_teacher

__all__ = [
    "PLAIN",
    "Decision",
    "GeometricMean",
    "Mixture",
    "Permuted",
    "RelatedClasses",
    "Restricted",
    "SimilarClasses",
    "SmoothedLabels",
    "Softmax",
    "Target",
    "TopK",
    "TrueClass",
    "Uniform",
    "VirtualTeacher",
    "builder",
    "card",
    "class_cosines",
    "geometric_mean",
    "kinds",
    "label_positions",
    "mixture",
    "names",
    "permute",
    "related_classes",
    "restrict",
    "similar_classes",
    "smooth_labels",
    "softened",
    "top_k",
    "true_class",
    "uniform",
    "virtual_teacher",
]


def names() -> list[str]:
    """Return the kinds of all targets.

    Returns:
        Names, as recipes give them: the files of this package.

    Example:
        >>> "topk" in names()
        True
    """
    return [name for name in files_of(__path__) if name != "target"]


@checked
def builder(name: str) -> type[Target]:
    """Return the class of a target.

    Args:
        name: its kind, one of `names()`.

    Returns:
        The dataclass.

    Raises:
        InputError: if there is no such target.

    Example:
        >>> builder("topk")(k=3)
        TopK(k=3, share=None, of=Softmax())
    """
    module = _module(name)
    own = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    (found,) = (each for each in own if issubclass(each, Target))
    return found


def kinds() -> dict[str, Callable[..., Target]]:
    """Return the class of every target.

    Returns:
        {kind: dataclass}, with kinds as recipes give them.

    Example:
        >>> kinds()["topk"](k=3).k
        3
    """
    return {name: builder(name) for name in names()}


@checked
def card(name: str) -> Card:
    """Return the card of a target: its paper, summary and formula.

    Args:
        name: its kind, one of `names()`.

    Returns:
        The card.

    Raises:
        InputError: if there is no such target.

    Example:
        >>> card("topk").year
        2020
    """
    return _module(name).CARD  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    if name not in names():
        raise InputError(f"target: there is no target '{name}'; {one_of(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")
