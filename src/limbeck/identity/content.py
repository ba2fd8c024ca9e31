"""A digest of what a value holds and does: numbers, text, arrays, functions, classes, networks; none is pickled."""

import copyreg
import enum
import functools
import hashlib
import logging
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.identity import functions, networks
from limbeck.identity.tensors import tensor_digest

__all__ = ["Reader", "content_digest", "network_digests"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented))
_BY_REPR = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme, range, slice)
_TEXTS = (int, float, complex, str, bytes)
_READ = (object, list, tuple, dict, set, frozenset, *_TEXTS)
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # flags of classes
_SETTLED = "what it does cannot be told from what another does"


def content_digest(value: Any, name: str = "value", mend: str = "") -> str:
    """Return the SHA-256 of a value's content, the same in every process and on every device.

    Numbers, text, tensors and arrays count by their type and values, containers by their items, whatever the order of
    their keys, objects by their class and attributes.  A function is its bytecode, its defaults and what it refers to:
    the variables it closes over, and globals; a class that a user can edit is its methods, and one of an installed
    package its name.  A network is described as `network_digest` does.
    name: of the value, in errors.  mend: how the user helps.  Raises InputError where something inside cannot be read.

    >>> content_digest({"a": 1, "b": [2.0]}) == content_digest({"b": [2.0], "a": 1})
    True
    >>> content_digest([1, 2]) == content_digest([1, 2.0])
    False
    >>> content_digest(lambda x: 2 * x) == content_digest(lambda x: 3 * x)
    False
    """
    return Reader(name, mend).read(value)


def network_digests(model: nn.Module, name: str, mend: str = "") -> dict[str, str]:
    """Return the digests of what decides a network's training: its "architecture" in words, and its "weights" before.

    The architecture is the tree of its modules with their classes, attributes, hooks, forms of parameters and buffers,
    and what of it is trained.  Wrappers around it (DDP, compile) count for nothing.  Arguments as for `content_digest`.

    >>> relu, tanh = (network_digests(nn.Sequential(nn.Linear(1, 1), act), "student") for act in (nn.ReLU(), nn.Tanh()))
    >>> relu["architecture"] == tanh["architecture"], relu["weights"] == tanh["weights"]
    (False, False)
    """
    reader = Reader(name, mend, trained=True, weights=False)
    return {"architecture": reader.read(networks.inner(model)), "weights": networks.weights_digest(model)}


class Reader:
    """Reads values; what it has met before is not read again.

    name, mend: for errors.  trained: whether networks are known as something that is trained, where it also matters
    what of them is trained; otherwise as something that answers.  weights: whether the values of their state count.
    """

    def __init__(self, name: str, mend: str = "", *, trained: bool = False, weights: bool = True) -> None:
        self.name, self.mend, self.trained, self.weights = name, mend, trained, weights
        self.inside = False  # a network
        self._path: list[str] = []
        self.around: list[int] = []
        self._known: dict[int, tuple[Any, str]] = {}

    def read(self, value: Any, part: str = "") -> str:
        """Return the digest of a value; part: what it is of the value around it."""
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            return _sha256(f"{type(value).__name__} {value!r}")
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self.around:
            return _sha256(f"the object {len(self.around) - self.around.index(id(value))} above")
        self.around.append(id(value))
        self._path.append(part)
        try:
            digest = _sha256(self._described(value))
        finally:
            self.around.pop()
            self._path.pop()
        self._known[id(value)] = (value, digest)  # which keeps it alive, so that its id stays its own
        return digest

    def all(self, values: Iterable[Any], part: str = "") -> str:
        """Return the digests of values in their order."""
        return " ".join(self.read(value, f"{part}[{number}]") for number, value in enumerate(values))

    def named(self, values: Mapping[Any, Any]) -> str:
        """Return the digests of a mapping's items, whatever their order."""
        return " ".join(sorted(f"{self.read(key)} {self.read(value, _part(key))}" for key, value in values.items()))

    def unread(self, value: Any) -> InputError:
        """Return the error for what cannot be read."""
        where = self.name + "".join(self._path)
        mend = f"; {self.mend}" if self.mend else ""
        return InputError(f"{where}: found {_kind(value)}, which cannot be read, so that {_SETTLED}{mend}")

    def _described(self, value: Any) -> str:
        """Return text that says all that decides what a value does."""
        import numpy as np

        if isinstance(value, nn.Module):
            return networks.described(value, self)
        if isinstance(value, Tensor):
            return tensor_digest(value, self.unread)
        if isinstance(value, np.generic):
            return f"{_kind(value)} {value!r}"
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, enum.Enum):
            return f"{self.read(type(value))} {value.name}"
        if isinstance(value, type | types.FunctionType | types.MethodType | types.ModuleType | types.CodeType):
            return functions.described(value, self)
        if isinstance(value, functions.DESCRIPTORS):
            return functions.described(value, self)
        if isinstance(value, functools.partial):
            return f"partial {self.read(value.func)} {self.all(value.args)} {self.named(value.keywords)}"
        if isinstance(value, torch.device):
            return "device"
        if isinstance(value, _BY_REPR):
            return f"{_kind(value)} {value!r}"
        if isinstance(value, np.dtype | PurePath):
            return f"{_kind(value)} {value}"
        if isinstance(value, torch.Generator):
            return f"generator {self.read(value.get_state())}"
        if isinstance(value, np.random.RandomState):
            return f"generator {self.read(value.get_state(legacy=False))}"
        if isinstance(value, np.random.Generator):
            return f"generator {self.read(value.bit_generator.state)}"
        if isinstance(value, logging.Logger):
            return f"logger {value.name}"
        if isinstance(value, torch.ScriptObject):
            return f"{_kind(value)} {self.read(value.__getstate__())}"
        if isinstance(value, weakref.ReferenceType):
            return f"weakref {self.read(value())}"
        return self._object(value)

    def _array(self, value: Any) -> str:
        import numpy as np

        if value.dtype.hasobject:
            return f"array {value.shape} {self.all(value.ravel().tolist())}"
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.dtype!r} {value.shape} {content}"

    def _object(self, value: Any) -> str:
        """Describe an object by its class, its items and its attributes; failing these, by what rebuilds it."""
        kind = type(value)
        told = [self.read(kind)]
        if isinstance(value, list | tuple):
            told.append(f"items {self.all(value)}")
        elif isinstance(value, set | frozenset):
            told.append(f"items {' '.join(sorted(map(self.read, value)))}")
        elif isinstance(value, Mapping):
            told.append(f"items {self.named(value)}")
        elif base := next((base for base in _TEXTS if isinstance(value, base)), None):
            told.append(f"value {base.__repr__(value)}")
        attributes = dict(getattr(value, "__dict__", None) or {})
        attributes |= {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
        if attributes:
            told.append(f"attributes {self.named(attributes)}")
        if len(told) == 1 or any(base not in _READ and not _of_python(base) for base in kind.__mro__):
            told.append(self._rebuilt(value))
        return " ".join(told)

    def _rebuilt(self, value: Any) -> str:
        """Describe an object of an extension type by what rebuilds it.

        One of scikit-learn without state (a loss function) is told apart by its class, which is what it is made of.
        """
        try:
            known: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
            rebuilt = value.__reduce_ex__(4) if known is None else known(value)
        except Exception:  # noqa: BLE001 - whatever an extension type raises, it does not tell its state
            if type(value).__module__.startswith(("sklearn.", "_thread")):
                return "no state"
            raise self.unread(value) from None
        if isinstance(rebuilt, str):
            return f"named {rebuilt}"
        function, given, *rest = rebuilt
        parts = [list(part) if hasattr(part, "__next__") else part for part in rest]
        return f"rebuilt {self.read(function)} {self.all(given)} {self.all(parts)}"


def _of_python(kind: type) -> bool:
    """Whether Python code made a class; extension types on the heap (open files, from Python 3.12 on) are immutable.

    >>> class Point: ...
    >>> _of_python(Point), _of_python(complex)
    (True, False)
    """
    return kind.__flags__ & (_HEAP | _IMMUTABLE) == _HEAP


def _slots(kind: type) -> list[str]:
    """Return the names of a class's slots, of its bases too.

    >>> class Point:
    ...     __slots__ = ("x", "y")
    >>> _slots(Point)
    ['x', 'y']
    """
    found: list[str] = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        names = [own] if isinstance(own, str) else list(own)
        private = f"_{base.__name__.lstrip('_')}"
        found += [private + name if name.startswith("__") and not name.endswith("__") else name for name in names]
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _part(key: Any) -> str:
    return f".{key}" if isinstance(key, str) else f"[{key!r}]" if isinstance(key, int) else "[...]"


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
