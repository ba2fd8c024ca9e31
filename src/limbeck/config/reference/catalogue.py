"""Every key that a recipe takes, from the models, functions and classes that validate it."""

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from limbeck import data, methods, models, schemes
from limbeck.config.keys import SCHEME_KEYS, DataKeys, RecipeKeys
from limbeck.config.networks import FROM_DATA, FactoryKeys, WeightKeys, plain
from limbeck.config.reference.docstrings import described, first_sentence, paper
from limbeck.config.reference.limits import NO_LIMITS, Limits, limits_of, limits_said, probed
from limbeck.config.sections import FAMILIES, family_of, model_of
from limbeck.config.written import Listed, Named, Written
from limbeck.data import Selection
from limbeck.teachers import estimators

__all__ = ["REQUIRED", "Catalogue", "Family", "Key", "Section", "catalogue"]


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
"""The default of a key without one."""


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    path: of its section and its own name.  options: what may be written, as types, classes with keys of their own,
    `Named` and `Listed`.  default: as a recipe writes it; `REQUIRED` for none.  takes: what validates it.
    """

    path: str
    name: str
    meaning: str
    options: tuple[Any, ...]
    default: Any
    takes: Any = field(repr=False)
    constraints: tuple[Any, ...] = ()
    examples: tuple[Any, ...] = ()

    @cached_property
    def limits(self) -> Limits:
        """The range of the number that may be written; without bounds where it is none, or one of two types."""
        numbers = [each for each in self.options if each in (int, float)]
        if len(numbers) != 1:
            return NO_LIMITS
        (number,) = numbers
        if self.constraints:
            return limits_of(self.constraints)
        found = NO_LIMITS if _is_model(self.takes) else probed(self.takes, self.name, number is int)
        return limits_said(self.meaning) if found == NO_LIMITS else found

    @property
    def required(self) -> bool:
        """Whether it must be written."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Section:
    """Keys that stand together.

    path: where the reference has it.  takes: what validates it.  family, kind: of one of several kinds; "" elsewhere.
    extra: keys that it has besides, from other models.
    """

    path: str
    takes: Any
    family: str = ""
    kind: str = ""
    extra: tuple[Any, ...] = ()

    @property
    def summary(self) -> str:
        """What it is, in a sentence."""
        return first_sentence(self.takes)

    @property
    def paper(self) -> str:
        """The paper that it is from; "" for none."""
        return paper(self.takes)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Its keys, in the order in which they are declared."""
        return tuple(key for takes in (self.takes, *self.extra) for key in _keys(takes, self))

    def key(self, name: str) -> Key | None:
        """Return the key of a name; None for none."""
        return next((key for key in self.keys if key.name == name), None)


@dataclass(frozen=True)
class Family:
    """Sections of which a recipe names one.

    key: that names the kind.  kinds: what makes each.  common: models of keys that every kind has.  other: sections
    that may stand in the place of a kind, each known by a key of its own.  alone: whether a kind may be written as
    its name alone.  aliases: further names, and the kind that each is of.
    """

    name: str
    summary: str
    kinds: Mapping[str, Callable[..., Any]]
    key: str = "kind"
    common: tuple[Any, ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sections(self) -> Mapping[str, Section]:
        """The section of each kind, and of what may stand in its place."""
        both = {**self.kinds, **self.other}
        return {kind: Section(f"{self.name}.{kind}", takes, self.name, kind) for kind, takes in both.items()}

    @cached_property
    def shared(self) -> tuple[Key, ...]:
        """The keys that every kind has beside its own."""
        own = Section(self.name, None, self.name)
        return tuple(key for takes in self.common for key in _keys(takes, own))


def families() -> dict[str, Family]:
    """Return every family, by its name."""
    weights = (WeightKeys,)
    aliases = {name: family for name, (family, _) in models.published().items()}
    found = [
        Family(
            "data",
            "Where the samples come from.",
            data.kinds(),
            common=(Selection, DataKeys),
            other={"factory": data.from_factory},
        ),
        Family(
            "model",
            "A network: one of these kinds, or a function of yours (`factory`).",
            models.kinds(),
            common=weights,
            other={"factory": FactoryKeys},
            aliases=aliases,
        ),
        Family("estimator", "An estimator of scikit-learn that teaches.", estimators.kinds(), common=weights),
        Family("method", "What a student learns from.", methods.kinds(), key="name"),
        Family("scheme", "Who teaches whom, and when.", schemes.kinds(), key="name"),
    ]
    meanings = {
        "schedule": "A number that changes with the training step; wherever one may stand, a plain number may too.",
        "divergence": "How far the student's distribution is from the target.",
        "target": "What of the teacher's answer the student is asked to match.",
        "synthetic": "Samples that are made, for the teacher to label.",
        "tokenizer": "How texts become tokens; it is made from the training part.",
        "transform": "What makes a network smaller.",
    }
    found += [Family(name, meanings[name], kinds, alone=True) for name, (_, kinds) in FAMILIES.items()]
    return {family.name: family for family in found}


@dataclass(frozen=True)
class Catalogue:
    """All sections of a recipe.

    root: the recipe itself.  families: by name.  sections: those that are of no family, by path.  places: where in a
    recipe each section and family stands, by its path.
    """

    root: Section
    families: Mapping[str, Family]
    sections: Mapping[str, Section]
    paths: Mapping[Any, str]
    places: Mapping[str, Sequence[str]]

    def everything(self) -> list[Section]:
        """Return every section once: the recipe, those of no family, and every kind of each family."""
        kinds = [section for family in self.families.values() for section in family.sections.values()]
        return [self.root, *self.sections.values(), *kinds]

    def all_keys(self) -> Iterator[Key]:
        """Return every key of every section, and those that the kinds of a family share."""
        for section in self.everything():
            yield from section.keys
        for family in self.families.values():
            yield from family.shared

    def section_of(self, option: Any) -> Section:
        """Return the section of a class whose fields are keys."""
        return self.sections[self.paths[option]]


@cache
def catalogue() -> Catalogue:
    """Return all sections of a recipe, found from its top."""
    found = families()
    root = Section("", RecipeKeys)
    sections: dict[str, Section] = {}
    paths: dict[Any, str] = {}
    places: dict[str, list[str]] = {}
    waiting = deque((key, key.path) for key in root.keys)
    seen_families: set[str] = set()
    while waiting:
        key, place = waiting.popleft()
        for option in flat(key.options):
            if isinstance(option, Named):
                places.setdefault(option.family, []).append(place)
                if option.family not in seen_families:
                    seen_families.add(option.family)
                    family = found[option.family]
                    inner = [*family.shared, *(each for section in family.sections.values() for each in section.keys)]
                    waiting.extend((each, each.path) for each in inner)
            elif has_keys(option):
                path = paths.setdefault(option, place)
                places.setdefault(path, []).append(place)
                if path not in sections:
                    sections[path] = Section(path, option)
                    waiting.extend((each, each.path) for each in sections[path].keys)
    return Catalogue(root, found, sections, paths, places)


def flat(options: Sequence[Any]) -> Iterator[Any]:
    """Return options, those inside lists and mappings too."""
    for option in options:
        yield from flat(options_of(option.of)) if isinstance(option, Listed) else (option,)


def has_keys(option: Any) -> bool:
    """Return whether what is written is a mapping whose keys the catalogue has."""
    return _is_model(option) or (is_dataclass(option) and inspect.isclass(option)) or inspect.isfunction(option)


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return what a recipe may write for a type.

    >>> options_of(int | None)
    (<class 'int'>, <class 'NoneType'>)
    >>> options_of(tuple[float, ...])
    (Listed(of=<class 'float'>),)
    """
    if isinstance(hint, Written):
        return tuple(option for each in hint.options for option in options_of(each))
    if isinstance(hint, Named | Listed):
        return (hint,)
    if hint is None:
        return (NoneType,)
    if get_origin(hint) is Annotated:
        written = next((each for each in hint.__metadata__ if isinstance(each, Written)), None)
        return (hint,) if written is None else options_of(written)
    if (name := family_of(hint)) is not None:
        number = (float,) if name == "schedule" else ()
        empty = (NoneType,) if NoneType in get_args(hint) else ()
        return (*number, Named(name), *empty)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return tuple(dict.fromkeys(option for each in arguments for option in options_of(each)))
    if origin is tuple and arguments[1:] == (...,):
        return (Listed(arguments[0]),)
    if origin in (list, Sequence):
        return (Listed(arguments[0]),)
    return (hint,)


def _is_model(takes: Any) -> bool:
    return inspect.isclass(takes) and issubclass(takes, BaseModel)


def _keys(takes: Any, section: Section) -> list[Key]:
    """Return the keys that a model, function or class takes, in their order."""
    if takes is None:
        return []
    texts = described(takes)
    hints = get_type_hints(takes.__init__ if inspect.isclass(takes) else takes, include_extras=True)
    given = FROM_DATA if "input_shape" in hints else frozenset()  # to what is built for a data set
    model = takes if _is_model(takes) else model_of(takes, given)
    found = []
    for name, each in model.model_fields.items():
        hint: Any = each.rebuild_annotation() if _is_model(takes) else hints[name]
        if section.family == "scheme" and name in SCHEME_KEYS:
            hint = SCHEME_KEYS[name]
        default = REQUIRED if each.is_required() else _default(each.get_default(call_default_factory=True))
        found.append(
            Key(
                path=f"{section.path}.{name}" if section.path else name,
                name=name,
                meaning=texts.get(name, ""),
                options=options_of(_bare(hint)),
                default=default,
                takes=takes,
                constraints=tuple(each.metadata) if _is_model(takes) else (),
                examples=tuple(each.examples or ()),
            )
        )
    return found


def _bare(hint: Any) -> Any:
    """Return an annotation without constraints that hold for all of it; how it is written stays."""
    if get_origin(hint) is Annotated and not any(isinstance(each, Written) for each in hint.__metadata__):
        return hint.__origin__
    return hint


def _default(value: Any) -> Any:
    """Return a default as a recipe writes it; keys with their own defaults as {}."""
    return {} if isinstance(value, BaseModel) else plain(value)
