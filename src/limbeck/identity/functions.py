"""What functions and classes do, as text: their bytecode and what they refer to; of a library, their name."""

import dataclasses
import dis
import enum
import functools
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.identity.modules import PREFIX
from limbeck.identity.sources import code_identity, is_editable, is_library

if TYPE_CHECKING:
    from limbeck.identity.content import Reader

__all__ = ["DESCRIPTORS", "described", "written"]

DESCRIPTORS = (
    types.BuiltinFunctionType,
    types.BuiltinMethodType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    property,
    staticmethod,
    classmethod,
    functools.cached_property,
)
_PYTHON = 1 << 9  # the flag of a class that Python code made
_UNTOLD = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__match_args__"),
        *("__dataclass_params__", "__dataclass_fields__", "__static_attributes__", "__firstlineno__"),
    }
)


def described(value: Any, reader: "Reader") -> str:
    """Return text that says all that decides what a function, a class or a module does."""
    if isinstance(value, types.ModuleType):
        return _module(value, reader)
    if isinstance(value, types.CodeType):
        return _code(value, reader)
    if isinstance(value, type):
        return _class(value, reader)
    if isinstance(value, types.MethodType):
        return f"method {reader.read(value.__func__)} of {reader.read(value.__self__)}"
    if isinstance(value, types.FunctionType):
        return _function(value, reader)
    if isinstance(value, property):
        return f"property {reader.all([value.fget, value.fset])}"
    if isinstance(value, staticmethod | classmethod):
        return f"{type(value).__name__} {reader.read(value.__func__)}"
    if isinstance(value, functools.cached_property):
        return f"property {reader.read(value.func)}"
    owner = getattr(value, "__self__", None)
    name = f"{getattr(value, '__module__', None)} {getattr(value, '__qualname__', value.__name__)}"
    if owner is None or isinstance(owner, types.ModuleType):
        return f"built in {name}"
    return f"built in {name} of {reader.read(owner)}"


def _function(value: types.FunctionType, reader: "Reader") -> str:
    code = value.__code__
    if _in_library(value) and _found(value) is value:
        return f"function {value.__module__}.{value.__qualname__}"
    told = [f"function {reader.read(code)} {reader.read(value.__defaults__)} {reader.read(value.__kwdefaults__)}"]
    for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
        if name != "__class__":  # which `super` reads, and which the class around says
            try:
                told.append(f"{name} {reader.read(cell.cell_contents, f'.{name}')}")
            except ValueError:
                told.append(f"{name} not set")
    known, (read, imported) = value.__globals__, _names(code)
    told += [f"{name} {reader.read(known[name], f'.{name}')}" for name in sorted(read) if name in known]
    for name in sorted(imported):
        loaded = sys.modules.get(_inside(known, name))
        unseen = _not_loaded(name, Path(code.co_filename).parent) if loaded is None else None
        told.append(f"{name} {unseen or described(loaded, reader)}")
    if value.__dict__:
        told.append(reader.named(value.__dict__))
    return " ".join(told)


def _not_loaded(name: str, folder: Path) -> str:
    """Describe a module as `_module` will once it is loaded."""
    return f"module {code_identity(name, folder) if is_editable(name, folder) else name}"


def _inside(known: dict[str, Any], name: str) -> str:
    """Return the name that a module, imported inside a function, has in `sys.modules`."""
    first, *_ = str(known.get("__name__", "")).split(".")
    return f"{first}.{name}" if f"{first}.{name}" in sys.modules else name


def _code(code: types.CodeType, reader: "Reader") -> str:
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    constants = reader.all(code.co_consts)
    return f"code {code.co_code.hex()} {code.co_exceptiontable.hex()} {shape} {names} {constants}"


def _names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Return the globals that a function's code reads, and the modules that it imports, inner functions included."""
    read, imported = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imported.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _names(constant)
            read |= inner[0]
            imported |= inner[1]
    return read, imported


def _class(value: type, reader: "Reader") -> str:
    name = f"{value.__module__}.{value.__qualname__}"
    if _in_library(value) and all(map(_in_library, value.__mro__)):  # not so of a user's class that was parametrised
        return f"class {name}"
    told = [f"class {value.__qualname__} {reader.all(value.__bases__)}"]
    if issubclass(value, enum.Enum):
        return f"{told[0]} {reader.named({member.name: member.value for member in value})}"
    own = {
        key: part
        for key, part in vars(value).items()
        if key not in _UNTOLD
        and not key.startswith("__pydantic")
        and not isinstance(part, types.GetSetDescriptorType | types.MemberDescriptorType)
    }
    if dataclasses.is_dataclass(value):  # what it generates is made of its fields
        own = {key: part for key, part in own.items() if getattr(_code_of(part), "co_filename", "") != "<string>"}
        fields = {field.name: [field.default, field.default_factory, field.init] for field in dataclasses.fields(value)}
        told.append(reader.named(fields))
    told.append(reader.named(own))
    return " ".join(told)


def _module(value: types.ModuleType, reader: "Reader") -> str:
    """A module is the files that it is made of, and one of a library its name."""
    file = getattr(value, "__file__", None)
    if _in_library(value):
        return f"module {value.__name__}"
    if file is None or not Path(file).is_file():
        raise reader.unread(value)
    path, name = Path(file), value.__name__
    if name == "__main__":
        name = path.stem
    package, _, own = name.partition(".")
    if package.startswith(PREFIX):
        return f"module {code_identity(own, Path(sys.modules[package].__path__[0]))}"
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    return f"module {code_identity(name, root)}"


def _in_library(value: Any) -> bool:
    """Whether a class, a function or a module is of the standard library, of an installed package or of limbeck."""
    file = getattr(_code_of(value), "co_filename", "<string>")
    if file.startswith("<frozen"):
        return True
    if file != "<string>":
        return not file.startswith("<") and is_library(Path(file))
    name = value.__name__ if isinstance(value, types.ModuleType) else (value.__module__ or "")
    if name == "__main__" or (name == "builtins" and getattr(value, "__flags__", 0) & _PYTHON):
        return False  # the user's script, and what was made in a namespace without a name
    if name.partition(".")[0] in (*sys.stdlib_module_names, "pybind11_builtins"):
        return True
    place = getattr(sys.modules.get(name), "__file__", None)
    return place is not None and is_library(Path(place))


def _code_of(value: Any) -> Any:
    return getattr(value, "__code__", None)


def _found(value: types.FunctionType) -> Any:
    """Return what stands where a function says that it does."""
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


@functools.lru_cache(maxsize=4096)
def written(kind: Any) -> frozenset[str]:
    """Return the attributes that a network's `forward` sets, in the methods that it calls too: traces of a call.

    >>> class Net:
    ...     def forward(self, x):
    ...         return self.look(x)
    ...     def look(self, x):
    ...         self.seen = x
    ...         return x
    >>> sorted(written(Net))
    ['seen']
    """
    waiting, done, found = ["forward"], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        method = getattr(kind, name, None)
        if name in done or not isinstance(method, types.FunctionType):
            continue
        done.add(name)
        codes = [method.__code__]
        while codes:
            code = codes.pop()
            waiting += code.co_names
            found |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
            codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return frozenset(found)
