"""The papers' small networks: one file a family, each with a builder that bears the file's name.

Every builder takes `input_shape` and `classes`, which a recipe fills in from its data, then its own keys.
"""

import importlib
import pkgutil
from collections.abc import Callable

from torch import nn

from limbeck.errors import ModelError, one_of
from limbeck.models.cnn import cnn
from limbeck.models.mlp import mlp

__all__ = ["builder", "cnn", "mlp", "names"]


def names() -> list[str]:
    """Return the names of all model families, found by walking this package.

    >>> "mlp" in names()
    True
    """
    return [module.name for module in pkgutil.iter_modules(__path__)]


def builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds a model of a family."""
    if name not in names():
        raise ModelError(f"model: there is no model '{name}'; {one_of(name, names())}")
    return getattr(importlib.import_module(f"{__name__}.{name}"), name)  # type: ignore[no-any-return]
