"""Networks as a recipe names them: a kind with its keys, or a factory of the user's own."""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from pydantic import BaseModel, Field
from torch import nn

from limbeck import models
from limbeck.checks import shown
from limbeck.compress import rebuilt
from limbeck.config.sections import Section, of_kind, parse
from limbeck.data import SampleSet
from limbeck.data.content import check_fits
from limbeck.errors import (
    DataError,
    ForeignExitError,
    InputError,
    LimbeckError,
    MemoryLimitError,
    ModelError,
    RecipeError,
    lacks_memory,
    no_exit,
    one_of,
)
from limbeck.identity import Factory
from limbeck.models.layers import InputPart, InputTransform, read_configuration
from limbeck.models.timm import architecture_of
from limbeck.teachers import estimators
from limbeck.teachers.answers import stored
from limbeck.teachers.onnx import OnnxModel, onnx
from limbeck.training import load_weights
from limbeck.training.weight_files import transforms_of

__all__ = [
    "FROM_DATA",
    "FactoryKeys",
    "ModelSpec",
    "WeightKeys",
    "check_factory",
    "path_of",
    "plain",
    "read_answers",
    "read_estimator",
    "read_model",
]

_LONGEST_NAME, _LONGEST_PATH = 255, 2000
_FACTORY = r"[\w.]+:[\w.]+"
FROM_DATA = frozenset({"input_shape", "classes", "vocabulary", "max_length"})


class WeightKeys(BaseModel):
    """Weights that a network begins with.

    Attributes:
        checkpoint: a file or folder of weights: safetensors, or what torch.save wrote; fresh weights by default.
        key: the part of the checkpoint that holds the weights; all of it by default.
    """

    checkpoint: str | None = None
    key: str | None = None


class FactoryKeys(BaseModel):
    """A network of your own, built by a function of yours in place of a kind.

    Attributes:
        factory: the function, as "package.module:function"; it returns a torch.nn.Module.  Of `input_shape`, `classes`,
            `vocabulary` and `max_length` it is given those that it takes.
        folder: where the module is looked for first; by default the recipe's folder.
        arguments: further arguments of the function.
    """

    factory: str = Field(json_schema_extra={"pattern": f"^{_FACTORY}$"}, examples=["package.module:function"])
    folder: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """A model as a recipe names it: a kind with its keys, or a factory with arguments; and perhaps its weights.

    folder: where the factory's module is looked for first.  base: the folder that the checkpoint's path is of.
    key: the part of the checkpoint that holds the weights; None for all of it.
    sees: what the model sees of a sample: a part of it, or an image in another size and normalisation; None where it is
        the sample as it is.
    """

    where: str
    section: Section | None = None
    factory: str | None = None
    folder: Path = Path()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    key: str | None = None
    base: Path = Path()
    sees: InputPart | InputTransform | None = None

    def build(self, input_shape: Sequence[int], classes: int, vocabulary: int = 0, max_length: int = 0) -> nn.Module:
        """Build the model for data of a shape and number of classes, and load its weights if a checkpoint is named.

        vocabulary: how many names inputs are the numbers of; 0 where they are no such numbers.
        max_length: the largest number of tokens of a sample; 0 where samples are no texts.
        """
        given = {
            "input_shape": tuple(input_shape),
            "classes": classes,
            "vocabulary": vocabulary,
            "max_length": max_length,
        }
        model = self._from_factory(given) if self.section is None else self._from_kind(self.section, given)
        if self.checkpoint is not None:
            try:
                model = rebuilt(model, transforms_of(self.base / self.checkpoint))
                load_weights(model, self.base / self.checkpoint, self.key)
            except LimbeckError as error:
                raise type(error)(f"{self.where}.{error}") from None
        return model

    def build_for(self, samples: SampleSet) -> nn.Module:
        """Build the model for what it sees of a set's samples, and for the set's classes."""
        outputs = samples.task.outputs(samples.classes)
        if self.sees is None:
            model = self.build(samples.input_shape, outputs, len(samples.vocabulary), samples.max_length)
            if isinstance(model, OnnxModel):
                try:
                    model.place(samples)
                except InputError as error:
                    raise RecipeError(f"{self.where}.{error}") from None
            return model
        try:
            return self.sees.around(lambda shape: self.build(shape, outputs), samples)
        except InputError as error:
            key = "sees" if isinstance(self.sees, InputPart) else "input"
            raise RecipeError(f"{self.where.rpartition('.')[0]}.{key}.{error}") from None

    def keys(self) -> dict[str, Any]:
        """Return the model as a recipe writes it, defaults included."""
        if self.section is None:
            keys = {"factory": self.factory, "folder": str(self.folder.resolve()), "arguments": dict(self.arguments)}
        else:
            keys = {"kind": self.section.function.__name__, **self.section.values}
        if self.checkpoint is not None:
            keys["checkpoint"] = str((self.base / self.checkpoint).resolve())
        return keys if self.key is None else keys | {"key": self.key}

    @property
    def weights_from(self) -> str | None:
        """Where the model's weights are read from, its checkpoint or the folder of its kind; None for fresh ones."""
        values = {} if self.section is None else self.section.values
        onnx_file = values["path"] if self.section is not None and self.section.function is onnx else None
        by_name = values["name"] if self._of_timm and values["pretrained"] else None
        return self.checkpoint or values.get("folder") or values.get("hub") or onnx_file or by_name

    @property
    def is_pretrained(self) -> bool:
        """Whether it has weights of its own before any training: of a checkpoint, a folder, or perhaps a factory."""
        named = self.section is not None and self.section.function in (models.pretrained, models.timm)
        return self.checkpoint is not None or self.section is None or named

    @property
    def _of_timm(self) -> bool:
        return self.section is not None and self.section.function is models.timm

    def tokenizer_folders(self) -> list[Path]:
        """Return where the tokenizer may lie of the model's weights: in their folder, or in their run's."""
        if self.checkpoint is not None:
            place = (self.base / self.checkpoint).resolve()
            return [place.parent / "tokenizer", place.parent.parent / "tokenizer"]
        folder = {} if self.section is None else self.section.values
        return [Path(folder["folder"])] if folder.get("folder") else []

    def untrained(self) -> "ModelSpec":
        """Return the model without what its weights are read from."""
        section = self.section
        if section is not None and section.values.get("config") is not None and "folder" in section.values:
            section = replace(section, values={**section.values, "folder": "", "hub": ""})
        if section is not None and self._of_timm:
            section = replace(section, values={**section.values, "folder": "", "pretrained": False})
        if section is not None and section.function is onnx:
            section = replace(section, values={**section.values, "path": ""})
        return replace(self, section=section, checkpoint=None, key=None)

    @property
    def made_by(self) -> Factory | None:
        """The function of the user's own that builds it; None for a kind."""
        return None if self.factory is None else Factory(self.where, self.factory, self.folder)

    def code(self) -> dict[str, str] | None:
        """Return what `code_identity` says of the factory: the SHA-256 of each file of its code; None for a kind."""
        return None if self.made_by is None else self.made_by.code()

    def _from_kind(self, section: Section, given: Mapping[str, Any]) -> nn.Module:
        taken = inspect.signature(section.function).parameters
        given = {name: value for name, value in given.items() if name in taken}
        try:
            with torch.device("meta"):  # of shapes alone, to know the size before memory is asked for
                sized = section.function(**section.arguments, **given)
            size = sum(each.numel() * each.element_size() for each in sized.parameters())
            check_fits(f"{self.where}: the model", size)
            model: nn.Module = section.function(**section.arguments, **given)
        except DataError as error:
            raise ModelError(str(error)) from None
        except ModelError as error:
            raise ModelError(f"{self.where}.{error}") from None
        except InputError as error:
            raise RecipeError(f"{self.where}.{error}") from None
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
            if lacks_memory(error):
                raise MemoryLimitError(
                    f"{self.where}: takes {size:,} bytes, which is more than the memory; make the model smaller"
                ) from error
            raise ModelError(f"{self.where}: cannot be built ({_first_line(error)}); change its keys") from None
        return model

    def _from_factory(self, given: Mapping[str, Any]) -> nn.Module:
        made_by = Factory(self.where, str(self.factory), self.folder)
        with made_by.imported() as function:
            try:
                accepted = inspect.signature(function).parameters
                with no_exit(f"{self.where}.factory: '{self.factory}'"):
                    taken = {name: value for name, value in given.items() if name in accepted}
                    model = function(**taken, **self.arguments)
            except ForeignExitError:
                raise
            except Exception as error:
                if lacks_memory(error):
                    raise
                raise made_by.failed(error) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{self.where}.factory: '{self.factory}' returned {type(model).__name__}, expected a torch.nn.Module"
            )
        if _handed_out(model):
            raise ModelError(
                f"{self.where}.factory: '{self.factory}' returned weights that it has returned before, so that two"
                " networks would be one; let it build new ones at each call"
            )
        return model


def read_model(keys: dict[str, Any], where: str, base: Path) -> ModelSpec:
    """Return the network that a recipe's keys name; RecipeError with one line for the first wrong key."""
    checkpoint, key = _weights(keys, where)
    if ("kind" in keys) == ("factory" in keys):
        raise RecipeError(f"{where}: expected either kind (one of: {', '.join(models.names())}) or factory")
    if "factory" in keys:
        factory, arguments, folder = keys.pop("factory"), keys.pop("arguments", {}), keys.pop("folder", "")
        for wrong in keys:
            known = [*FactoryKeys.model_fields, *WeightKeys.model_fields]
            raise RecipeError(f"{where}.{wrong}: there is no such key; {one_of(wrong, known)}")
        check_factory(where, factory, folder, arguments)
        place = base / path_of(folder, f"{where}.folder")
        return ModelSpec(
            where, factory=factory, folder=place, arguments=arguments, base=base, checkpoint=checkpoint, key=key
        )
    _, section = of_kind(_written_out(keys, where), models.kinds(), where, given=FROM_DATA)
    section = _with_configuration(section, base)
    return ModelSpec(where, section=section, base=base, checkpoint=checkpoint, key=key)


def check_factory(where: str, factory: Any, folder: Any, arguments: Any) -> None:
    """Require the keys of a factory to be possible; RecipeError for the first that is not."""
    if not isinstance(folder, str):
        raise RecipeError(f"{where}.folder: found {shown(folder)}, expected the folder of the factory's module")
    if not isinstance(factory, str) or not re.fullmatch(_FACTORY, factory):
        raise RecipeError(f"{where}.factory: found {shown(factory)}, expected 'package.module:function'")
    if not isinstance(arguments, dict):
        raise RecipeError(f"{where}.arguments: found {shown(arguments)}, expected keys and values for the factory")


def _with_configuration(section: Section, base: Path) -> Section:
    """Return the keys of a network that is read from a folder, with the folder's whole path and its configuration.

    A reader of a finished run builds the network by the configuration, and has no need of the folder.
    """
    folder = section.values.get("folder")
    if not folder:
        return section
    place = (base / path_of(folder, f"{section.where}.folder")).resolve()
    found = section.values.get("config")
    try:
        if section.function is models.timm:
            name = section.values["name"] or architecture_of(place)
            return replace(section, values={**section.values, "folder": str(place), "name": name})
        found = read_configuration(place) if found is None else found
    except ModelError as error:
        raise RecipeError(f"{section.where}.{error}") from None
    return replace(section, values={**section.values, "folder": str(place), "config": found})


def _written_out(keys: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a network's keys with a name of the literature replaced by the family and the keys that it stands for."""
    if not isinstance(keys["kind"], str) or keys["kind"] not in models.published():
        return keys
    name, rest = keys["kind"], {key: value for key, value in keys.items() if key != "kind"}
    family, own = models.published()[name]
    for key in own.keys() & rest.keys():
        raise RecipeError(
            f"{where}.{key}: found {shown(rest[key])} beside kind: {name}, which sets it to {shown(own[key])};"
            f" leave it out, or write kind: {family}"
        )
    return {"kind": family, **own, **rest}


def read_estimator(keys: dict[str, Any], where: str, base: Path) -> ModelSpec:
    """Return the estimator of scikit-learn that a recipe's keys name; RecipeError for the first wrong key."""
    checkpoint, key = _weights(keys, where)
    _, section = of_kind(keys, estimators.kinds(), where, given=FROM_DATA)
    section.build(input_shape=(1,), classes=2)
    return ModelSpec(where, section=section, base=base, checkpoint=checkpoint, key=key)


def read_answers(function: Callable[..., Any], keys: Any, where: str, base: Path) -> ModelSpec:
    """Return the file or folder that answers in a teacher's place, named by its path alone or with further keys.

    function: what reads it: `answers`, `stored` or `onnx`.
    """
    values = {"path": keys} if isinstance(keys, str) else keys
    section = parse(function, values, where, given=FROM_DATA)
    path = (base / path_of(section.values["path"], f"{where}.path")).absolute()
    places = {"path": str(path)}
    if function is stored:
        test = section.values["test"]
        place = path / "test" if test is None else (base / path_of(test, f"{where}.test")).absolute()
        places["test"] = str(place)
    return ModelSpec(where, section=replace(section, values={**section.values, **places}))


def _weights(keys: dict[str, Any], where: str) -> tuple[str | None, str | None]:
    """Take the keys of a model's weights out of its keys, and return them: checkpoint, and the part of it."""
    checkpoint, key = keys.pop("checkpoint", None), keys.pop("key", None)
    if checkpoint is not None:
        if not isinstance(checkpoint, str):
            raise RecipeError(
                f"{where}.checkpoint: found {shown(checkpoint)}, expected the path of a file or folder of weights"
            )
        path_of(checkpoint, f"{where}.checkpoint")
    if key is not None and (checkpoint is None or not isinstance(key, str) or not key):
        expected = "the name of a part of the checkpoint" if checkpoint else "a checkpoint that it is a part of"
        raise RecipeError(f"{where}.key: found {shown(key)}, expected {expected}")
    return checkpoint, key


def path_of(text: str, where: str) -> Path:
    """Return the path that a recipe names; RecipeError for what no file can be called.

    ~ and an environment variable in front, such as $LIMBECK_DATA/texts, are expanded.
    """
    if named := re.match(r"\$([A-Z][A-Z0-9_]*)(?=/|$)", text):
        if not os.environ.get(named[1]):
            raise RecipeError(
                f"{where}: found {shown(text)}, but the variable {named[1]} is not set; set it to a folder"
                f" (export {named[1]}=DIR)"
            )
        text = os.environ[named[1]] + text[named.end() :]
    try:
        path = Path(text).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"{where}: found {shown(text)} ({error}); write the path out") from None
    if "\0" in text or longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
        raise RecipeError(f"{where}: found {shown(text)}, which is not a possible file name; expected a path")
    return path


_HANDED_OUT: "WeakValueDictionary[int, Any]" = WeakValueDictionary()


def _handed_out(model: nn.Module) -> bool:
    """Whether a factory returned a model, or a part of it that holds weights, before; all of them are noted."""
    holders = [
        part for part in model.modules() if any(True for _ in chain(part.parameters(False), part.buffers(False)))
    ]
    parts = [model, *holders, *model.parameters()]
    before = any(_HANDED_OUT.get(id(part)) is part for part in parts)
    _HANDED_OUT.update({id(part): part for part in parts})
    return before


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def plain(value: Any) -> Any:
    """Return a value as YAML writes it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
