"""What limbeck writes: whole files, and JSON that is valid everywhere; what is read back is sealed and typed."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from limbeck.errors import RunError

__all__ = ["Number", "as_json", "plain_values", "read_as", "sealed", "unsealed", "write_aside"]

T = TypeVar("T")

_SEAL = "sha256"


class _NullIsNan:
    """Tells pydantic that a number may be null in JSON, which has no word for what is not finite."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(
            lambda value: math.nan if value is None else value, handler(source)
        )


Number = Annotated[float, _NullIsNan()]
"""A number that is read back as NaN if it was not finite."""


def plain_values(value: Any) -> Any:
    """Return a value as JSON holds it: a dataclass by its fields, or by its `as_dict`, which adds to them.

    Keys become text, sequences lists, and what is not finite None, since JSON has no word for it.

    >>> plain_values({"nll": float("inf"), "errors": (3, float("nan"))})
    {'nll': None, 'errors': [3, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        told = getattr(value, "as_dict", None)
        value = told() if told else {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any, *, indent: int | None = 1) -> str:
    """Return what `plain_values` makes of something as JSON that every reader accepts.

    >>> as_json({"nll": float("nan")}, indent=None)
    '{"nll": null}'
    """
    return json.dumps(plain_values(content), indent=indent, allow_nan=False)


def read_as(kind: type[T], content: Mapping[str, Any]) -> T:
    """Return the dataclass that `plain_values` was given; ValueError with the first field that does not fit."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:  # making one takes longer than reading with it
        _ADAPTERS[kind] = TypeAdapter(kind)
    read: T = _ADAPTERS[kind].validate_json(json.dumps(content), strict=True)
    return read


_ADAPTERS: dict[type, Any] = {}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON with a checksum of itself, as the key "sha256"."""
    plain = json.loads(as_json(content))
    return {**plain, _SEAL: _digest(plain)}


def unsealed(content: Any) -> dict[str, Any]:
    """Return what `sealed` was given; ValueError where it is something else, or has no checksum or a wrong one.

    >>> unsealed(sealed({"errors": 3}))
    {'errors': 3}
    """
    if not isinstance(content, dict):
        raise ValueError("it has no keys")
    plain = {key: value for key, value in content.items() if key != _SEAL}
    if _SEAL not in content:
        raise ValueError("it has no checksum")
    if content[_SEAL] != _digest(plain):
        raise ValueError("wrong checksum")
    return plain


def write_aside(path: Path, content: str | bytes, *, what: str, mend: str = "name another file") -> None:
    """Write a file that a user named: aside, then renamed; RunError with the mend where that cannot be.

    what: begins the message.
    """
    aside = path.with_name(f".limbeck-{os.getpid()}.tmp")
    try:
        aside.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        aside.replace(path)
    except OSError as error:
        raise RunError(f"{what}: cannot write '{path}' ({error.strerror or error}); {mend}") from None
    finally:
        with suppress(OSError):
            aside.unlink()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
