"""The recipe: data, teacher, student, method and training of one distillation."""

import hashlib
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from limbeck import data, methods, models
from limbeck.checks import shown
from limbeck.config.reading import apply_overrides, read_yaml
from limbeck.config.sections import Section, parse, validate
from limbeck.data import Splits, Transfer
from limbeck.data.content import check_fits
from limbeck.errors import DataError, InputError, LimbeckError, ModelError, RecipeError, one_of
from limbeck.objective import Objective
from limbeck.training import Training, load_weights
from limbeck.training.trackers import check_trackers

__all__ = ["ModelSpec", "Recipe", "TeacherSpec", "load_recipe"]

_LONGEST_NAME, _LONGEST_PATH = 255, 2000
_FROM_DATA = frozenset({"input_shape", "classes"})
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_MOST_CANDIDATES = 1000


class _TeacherKeys(BaseModel):
    model_config = _STRICT
    model: dict[str, Any]
    training: dict[str, Any] = Field(default_factory=dict)
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "hard"})
    seed: int | None = Field(default=0, ge=0, lt=2**63)
    view: Literal["same", "clean"] = "same"
    store: bool = True


class _StudentKeys(BaseModel):
    model_config = _STRICT
    model: dict[str, Any]


class _ExpectKeys(BaseModel):
    model_config = _STRICT
    teacher_errors: float | None = None
    distilled_errors: float | None = None
    gap_closed: float | None = None


class _RecipeKeys(BaseModel):
    model_config = _STRICT
    name: str
    summary: str = ""
    data: dict[str, Any]
    teacher: _TeacherKeys
    student: _StudentKeys
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "kd"})
    training: dict[str, Any] = Field(default_factory=dict)
    validation: float | int = 0.1
    search: dict[str, list[Any]] = Field(default_factory=dict)
    refit: bool = False
    seeds: list[int] = Field(default_factory=lambda: [0])
    trackers: list[str] = Field(default_factory=list)
    expect: _ExpectKeys = Field(default_factory=_ExpectKeys)


@dataclass(frozen=True)
class ModelSpec:
    """A model as a recipe names it: a kind with its keys, or a factory with arguments; and perhaps its weights.

    folder: where the factory's module is looked for first.  base: the folder that the checkpoint's path is of.
    """

    where: str
    section: Section | None = None
    factory: str | None = None
    folder: Path = Path()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    base: Path = Path()

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


@dataclass(frozen=True)
class TeacherSpec:
    """The teacher as a recipe names it.  seed None: each student seed has a teacher of the same seed."""

    model: ModelSpec
    training: Training
    method: Section
    seed: int | None
    view: Literal["same", "clean"]
    store: bool


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; `keys` is the whole of it with every default, which repeats the run."""

    name: str
    data: Section
    transfer: Transfer
    teacher: TeacherSpec
    student: ModelSpec
    method: Section
    training: Training
    validation: float | int
    search: Mapping[str, Sequence[Any]]
    refit: bool
    seeds: tuple[int, ...]
    trackers: tuple[str, ...]
    expect: Mapping[str, float | None]
    keys: Mapping[str, Any]
    base: Path

    @classmethod
    def parse(cls, keys: Mapping[str, Any], base: Path = Path()) -> "Recipe":
        """Validate a whole recipe.  base: the folder that its relative paths are of."""
        top = validate(_RecipeKeys, dict(keys), "")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", top["name"]):
            raise RecipeError(
                f"name: found {shown(top['name'])}, expected 1 to 100 letters, digits, '.', '_', '-', a letter or"
                " digit first"
            )
        source, transfer = _data(dict(top["data"]), base)
        teacher = top["teacher"]
        recipe = cls(
            name=top["name"],
            data=source,
            transfer=transfer.build(),
            teacher=TeacherSpec(
                model=_model(dict(teacher["model"]), "teacher.model", base),
                training=parse(Training, teacher["training"], "teacher.training").build(),
                method=_method(dict(teacher["method"]), "teacher.method"),
                seed=teacher["seed"],
                view=teacher["view"],
                store=teacher["store"],
            ),
            student=_model(dict(top["student"]["model"]), "student.model", base),
            method=_method(dict(top["method"]), "method"),
            training=parse(Training, top["training"], "training").build(),
            validation=_validation(top["validation"]),
            search=top["search"],
            refit=top["refit"],
            seeds=_seeds(top["seeds"]),
            trackers=_trackers(top["trackers"]),
            expect=top["expect"],
            keys={},
            base=base,
        )
        if "teacher" in recipe.teacher.method.build().reads():
            raise RecipeError(
                f"teacher.method.name: '{top['teacher']['method']['name']}' needs a teacher itself; use hard"
            )
        resolved = {
            **top,
            "data": {
                "kind": top["data"]["kind"],
                **_plain(source.values),
                "transfer": _plain(transfer.values),
            },
            "teacher": {
                **teacher,
                "model": _plain(recipe.teacher.model.keys()),
                "training": _plain(parse(Training, teacher["training"], "teacher.training").values),
                "method": _method_keys(recipe.teacher.method),
            },
            "student": {"model": _plain(recipe.student.keys())},
            "method": _method_keys(recipe.method),
            "training": _plain(parse(Training, top["training"], "training").values),
        }
        object.__setattr__(recipe, "keys", resolved)
        for candidate in recipe.candidates()[1:]:
            candidate.method.build()
        return recipe

    def load_data(self) -> Splits:
        """Read the data."""
        try:
            splits: Splits = self.data.build()
        except DataError as error:
            raise DataError(f"data: {error}") from None
        return splits

    def objective(self) -> Objective:
        """Build the student's objective."""
        objective: Objective = self.method.build()
        return objective

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with some `key.path` values replaced."""
        keys = dict(self.keys)
        for path, value in values.items():
            keys = _replaced(keys, path.split("."), value, path)
        return Recipe.parse(keys, self.base)

    def candidates(self) -> list["Recipe"]:
        """Return one recipe for each combination of the search's values; the recipe itself without a search."""
        combinations: list[dict[str, Any]] = [{}]
        for path, values in self.search.items():
            if not path.startswith(("training.", "method.")):
                raise RecipeError(
                    f"search.{path}: expected a key of training or method, such as training.learning_rate"
                )
            if not values:
                raise RecipeError(f"search.{path}: found no values, expected a list of them")
            if len(combinations) * len(values) > _MOST_CANDIDATES:
                raise RecipeError(
                    f"search.{path}: more than {_MOST_CANDIDATES:,} combinations; expected fewer values to search"
                )
            combinations = [{**combination, path: value} for combination in combinations for value in values]
        if not self.search:
            return [self]
        plain = Recipe.parse({**self.keys, "search": {}}, self.base)
        try:
            return [plain.with_values(combination) for combination in combinations]
        except RecipeError as error:
            raise RecipeError(f"search.{error}") from None

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return yaml.safe_dump(dict(self.keys), sort_keys=False, allow_unicode=True, width=120)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe file; RecipeError with one line for the first thing that is wrong."""
    path = Path(path)
    return Recipe.parse(apply_overrides(read_yaml(path), overrides), path.parent)


def _data(keys: dict[str, Any], base: Path) -> tuple[Section, Section]:
    kinds = data.kinds()
    transfer = parse(Transfer, keys.pop("transfer", {}), "data.transfer")
    if "kind" not in keys:
        raise RecipeError(f"data.kind: is missing; one of: {', '.join(sorted(kinds))}")
    kind = keys.pop("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise RecipeError(f"data.kind: found {shown(kind)}; {one_of(str(kind), kinds)}")
    for key in ("folder", "path"):
        if isinstance(keys.get(key), str):
            keys[key] = str((base / _path(keys[key], f"data.{key}")).absolute())
    return parse(kinds[kind], keys, "data"), transfer


def _model(keys: dict[str, Any], where: str, base: Path) -> ModelSpec:
    checkpoint = keys.pop("checkpoint", None)
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise RecipeError(f"{where}.checkpoint: found {shown(checkpoint)}, expected the path of a .safetensors file")
    if checkpoint is not None:
        _path(checkpoint, f"{where}.checkpoint")
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
        place = base / _path(folder, f"{where}.folder")
        return ModelSpec(where, factory=factory, folder=place, arguments=arguments, checkpoint=checkpoint, base=base)
    kind = keys.pop("kind")
    if kind not in models.names():
        raise RecipeError(f"{where}.kind: found {shown(kind)}; {one_of(str(kind), models.names())}")
    section = parse(models.builder(kind), keys, where, given=_FROM_DATA)
    return ModelSpec(where, section=section, checkpoint=checkpoint, base=base)


def _path(text: str, where: str) -> Path:
    """Return the path that a recipe names, ~ expanded; RecipeError for what no file can be called."""
    try:
        path = Path(text).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"{where}: found {shown(text)} ({error}); write the path out") from None
    if "\0" in text or longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
        raise RecipeError(f"{where}: found {shown(text)}, which no file can be called; expected a path")
    return path


def _method(keys: dict[str, Any], where: str) -> Section:
    if "name" not in keys:
        raise RecipeError(f"{where}.name: is missing; one of: {', '.join(methods.names())}")
    name = keys.pop("name")
    if name not in methods.names():
        raise RecipeError(f"{where}.name: found {shown(name)}; {one_of(str(name), methods.names())}")
    section = parse(methods.builder(name), keys, where)
    section.build()
    return section


def _method_keys(section: Section) -> dict[str, Any]:
    return {"name": section.function.__name__, **{k: v for k, v in section.values.items() if v is not None}}


def _validation(value: float | int) -> float | int:
    whole = isinstance(value, int)
    if (whole and value < 1) or (not whole and not (math.isfinite(value) and 0 < value < 1)):
        raise RecipeError(f"validation: found {value!r}, expected a share in (0, 1) or a number of samples")
    return value


def _seeds(seeds: list[int]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise RecipeError(f"seeds: found {shown(seeds)}, expected at least one whole number from 0 on, each once")
    return tuple(seeds)


def _trackers(names: list[str]) -> tuple[str, ...]:
    try:
        check_trackers(names)
    except InputError as error:
        raise RecipeError(str(error)) from None
    return tuple(names)


def _replaced(keys: Mapping[str, Any], path: Sequence[str], value: Any, whole: str) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    if not rest:
        return {**keys, head: value}
    inner = keys.get(head, {})
    if not isinstance(inner, Mapping):
        raise RecipeError(f"{whole}: '{head}' has no keys")
    return {**keys, head: _replaced(inner, rest, value, whole)}


def _plain(value: Any) -> Any:
    """Return a value as YAML writes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


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
