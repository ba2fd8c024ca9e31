"""The cache, and files that nobody but the user can have written: what it must be made of before it is believed."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from limbeck.errors import RunError, command

__all__ = ["cache_folder", "require_own"]


def cache_folder() -> Path:
    """Return where limbeck keeps what can be made again: $XDG_CACHE_HOME/limbeck, or ~/.cache/limbeck."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "limbeck"
    except RuntimeError as error:
        raise RunError(f"cache: there is no home folder ({error}); set XDG_CACHE_HOME") from None


def require_own(folder: Path, top: Path) -> None:
    """Require that no other user could have written what lies in a folder of the cache; RunError otherwise.

    top: the cache that the folder is in.  The folder that the cache itself is in may be the system's, and may be
    writable where only a file's owner can rename it (/tmp).  For root too the files of another user are not its own.
    Where files have no owners (Windows), nothing is required.  A cache that is missing is made for the user alone.
    """
    if not hasattr(os, "geteuid"):
        return
    _make(top)
    above = top.parent.stat()
    if above.st_uid not in (os.geteuid(), 0) or (_others_write(above) and not above.st_mode & stat.S_ISVTX):
        _refuse(top.parent, above, top)
    closed = not top.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)  # nobody else reaches what is in it
    for path in _within(folder, top):
        try:
            found = path.stat()
        except FileNotFoundError:  # another process has made it and put it in its place
            continue
        if found.st_uid != os.geteuid() or (_others_write(found) and not closed):
            _refuse(path, found, top)


def _make(top: Path) -> None:
    try:
        top.parent.mkdir(parents=True, exist_ok=True)
        top.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cache: cannot make '{top}' ({error.strerror}); set XDG_CACHE_HOME to a folder that can be written"
        ) from None


def _within(folder: Path, top: Path) -> Iterator[Path]:
    """Yield the cache, the folders from it down to one of its folders, and all that lies in that."""
    between = [place for place in folder.parents if place != top and place.is_relative_to(top)]
    yield from (place for place in (top, *reversed(between), folder) if place.exists())
    yield from (path for path in folder.rglob("*") if path.exists())


def _others_write(found: os.stat_result) -> bool:
    """Whether others than the owner can write; the group of a user's own name is the user alone."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_private(found.st_gid)


def _is_private(group: int) -> bool:
    import grp
    import pwd

    try:
        return grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def _refuse(path: Path, found: os.stat_result, top: Path) -> None:
    elsewhere = "or set XDG_CACHE_HOME to a folder of your own"
    if found.st_uid != os.geteuid():
        raise RunError(
            f"cache: found '{path}', which belongs to user {found.st_uid}; expected files of your own (user "
            f"{os.geteuid()}), because files in the cache are trusted. Delete it, {elsewhere}"
        )
    raise RunError(
        f"cache: found '{path}', which other users can write (mode {stat.S_IMODE(found.st_mode):o}); expected a folder "
        f"that you alone can write, because files in the cache are trusted. Inspect it and run: "
        f"{command('chmod', *([] if path == top.parent else ['-R']), 'go-w', path)}, {elsewhere}"
    )
