"""Importing a module of the user's own from its folder: apart from other folders' modules, and behind all libraries."""

import builtins
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from limbeck.identity.sources import code_identity, is_local, look_again

__all__ = ["PREFIX", "importing"]

PREFIX = "_limbeck_code_"
"""Of the package that holds the modules of a folder."""


@contextmanager
def importing(name: str, folder: Path) -> Iterator[ModuleType]:
    """Import a module from a folder, or from where Python finds it; what it imports in the scope is found there too.

    A module of the folder, and what it imports of the folder, bears a name of its own in `sys.modules`, made of the
    folder and of the content of all files that it is made of: modules of one name in two folders are two modules, a
    file that was edited is imported anew, and `sys.path` stays as it is.  The folder never takes the place of the
    standard library or of an installed package.

    Raises ImportError where there is no such module, and where both the folder and an installed package have it;
    whatever the module raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "made.py").write_text("SIZE = 3")
    ...     with importing("made", Path(place)) as module:
    ...         module.SIZE, "made" in sys.modules
    (3, False)
    """
    folder, first = folder.resolve(), name.partition(".")[0]
    look_again(folder)
    if not is_local(first, folder):
        if any(place.exists() for place in (folder / f"{first}.py", folder / first / "__init__.py")):
            raise ImportError(f"found in both '{folder}' and an installed package; rename the one in the folder")
        yield importlib.import_module(name)
        return
    apart = _Apart(folder, _package(folder, code_identity(name, folder)))
    sys.meta_path.insert(0, apart)
    try:
        try:
            module = importlib.import_module(f"{apart.package}.{name}")
        except ImportError as error:
            raise ImportError(str(error).replace(f"{apart.package}.", "")) from error
        yield module
    finally:
        sys.meta_path.remove(apart)
        for served in apart.served:
            sys.modules.pop(served, None)


def _package(folder: Path, files: Mapping[str, str]) -> str:
    """Return the name of the package that holds a folder's modules, and see that it is there."""
    name = PREFIX + hashlib.sha256(json.dumps([str(folder), files]).encode()).hexdigest()[:16]
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return name


class _Finder:
    """Finds the modules of such packages."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(PREFIX) or path is None:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            package = name.partition(".")[0]
            folder = Path(sys.modules[package].__path__[0])
            spec.loader = _Loader(name, spec.loader.path, partial(_import, package, folder))
        return spec


class _Loader(SourceFileLoader):
    """Compiles the source as it is, whatever bytecode of another edit of it is kept, and gives it an import of its own.

    Bytecode is kept by a file's length and second, which two edits may share.
    """

    def __init__(self, name: str, path: str, import_: Callable[..., ModuleType]) -> None:
        super().__init__(name, path)
        self._import = import_

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)


def _import(
    package: str,
    folder: Path,
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - as `__import__` calls it
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Import as `__import__` does; a module of the folder comes from its package."""
    first = name.partition(".")[0]
    if level or not _is_local(package, first, folder):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    try:
        found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(str(error).replace(f"{package}.", ""), name=error.name) from None
    return found if fromlist else sys.modules[f"{package}.{first}"]


@cache
def _is_local(package: str, name: str, folder: Path) -> bool:  # noqa: ARG001 - of a package it does not change
    return is_local(name, folder)


class _Apart(Loader):
    """Finds what a folder's modules ask for by `importlib.import_module`; for a scope alone.

    served: the names that it gave, to be taken out of `sys.modules` at the scope's end.
    """

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.package = folder, package
        self.served: list[str] = []
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        first = name.partition(".")[0]
        if name.startswith(PREFIX) or not _is_local(self.package, first, self.folder):
            return None
        own = f"{self.package}.{name}"
        try:
            importlib.import_module(own)
        except ModuleNotFoundError:
            return None
        self.served.append(name)
        return ModuleSpec(name, self, origin=own)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = sys.modules[str(spec.origin)]
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it ran as the package's own.  Its spec, which the import system has replaced, is put back."""
        asked = module.__spec__
        if asked is not None:
            module.__spec__ = self._specs.pop(asked.name)
