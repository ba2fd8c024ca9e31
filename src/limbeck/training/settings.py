"""What a training run is told: budget, optimizer, schedule, constraints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.data import Augment
from limbeck.errors import InputError, one_of

__all__ = ["Averaging", "Mean", "Training"]

_MOST_WORKERS, _MOST_GROWTH = 1024, 300
_NO_DECAY = ("bias", "norm")
_CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "linear", "cosine", "step", "one_cycle"),
    "precision": ("fp32", "bf16", "fp16"),
    "memory_format": ("contiguous", "channels_last"),
    "fsdp": ("none", "student", "teacher", "both"),
    "keep": ("last", "best"),
}


@checked_fields
@dataclass(frozen=True)
class Mean:
    """The uniform mean of the weights, from when validation stops to improve.

    Attributes:
        patience: n; the mean begins after the first epoch whose validation loss exceeds the least of all epochs but
            the last n before it.

    Raises:
        InputError: if n is below 1.

    Example:
        >>> Mean().patience
        5

    Reference:
        Merity et al. (2017), "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182.
    """

    patience: int = 5

    def __post_init__(self) -> None:
        checks.at_least("patience", self.patience, 1)


@checked_fields
@dataclass(frozen=True)
class Averaging:
    """An average of the weights other than the exponential one.

    Attributes:
        mean: the uniform mean.

    Example:
        >>> Training(optimizer="sgd", momentum=0.0, averaging=Averaging(Mean(patience=3))).averaging
        Averaging(mean=Mean(patience=3))
    """

    mean: Mean = field(default_factory=Mean)


@checked_fields
@dataclass(frozen=True)
class Training:
    """The settings of a training.

    Attributes:
        epochs: passes over the set.
        batch_size: samples in an optimizer step, over all processes and accumulation together.
        accumulate: the number of parts in which each process computes its share of a step, to save memory; the result
            is the same.
        optimizer: "sgd" (with momentum and nesterov), "adamw" or "adam", whose weight decay is a part of the gradient.
        learning_rate: at the peak of the schedule.
        momentum: of sgd, in [0, 1).
        nesterov: Nesterov momentum of sgd.
        betas: of adam and adamw, two numbers in [0, 1).
        eps: of adam and adamw, above 0.
        weight_decay: as in torch.optim; 0 or above.
        no_decay: what has no weight decay: "bias", every parameter whose name ends so, and "norm", the parameters of
            normalisation layers.
        rates: {path: factor} of the learning rate of the student's parameters whose path matches; `*` stands for
            anything, and the first that matches counts.  Other parameters have factor 1.
        schedule: of the learning rate: "constant", "linear" to 0, "cosine" to 0, "step" (times `decay` at each of
            `milestones`) or "one_cycle".
        warmup: epochs of linear rise before it.
        warmup_share: the same as a share of all steps, in [0, 1).
        rate_by_length: multiply the rate of each step by its columns over the set's `length`, for streams whose chunks
            vary in length.
        milestones: in epochs, rising.
        decay: factor at each milestone.
        clip: largest norm of the whole gradient; None for none.
        max_norm: largest norm of the weights into one unit; None for none.
        precision: "fp32", or autocast to "bf16" or "fp16"; losses are computed in float32.
        memory_format: of images and convolutions: "contiguous", or "channels_last", which can be faster and rounds sums
            in another order.  The student is returned as contiguous.
        compile: run student and teacher with torch.compile; "graphs" records CUDA graphs of them as well, on a CUDA
            device.  Results are those without it to rounding.  Not with methods that read features of the student.
        chunked_head: run student and teacher without their last linear layer, and compute the loss of its logits in
            chunks: a step holds no logits, and the results are those without it to rounding.  For networks that end in
            one linear layer, and terms that are sums over places.
        fsdp: whose parameters are divided among the processes that train together (FSDP2): "none", "student", with its
            gradients and the optimizer's state, "teacher", or "both".  Each block of a network is gathered while it is
            computed.  Results are those without it to rounding.  A training without a teacher has the student's part.
        averaging: decay of an exponential moving average of the weights, which is then evaluated and kept; or
            `Averaging()`, in a recipe `{mean: {patience: 5}}`, for the uniform mean from when validation stops to
            improve; None for none.
        patience: stop after this many epochs without a better validation; None for never.
        keep: the "last" weights or the "best" ones.  Fewer errors are better; of equally many, the smaller loss.
            Without a validation set every epoch is better.
        augment: random views of the samples, a function of (seed, view, sample).
        views: how many random views each sample has, which the epochs show in turn; None for a new view in every epoch.
            Stored answers of a teacher to so many views serve any number of epochs.
        workers: processes that read sets which do not fit in memory; sets of tensors need none.
        class_weights: of the terms on labels, whose mean is then Σ w_y·loss / Σ w_y over the labelled examples: a
            number for each class, {class name: number} with 1 for the others, or "balanced", which is in inverse
            proportion to how often the class occurs in the training set.  Soft targets and figures are not weighed.
        checkpoint_seconds: between checkpoints, written at the end of a step.

    Raises:
        InputError: if a value is out of range, or two settings exclude each other.

    Example:
        >>> Training(epochs=2, learning_rate=0.05).batch_size
        128

    Reference:
        Hinton et al. (2012), "Improving neural networks by preventing co-adaptation of feature detectors",
        arXiv:1207.0580, for `max_norm`; Merity et al. (2017), arXiv:1708.02182, for the mean and `rate_by_length`.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[Literal["bias", "norm"], ...] = ()
    rates: dict[str, float] | None = None
    schedule: Literal["constant", "linear", "cosine", "step", "one_cycle"] = "cosine"
    warmup: float = 0.0
    warmup_share: float = 0.0
    rate_by_length: bool = False
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    clip: float | None = None
    max_norm: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    compile: bool | Literal["graphs"] = False
    chunked_head: bool = False
    fsdp: Literal["none", "student", "teacher", "both"] = "none"
    averaging: float | Averaging | None = None
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    augment: Augment = field(default_factory=Augment)
    views: int | None = None
    workers: int = 0
    class_weights: Literal["balanced"] | tuple[float, ...] | dict[str, float] | None = None
    checkpoint_seconds: float = 30.0

    @classmethod
    def named(cls, settings: Mapping[str, Any]) -> "Training":
        """Return the settings of these names; InputError if there is no setting of a name.

        >>> Training.named({"lr": 0.1})
        Traceback (most recent call last):
        limbeck.errors.InputError: lr: found no such setting of Training; one of: ...
        """
        known = [each.name for each in fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError(f"{name}: found no such setting of Training; {one_of(name, known)}")
        return cls(**settings)

    @property
    def student_sharded(self) -> bool:
        """Whether the student's parameters are divided among processes."""
        return self.fsdp in ("student", "both")

    @property
    def teacher_sharded(self) -> bool:
        """Whether the teacher's parameters are divided among processes."""
        return self.fsdp in ("teacher", "both")

    def continued(self, epochs: int, learning_rate: float | None = None) -> "Training":
        """Return the settings of a training that follows: warmup and milestones keep their share of all epochs.

        learning_rate: None for a tenth of this one.

        >>> later = Training(epochs=30, warmup=3, learning_rate=0.1).continued(10)
        >>> later.epochs, later.warmup, later.learning_rate
        (10, 1.0, 0.01)
        """
        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            learning_rate=self.learning_rate / 10 if learning_rate is None else learning_rate,
            warmup=self.warmup * share,
            milestones=tuple(milestone * share for milestone in self.milestones),
        )

    def __post_init__(self) -> None:
        for key, minimum in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0)):
            checks.at_least(key, getattr(self, key), minimum)
        if self.workers > _MOST_WORKERS:
            raise InputError(f"workers: found {self.workers}, expected at most {_MOST_WORKERS}")
        if self.accumulate > self.batch_size:
            raise InputError(f"accumulate: found {self.accumulate} parts of {self.batch_size} samples; expected fewer")
        if self.patience is not None:
            checks.at_least("patience", self.patience, 1)
        if self.views is not None:
            checks.at_least("views", self.views, 1)
            if not self.augment.active:
                raise InputError(
                    f"views: found {self.views} without augment, so that no view differs from the sample; expected"
                    " none. Leave views out, or add augment"
                )
        for key in ("learning_rate", "decay", "eps"):
            checks.positive(key, getattr(self, key))
        for key in ("momentum", "weight_decay", "warmup", "warmup_share", "checkpoint_seconds"):
            checks.non_negative(key, getattr(self, key))
        checks.non_negative("betas", min(self.betas))
        for name in self.no_decay:
            if name not in _NO_DECAY:
                raise InputError(f"no_decay: found {name!r}; {one_of(name, _NO_DECAY)}")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise InputError(
                f"class_weights: found {self.class_weights!r}; expected balanced, or a weight for each class"
            )
        for path, factor in (self.rates or {}).items():
            checks.positive(f"rates: {path}", factor)
        for key in ("clip", "max_norm"):
            if getattr(self, key) is not None:
                checks.positive(key, getattr(self, key))
        if isinstance(self.averaging, float | int):
            checks.unit_interval("averaging", self.averaging)
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{key}: found {getattr(self, key)!r}; {one_of(getattr(self, key), allowed)}")
        if self.compile not in (False, True, "graphs"):
            raise InputError(f"compile: found {self.compile!r}; expected true, false or graphs")
        if self.compile and self.chunked_head:
            raise InputError(
                "chunked_head: found together with compile, which it is not built for; leave one of them out"
            )
        for key, share in (
            ("momentum", self.momentum),
            ("betas", max(self.betas)),
            ("warmup_share", self.warmup_share),
        ):
            if share >= 1:
                raise InputError(f"{key}: found {share!r}, expected a number in [0, 1)")
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
        if self.warmup and self.warmup_share:
            raise InputError("warmup_share: found together with warmup; give one of them")
        if self.warmup >= self.epochs:
            raise InputError(
                f"warmup: found {self.warmup} of {self.epochs} epochs, expected fewer warmup epochs than epochs"
            )
