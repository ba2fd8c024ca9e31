"""What is known of the licences of data that limbeck names itself."""

from collections.abc import Mapping
from typing import Any

__all__ = ["licences_of"]

_UCI = "CC BY 4.0, UCI Machine Learning Repository"
_TABLES = {
    "breast_cancer": f"Breast Cancer Wisconsin (Diagnostic): {_UCI}",
    "digits": f"Optical Recognition of Handwritten Digits: {_UCI}",
    "iris": f"Iris: {_UCI}",
    "wine": f"Wine: {_UCI}",
}
_NONE_STATED = "the authors' page states no licence"
_SETS = {
    "cifar10": f"CIFAR-10: {_NONE_STATED}",
    "cifar100": f"CIFAR-100: {_NONE_STATED}",
    "digits": _TABLES["digits"],
    "fashion_mnist": "Fashion-MNIST: MIT licence, Zalando SE",
    "mnist": f"MNIST: {_NONE_STATED}",
    "ptb": "Penn Treebank: restricted by the Linguistic Data Consortium",
}


def licences_of(kind: str, keys: Mapping[str, Any]) -> list[str]:
    """Return what is known of the licence of a kind of data, a line each; nothing where it is the user's own.

    keys: those of the kind, as a recipe writes them.

    >>> licences_of("bundled", {"name": "wine"})
    ['Wine: CC BY 4.0, UCI Machine Learning Repository']
    >>> licences_of("table", {"path": "mine.csv"})
    []
    """
    line = _TABLES.get(str(keys.get("name"))) if kind == "bundled" else _SETS.get(kind)
    if line is None and kind.startswith("synthetic"):
        line = "drawn by limbeck, from no data of others"
    return [] if line is None else [line]
