"""The keys of a recipe that are no function's parameters, as pydantic models; their docstrings describe each key."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck import checks
from limbeck.config.teachers import TeacherKeys
from limbeck.config.written import Listed, Named, Written
from limbeck.data import Transfer
from limbeck.errors import InputError
from limbeck.models.layers import InputPart
from limbeck.schemes.hints import General
from limbeck.teachers import Graft
from limbeck.training import Training

__all__ = ["NAME", "SCHEME_KEYS", "AloneBudget", "DataKeys", "HeldOutKeys", "RecipeKeys"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a recipe can be called, as a regular expression."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Share = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class DataKeys(BaseModel):
    """The keys of `data` beside those of its kind and of what is used of it.

    Attributes:
        transfer: which training samples the student learns from, and whether they have labels; by default all of them.
    """

    model_config = _STRICT
    transfer: Annotated[dict[str, Any], Written(Transfer)] = Field(default_factory=dict)


class HeldOutKeys(BaseModel):
    """The part of the training samples that is held out for choices; one of these keys.

    Attributes:
        random: hold out this share or number of samples, drawn at random.
        first: hold out this share or number, the first ones of the set.
        last: hold out this share or number, the last ones of the set.
    """

    model_config = _STRICT
    random: _Share | _Count | None = None
    first: _Share | _Count | None = None
    last: _Share | _Count | None = None


@dataclass(frozen=True)
class AloneBudget:
    """The student alone, trained for as much compute as the distillation took.

    Attributes:
        teachers: whether the training of what taught it is counted (other networks of the scheme are in any case).
        at_most: the longest such training, as a multiple of the epochs of the student alone.
    """

    teachers: bool = True
    at_most: float = 20.0

    def __post_init__(self) -> None:
        checks.finite("at_most", self.at_most)
        if self.at_most < 1:
            raise InputError(f"at_most: found {self.at_most!r}, expected 1 or above")


class StudentKeys(BaseModel):
    """The small network that learns.

    Attributes:
        model: the student's network.
        sees: which part of a sample the student sees; all of it by default.  The rest is its teacher's privilege.
        graft: reuse the teacher's last layer on top of the student, as method `simkd` does.
        copy_blocks: begin with blocks of the teacher: "uniform", every n-th of them, the "top" ones or the "bottom"
            ones; none by default.
    """

    model_config = _STRICT
    model: Annotated[dict[str, Any], Written(Named("model"))]
    sees: Annotated[dict[str, Any] | None, Written(InputPart, None)] = None
    graft: Annotated[dict[str, Any] | None, Written(Graft, None)] = None
    copy_blocks: Literal["uniform", "top", "bottom"] | None = None


class ExpectKeys(BaseModel):
    """What a run must reach; if it misses any of these, the command ends with exit code 3.

    Attributes:
        teacher_errors: the most test errors of the teacher, in the mean over seeds.
        distilled_errors: the most test errors of the distilled student, in the mean over seeds.
        gap_closed: the least share of the teacher's lead over the student alone that distillation closes.
    """

    model_config = _STRICT
    teacher_errors: float | None = None
    distilled_errors: float | None = None
    gap_closed: float | None = None


@dataclass(frozen=True, kw_only=True)
class GeneralKeys(General):
    """A stage of scheme `hints` before those on the task: the terms on layers alone, on other data without labels.

    Attributes:
        data: the samples of the stage, written as the recipe's own data is.
    """

    data: Annotated[dict[str, Any], Written(Named("data"))]


SCHEME_KEYS = {"models": Written(Listed(Named("model"))), "general": Written(GeneralKeys, None)}
"""How a recipe writes the keys of schemes that name networks and data."""


class RecipeKeys(BaseModel):
    """A recipe: one distillation, written down.

    Attributes:
        name: of the experiment and of the folder of its runs: 1 to 100 letters, digits, ".", "_" and "-", a letter or
            digit first.
        summary: one line for people.
        data: the samples.
        teacher: who teaches; by default a network like the student, trained like the student.
        student: the small network that learns.
        classes: the classes that the students serve, by number or name; by default all that the teacher knows.
        method: what the student learns from; a list of methods adds their terms.
        scheme: who teaches whom, and when; by default a fixed teacher and one student.
        alone_budget: whether the student alone is also trained for as much compute as the distillation took.
        training: of the student; the teacher has settings of its own.
        validation: the training samples that are held out for choices: a share, a number, or one of `first`, `last` and
            `random` with either.
        search: values to try, as lists by `key.path`; those with the fewest held-out errors are used.  A list of such
            grids tries each.
        refit: once the search has chosen, train again on all training samples, the held-out ones too.
        seeds: the random seeds; each is a run of its own, and figures are means over them.
        licences: lines on the licences of the data and of given networks, which travel with an exported model; by
            default what is known of the data of its kind.
        trackers: where figures are logged besides the run's folder: "tensorboard" or "wandb".
        expect: what a run must reach.
    """

    model_config = _STRICT
    name: str = Field(json_schema_extra={"pattern": f"^{NAME}$"}, examples=["my-student"])
    summary: str = ""
    data: Annotated[dict[str, Any], Written(Named("data"))]
    teacher: TeacherKeys | None = None
    student: StudentKeys
    classes: list[int | str] | None = None
    method: Annotated[Any, Written(Named("method"), Listed(Named("method")))] = Field(
        default_factory=lambda: {"name": "kd"}
    )
    scheme: Annotated[dict[str, Any], Written(Named("scheme"))] = Field(default_factory=lambda: {"name": "offline"})
    alone_budget: Annotated[Any, Written(bool, AloneBudget)] = False
    training: Annotated[dict[str, Any], Written(Training)] = Field(default_factory=dict)
    validation: Annotated[Any, Written(_Share, _Count, HeldOutKeys)] = 0.1
    search: Annotated[Any, Written(dict[str, list[Any]], list[dict[str, list[Any]]])] = Field(default_factory=dict)
    refit: bool = False
    seeds: Annotated[list[int], Written(list[Annotated[int, Field(ge=0)]])] = Field(default_factory=lambda: [0])
    licences: list[Annotated[str, Field(min_length=1)]] | None = None
    trackers: list[str] = Field(default_factory=list)
    expect: ExpectKeys = Field(default_factory=ExpectKeys)
