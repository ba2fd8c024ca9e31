"""Which files a module of the user's own is made of: itself and every module that it imports and a user can edit."""

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import FileFinder, ModuleSpec, PathFinder
from pathlib import Path

from limbeck.errors import ModelError

__all__ = ["code_identity", "is_editable", "is_library", "is_local", "look_again"]

_OWN = Path(__file__).resolve().parents[1]
_LIBRARIES = ("site-packages", "dist-packages")
_MOST_FILES = 2000  # of a folder that is taken whole


def code_identity(factory: str, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that decides what a factory builds, by the name of its module.

    factory: "package.module:function", or the module alone.  folder: where it is looked for before anywhere else.
    The files are the module's own and those of every module that it imports, directly or not, and that is neither of
    the standard library nor of an installed package; a package that is installed to be edited counts.  A module that
    imports by a name which is computed stands for all modules of its folder.  Of a factory in an installed package the
    file of its module is read alone.  The names hold no folder, so that a project may be moved.

    Raises ModelError where a computed import is of a folder with more files than can be read.

    >>> sorted(code_identity("json.decoder:JSONDecoder", Path()))
    ['json.decoder']
    """
    look_again(folder)
    module = factory.partition(":")[0]
    waiting, files = list(_files(module, folder)), dict[str, str]()
    if not waiting and (spec := _spec(module)) is not None and spec.origin and Path(spec.origin).is_file():
        return {module: _sha256(Path(spec.origin).read_bytes())}
    while waiting:
        name, path = waiting.pop()
        if name in files:
            continue
        content = path.read_bytes()
        files[name] = _sha256(content)
        if path.suffix == ".py":
            waiting += _imported(content, name, path, folder)
    return dict(sorted(files.items()))


def is_editable(module: str, folder: Path) -> bool:
    """Return whether a module has files that a user can edit, and is of no installed package.

    >>> is_editable("json.decoder", Path())
    False
    """
    return next(_files(module, folder), None) is not None


def look_again(folder: Path) -> None:
    """Clear what the import system remembers of a folder: it compares times, and two edits may share one."""
    for place, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, FileFinder) and Path(place).is_relative_to(folder):
            finder.invalidate_caches()


def is_local(name: str, folder: Path) -> bool:
    """Whether a module of this top-level name is taken from a folder: it is there, and no installed package has it."""
    module = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
    if module or any(folder.glob(f"{name}.*.so")) or any(folder.glob(f"{name}.*.pyd")):
        return not _is_installed(name, folder)
    if not (folder / name).is_dir() or _is_installed(name, folder):
        return False
    elsewhere = PathFinder.find_spec(name)  # a folder without __init__.py comes after every module
    return elsewhere is None or elsewhere.origin is None


def _is_installed(name: str, folder: Path) -> bool:
    """Whether a top-level name is of the standard library, of limbeck, or of an installed package outside `folder`."""
    if name in sys.stdlib_module_names or name in ("limbeck", "__main__"):
        return True
    spec = PathFinder.find_spec(
        name, [place for place in sys.path if is_library(Path(place)) or place in _linked(tuple(sys.path))]
    )
    if spec is None or spec.origin is None:
        spec = next(
            (
                found
                for finder in sys.meta_path
                if getattr(finder, "__module__", type(finder).__module__).startswith("__editable__")
                and (found := finder.find_spec(name, None)) is not None
            ),
            None,
        )
    if spec is None or spec.origin is None:
        return False
    return not Path(spec.origin).resolve().is_relative_to(folder.resolve())


def is_library(path: Path) -> bool:
    """Whether a file or folder is of the standard library, of an installed package or of limbeck: not to be edited.

    >>> import torch, typing
    >>> is_library(Path(torch.__file__)), is_library(Path(typing.__file__)), is_library(Path("net.py"))
    (True, True, False)
    """
    if any(part in _LIBRARIES for part in path.parts):
        return True
    resolved = path.resolve()
    return any(resolved.is_relative_to(place) for place in _places())


@cache
def _places() -> tuple[Path, ...]:
    """Return where limbeck and the standard library lie."""
    return (_OWN, *(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")))


@cache
def _linked(path: tuple[str, ...]) -> frozenset[str]:
    """Return the folders that are on the path because a package there is installed to be edited."""
    lines = set[str]()
    for place in map(Path, path):
        if place.name in _LIBRARIES and place.is_dir():
            for link in place.glob("*.pth"):
                lines |= set(link.read_text(encoding="utf-8", errors="replace").splitlines())
    return frozenset(lines & set(path))


def _files(module: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that are run to import a module, by name, of those that a user can edit."""
    first, *rest = module.split(".")
    if is_local(first, folder):
        places = [str(folder)]
    elif _is_installed(first, folder) and not any(_below(place, first) for place in _linked(tuple(sys.path))):
        return
    else:
        places = list(sys.path)
    name = ""
    for part in (first, *rest):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return
        if spec.origin is not None:
            if places != [str(folder)] and is_library(Path(spec.origin)):
                return
            if Path(spec.origin).is_file():
                yield name, Path(spec.origin)
        places = list(spec.submodule_search_locations or ())


def _below(place: str, name: str) -> bool:
    return (Path(place) / f"{name}.py").is_file() or (Path(place) / name / "__init__.py").is_file()


def _spec(module: str) -> ModuleSpec | None:
    """Return where an installed module is, without importing it or the packages that it is in."""
    places, name, spec = None, "", None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return spec


def _imported(content: bytes, name: str, path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of the modules that a module's source imports, anywhere in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # which importing it tells
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        wanted: list[str] = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", package, node.level)
            wanted = [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
            if node.level and not base:  # from . import a, in a module of no package
                wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            given = node.args[0] if node.args else None
            if not (isinstance(given, ast.Constant) and isinstance(given.value, str)):
                yield from _whole(path, name)
                continue
            dots = len(given.value) - len(given.value.lstrip("."))
            wanted = [_absolute(given.value.lstrip("."), package, dots)]
        for module in wanted:
            yield from _files(module, folder)


def _absolute(module: str, package: str, level: int) -> str:
    if not level:
        return module
    parts = package.split(".") if package else []
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, module] if module else base)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _whole(path: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield all modules of the folder that a module is in, since it imports by a name that is computed."""
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    found = 0
    for place, folders, files in os.walk(root):
        hidden = {each for each in folders if each.startswith(".") or (Path(place) / each / "pyvenv.cfg").is_file()}
        folders[:] = sorted(set(folders) - hidden)
        for file in sorted(each for each in files if each.endswith(".py")):
            found += 1
            if found > _MOST_FILES:
                raise ModelError(
                    f"factory: '{path}' imports by a computed name, and '{root}' has more than {_MOST_FILES:,} modules,"
                    " so that what it builds cannot be identified; import by name, or give it a folder of its own"
                )
            relative = (Path(place) / file).relative_to(root).with_suffix("")
            parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
            yield ".".join(parts) or "__init__", Path(place) / file


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
