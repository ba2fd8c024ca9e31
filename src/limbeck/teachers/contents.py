"""A digest of what an object holds, read from its attributes and arrays; nothing is pickled."""

import hashlib
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import Tensor

from limbeck.errors import InputError

__all__ = ["content_digest"]


def content_digest(value: Any) -> str:
    """Return the SHA-256 of a value's content: numbers, text, arrays, containers of these, and objects of Python.

    An object is its class and its attributes, so that two estimators fitted alike have one digest.  Raises InputError
    where something inside can neither be read nor told apart.

    >>> import numpy as np
    >>> content_digest({"a": np.arange(3)}) == content_digest({"a": np.arange(3)})
    True
    >>> content_digest([1, 2]) == content_digest([1, 2.0])
    False
    """
    digest = hashlib.sha256()
    _add(digest, value, [])
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", value: Any, within: list[int]) -> None:
    import numpy as np

    def write(text: str) -> None:
        digest.update(f"{text}\n".encode())

    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        write(f"{type(value).__name__} {value!r}")
        return
    if id(value) in within:
        write(f"the object {len(within) - within.index(id(value))} above")
        return
    within = [*within, id(value)]
    write(_name(value))
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        write(f"{value.dtype!r} {value.shape}")
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.ndarray | list | tuple):
        write(str(len(value)))
        for each in value:
            _add(digest, each, within)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            write(repr(key))
            _add(digest, value[key], within)
    elif isinstance(value, set | frozenset):
        write(repr(sorted(map(repr, value))))
    elif isinstance(value, np.dtype | type):
        write(repr(value))
    elif isinstance(value, np.random.RandomState):
        _add(digest, value.get_state(legacy=False), within)
    elif isinstance(value, np.random.Generator):
        _add(digest, value.bit_generator.state, within)
    else:
        _add(digest, _state(value), within)


def _name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _state(value: Any) -> Any:
    """Return what an object holds.

    An extension type of scikit-learn (a tree) tells its state by `__getstate__`; one without any (a loss function) is
    told apart by its class alone, which is what it is made from.
    """
    if isinstance(value, FunctionType | BuiltinFunctionType):
        own = getattr(value, "__closure__", None) or getattr(value, "__self__", None)
        if own is None or type(own).__name__ == "module":
            return f"{value.__module__}.{value.__qualname__}"
        raise _unread(value)
    attributes = getattr(value, "__dict__", None)
    slots = {name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)}
    if attributes is not None or slots:
        return {**(attributes or {}), **slots}
    state = value.__getstate__()
    if state is not None:
        return state
    if type(value).__module__.startswith("sklearn."):
        return None
    raise _unread(value)


def _unread(value: Any) -> InputError:
    return InputError(
        f"teacher: what {_name(value)} holds cannot be read; give identity, a name that changes whenever its answers do"
    )
