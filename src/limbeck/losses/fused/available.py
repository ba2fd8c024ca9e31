"""Which optional back ends are installed."""

import functools
import importlib.util

__all__ = ["has_triton"]


@functools.cache
def has_triton() -> bool:
    """Return whether Triton can be imported.

    >>> isinstance(has_triton(), bool)
    True
    """
    return importlib.util.find_spec("triton") is not None
