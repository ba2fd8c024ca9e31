"""Fetching published files once, checked, into the cache."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from limbeck.errors import DataError
from limbeck.own import cache_folder

__all__ = ["download", "kept_under", "own_folder"]

_TIMEOUT = 20.0  # seconds of silence before an address is given up


def download(file: str, folder: Path, addresses: Sequence[str], checksum: str) -> None:
    """Have `file` in `folder`: as it is when it is there, else from the first address that gives the right content.

    checksum: SHA-256 of the file.  It is written aside and then renamed, so that no half file is ever found.
    Raises DataError naming the addresses tried and the mend.
    """
    path = folder / file
    if path.exists():
        return
    failures = []
    for address in addresses:
        try:
            content = _fetched(address + file)
        except (OSError, ValueError) as error:
            failures.append(f"{address} ({_reason(error)})")
            continue
        if hashlib.sha256(content).hexdigest() != checksum:
            failures.append(f"{address} (wrong checksum)")
            continue
        _write(path, content)
        return
    raise DataError(f"{file}: could not be downloaded from {', '.join(failures)}; place the file in {folder}")


def own_folder(name: str, folder: str | None) -> Path | None:
    """Return the folder that a user has a published set in: `folder`, else $LIMBECK_DATA/name where that exists."""
    if folder is not None:
        return Path(folder).expanduser()
    own = os.environ.get("LIMBECK_DATA")
    return Path(own) / name if own and (Path(own) / name).is_dir() else None


def kept_under(name: str) -> Path:
    """Return the folder in the cache that the downloaded files of a set are kept in."""
    return cache_folder() / "data" / name


def _fetched(address: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read()
    except HTTPException as error:
        raise OSError(type(error).__name__) from error
    return content


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return " ".join(text.split())


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); set XDG_CACHE_HOME elsewhere"
        ) from None
