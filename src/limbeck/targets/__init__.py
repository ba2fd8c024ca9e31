"""Targets: what the student is asked to match, one file a kind, each with its `CARD` and a frozen dataclass.

A target is called with the teacher's outputs, the batch and a temperature, and answers with a distribution for each
example.  Targets compose: some are made of others (`of`, `parts`).  The pure formulas are in `limbeck.losses`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError, one_of
from limbeck.targets.decision import Decision
from limbeck.targets.dkpp import Permuted
from limbeck.targets.geometric import GeometricMean
from limbeck.targets.mixture import Mixture
from limbeck.targets.pt import TrueClass
from limbeck.targets.rel import RelatedClasses
from limbeck.targets.sim import SimilarClasses
from limbeck.targets.smoothing import SmoothedLabels
from limbeck.targets.softmax import PLAIN, Softmax
from limbeck.targets.subset import Restricted
from limbeck.targets.target import Target, softened
from limbeck.targets.topk import TopK
from limbeck.targets.uniform import Uniform
from limbeck.targets.virtual import VirtualTeacher

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
    "kinds",
    "names",
    "softened",
]


def names() -> list[str]:
    """Return the kinds of all targets, found by walking this package.

    >>> "topk" in names()
    True
    """
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name != "target"]


@checked
def builder(name: str) -> type[Target]:
    """Return the dataclass of a kind.

    >>> builder("topk")(k=3)
    TopK(k=3, share=None, of=Softmax())
    """
    module = _module(name)
    own = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    (found,) = (each for each in own if issubclass(each, Target))
    return found


def kinds() -> dict[str, Callable[..., Target]]:
    """Return what makes each target, by the name that a recipe gives it."""
    return {name: builder(name) for name in names()}


@checked
def card(name: str) -> Card:
    """Return the card of a kind.

    >>> card("topk").year
    2020
    """
    return _module(name).CARD  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    if name not in names():
        raise InputError(f"target: there is no target '{name}'; {one_of(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")
