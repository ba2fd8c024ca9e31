"""Terms that compare layers of the student with layers of the teacher: the frame that all of them share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck import ranks
from limbeck.batch import Batch
from limbeck.devices import on_accelerator
from limbeck.errors import InputError, ModelError
from limbeck.layers import LayerPairs, Layers
from limbeck.losses.reduction import compute_dtype, reduce
from limbeck.objective import Objective, Setup, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule

__all__ = [
    "FeatureTerm",
    "PairedLayers",
    "RelationalTerm",
    "as_maps",
    "as_vectors",
    "by_token",
    "paired_layers",
    "require_negative",
    "require_two",
]

_PUBLISHED_BATCH = 64
_AXES = {2: "vectors (N, d)", 3: "tokens (N, L, d)", 4: "maps (N, C, H, W)"}


@dataclass(frozen=True)
class PairedLayers:
    """Two layers that a term compares, as it found them on the first batch.

    Attributes:
        term: the name of the term.
        student: the student's place.
        teacher: the teacher's place.
        student_shape: of the student's feature, the batch axis included.
        teacher_shape: of the teacher's.
        projection: what is learned between them, in words; empty for none.

    Example:
        >>> PairedLayers("rkd", "pool", "pool", (8, 64), (8, 256)).projection
        ''
    """

    term: str
    student: str
    teacher: str
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    projection: str = ""


class FeatureTerm(Term):
    """A loss per example between layers of the student and layers of the teacher.

    It counts unmasked samples; a term with `per_token` counts unmasked tokens where the features are (N, L, d).  The
    teacher's features have no gradient.  A subclass defines `compare`, and `project` if it learns projections.

    Args:
        name: of the term.
        weight: a number or schedule, finite and not negative.
        layers: a path, a list of paths that both networks have, or {student's path: teacher's path}; None for a term
            that finds them in the networks (`locate`).
        preactivation: the networks in which a path without a side means the pre-activation.

    Attributes:
        axes: the numbers of axes that a feature may have: 2 for vectors, 3 for tokens, 4 for maps.
        same_axes: whether both features of a pair must have equally many.
        per_token: whether tokens are compared one by one.
        projections: what is learned between the pairs, one module each; empty before `build`.

    Raises:
        InputError: if the weight or the layers are not as they should be.

    Example:
        >>> class Difference(FeatureTerm):
        ...     def compare(self, student, teacher, number):
        ...         return (student - teacher).flatten(1).square().mean(1)
        >>> term = Difference("difference", 1.0, ["hidden"])
        >>> features = {"hidden": torch.ones(2, 3)}
        >>> outputs = {model: Outputs(torch.zeros(2, 4), features) for model in ("student", "teacher")}
        >>> term.build(outputs, Setup(index=torch.arange(2)))
        >>> term.sum(outputs, Batch.of(torch.zeros(2, 5)), 0)
        tensor(0.)
    """

    reads = frozenset({"student", "teacher"})
    any_classes = frozenset({"teacher"})
    takes_mixed = True
    reads_logits = False
    axes: ClassVar[frozenset[int]] = frozenset(_AXES)
    same_axes: ClassVar[bool] = True
    per_token: ClassVar[bool] = False

    def __init__(
        self, name: str, weight: Schedule, layers: LayerPairs | None, *, preactivation: Sequence[str] = ()
    ) -> None:
        super().__init__(name, weight)
        self.place(Layers(()) if layers is None else Layers.of(layers, preactivation=preactivation))
        self.projections = nn.ModuleList()
        self._pairs: tuple[PairedLayers, ...] = ()
        self._by_token = False

    def place(self, layers: Layers) -> None:
        """Read these layers."""
        self.layers = layers
        self.taps = layers.taps()

    @property
    def pairs(self) -> tuple[PairedLayers, ...]:
        """The layers that are compared, with their shapes; empty before `build`."""
        return self._pairs

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Check the features' shapes and make the projections, unless they are there."""
        super().build(outputs, setup)
        students, teachers = self._features(outputs)
        for (own, other), student, teacher in zip(self.layers.pairs, students, teachers, strict=True):
            self._check(own, student, other, teacher, len(outputs["student"].logits))
        self._by_token = self.per_token and students[0].dim() == 3
        shapes = [(student.shape[1:], teacher.shape[1:]) for student, teacher in zip(students, teachers, strict=True)]
        made = shapes != [(each.student_shape[1:], each.teacher_shape[1:]) for each in self._pairs]
        if made:
            self.projections = nn.ModuleList()
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            if made:
                with setup.drawing("projection", self.name, number), self._naming(number):
                    module = self.project(number, student, teacher)
                if module is not None:
                    self.projections.append(module.to(student.device, student.dtype))
        self._pairs = tuple(
            PairedLayers(
                self.name, own, other, tuple(student.shape), tuple(teacher.shape), self.projection_text(number)
            )
            for number, ((own, other), student, teacher) in enumerate(
                zip(self.layers.pairs, students, teachers, strict=True)
            )
        )

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        """Return the module that is learned for a pair, or None: then no pair of this term has one."""
        return None

    def projection_text(self, number: int) -> str:
        """Return what is learned between a pair, in words."""
        if number >= len(self.projections):
            return ""
        module = self.projections[number]
        count = sum(weights.numel() for weights in module.parameters())
        layers = module if isinstance(module, nn.Sequential) else [module]
        return f"{' + '.join(type(each).__name__ for each in layers)}, {count:,} parameters" if count else ""

    def count(self, batch: Batch) -> Tensor | int:
        """Return how many samples count, or tokens where these are compared."""
        mask = self._mask(batch)
        if mask is None:
            return len(batch) * (self._pairs[0].student_shape[1] if self._by_token else 1)
        return self._counted(mask).sum()

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        """Return the loss per example, summed over what counts."""
        students, teachers = self._features(outputs)
        if not self._pairs:
            raise ModelError(
                f"term '{self.name}': its layers were never looked at; call distiller.build(batch) before the first"
                " step, as fit does"
            )
        given = self._mask(batch)
        if batch.padding is not None and not self._by_token:
            self._refuse_padded(students, teachers)
        mask = None if given is None else self._counted(given)
        students, teachers = ([self._only(each, given) for each in every] for every in (students, teachers))
        empty = not len(batch) or (mask is not None and not on_accelerator(mask) and not bool(mask.any()))
        if empty and not self.relates_examples:  # what gathers rows does so in every process, or the others wait
            return self._nothing(students)
        return self.total(students, teachers, mask, outputs, batch, step)

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        """Return the sum over what the mask (None for all) counts: by default of `compare` for each pair."""
        total: Tensor | None = None
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            with self._naming(number):
                each = self.compare(student, teacher, number)
            value = reduce(each, None if mask is None else mask.reshape(each.shape), "sum")
            total = value if total is None else total + value
        return total  # type: ignore[return-value]  # there is a pair at least

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        """Return the loss of each example for a pair: (N,), or (N, L) where tokens are compared.

        student: the feature as the network gives it, in its own precision; 0 where nothing counts.  teacher: cut off.
        """
        raise TypeError(f"{type(self).__name__} does not define compare(student, teacher, number)")

    def projected(self, student: Tensor, number: int) -> Tensor:
        """Return the student's feature after the pair's projection, the feature itself where there is none."""
        if number >= len(self.projections):
            return student
        projected: Tensor = self.projections[number](student)
        return projected

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Name the layers of a pair in what is refused of their features."""
        try:
            yield
        except InputError as error:
            own, other = self.layers.pairs[number]
            raise ModelError(f"layers: the student's '{own}' and the teacher's '{other}': {error}") from None

    def _features(self, outputs: Mapping[str, Outputs]) -> tuple[list[Tensor], list[Tensor]]:
        students = [outputs["student"].features[own] for own, _ in self.layers.pairs]
        return students, [outputs["teacher"].features[other].detach() for _, other in self.layers.pairs]

    def _check(self, own: str, student: Tensor, other: str, teacher: Tensor, samples: int) -> None:
        for model, where, feature in (("student", own, student), ("teacher", other, teacher)):
            found = f"layers: the {model}'s '{where}' gives {tuple(feature.shape)}"
            if not feature.is_floating_point():
                raise ModelError(f"{found} of {feature.dtype}, expected floating-point numbers; name another layer")
            if feature.dim() not in self.axes or len(feature) != samples:
                allowed = " or ".join(_AXES[axes] for axes in sorted(self.axes))
                raise ModelError(f"{found}, expected {allowed} of the batch's {samples} samples; name another layer")
        if self.same_axes and student.dim() != teacher.dim():
            raise ModelError(
                f"layers: the student's '{own}' gives {tuple(student.shape)}, the teacher's '{other}'"
                f" {tuple(teacher.shape)}, expected equally many axes; pair maps with maps and vectors with vectors"
            )

    def _mask(self, batch: Batch) -> Tensor | None:
        """Return what counts: the real tokens of the samples that count where tokens are compared, else the mask."""
        if not self._by_token or batch.padding is None:
            return batch.mask
        if batch.mask is None:
            return batch.padding
        counted = batch.mask.flatten(1).any(1) if batch.mask.dim() > 1 else batch.mask
        return batch.padding & counted[:, None]

    def _refuse_padded(self, *sides: list[Tensor]) -> None:
        """Refuse features of padded sequences that are compared as a whole, since padding would be a part of them."""
        for feature in (each for side in sides for each in side):
            if feature.dim() == 3:
                raise InputError(
                    f"term '{self.name}': found tokens {tuple(feature.shape)} of sequences that are padded; expected"
                    " vectors, since it compares whole features. Name a layer of vectors, such as the pooled one, or a"
                    " method that compares tokens"
                )

    def _counted(self, mask: Tensor) -> Tensor:
        """Return which samples count, (N,), or which tokens, (N, L)."""
        if self._by_token and mask.dim() == 2:
            return mask
        samples = mask.flatten(1).any(1) if mask.dim() > 1 else mask
        if self._by_token:
            return samples[:, None].expand(-1, self._pairs[0].student_shape[1])
        return samples

    def _only(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """Return a feature with 0 for samples and tokens that do not count, so that NaN there reaches nothing."""
        if mask is None:
            return feature
        if mask.dim() == 2 and feature.dim() == 3 and mask.shape == feature.shape[:2]:
            kept = mask
        else:
            kept = mask.flatten(1).any(1) if mask.dim() > 1 else mask
        return torch.where(kept.reshape(*kept.shape, *[1] * (feature.dim() - kept.dim())), feature, 0.0)

    def _nothing(self, students: Sequence[Tensor]) -> Tensor:
        """Return 0 with a gradient of 0 for all that the term reaches."""
        zeros = [compute_dtype(each[:0]).sum() for each in students]
        return torch.stack([*zeros, *((0.0 * weights).sum().to(zeros[0]) for weights in self.parameters())]).sum()


class RelationalTerm(FeatureTerm):
    """A loss of the relations between the examples of a batch, in layers of student and teacher.

    The batch is that of all ranks together; where gradients are accumulated, it is each part.  Its value over a batch
    counts as many times as the batch has examples.  A subclass defines `relate`.

    Args:
        name: of the term.
        weight: a number or schedule, finite and not negative.
        layers: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        preactivation: the networks in which a path without a side means the pre-activation.

    Attributes:
        published: the weight that was published for batches of 64, if the value shrinks as they grow; None otherwise.

    Raises:
        InputError: if the weight or the layers are not as they should be.

    Example:
        >>> class Products(RelationalTerm):
        ...     def relate(self, student, teacher, number):
        ...         return (student @ student.T - teacher @ teacher.T).square().mean()
        >>> Products("products", 1.0, ["pool"]).relates_examples
        True
    """

    relates_examples = True
    same_axes = False
    published: float | None = None
    _examples = 0

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Check the features' shapes, and that there are examples to relate."""
        samples = len(outputs["student"].logits)
        if samples == 1 and ranks.world_size() == 1:
            raise InputError(
                f"term '{self.name}': found a batch of 1 example, expected 2 or more, which it relates to each other;"
                " raise batch_size"
            )
        self._examples = samples
        super().build(outputs, setup)

    def projection_text(self, number: int) -> str:
        """Return what is learned, and that a published weight belongs to batches of another size."""
        text = super().projection_text(number)
        if self.published is None or self.weight != self.published or self._examples == _PUBLISHED_BATCH:
            return text
        return f"{text or 'none'}; weight {self.published:g} was published for batches of {_PUBLISHED_BATCH}"

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        """Return the batch's loss, times the number of its examples."""
        value: Tensor | None = None
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            rows = [as_vectors(each) if mask is None else as_vectors(each)[mask] for each in (student, teacher)]
            own = len(rows[0])
            everyone = [ranks.all_rows(each) for each in rows]
            if not len(everyone[0]):
                continue
            with self._naming(number):
                loss = self.relate(everyone[0], everyone[1], number)
            # The value counts the examples of this rank; the gradient is that of the whole batch with respect to them.
            each = loss.detach() * own + (loss - loss.detach()) * len(everyone[0])
            value = each if value is None else value + each
        if value is None or not value.requires_grad:  # of this process no example counts
            nothing = self._nothing(students)
            return nothing if value is None else value + nothing
        return value

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        """Return the loss of a batch for a pair: a scalar.

        student, teacher: (N, d) and (N, d'), the features of the samples that count, flattened.
        """
        raise TypeError(f"{type(self).__name__} does not define relate(student, teacher, number)")


def paired_layers(objective: Objective) -> tuple[PairedLayers, ...]:
    """Return the layers that an objective compares, once it is built.

    Args:
        objective: of any terms.

    Returns:
        The pairs of all its feature terms.

    Example:
        >>> from limbeck.terms import HardLabels
        >>> paired_layers(Objective([HardLabels()]))
        ()
    """
    return tuple(pair for term in objective.modules() if isinstance(term, FeatureTerm) for pair in term.pairs)


def by_token(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    """Return a loss of each example, or of each token where the features are (N, L, d).

    Args:
        loss: a function of both features with a ``reduction``, from `limbeck.losses`.
        student: (N, ...).
        teacher: (N, ...).
        **options: of the loss.

    Returns:
        (N,), or (N, L).

    Example:
        >>> from limbeck.losses import hint
        >>> by_token(hint, torch.zeros(2, 3, 4), torch.ones(2, 3, 4)).shape
        torch.Size([2, 3])
    """
    if student.dim() != 3 or student.shape != teacher.shape:
        whole: Tensor = loss(student, teacher, reduction="none", **options)
        return whole
    each: Tensor = loss(student.flatten(0, 1), teacher.flatten(0, 1), reduction="none", **options)
    return each.reshape(student.shape[:2])


def require_negative(teacher: Tensor) -> None:
    """Require a teacher's feature of a first batch to be one before a ReLU, with negative numbers.

    Args:
        teacher: of any shape.

    Raises:
        InputError: if none of its numbers is below 0.

    Example:
        >>> require_negative(torch.tensor([[1.0, -1.0]]))
    """
    if not bool((teacher < 0).any()):
        raise InputError(
            "the teacher's has no number below 0, so that it is behind a ReLU; name what the ReLU reads, such as"
            " stage3@preactivation or stage3.-1@input"
        )


def require_two(term: str, projection: nn.Module, samples: int) -> None:
    """Require two samples for a projection whose batch normalisation has one value of each channel for a sample.

    Args:
        term: its name.
        projection: of the term.
        samples: of the batch.

    Raises:
        InputError: if there is one sample, and batch normalisation in training mode.

    Example:
        >>> require_two("srrl", nn.BatchNorm1d(3), 2)
    """
    if samples == 1 and any(each.training for each in projection.modules() if isinstance(each, _BatchNorm)):
        raise InputError(
            f"term '{term}': found a batch of 1 sample, expected 2 or more for the batch normalisation of its"
            " projection; raise batch_size, or leave the last partial batch out"
        )


def as_maps(feature: Tensor) -> Tensor:
    """Return a feature as maps: tokens (N, L, d) become (N, d, L, 1), maps stay what they are.

    Args:
        feature: (N, C, H, W) or (N, L, d).

    Returns:
        (N, C, H, W).

    Example:
        >>> as_maps(torch.zeros(2, 16, 8)).shape
        torch.Size([2, 8, 16, 1])
    """
    return feature.transpose(1, 2).unsqueeze(-1) if feature.dim() == 3 else feature


def as_vectors(feature: Tensor) -> Tensor:
    """Return a feature with one vector for each sample.

    Args:
        feature: (N, ...).

    Returns:
        (N, d).

    Example:
        >>> as_vectors(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """
    return feature.flatten(1)
