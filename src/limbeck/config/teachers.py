"""The teacher as a recipe names it: one network, or several whose mean teaches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck import checks
from limbeck.checks import shown
from limbeck.config.methods import MethodSpec, read_method
from limbeck.config.networks import ModelSpec, plain, read_answers, read_estimator, read_model
from limbeck.config.sections import read, validate
from limbeck.config.stores import StoreKeys, StoreSpec, read_store
from limbeck.config.written import Listed, Named, Written
from limbeck.data import Subset
from limbeck.errors import InputError, RecipeError
from limbeck.models.layers import InputTransform
from limbeck.randomness import derive_seed
from limbeck.teachers.answers import answers
from limbeck.teachers.answers import stored as stores_of_answers
from limbeck.teachers.onnx import onnx as onnx_file
from limbeck.training import Training

__all__ = ["MemberSpec", "TeacherKeys", "TeacherSpec", "read_teacher"]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_MOST_MEMBERS = 1000
_HARD = {"name": "hard"}
_ONE = ("model", "estimator", "arrays", "onnx", "stored")
_ANSWERING: Mapping[str, Callable[..., Any]] = {"arrays": answers, "onnx": onnx_file, "stored": stores_of_answers}
"""What reads a file or folder that answers in a network's place, by its key."""
_GIVEN = "none"  # the training of a network that teaches as it is


class _MemberKeys(BaseModel):
    """One of several teachers.

    Attributes:
        model: the network that teaches.
        estimator: an estimator of scikit-learn in a network's place.
        arrays: a file of answers made elsewhere, in a network's place: its path, or the keys of `teacher.arrays`.
        onnx: an ONNX file, which answers and no more, in a network's place: its path, or the keys of `teacher.onnx`.
        input: the size and normalisation in which the network sees the images; by default those of the data.
        training: of the network, or none for one whose factory or checkpoint gives the weights that teach.  Without
            training, a checkpoint or a model of kind `pretrained` teaches as it is; with training, it begins there.
        method: by which the network is trained, one that needs no teacher; by default `hard`, labels alone.
    """

    model_config = _STRICT
    model: Annotated[dict[str, Any] | None, Written(Named("model"), None)] = None
    estimator: Annotated[dict[str, Any] | None, Written(Named("estimator"), None)] = None
    arrays: Annotated[Any, Written(str, answers, None)] = None
    onnx: Annotated[Any, Written(str, onnx_file, None)] = None
    input: Annotated[dict[str, Any] | None, Written(InputTransform, None)] = None
    training: Annotated[Any, Written(Training, Literal["none"], None)] = None
    method: Annotated[Any, Written(Named("method"), Listed(Named("method")), None)] = None


class TeacherKeys(_MemberKeys):
    """Who teaches: one network, or several whose mean teaches.

    Attributes:
        stored: stores of answers, imported from elsewhere, in a network's place: their folder, or the keys of
            `teacher.stored`.
        members: how many networks of this description, each from another seed; or a list of networks, estimators and
            arrays in place of one.
        mean: of the members' distributions.
        weights: of the members in the mean, which add up to 1; equal ones by default.
        select: in place of weights, how often a member is added to the mean, each time the one that helps most on the
            held-out part.
        data: the part of the training samples that the teacher learns from; all by default.
        seed: of the teacher's training; null for the seed of each student.
        view: what the teacher sees of a sample: the student's view ("same"), the sample without augmentation
            ("clean"), or another random view ("other").
        store: whether the teacher's answers are computed once, in memory, where that is exact; or how they are stored
            on disk.
        last_linear: path of the layer whose rows are the vectors of the classes; by default the last linear layer.
    """

    stored: Annotated[Any, Written(str, stores_of_answers, None)] = None
    training: Annotated[Any, Written(Training, Literal["none"])] = Field(default_factory=dict)
    method: Annotated[Any, Written(Named("method"), Listed(Named("method")))] = Field(
        default_factory=lambda: dict(_HARD)
    )
    members: Annotated[Any, Written(Annotated[int, Field(ge=1, le=_MOST_MEMBERS)], Listed(_MemberKeys), None)] = None
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: list[float] | None = None
    select: int | None = Field(default=None, ge=1, le=10_000)
    data: Annotated[dict[str, Any] | None, Written(Subset, None)] = None
    seed: int | None = Field(default=0, ge=0, lt=2**63)
    view: Literal["same", "clean", "other"] = "same"
    store: Annotated[bool | dict[str, Any], Written(bool, StoreKeys)] = True
    last_linear: str | None = None


@dataclass(frozen=True)
class MemberSpec:
    """A network that teaches, and how it is trained.  keys: the whole of that, as a resolved recipe has it.

    estimator: whether scikit-learn fits it.  arrays: whether it looks up answers that were made elsewhere.
    onnx: whether it is an ONNX file, which is given too.  stored: whether it reads answers in stores.
    given: whether its weights teach as they are, those of a checkpoint or of a factory.  Of all five `training` and
        `method` mean nothing.
    """

    model: ModelSpec
    training: Training
    method: MethodSpec
    keys: Mapping[str, Any] = field(repr=False)
    estimator: bool = False
    arrays: bool = False
    onnx: bool = False
    stored: bool = False
    given: bool = False

    @property
    def learns(self) -> bool:
        """Whether it is a network that is trained by the loop, epoch by epoch."""
        return self.network and not self.given

    @property
    def network(self) -> bool:
        """Whether it is a network, read or trained."""
        return not (self.estimator or self.arrays or self.onnx or self.stored)


@dataclass(frozen=True)
class TeacherSpec:
    """The teacher as a recipe names it.  seed None: each student seed has a teacher of the same seed.

    members: the networks that teach; of several it is the mean of their distributions that does.
    store: whether answers are computed once, in memory, or how they are stored on disk.
    data: what of the training samples the teacher learns from; None for all.
    last_linear: the layer whose rows are the vectors of the classes; None for the one that is found.
    """

    members: tuple[MemberSpec, ...]
    mean: Literal["arithmetic", "geometric"]
    weights: tuple[float, ...] | None
    select: int | None
    seed: int | None
    view: Literal["same", "clean", "other"]
    store: bool | StoreSpec
    data: Subset | None = None
    last_linear: str | None = None

    @property
    def model(self) -> ModelSpec:
        """The first network."""
        return self.members[0].model

    @property
    def training(self) -> Training:
        """The training of the first network."""
        return self.members[0].training

    @property
    def method(self) -> MethodSpec:
        """The method of the first network."""
        return self.members[0].method

    @property
    def single(self) -> bool:
        """Whether one model teaches."""
        return len(self.members) == 1

    @property
    def asked(self) -> bool:
        """Whether it answers any sample of the data; stored answers are to the transfer set and the test part alone."""
        return not self.members[0].stored

    @property
    def network(self) -> bool:
        """Whether one network teaches, of which others may be built and trained by the loop."""
        return self.single and self.members[0].network

    def kinds(self) -> list[tuple[MemberSpec, int]]:
        """Return the members that differ in more than their seed, each with how many there are of it."""
        by_identity = {id(member): member for member in self.members}
        return [(member, sum(each is member for each in self.members)) for member in by_identity.values()]

    def of(self, seed: int) -> int:
        """Return the teacher's seed for a student's."""
        return seed if self.seed is None else self.seed

    def seeds(self, own: int) -> list[int]:
        """Return the seed of each member of the teacher of a seed; the first one's is the teacher's own."""
        return [own, *(derive_seed(own, "member", number) for number in range(1, len(self.members)))]


def read_teacher(
    keys: Mapping[str, Any], base: Path, usual: Mapping[str, Any] | None = None
) -> tuple[TeacherSpec, dict[str, Any]]:
    """Return the teacher that a recipe's validated keys name, and the keys as the resolved recipe has them.

    usual: settings of a training where its own keys name no others.
    """
    usual = usual or {}
    members = keys["members"]
    if isinstance(members, list):
        if beside := next((key for key in _ONE if keys[key] is not None), None):
            raise RecipeError(f"teacher.members: found a list of networks together with {beside}; give one of them")
        specs = tuple(_listed(each, number, keys, base, usual) for number, each in enumerate(members))
        if not specs:
            raise RecipeError("teacher.members: found an empty list, expected at least one network")
    else:
        if all(keys[key] is None for key in _ONE):
            raise RecipeError(
                "teacher.model: is missing; add it, or an estimator, arrays, onnx or stored, or a list of networks"
                " under members"
            )
        specs = (_member(keys, keys["training"], keys["method"], "teacher", base, usual),) * _count(members)
    weights = keys["weights"]
    if weights is not None:
        try:
            checks.shares("teacher.weights", weights, count=len(specs))
        except InputError as error:
            raise RecipeError(str(error)) from None
    part, part_keys = (None, None) if keys["data"] is None else read(Subset, keys["data"], "teacher.data")
    if part is not None and all(member.arrays or member.stored or member.given for member in specs):
        raise RecipeError("teacher.data: found for a teacher that is not trained; expected none. Leave it out")
    if keys["select"] is not None and (weights is not None or len(specs) == 1 or keys["mean"] != "arithmetic"):
        raise RecipeError(
            f"teacher.select: found {keys['select']}, expected several members, mean: arithmetic, no weights;"
            " change them, or leave select out"
        )
    view: Literal["same", "clean", "other"] = keys["view"]
    if any(member.arrays for member in specs):
        view = "clean"  # what was answered are the samples as they are
    if specs[0].stored:
        _check_stored(keys)
    store, store_keys = read_store(keys["store"], base)
    teacher = TeacherSpec(
        members=specs,
        mean=keys["mean"],
        weights=None if weights is None else tuple(weights),
        select=keys["select"],
        seed=keys["seed"],
        view=view,
        store=store,
        data=part,
        last_linear=keys["last_linear"],
    )
    own: dict[str, Any] = dict(specs[0].keys)
    if isinstance(members, list):
        own = {"members": [dict(each.keys) for each in specs]}
    if len(specs) > 1 and not isinstance(members, list):
        own["members"] = len(specs)
    if len(specs) > 1:
        own |= {"mean": keys["mean"], "weights": weights}
    if keys["select"] is not None:
        own["select"] = keys["select"]
    if part is not None:
        own["data"] = part_keys
    if keys["last_linear"] is not None:
        own["last_linear"] = keys["last_linear"]
    return teacher, {**own, "seed": keys["seed"], "view": view, "store": store_keys}


def _count(members: Any) -> int:
    if members is None:
        return 1
    if isinstance(members, bool) or not isinstance(members, int) or not 1 <= members <= _MOST_MEMBERS:
        raise RecipeError(
            f"teacher.members: found {shown(members)}, expected how many networks (1 to {_MOST_MEMBERS:,}), or a list"
        )
    return members


def _listed(member: Any, number: int, keys: Mapping[str, Any], base: Path, usual: Mapping[str, Any]) -> MemberSpec:
    where = f"teacher.members[{number}]"
    own = validate(_MemberKeys, member, where)
    if any(own.get(key) is not None for key in _ONE[1:]):
        return _member(own, own["training"] or {}, own["method"] or _HARD, where, base, usual)
    own["input"] = keys["input"] if own["input"] is None else own["input"]
    read_from_file = isinstance(own["model"], dict) and own["model"].get("checkpoint") is not None
    training = own["training"]
    if training is None:  # of a network whose weights are read, the training of the others is not
        training = {} if read_from_file else keys["training"]
    method = own["method"] or (_HARD if training == _GIVEN else keys["method"])
    return _member(own, training, method, where, base, usual)


def _member(
    keys: Mapping[str, Any], training: Any, method: Any, where: str, base: Path, usual: Mapping[str, Any]
) -> MemberSpec:
    given = [key for key in _ONE if keys.get(key) is not None]
    if len(given) > 1:
        raise RecipeError(f"{where}.{given[1]}: found together with {given[0]}; give one of them")
    if not given:
        raise RecipeError(f"{where}.model: is missing; add it, or an estimator, arrays or onnx")
    if given[0] != "model":
        return _other(given[0], keys, training, method, where, base)
    spec = read_model(dict(keys["model"]), f"{where}.model", base)
    model_keys: dict[str, Any] = {"model": plain(spec.keys())}
    if keys["input"] is not None:
        sees, model_keys["input"] = read(InputTransform, keys["input"], f"{where}.input")
        spec = replace(spec, sees=sees)
    if training == _GIVEN or (spec.weights_from is not None and training == {}):
        return _as_given(spec, model_keys, method if training == _GIVEN else _HARD, where)
    if not isinstance(training, Mapping):
        raise RecipeError(f"{where}.training: found {shown(training)}, expected keys and their values, or none")
    trained, training_keys = read(Training, {**usual, **training}, f"{where}.training")
    taught = read_method(method, f"{where}.method")
    if "teacher" in taught.inspected.reads():
        raise RecipeError(f"{where}.method.name: '{taught.name}' needs a teacher; use hard")
    resolved = {**model_keys, "training": training_keys, "method": taught.keys()}
    return MemberSpec(spec, trained, taught, resolved)


def _as_given(spec: ModelSpec, keys: Mapping[str, Any], method: Any, where: str) -> MemberSpec:
    """Return a network that teaches with the weights that its factory or checkpoint gives it; keys: of the network."""
    if spec.factory is None and spec.weights_from is None:
        raise RecipeError(
            f"{where}.training: found none for a new network, whose weights are random; expected weights under"
            f" {where}.model.checkpoint, the kind pretrained, or a factory that loads weights. Add them, or leave"
            " training out"
        )
    if method != _HARD:
        raise RecipeError(f"{where}.method: has no effect on a network that is not trained; leave it out")
    hard = read_method(_HARD, f"{where}.method")
    return MemberSpec(spec, Training(), hard, {**keys, "training": _GIVEN}, given=True)


def _other(kind: str, keys: Mapping[str, Any], training: Any, method: Any, where: str, base: Path) -> MemberSpec:
    """Return what teaches in a network's place."""
    for name, given in (
        ("training", bool(training)),
        ("method", method != _HARD),
        ("input", keys["input"] is not None and kind != "onnx"),
    ):
        if given:
            raise RecipeError(f"{where}.{name}: is an option of networks and has no effect for {kind}; leave it out")
    hard = read_method(_HARD, f"{where}.method")
    if kind == "estimator":
        spec = read_estimator(dict(keys["estimator"]), f"{where}.estimator", base)
        return MemberSpec(spec, Training(), hard, {"estimator": spec.keys()}, estimator=True)
    spec = read_answers(_ANSWERING[kind], keys[kind], f"{where}.{kind}", base)
    resolved: dict[str, Any] = {kind: {key: value for key, value in spec.keys().items() if key != "kind"}}
    if keys["input"] is not None:
        sees, resolved["input"] = read(InputTransform, keys["input"], f"{where}.input")
        spec = replace(spec, sees=sees)
        if resolved[kind]["raw"]:
            raise RecipeError(f"{where}.input: found beside onnx.raw, expected one of them; leave one out")
    of = {name: kind == name for name in _ANSWERING}
    return MemberSpec(spec, Training(), hard, resolved, given=kind == "onnx", **of)


def _check_stored(keys: Mapping[str, Any]) -> None:
    """Require that nothing beside stores of answers asks for answers that they cannot give."""
    if keys["view"] == "other":
        raise RecipeError(
            "teacher.view: found other beside teacher.stored, which answers samples as they are; expected clean, or"
            " same without augmentation. Set view: clean"
        )
    for key, usual in (("members", None), ("store", True), ("last_linear", None)):
        if keys[key] != usual:
            raise RecipeError(
                f"teacher.{key}: has no effect beside teacher.stored, whose answers are there already; leave it out"
            )
