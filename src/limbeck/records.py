"""JSON that limbeck writes: valid everywhere, and with a checksum of itself wherever it is read back."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["as_json", "finite", "sealed", "unsealed"]

_SEAL = "sha256"


def finite(value: Any) -> Any:
    """Return plain values with None in place of what is not finite, which JSON has no word for.

    >>> finite({"nll": float("inf"), "errors": [3, float("nan")]})
    {'nll': None, 'errors': [3, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any, *, indent: int | None = 1) -> str:
    """Return plain values as JSON that every reader accepts; what is not finite is null.

    >>> as_json({"nll": float("nan")}, indent=None)
    '{"nll": null}'
    """
    return json.dumps(finite(content), indent=indent, allow_nan=False)


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
        raise ValueError("it holds no keys")
    plain = {key: value for key, value in content.items() if key != _SEAL}
    if _SEAL not in content:
        raise ValueError("it has no checksum: an older limbeck wrote it")
    if content[_SEAL] != _digest(plain):
        raise ValueError("wrong checksum")
    return plain


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
