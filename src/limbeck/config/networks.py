"""Networks as a recipe names them: a kind with its keys, or a factory of the user's own."""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import models
from limbeck.checks import shown
from limbeck.config.sections import Section, parse
from limbeck.data import SampleSet
from limbeck.data.content import check_fits
from limbeck.errors import DataError, InputError, LimbeckError, ModelError, RecipeError, one_of
from limbeck.models.layers import Sees
from limbeck.teachers import estimators
from limbeck.teachers.answers import answers
from limbeck.training import load_weights

__all__ = ["ModelSpec", "path_of", "plain", "read_arrays", "read_estimator", "read_model"]

_LONGEST_NAME, _LONGEST_PATH = 255, 2000
_FROM_DATA = frozenset({"input_shape", "classes"})


@dataclass(frozen=True)
class ModelSpec:
    """A model as a recipe names it: a kind with its keys, or a factory with arguments; and perhaps its weights.

    folder: where the factory's module is looked for first.  base: the folder that the checkpoint's path is of.
    sees: what the model sees of a sample; None where it is all of it.
    """

    where: str
    section: Section | None = None
    factory: str | None = None
    folder: Path = Path()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    base: Path = Path()
    sees: Sees | None = None

    def build(self, input_shape: Sequence[int], classes: int) -> nn.Module:
        """Build the model for data of a shape and number of classes, and load its weights if a checkpoint is named."""
        given = {"input_shape": tuple(input_shape), "classes": classes}
        model = self._from_factory(given) if self.section is None else self._from_kind(self.section, given)
        if self.checkpoint is not None:
            try:
                load_weights(model, self.base / self.checkpoint)
            except LimbeckError as error:
                raise type(error)(f"{self.where}.{error}") from None
        return model

    def build_for(self, samples: SampleSet) -> nn.Module:
        """Build the model for what it sees of a set's samples, and for the set's classes."""
        outputs = samples.task.outputs(samples.classes)
        if self.sees is None:
            return self.build(samples.input_shape, outputs)
        try:
            return self.sees.around(lambda shape: self.build(shape, outputs), samples)
        except InputError as error:
            raise RecipeError(f"{self.where.rpartition('.')[0]}.sees.{error}") from None

    def keys(self) -> dict[str, Any]:
        """Return the model as a recipe writes it, defaults included."""
        if self.section is None:
            keys = {"factory": self.factory, "folder": str(self.folder.resolve()), "arguments": dict(self.arguments)}
        else:
            keys = {"kind": self.section.function.__name__, **self.section.values}
        return keys | ({} if self.checkpoint is None else {"checkpoint": str((self.base / self.checkpoint).resolve())})

    def code(self) -> str | None:
        """Return the digest of the file that a factory is written in, where it is written in one; None for a kind."""
        if self.factory is None:
            return None
        module = inspect.getmodule(_import_factory(self.factory, self.where, self.folder))
        path = Path(getattr(module, "__file__", None) or "")
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def _from_kind(self, section: Section, given: Mapping[str, Any]) -> nn.Module:
        try:
            with torch.device("meta"):  # of shapes alone, to know the size before memory is asked for
                size = sum(each.numel() * each.element_size() for each in section.build(**given).parameters())
            check_fits(f"{self.where}: the model", size)
            model: nn.Module = section.build(**given)
        except DataError as error:
            raise ModelError(str(error)) from None
        except ModelError as error:
            raise ModelError(f"{self.where}.{error}") from None
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
            raise ModelError(f"{self.where}: cannot be built ({_first_line(error)}); change its keys") from None
        return model

    def _from_factory(self, given: Mapping[str, Any]) -> nn.Module:
        function = _import_factory(str(self.factory), self.where, self.folder)
        try:
            accepted = inspect.signature(function).parameters
            model = function(**{name: value for name, value in given.items() if name in accepted}, **self.arguments)
        except Exception as error:
            raise ModelError(
                f"{self.where}.factory: '{self.factory}' raised {type(error).__name__}: {_first_line(error)}; "
                "mend it or its arguments"
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.where}.factory: '{self.factory}' returned {type(model).__name__}, expected a torch.nn.Module"
            )
        return model


def read_model(keys: dict[str, Any], where: str, base: Path) -> ModelSpec:
    """Return the network that a recipe's keys name; RecipeError with one line for the first wrong key."""
    checkpoint = _checkpoint(keys, where)
    if ("kind" in keys) == ("factory" in keys):
        raise RecipeError(f"{where}: expected either kind (one of: {', '.join(models.names())}) or factory")
    if "factory" in keys:
        factory, arguments, folder = keys.pop("factory"), keys.pop("arguments", {}), keys.pop("folder", "")
        for wrong in keys:
            known = ["factory", "folder", "arguments", "checkpoint"]
            raise RecipeError(f"{where}.{wrong}: there is no such key; {one_of(wrong, known)}")
        if not isinstance(folder, str):
            raise RecipeError(
                f"{where}.folder: found {shown(folder)}, expected the folder that the factory's module is in"
            )
        if not isinstance(factory, str) or not re.fullmatch(r"[\w.]+:[\w.]+", factory):
            raise RecipeError(f"{where}.factory: found {shown(factory)}, expected 'package.module:function'")
        if not isinstance(arguments, dict):
            raise RecipeError(f"{where}.arguments: found {shown(arguments)}, expected keys and values for the factory")
        place = base / path_of(folder, f"{where}.folder")
        return ModelSpec(where, factory=factory, folder=place, arguments=arguments, checkpoint=checkpoint, base=base)
    kind = keys.pop("kind")
    if kind not in models.names():
        raise RecipeError(f"{where}.kind: found {shown(kind)}; {one_of(str(kind), models.names())}")
    section = parse(models.builder(kind), keys, where, given=_FROM_DATA)
    return ModelSpec(where, section=section, checkpoint=checkpoint, base=base)


def read_estimator(keys: dict[str, Any], where: str, base: Path) -> ModelSpec:
    """Return the estimator of scikit-learn that a recipe's keys name; RecipeError for the first wrong key."""
    checkpoint = _checkpoint(keys, where)
    kind = keys.pop("kind", None)
    if kind is None:
        raise RecipeError(f"{where}.kind: is missing; one of: {', '.join(estimators.names())}")
    if kind not in estimators.names():
        raise RecipeError(f"{where}.kind: found {shown(kind)}; {one_of(str(kind), estimators.names())}")
    section = parse(estimators.builder(kind), keys, where, given=_FROM_DATA)
    section.build(input_shape=(1,), classes=2)
    return ModelSpec(where, section=section, checkpoint=checkpoint, base=base)


def read_arrays(keys: Any, where: str, base: Path) -> ModelSpec:
    """Return the answers in a file that a recipe names, by its path alone or with further keys."""
    values = {"path": keys} if isinstance(keys, str) else keys
    section = parse(answers, values, where, given=_FROM_DATA)
    path = str((base / path_of(section.values["path"], f"{where}.path")).absolute())
    return ModelSpec(where, section=replace(section, values={**section.values, "path": path}))


def _checkpoint(keys: dict[str, Any], where: str) -> str | None:
    checkpoint = keys.pop("checkpoint", None)
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str):
        raise RecipeError(f"{where}.checkpoint: found {shown(checkpoint)}, expected the path of a .safetensors file")
    path_of(checkpoint, f"{where}.checkpoint")
    return checkpoint


def path_of(text: str, where: str) -> Path:
    """Return the path that a recipe names, ~ expanded; RecipeError for what no file can be called."""
    try:
        path = Path(text).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"{where}: found {shown(text)} ({error}); write the path out") from None
    if "\0" in text or longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
        raise RecipeError(f"{where}: found {shown(text)}, which no file can be called; expected a path")
    return path


def _import_factory(factory: str, where: str, folder: Path) -> Any:
    module_name, _, name = factory.partition(":")
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{where}.factory: cannot import '{module_name}' ({error}); check the name or install it"
        ) from None
    except Exception as error:
        raise ModelError(
            f"{where}.factory: importing '{module_name}' raised {type(error).__name__}: {_first_line(error)}; mend it"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{where}.factory: '{module_name}' has no '{part}'; {one_of(part, _public(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{where}.factory: '{factory}' is {type(found).__name__}, expected a function")
    return found


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def plain(value: Any) -> Any:
    """Return a value as YAML writes it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
