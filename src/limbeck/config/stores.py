"""How a recipe's teacher is stored on disk: the mapping under `teacher.store`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck.cache import ENCODINGS, AnyEncoding, encoding_of
from limbeck.config.networks import path_of
from limbeck.config.sections import validate
from limbeck.errors import InputError, RecipeError
from limbeck.objective import Objective, Term, TermAround

__all__ = ["StoreKeys", "StoreSpec", "read_store"]

_OF = {
    "dense": {"dtype"},
    "quantized": {"bits"},
    "topk": {"dtype", "k", "temperatures"},
    "sampled": {"draws", "temperature"},
}


class StoreKeys(BaseModel):
    """How the teacher's answers are stored on disk, once for many runs.

    Attributes:
        encoding: "dense" (all logits), "quantized" (all, rounded to a few bits), "topk" (the k largest and what the
            others add up to), or "sampled" (draws).
        dtype: of logits: fp32, fp16 or, of dense ones, bf16; by default fp32 of dense ones and fp16 of topk.
        bits: of quantized, of each logit, 2 to 8; by default 4.
        k: of topk, how many classes are kept.
        temperatures: of topk, those at which the rest is known; by default those of the method.
        draws: of sampled, how many for each answer.
        temperature: of sampled, of the distribution that is drawn from; by default the method's.
        path: a folder for the store; by default one in the cache.
        views: how many random views of each sample are stored; by default as many as the training shows.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    encoding: Literal["dense", "quantized", "topk", "sampled"] = "dense"
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    bits: int | None = Field(default=None, ge=2, le=8)
    k: int | None = Field(default=None, ge=1)
    temperatures: list[float] | None = None
    draws: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, gt=0)
    path: str | None = None
    views: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class StoreSpec:
    """How a teacher's answers are stored on disk.

    encoding: its kind.  keys: its settings that are given.  path, views: None for what is usual.
    """

    encoding: str
    keys: Mapping[str, Any]
    path: Path | None = None
    views: int | None = None

    def encoding_for(self, objective: Objective) -> AnyEncoding:
        """Return the encoding for what reads it; its temperatures are those of the objective's terms, if none is given.

        Raises RecipeError for a term that cannot learn from such answers, and for temperatures that are not known.
        """
        for term in _terms(objective):
            cut = ENCODINGS[self.encoding].sparse and self.encoding not in term.takes_sparse
            if cut and "teacher" in term.reads:
                raise RecipeError(
                    f"teacher.store.encoding: found {self.encoding}, but the term '{term.name}' reads all of the"
                    " teacher's logits; expected dense or quantized. Use one of these, or a method such as kd with the"
                    " target softmax"
                )
        keys = dict(self.keys)
        if self.encoding == "topk" and "temperatures" not in keys:
            keys["temperatures"] = _temperatures(objective, "temperatures")
        if self.encoding == "sampled" and "temperature" not in keys:
            found = _temperatures(objective, "temperature")
            if len(found) > 1:
                raise RecipeError(
                    f"teacher.store.temperature: the method uses {', '.join(f'{each:g}' for each in found)}, and draws"
                    " are from one distribution; expected one temperature. Use topk, or one temperature"
                )
            keys["temperature"] = found[0]
        try:
            return encoding_of(self.encoding, keys)
        except InputError as error:
            raise RecipeError(f"teacher.store.{error}") from None


def read_store(given: bool | Mapping[str, Any], base: Path) -> tuple[bool | StoreSpec, bool | dict[str, Any]]:
    """Return what a recipe says of storing answers, and the keys as the resolved recipe has them."""
    if isinstance(given, bool):
        return given, given
    keys = {name: value for name, value in validate(StoreKeys, given, "teacher.store").items() if value is not None}
    kind, own = keys["encoding"], _OF[keys["encoding"]]
    for name in keys:
        if name not in own and name not in ("encoding", "path", "views"):
            raise RecipeError(
                f"teacher.store.{name}: found with encoding {kind}, which has {', '.join(sorted(own))}; leave it out"
            )
    if "path" in keys:
        keys["path"] = str((base / path_of(keys["path"], "teacher.store.path")).absolute())
    settings = {name: keys[name] for name in own if name in keys}
    try:
        encoding_of(kind, settings)
    except InputError as error:
        raise RecipeError(f"teacher.store.{error}") from None
    path = Path(keys["path"]) if "path" in keys else None
    return StoreSpec(kind, settings, path, keys.get("views")), keys


def _terms(objective: Objective) -> Iterator[Term]:
    for term in objective.terms.values():
        while isinstance(term, TermAround):
            term = term.term
        if isinstance(term, Term):
            yield term


def _temperatures(objective: Objective, key: str) -> list[float]:
    """Return the temperatures of the terms that read the teacher, in order; RecipeError for a schedule."""
    found = dict.fromkeys(getattr(term, "temperature", None) for term in _terms(objective) if "teacher" in term.reads)
    if any(callable(each) for each in found):
        raise RecipeError(
            f"teacher.store.{key}: the method's temperature is a schedule, and answers are stored for numbers; expected"
            f" the temperature{'s' if key == 'temperatures' else ''} that it takes. Add {key}"
        )
    numbers = [float(each) for each in found if isinstance(each, int | float)]
    return sorted(numbers) or [1.0]
