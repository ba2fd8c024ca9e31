"""Methods: one file a paper, each with its `CARD` and a builder of an `Objective` that bears the file's name."""

import importlib
import pkgutil
from collections.abc import Callable

from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError, one_of
from limbeck.methods.bounded_regression import bounded_regression
from limbeck.methods.class_subset import class_subset
from limbeck.methods.cwtm import cwtm
from limbeck.methods.deit import deit
from limbeck.methods.dist import dist
from limbeck.methods.dkd import dkd
from limbeck.methods.dkpp import dkpp
from limbeck.methods.hard import hard
from limbeck.methods.kd import kd
from limbeck.methods.kd_pt import kd_pt
from limbeck.methods.kd_rel import kd_rel
from limbeck.methods.kd_sim import kd_sim
from limbeck.methods.kd_topk import kd_topk
from limbeck.methods.label_smoothing import label_smoothing
from limbeck.methods.logit_matching import logit_matching
from limbeck.methods.logit_standardisation import logit_standardisation
from limbeck.methods.tf_kd import tf_kd
from limbeck.methods.tf_kd_self import tf_kd_self
from limbeck.objective import Objective

__all__ = [
    "Card",
    "bounded_regression",
    "builder",
    "card",
    "class_subset",
    "cwtm",
    "deit",
    "dist",
    "dkd",
    "dkpp",
    "hard",
    "kd",
    "kd_pt",
    "kd_rel",
    "kd_sim",
    "kd_topk",
    "label_smoothing",
    "logit_matching",
    "logit_standardisation",
    "names",
    "tf_kd",
    "tf_kd_self",
]


def names() -> list[str]:
    """Return the names of all methods, found by walking this package.

    >>> "kd" in names()
    True
    """
    return [module.name for module in pkgutil.iter_modules(__path__)]


@checked
def builder(name: str) -> Callable[..., Objective]:
    """Return the function that builds the objective of a method.

    >>> objective = builder("kd")(temperature=2.0)
    >>> sorted(objective.terms)
    ['hard', 'soft']
    """
    return getattr(_module(name), name)  # type: ignore[no-any-return]


@checked
def card(name: str) -> Card:
    """Return the card of a method.

    >>> card("kd").year
    2015
    """
    return _module(name).CARD  # type: ignore[attr-defined, no-any-return]


def _module(name: str) -> object:
    if name not in names():
        raise InputError(f"method: there is no method '{name}'; {one_of(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")
