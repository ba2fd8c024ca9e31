"""The recipe: data, teacher, student, method, scheme and training of one distillation."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from limbeck import data, schemes
from limbeck.blocks import Match
from limbeck.checks import shown
from limbeck.config.keys import NAME, AloneBudget, HeldOutKeys, RecipeKeys
from limbeck.config.methods import MethodSpec, read_method
from limbeck.config.networks import ModelSpec, path_of, plain, read_model
from limbeck.config.reading import apply_overrides, explained, read_yaml, written
from limbeck.config.samples import PLACES, made_by, placed, read_data
from limbeck.config.sections import Section, of_kind, read, validate
from limbeck.config.teachers import TeacherKeys, TeacherSpec, read_teacher
from limbeck.data import HeldOut, Selection, Splits, Transfer
from limbeck.errors import DataError, DataWarning, InputError, RecipeError
from limbeck.identity import Factory
from limbeck.models.layers import InputPart
from limbeck.objective import Objective
from limbeck.schemes import Scheme
from limbeck.teachers import Graft
from limbeck.training import Training
from limbeck.training.trackers import check_trackers

__all__ = ["AloneBudget", "Recipe", "TeacherSpec", "load_recipe", "replaced"]

_MOST_CANDIDATES = 1000
_HELD_OUT: tuple[Literal["random", "first", "last"], ...] = ("random", "first", "last")
_SEARCHED = ("training.", "method.", "scheme.")


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; `keys` is the whole of it with every default, which repeats the run.

    networks: those that the scheme's own keys name, under `scheme.models`.
    copy_blocks: which of the teacher's blocks the student begins with; None for none.
    general: data without labels that the scheme's key `general` names; None where it names none.
    classes: those that the students serve, by name or number; None for all that the teacher knows.
    alone_budget: None where no student is trained alone for the compute of the distillation.
    search: grids, each of values by `key.path`; empty where nothing is searched.
    """

    name: str
    data: Section
    selection: Selection
    transfer: Transfer
    teacher: TeacherSpec
    student: ModelSpec
    graft: Graft | None
    copy_blocks: Match | None
    general: Section | None
    classes: tuple[int | str, ...] | None
    method: MethodSpec
    scheme: Scheme
    networks: tuple[ModelSpec, ...]
    alone_budget: AloneBudget | None
    training: Training
    validation: HeldOut
    search: tuple[Mapping[str, Sequence[Any]], ...]
    refit: bool
    seeds: tuple[int, ...]
    trackers: tuple[str, ...]
    expect: Mapping[str, float | None]
    keys: Mapping[str, Any]
    base: Path

    @classmethod
    def parse(cls, keys: Mapping[str, Any], base: Path = Path()) -> "Recipe":
        """Validate a whole recipe.  base: the folder that its relative paths are of."""
        top = validate(RecipeKeys, dict(keys), "")
        if not re.fullmatch(NAME, top["name"]):
            raise RecipeError(
                f"name: found {shown(top['name'])}, expected 1 to 100 letters, digits, '.', '_', '-', a letter or"
                " digit first"
            )
        source, selection, transfer, data_keys = read_data(dict(top["data"]), base)
        student, student_keys = _student(top["student"], base)
        graft, graft_keys = _graft(top["student"]["graft"])
        student_keys |= graft_keys
        copy_blocks = top["student"]["copy_blocks"]
        student_keys |= {} if copy_blocks is None else {"copy_blocks": copy_blocks}
        lanes = source.values.get("lanes")
        usual = {"batch_size": lanes} if lanes and lanes > 0 else {}  # a lane of a stream is a row of every batch
        training, training_keys = read(Training, {**usual, **_with_views(top)}, "training")
        like_it = {key: value for key, value in student_keys["model"].items() if key not in ("checkpoint", "key")}
        teacher, teacher_keys = read_teacher(
            top["teacher"] or TeacherKeys(model=like_it, training=plain(training_keys)).model_dump(), base, usual
        )
        scheme, networks, general, scheme_keys = _scheme(dict(top["scheme"]), base, teacher, student_keys["model"])
        budget, budget_keys = _alone_budget(top["alone_budget"])
        recipe = cls(
            name=top["name"],
            data=source,
            selection=selection,
            transfer=transfer,
            teacher=teacher,
            student=student,
            graft=graft,
            copy_blocks=copy_blocks,
            general=general,
            classes=_classes(top["classes"]),
            method=read_method(top["method"], "method"),
            scheme=scheme,
            networks=networks,
            alone_budget=budget,
            training=training,
            validation=_validation(top["validation"]),
            search=_grids(top["search"]),
            refit=top["refit"],
            seeds=_seeds(top["seeds"]),
            trackers=_trackers(top["trackers"]),
            expect=top["expect"],
            keys={},
            base=base,
        )
        resolved = {
            **top,
            "data": data_keys,
            "teacher": teacher_keys,
            "student": student_keys,
            "method": recipe.method.keys(),
            "scheme": scheme_keys,
            "alone_budget": budget_keys,
            "training": training_keys,
        }
        object.__setattr__(recipe, "keys", plain(resolved))
        if recipe.refit and teacher.select is not None:
            raise RecipeError("teacher.select: found together with refit, which leaves no held-out part; leave out one")
        if graft is not None:
            _check_graft(teacher, scheme, scheme_keys["name"])
        if copy_blocks is not None and not (scheme.takes_copy and teacher.network):
            raise RecipeError("student.copy_blocks: expected scheme offline or hints and one network as the teacher")
        recipe.candidates()  # each of which is validated
        return recipe

    @property
    def factories(self) -> list[Factory]:
        """Every function of the user's own that the recipe names: those of its networks, and those of its data."""
        found = [spec.made_by for spec in self.models]
        found += [made_by(self.data, "data")]
        found += [made_by(self.general, "scheme.general.data")] if self.general is not None else []
        return [each for each in found if each is not None]

    @property
    def models(self) -> list[ModelSpec]:
        """Every network that the recipe names: the teacher's members, the student, and those of the scheme."""
        return [*(member.model for member in self.teacher.members), self.student, *self.networks]

    def load_data(self) -> Splits:
        """Read the data; what there is to say of it stands in the `notes` of the result and is no warning."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                splits: Splits = self.data.build()
        except DataError as error:
            raise DataError(f"data{'.' if str(error).startswith('factory:') else ': '}{error}") from None
        try:
            return self.selection.apply(splits)
        except (DataError, InputError) as error:
            raise DataError(f"data.{error}") from None

    @property
    def place(self) -> Path | None:
        """The file or folder that the data is in; None where the recipe names none."""
        if made_by(self.data, "data") is not None:
            return None
        named = [self.data.values.get(key) for key in PLACES]
        return next((Path(place) for place in named if place is not None), None)

    def with_data_in(self, place: Path) -> "Recipe":
        """Return the recipe with its data in another file, or in a folder that it lies in under its own name."""
        key = next((key for key in PLACES if key in self.data.values), None)
        if key is None or made_by(self.data, "data") is not None:
            kind = self.keys["data"]["kind"]
            raise RecipeError(f"data: found '{place}' as its path; expected none: data.kind {kind} has no files")
        within = key == "path" and place.is_dir()
        here = place / Path(self.data.values[key]).name if within else place
        return self.with_values({f"data.{key}": str(here.absolute())})

    def with_data_of(self, other: "Recipe") -> "Recipe":
        """Return the recipe with its data where another one has its own; itself where either reads no files."""
        return self if self.place is None or other.place is None else self.with_data_in(other.place)

    def without_checkpoints(self) -> "Recipe":
        """Return the recipe with networks as they are built, for readers that have the weights elsewhere."""
        members = tuple(replace(member, model=member.model.untrained()) for member in self.teacher.members)
        return replace(
            self,
            teacher=replace(self.teacher, members=members),
            student=self.student.untrained(),
            networks=tuple(network.untrained() for network in self.networks),
        )

    @property
    def inspected(self) -> Objective:
        """The student's objective, to be asked what it reads; it is never trained."""
        return self.method.inspected

    def objective(self) -> Objective:
        """Build the student's objective anew, to train with it."""
        return self.method.build()

    def code(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of each file of each factory's code (`Factory.code`), by the factory's key."""
        return {factory.where: factory.code() for factory in self.factories}

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with some `key.path` values replaced."""
        keys = dict(self.keys)
        for path, value in values.items():
            keys = replaced(keys, path, value)
        return Recipe.parse(keys, self.base)

    @property
    def searched(self) -> tuple[str, ...]:
        """The keys that the search chooses, as `key.path`."""
        return tuple(dict.fromkeys(path for grid in self.search for path in grid))

    def settings(self) -> list[dict[str, Any]]:
        """Return the settings that the search tries: of each grid, every combination of its values."""
        found: list[dict[str, Any]] = []
        for grid in self.search:
            combinations: list[dict[str, Any]] = [{}]
            for path, values in grid.items():
                if not path.startswith(_SEARCHED):
                    raise RecipeError(
                        f"search.{path}: expected a key of training, method or scheme, such as training.learning_rate"
                    )
                if not values:
                    raise RecipeError(f"search.{path}: found no values, expected a list of them")
                if len(found) + len(combinations) * len(values) > _MOST_CANDIDATES:
                    raise RecipeError(
                        f"search.{path}: more than {_MOST_CANDIDATES:,} combinations; expected fewer values to search"
                    )
                combinations = [{**combination, path: value} for combination in combinations for value in values]
            found += combinations
        return found

    def candidates(self) -> list["Recipe"]:
        """Return one recipe for each of `settings`; the recipe itself without a search."""
        if not self.search:
            return [self]
        settings = self.settings()
        plain = Recipe.parse({**self.keys, "search": {}}, self.base)
        try:
            return [plain.with_values(combination) for combination in settings]
        except RecipeError as error:
            raise RecipeError(f"search.{error}") from None

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML."""
        return written(self.keys)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, without: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe file; RecipeError with one line for the first thing that is wrong.

    without: sections that are left out, whatever is in them.
    """
    path = Path(path)
    read_keys = apply_overrides(read_yaml(path), overrides)
    keys = {key: value for key, value in read_keys.items() if key not in without}
    try:
        return Recipe.parse(keys, path.parent)
    except RecipeError as error:
        raise RecipeError(explained(str(error), path, overrides)) from None


def _student(keys: Mapping[str, Any], base: Path) -> tuple[ModelSpec, dict[str, Any]]:
    """Return the student that a recipe's validated keys name, and the keys as the resolved recipe has them."""
    student = read_model(dict(keys["model"]), "student.model", base)
    resolved = {"model": plain(student.keys())}
    if keys["sees"] is None:
        return student, resolved
    sees, sees_keys = read(InputPart, keys["sees"], "student.sees")
    return replace(student, sees=sees), {**resolved, "sees": sees_keys}


def _graft(keys: Any) -> tuple[Graft | None, dict[str, Any]]:
    """Return what is grafted onto the student, and the keys as the resolved recipe has them."""
    if keys is None:
        return None, {}
    grafted, written = read(Graft, keys, "student.graft")
    return grafted, {"graft": dict(written)}


def _check_graft(teacher: TeacherSpec, scheme: Scheme, name: str) -> None:
    if not scheme.takes_graft:
        raise RecipeError(f"student.graft: found with scheme {name}, expected scheme offline; leave out one")
    if not teacher.network:
        raise RecipeError("student.graft: expected a teacher that is one network, whose classifier it uses; name one")


def _with_views(top: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the student's training, with the second view that a teacher of `view: other` sees."""
    keys = dict(top["training"])
    if top["teacher"] is not None and top["teacher"]["view"] == "other":
        augment = keys.get("augment", {})
        if not isinstance(augment, Mapping) or not augment:
            raise RecipeError("teacher.view: found other, expected training.augment too, which defines the views")
        keys["augment"] = {**augment, "other_view": True}
    return keys


def _scheme(
    keys: dict[str, Any], base: Path, teacher: TeacherSpec, student: Mapping[str, Any]
) -> tuple[Scheme, tuple[ModelSpec, ...], Section | None, dict[str, Any]]:
    """Return a scheme, the networks and data that its keys name, and its keys as the resolved recipe has them.

    student: the keys of its model.
    """
    if isinstance(keys.get("start"), str) and keys["start"] != "teacher":  # which is no file
        keys["start"] = str((base / path_of(keys["start"], "scheme.start")).absolute())
    name, section = of_kind(keys, schemes.kinds(), "scheme", key="name")
    written: Scheme = section.build()
    try:
        taught_by = teacher.members[0].keys["model"] if teacher.network else None
        plan = written.settled(taught_by, student)
    except InputError as error:
        raise RecipeError(f"scheme.{error}") from None
    named = enumerate(getattr(plan, "models", ()))
    networks = tuple(read_model(dict(each), f"scheme.models[{number}]", base) for number, each in named)
    settled = {key: getattr(plan, key) for key in section.values if getattr(plan, key) is not getattr(written, key)}
    values = {"name": name, **section.values, **settled}
    values |= {"models": [each.keys() for each in networks]} if networks else {}
    stage = getattr(plan, "general", None)
    if stage is None:
        return plan, networks, None, values
    kind, general = of_kind(placed(stage["data"], base, "scheme.general.data"), data.kinds(), "scheme.general.data")
    return plan, networks, general, values | {"general": {**stage, "data": {"kind": kind, **general.values}}}


def _alone_budget(value: Any) -> tuple[AloneBudget | None, Any]:
    """Return the budget that a recipe names, and its keys as the resolved recipe has them."""
    if value is False:
        return None, False
    if value is not True and not isinstance(value, Mapping):
        raise RecipeError(f"alone_budget: found {shown(value)}, expected true, false, or the keys teachers and at_most")
    return read(AloneBudget, {} if value is True else dict(value), "alone_budget")


def _validation(value: Any) -> HeldOut:
    """Return the held-out part that a recipe names: a number or share, drawn at random, or {first, last or random}."""
    place: Literal["random", "first", "last"] = "random"
    size = value
    if isinstance(value, Mapping):
        if len(value) != 1 or not set(value) <= set(HeldOutKeys.model_fields):
            raise RecipeError(
                f"validation: found {shown(dict(value))}, expected one of the keys {', '.join(_HELD_OUT)}"
            )
        place = next(each for each in _HELD_OUT if each in value)
        size = value[place]
    whole = isinstance(size, int) and not isinstance(size, bool)
    if (whole and size < 1) or (not whole and not (isinstance(size, float) and 0 < size < 1)):
        where = f"validation.{place}" if isinstance(value, Mapping) else "validation"
        raise RecipeError(f"{where}: found {shown(size)}, expected a share in (0, 1) or a number of samples")
    return HeldOut(size, place)


def _grids(search: Any) -> tuple[Mapping[str, Sequence[Any]], ...]:
    """Return the grids of a search: one of values by `key.path`, or a list of such."""
    grids = search if isinstance(search, list) and search else [search]
    for number, grid in enumerate(grids):
        where = "search" if grid is search else f"search[{number}]"
        if not isinstance(grid, Mapping):
            raise RecipeError(f"{where}: found {shown(grid)}, expected keys and their values, or a list of such grids")
        for path, values in grid.items():
            if not isinstance(values, list):
                raise RecipeError(f"{where}.{path}: found {shown(values)}, expected a list of values")
    return tuple(grid for grid in grids if grid)


def _classes(classes: list[int | str] | None) -> tuple[int | str, ...] | None:
    if classes is not None and len(classes) < 2:
        raise RecipeError(f"classes: found {shown(classes)}, expected two or more")
    return None if classes is None else tuple(classes)


def _seeds(seeds: list[int]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise RecipeError(f"seeds: found {shown(seeds)}, expected at least one whole number, 0 or above, each once")
    return tuple(seeds)


def _trackers(names: list[str]) -> tuple[str, ...]:
    try:
        check_trackers(names)
    except InputError as error:
        raise RecipeError(str(error)) from None
    return tuple(names)


def replaced(keys: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return keys with the value at a `key.path` replaced whole; RecipeError where a part of the path has no keys.

    >>> replaced({"method": {"name": "kd"}}, "method.temperature", 2.0)
    {'method': {'name': 'kd', 'temperature': 2.0}}
    >>> replaced({"method": [{"name": "kd"}, {"name": "rkd"}]}, "method.1.weight", 2.0)
    {'method': [{'name': 'kd'}, {'name': 'rkd', 'weight': 2.0}]}
    """
    head, _, rest = path.partition(".")
    if not rest:
        return {**keys, head: value}
    inner = keys.get(head, {})
    number, _, below = rest.partition(".")
    if isinstance(inner, list) and below and number.isdecimal() and int(number) < len(inner):
        place = int(number)
        if isinstance(inner[place], Mapping):
            return {**keys, head: [*inner[:place], replaced(inner[place], below, value), *inner[place + 1 :]]}
    if not isinstance(inner, Mapping):
        raise RecipeError(f"{path}: '{head}' is {shown(inner)}, which has no keys; set all of it")
    return {**keys, head: replaced(inner, rest, value)}
