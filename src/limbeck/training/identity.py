"""What decides the result of a training, in words and digests: a folder is checked by it, and an address made of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data import SampleSet
from limbeck.data.sources import Source
from limbeck.distiller import Distiller
from limbeck.errors import RunError
from limbeck.identity import network_digests
from limbeck.training.settings import Training

__all__ = ["address_of", "identity_of", "identity_of_fit", "require_same", "short"]

_FORMAT = 1
"""Raised whenever the same identity comes to another result, so that no older one is read."""
_UNDECIDING = ("accumulate", "workers", "fsdp", "checkpoint_seconds")
_MENDS = {
    "student.weights": "start from the same weights (build the student under the same torch.manual_seed, or load them)",
    "student.architecture": "put the student's modules, attributes and code back",
    "teacher": "put the teacher back",
}


def identity_of(
    distiller: Distiller,
    train_set: SampleSet | Source,
    validation: SampleSet | Source | None,
    training: Training,
    seed: int,
    *,
    order: int | None = None,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Return what decides the result of a training, as plain values by name.

    It is taken before anything is built or trained: the student counts with its architecture and its initial weights,
    the objective with all that it holds, the sets with their content and order.  How a step is computed (`accumulate`,
    `workers`, `fsdp`) and how often it is saved do not count.
    teacher: its fingerprint.
    Raises InputError where something of them cannot be read.
    """
    settings = {key: value for key, value in asdict(training).items() if key not in _UNDECIDING}
    for key, usual in (
        ("views", None),
        ("compile", False),
        ("chunked_head", False),
        ("class_weights", None),
    ):  # as before there was such a setting
        if settings[key] == usual:
            settings.pop(key)
    mend = "keep it out of what is trained, or train without a folder"
    content = {
        **{f"training.{key}": value for key, value in settings.items()},
        "seed": seed,
        **({} if order in (None, seed) else {"order": order}),
        "data": train_set.digest(),
        "validation": None if validation is None else validation.digest(),
        "teacher": teacher,
        "objective": {name: repr(term) for name, term in distiller.objective.terms.items()},
        "objective.content": " ".join(network_digests(distiller.objective, "objective", mend).values()),
        **{f"student.{key}": value for key, value in network_digests(distiller.student, "student", mend).items()},
    }
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def identity_of_fit(model: nn.Module, samples: SampleSet, held_out: SampleSet | None, seed: int) -> dict[str, Any]:
    """Return what decides what scikit-learn makes of an estimator that is not fitted yet; its version counts."""
    from importlib.metadata import version

    return {
        "scikit-learn": version("scikit-learn"),
        "seed": seed,
        "data": samples.digest(),
        "validation": None if held_out is None else held_out.digest(),
        **{f"student.{key}": value for key, value in network_digests(model, "estimator").items()},
    }


def address_of(identity: Mapping[str, Any], *, code: Mapping[str, Any] | None = None, along: Sequence[int] = ()) -> str:
    """Return the name of the folder of a training: a digest of its identity.

    code: of the factories that its networks are from, see `limbeck.identity.code_identity`; None without any.
    along: the epochs after which the student is kept as well.
    """
    content = {"format": _FORMAT, "identity": identity, "code": code or None, "along": sorted(along)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Require the identity that a folder was made with to be the wanted one; RunError names the first difference."""
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if found.get(key) != wanted.get(key):
            raise RunError(
                f"resume: '{where}' belongs to another training: {key} was {short(found.get(key))},"
                f" is {short(wanted.get(key))}; name another folder or {_MENDS.get(key, f'put {key} back')}"
            )


def short(value: Any) -> str:
    """Return a value as JSON of at most 40 characters."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
