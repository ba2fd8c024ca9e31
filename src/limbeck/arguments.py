"""What public functions are handed: checked, and made into tensors and numbers of Python, as their signatures say."""

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, Union

import torch
from torch import Tensor, nn

from limbeck.checks import shown
from limbeck.devices import refusal
from limbeck.errors import InputError, one_of

__all__ = ["as_tensor", "checked", "checked_fields"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C")
_Taken = Callable[[Any], Any]

_TENSOR = "a tensor, or an array or list of numbers"


class _WrongError(Exception):
    """A value is not of a kind.  found: which, where it is a part of what was handed over."""

    def __init__(self, expected: str, found: str | None = None) -> None:
        super().__init__(expected)
        self.found = found


def as_tensor(name: str, value: Any) -> Tensor:
    """Return a tensor as it is, and an array, a nested list or a column or table of pandas as a tensor.

    Numbers keep their type; those of a list are torch's default one.  InputError for anything else.

    >>> as_tensor("labels", [[1, 2], [3, 4]]).shape
    torch.Size([2, 2])
    >>> as_tensor("labels", {"a": 1})
    Traceback (most recent call last):
    limbeck.errors.InputError: labels: found a dict, expected a tensor, or an array or list of numbers
    """
    if isinstance(value, Tensor):
        return value
    try:
        return _tensor(value)
    except _WrongError:
        _refuse(name, value, _TENSOR)


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Check a function's arguments by its annotations, before it is called.

    An array or list becomes a tensor where one is meant, a number of NumPy one of Python; an argument of another kind
    than its annotation raises InputError with its name.  What the annotation does not say is the function's to check.

    >>> @checked
    ... def total(values: Tensor, times: int = 1) -> float:
    ...     return float(values.sum()) * times
    >>> total([1.0, 2.0])
    3.0
    >>> total([1.0, 2.0], times="twice")
    Traceback (most recent call last):
    limbeck.errors.InputError: times: found 'twice', expected a whole number
    """
    plan: list[tuple[list[tuple[str, _Taken | None]], dict[str, _Taken]]] = []

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not plan:  # at the first call, when all that the annotations name is there
            plan.append(_plan(function))
        places, names = plan[0]
        taken = list(args)
        for number, (name, take) in enumerate(places[: len(taken)]):
            if take is not None:
                taken[number] = _take(name, take, taken[number])
        for name, value in kwargs.items():
            if name in names:
                kwargs[name] = _take(name, names[name], value)
        return function(*taken, **kwargs)  # type: ignore[arg-type]

    return call


def checked_fields(cls: type[_C]) -> type[_C]:
    """Check what a dataclass is made of, as `checked` does."""
    cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]
    return cls


def _take(name: str, take: _Taken, value: Any) -> Any:
    try:
        return take(value)
    except _WrongError as wrong:
        _refuse(name, value, str(wrong), wrong.found)


def _refuse(name: str, value: Any, expected: str, found: str | None = None) -> NoReturn:
    raise InputError(f"{name}: found {found or _described(value)}, expected {expected}") from None


def _described(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return shown(value)
    if isinstance(value, nn.Module):
        return f"a plain module ({type(value).__name__})"
    if isinstance(value, Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple):
        return (
            shown(value)
            if len(value) < 20 and all(isinstance(each, int | float | str) for each in value)
            else (f"a {type(value).__name__} of {len(value)}")
        )
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _plan(function: Callable[..., Any]) -> tuple[list[tuple[str, _Taken | None]], dict[str, _Taken]]:
    """Return how each argument is taken, by its place and by its name."""
    hints = typing.get_type_hints(function)
    places: list[tuple[str, _Taken | None]] = []
    names: dict[str, _Taken] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            break
        take = _taking(hints[name]) if name in hints else None
        if parameter.kind is not parameter.KEYWORD_ONLY:
            places.append((name, take))
        if take is not None:
            names[name] = take
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name in hints and (take := _taking(hints[name])) is not None:
            names[name] = take
    return places, names


# -- kinds -----------------------------------------------------------------------------------------------------------


def _taking(hint: Any) -> _Taken | None:
    """Return what takes a value of an annotation, or raises _WrongError with what is expected; None takes anything."""
    if hint in (Any, object):
        return None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of_several(inner)
    if origin is Literal:
        return functools.partial(_choice, inner)
    if origin is tuple or hint is tuple:
        return functools.partial(_several, _element(inner), Sequence, None if ... in inner or not inner else len(inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return functools.partial(_mapping, _taking(inner[1]) if len(inner) == 2 else None)
    if origin is Callable or hint is Callable:
        return _function
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return functools.partial(_several, _element(inner), origin, None)
    if origin is type:
        return functools.partial(_of_class, type, "a class")
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is os.PathLike:
        return _path
    if isinstance(hint, type) and not _is_open_protocol(hint):
        return functools.partial(_of_class, hint, _words(hint))
    return None


def _element(inner: tuple[Any, ...]) -> _Taken | None:
    kinds = set(inner) - {...}
    return _taking(kinds.pop()) if len(kinds) == 1 else None


def _is_open_protocol(hint: type) -> bool:
    return getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False)


def _words(hint: type) -> str:
    if hint.__name__ == "Teacher":
        return "a teacher; wrap a network in limbeck.ModelTeacher(...)"
    if issubclass(hint, nn.Module) and hint.__module__.startswith("torch."):
        return "a torch.nn.Module"
    name = f"torch.{hint.__name__}" if hint.__module__ == "torch" else hint.__name__
    made = getattr(hint, "HOW_MADE", "")
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}" + (f"; {made}" if made else "")


def _of_class(kind: type, words: str, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, type) and kind is not type):
        raise _WrongError(words)
    return value


def _one_of_several(inner: tuple[Any, ...]) -> _Taken | None:
    named = [each for each in inner if each is not str] if torch.device in inner else inner  # a device by its name
    either = Path in inner and str in inner  # a path in one form or the other, which stays as it is
    kinds = [_path if either and each in (str, Path) else _taking(each) for each in named if each is not types.NoneType]
    if None in kinds:
        return None
    optional = types.NoneType in inner

    def take(value: Any) -> Any:
        if value is None and optional:
            return None
        words = []
        for kind in kinds:
            try:
                return kind(value)  # type: ignore[misc]
            except _WrongError as wrong:
                words.append(str(wrong))
        each = dict.fromkeys(words)
        if len(each) > 1:  # the mend of one alternative does not fit the others
            each = dict.fromkeys(word.partition(";")[0] for word in each)
        raise _WrongError(" or ".join(each))

    return take


def _choice(options: tuple[Any, ...], value: Any) -> Any:
    if not any(type(value) is type(option) and value == option for option in options):
        if isinstance(value, str):
            return value  # the function says which it knows, the nearest first
        raise _WrongError(one_of("", map(str, options)))
    return value


def _several(element: _Taken | None, kind: type, length: int | None, value: Any) -> Any:
    words = "a list" if element is None else f"a list of {_plural(element)}"
    if hasattr(value, "tolist") and not isinstance(value, type):  # an array, a tensor, a column
        value = (
            list(_tensor(value))
            if element is _tensor and not isinstance(value, Tensor)
            else (list(value) if element is _tensor else value.tolist())
        )
    if isinstance(value, str | bytes | Mapping | nn.Module) or not isinstance(value, kind):
        raise _WrongError(words)
    if length is not None and isinstance(value, Sequence) and len(value) != length:
        raise _WrongError(f"{length} of them")
    if element is None or not isinstance(value, list | tuple):
        return value
    taken = []
    for number, each in enumerate(value):
        try:
            taken.append(element(each))
        except _WrongError as wrong:
            raise _WrongError(str(wrong), f"{_described(each)} at {number}") from None
    if all(new is old for new, old in zip(taken, value, strict=True)):
        return value
    return tuple(taken) if isinstance(value, tuple) else taken


def _plural(element: _Taken) -> str:
    try:
        element(_Nothing())
    except _WrongError as wrong:
        words = str(wrong).partition(";")[0]
        return _PLURALS.get(words, words.removeprefix("a ").removeprefix("an ") + "s")
    return "values"


class _Nothing:
    """What no kind takes."""


def _mapping(values: _Taken | None, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _WrongError("a mapping")
    if values is None:
        return value
    taken = {key: values(each) for key, each in value.items()}
    return value if all(taken[key] is value[key] for key in taken) else taken


def _function(value: Any) -> Any:
    if not callable(value):
        raise _WrongError("a function")
    return value


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if _is_of_numpy(value, "integer"):
        return int(value)
    raise _WrongError("a whole number")


def _number(value: Any) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value) if _is_of_numpy(value, "floating") else value
    if _is_of_numpy(value, "integer") or _is_of_numpy(value, "floating"):
        return value.item()  # type: ignore[no-any-return]
    raise _WrongError("a number")


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if _is_of_numpy(value, "bool"):
        return bool(value)
    raise _WrongError("True or False")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongError("text")
    return value


def _path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike) or value == "":  # which would be the current folder
        raise _WrongError("a path")
    return value


def _as_path(value: Any) -> Path:
    return Path(_path(value))


def _device(value: Any) -> Any:
    try:
        reason = refusal(value)
    except (RuntimeError, TypeError):
        raise _WrongError("a device, such as 'cpu' or 'cuda:0'") from None
    if reason:
        raise _WrongError(f"a device of this machine, such as 'cpu' ({reason})")
    return value


def _is_of_numpy(value: Any, kind: str) -> bool:
    """Return whether a value is a scalar of NumPy, without importing it."""
    return type(value).__module__ == "numpy" and any(kind in each.__name__ for each in type(value).__mro__)


def _tensor(value: Any) -> Tensor:
    """Return a tensor of what holds numbers, as the object itself gives its array."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, type | str | bytes | bool | int | float | complex):
        raise _WrongError(_TENSOR)
    try:
        if isinstance(value, list | tuple):
            return _of_list(value)
        if hasattr(value, "to_numpy"):
            return _of_array(value.to_numpy())
        if hasattr(value, "__array__"):
            return _of_array(value)
    except _WrongError:
        raise
    except Exception:  # noqa: BLE001 - a stranger's object may raise anything; none of it is a tensor
        raise _WrongError(_TENSOR) from None
    raise _WrongError(_TENSOR)


def _of_list(value: Sequence[Any]) -> Tensor:
    leaf: Any = value
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, Tensor):
        return torch.stack([_tensor(each) for each in value])
    if hasattr(leaf, "__array__"):
        import numpy as np

        return _of_array(np.asarray(value))
    return torch.as_tensor(value)


def _of_array(value: Any) -> Tensor:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "buifc":
        raise _WrongError(_TENSOR)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and int(array.max()) >= 2**63:
            raise _WrongError(_TENSOR)
        array = array.astype("int64")  # torch computes with no other
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype("float64")
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, native, ["C_CONTIGUOUS", "WRITEABLE"]))


_PLURALS = {"True or False": "truth values", "text": "texts", "a class": "classes", _TENSOR: "tensors"}
_PLAIN: dict[Any, _Taken] = {
    Tensor: _tensor,
    bool: _truth,
    int: _whole,
    float: _number,
    str: _text,
    Path: _as_path,
    torch.device: _device,
}
