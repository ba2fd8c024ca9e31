"""What a training run is told: budget, optimizer, schedule, constraints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data import Augment
from limbeck.errors import InputError, one_of

__all__ = ["Training"]

_MOST_WORKERS, _MOST_GROWTH = 1024, 300
_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "cosine", "step", "one_cycle"),
    "precision": ("fp32", "bf16", "fp16"),
    "memory_format": ("contiguous", "channels_last"),
    "keep": ("last", "best"),
}


@checked_fields
@dataclass(frozen=True)
class Training:
    """The settings of a training.

    Attributes:
        epochs: passes over the set.
        batch_size: samples in an optimizer step, over all processes and accumulation together.
        accumulate: the number of parts in which each process computes its share of a step, to save memory; the result
            is the same.
        optimizer: "sgd" (with momentum and nesterov) or "adamw".
        learning_rate: at the peak of the schedule.
        momentum: of sgd, in [0, 1).
        nesterov: Nesterov momentum of sgd.
        weight_decay: as in torch.optim; 0 or above.
        schedule: of the learning rate: "constant", "cosine" to 0, "step" (times `decay` at each of `milestones`) or
            "one_cycle".
        warmup: epochs of linear rise before it.
        milestones: in epochs, rising.
        decay: factor at each milestone.
        clip: largest norm of the whole gradient; None for none.
        max_norm: largest norm of the weights into one unit; None for none.
        precision: "fp32", or autocast to "bf16" or "fp16"; losses are computed in float32.
        memory_format: of images and convolutions: "contiguous", or "channels_last", which can be faster and rounds sums
            in another order.  The student is returned as contiguous.
        averaging: decay of an exponential moving average of the weights, which is then evaluated and kept; None for
            none.
        patience: stop after this many epochs without a better validation; None for never.
        keep: the "last" weights or the "best" ones.  Fewer errors are better; of equally many, the smaller loss.
            Without a validation set every epoch is better.
        augment: random views of the samples, a function of (seed, view, sample).
        workers: processes that read sets which do not fit in memory; sets of tensors need none.
        checkpoint_seconds: between checkpoints, written at the end of a step.

    Raises:
        InputError: if a value is out of range, or two settings exclude each other.

    Example:
        >>> Training(epochs=2, learning_rate=0.05).batch_size
        128

    Reference:
        Hinton et al. (2012), "Improving neural networks by preventing co-adaptation of feature detectors",
        arXiv:1207.0580, for `max_norm`.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step", "one_cycle"] = "cosine"
    warmup: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    clip: float | None = None
    max_norm: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    averaging: float | None = None
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    augment: Augment = field(default_factory=Augment)
    workers: int = 0
    checkpoint_seconds: float = 30.0

    @classmethod
    def named(cls, settings: Mapping[str, Any]) -> "Training":
        """Return the settings of these names; InputError for a name that none has.

        >>> Training.named({"lr": 0.1})
        Traceback (most recent call last):
        limbeck.errors.InputError: lr: found no such setting of Training; one of: ...
        """
        known = [each.name for each in fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError(f"{name}: found no such setting of Training; {one_of(name, known)}")
        return cls(**settings)

    def __post_init__(self) -> None:
        for key, minimum in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0)):
            checks.at_least(key, getattr(self, key), minimum)
        if self.workers > _MOST_WORKERS:
            raise InputError(f"workers: found {self.workers}, expected at most {_MOST_WORKERS}")
        if self.accumulate > self.batch_size:
            raise InputError(f"accumulate: found {self.accumulate} parts of {self.batch_size} samples; expected fewer")
        if self.patience is not None:
            checks.at_least("patience", self.patience, 1)
        for key in ("learning_rate", "decay"):
            checks.positive(key, getattr(self, key))
        for key in ("momentum", "weight_decay", "warmup", "checkpoint_seconds"):
            checks.non_negative(key, getattr(self, key))
        for key in ("clip", "max_norm"):
            if getattr(self, key) is not None:
                checks.positive(key, getattr(self, key))
        if self.averaging is not None:
            checks.unit_interval("averaging", self.averaging)
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{key}: found {getattr(self, key)!r}; {one_of(getattr(self, key), allowed)}")
        if self.momentum >= 1:
            raise InputError(f"momentum: found {self.momentum!r}, expected a number in [0, 1)")
        if self.nesterov and not self.momentum:
            raise InputError("nesterov: needs a momentum above 0; set momentum")
        if self.milestones and self.schedule != "step":
            raise InputError(f"milestones: given with schedule {self.schedule!r}, expected schedule: step")
        if self.schedule == "step" and not self.milestones:
            raise InputError("milestones: found none for schedule: step, expected epochs, such as [15, 25]")
        if list(self.milestones) != sorted(self.milestones) or any(not 0 < m < 2**53 for m in self.milestones):
            raise InputError(f"milestones: found {list(self.milestones)}, expected rising epochs above 0")
        if self.decay > 1 and len(self.milestones) * math.log10(self.decay) > _MOST_GROWTH:
            raise InputError(
                f"decay: found {self.decay!r} for {len(self.milestones)} milestones, expected a smaller decay"
            )
        if self.warmup >= self.epochs:
            raise InputError(
                f"warmup: found {self.warmup} of {self.epochs} epochs, expected fewer warmup epochs than epochs"
            )
