"""The arguments of one training, before anything is built or trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from limbeck.arguments import checked_fields
from limbeck.data import SampleSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.ranks import first_says
from limbeck.training.identity import address_of, identity_of
from limbeck.training.loop import Turns, fit, steps
from limbeck.training.progress import Observer, ignore
from limbeck.training.settings import Training
from limbeck.training.state import Result

__all__ = ["Job"]


@checked_fields
@dataclass(frozen=True, eq=False)
class Job:
    """The arguments of one training.

    Attributes:
        distiller: student, teacher and objective.
        train_set: training samples.
        validation: measured after each epoch; None for none.
        training: the settings.
        seed: of the training.
        order: a seed of the order and the augmentation alone, where they are not to follow `seed`.
        folder: where the training is kept; a later `fit` there returns its result.
        label: its name in messages.
        along: epochs after which the student is kept as well, in `Result.along`, where a cache keeps the training.
        code: of the factories that the networks are from, see `limbeck.identity.code_identity`.

    Example:
        >>> import torch
        >>> import limbeck as lb
        >>> samples = lb.data.TensorSet.of(torch.randn(64, 3), torch.randint(4, (64,)), classes=4)
        >>> distiller = lb.Distiller(torch.nn.Linear(3, 4), None, lb.methods.hard())
        >>> Job(distiller, samples, training=Training(epochs=1, batch_size=16)).fit().steps
        4
    """

    distiller: Distiller
    train_set: SampleSet
    validation: SampleSet | None = None
    training: Training = field(default_factory=Training)
    seed: int = 0
    order: int | None = None
    folder: Path | None = None
    label: str = "student"
    along: Sequence[int] = ()
    code: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.along and self.training.student_sharded:
            raise InputError(
                f"fsdp: found '{self.training.fsdp}' for a student that is kept along its training (after epochs"
                f" {', '.join(map(str, self.along))}); leave fsdp out"
            )

    def fit(self, watch: Observer = ignore) -> Result:
        """Train, and return the result."""
        return fit(self.distiller, self.train_set, self.validation, watch=watch, **self._keys())

    def steps(self, watch: Observer = ignore, *, at: int | None = None) -> Turns:
        """Return the training as steps, which go on from its checkpoint of step `at`, or from its last one."""
        return steps(self.distiller, self.train_set, self.validation, at=at, watch=watch, **self._keys())

    def _keys(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("training", "seed", "order", "folder", "label")}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the result; see `identity_of`."""
        teacher = None if self.distiller.teacher is None else self.distiller.teacher.fingerprint()
        sets = (self.train_set, self.validation)
        return identity_of(self.distiller, *sets, self.training, self.seed, order=self.order, teacher=teacher)

    @cached_property
    def address(self) -> str:
        """The name of its folder in a cache, the same in all processes that train together."""
        return first_says(address_of(self.identity, code=self.code, along=self.along))
