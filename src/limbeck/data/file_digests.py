"""Digests of large files: each is read once, and known again as long as the file is as long and as old as it was."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, LimbeckError

__all__ = ["file_digest", "kept", "remember"]

_LARGE = 2**26  # smaller files are read again: that takes less than a look at the cache is worth


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; DataError where it cannot be read.

    That of a large file is kept in limbeck's cache beside its size and its time of change, and read there next time; a
    cache that cannot be written costs time and nothing else.
    """
    try:
        stat = path.stat()
        known = {"path": str(path.absolute()), "size": stat.st_size, "changed": stat.st_mtime_ns}
        name = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        if stat.st_size >= _LARGE and (found := kept("digests", name)) is not None and found.get("file") == known:
            return str(found["content"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); put it back or name another") from None
    if stat.st_size >= _LARGE:
        remember("digests", name, {"file": known, "content": digest})
    return digest


def kept(room: str, name: str) -> Mapping[str, Any] | None:
    """Return what was remembered under a name; None where nothing was, or it was damaged."""
    from limbeck.records import unsealed

    try:
        content = unsealed(json.loads(_place(room, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, LimbeckError):
        return None
    return content if isinstance(content, dict) else None


def remember(room: str, name: str, content: Mapping[str, Any]) -> None:
    """Keep plain values in limbeck's cache, if it can be written."""
    from limbeck.records import sealed

    try:
        place = _place(room, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.{os.getpid()}")
        aside.write_text(json.dumps(sealed(content)), encoding="utf-8")
        aside.replace(place)
    except (OSError, LimbeckError):
        return


def _place(room: str, name: str) -> Path:
    from limbeck.own import cache_folder

    return cache_folder() / "data" / room / f"{name}.json"
