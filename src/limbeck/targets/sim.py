"""KD-sim: how like each other the teacher's last layer holds the classes, whatever the sample."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.devices import exact, on_accelerator
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, at_label, labels_of, uniform_without_label

__all__ = ["CARD", "CosineRows", "SimilarClasses", "class_cosines", "cosines_of", "similar_classes", "unit_rows"]

CARD = Card(
    name="sim",
    summary="the similarity of the classes in the teacher's last linear layer alone",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ = softmax_i(sign(c_ti)·|c_ti|^a/τ), c_ti = cos(w_t, w_i)",
)

_LARGEST_SQUARE = 2_000


@checked
def class_cosines(vectors: Tensor) -> Tensor:
    """Return the cosine similarity of each class with each class.

    Args:
        vectors: (K, d) floating point, one row a class, such as the weight of a last linear layer.

    Returns:
        (K, K) with 1 on the diagonal, computed in float64 and returned in at least float32.  A row of zeros has
        similarity 0 to all other rows.

    Raises:
        InputError: if the vectors have another shape or type, or are not finite.

    Example:
        >>> class_cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.7071],
                [0.7071, 1.0000]])

    Reference:
        Tang et al. (2020), arXiv:2002.03532.
    """
    _check_vectors(vectors)
    rows = unit_rows(exact(vectors.detach()))
    cosines = (rows @ rows.T).clamp(-1.0, 1.0)
    return cosines.fill_diagonal_(1.0).to(compute_dtype(vectors[:0]).dtype).to(vectors.device)


class CosineRows:
    """The cosines between classes that are too many for a square of them, computed for the classes that are asked for.

    Args:
        vectors: (K, d) floating point, one row a class.

    Example:
        >>> CosineRows(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).rows(torch.tensor([1]))
        tensor([[0.7071, 1.0000]])
    """

    def __init__(self, vectors: Tensor) -> None:
        _check_vectors(vectors)
        self.unit = unit_rows(compute_dtype(vectors.detach()))

    def rows(self, classes: Tensor) -> Tensor:
        """Return the cosines (n, K) of classes (n,) int64 with all classes, in at least float32."""
        cosines = (self.unit[classes] @ self.unit.T).clamp_(-1.0, 1.0)
        return cosines.scatter_(1, classes.unsqueeze(1), 1.0)

    def to(self, where: Tensor | torch.device) -> "CosineRows":
        """Return the same on a device, or on the device and in the type of a tensor."""
        other = copy(self)
        other.unit = self.unit.to(where)
        return other


def cosines_of(vectors: Tensor) -> Tensor | CosineRows:
    """Return the cosines between classes: all of them, or by rows where the square would be larger than 4 million."""
    return class_cosines(vectors) if len(vectors) <= _LARGEST_SQUARE else CosineRows(vectors)


def _check_vectors(vectors: Tensor) -> None:
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise InputError(f"class vectors: found {vectors.dtype} {tuple(vectors.shape)}, expected floating point (K, d)")
    if not bool(vectors.isfinite().all()):
        raise InputError("class vectors: found NaN or infinity, expected numbers; look at the teacher's last layer")


def unit_rows(vectors: Tensor) -> Tensor:
    """Return rows (K, d) of length 1; a row of zeros stays."""
    largest = vectors.abs().amax(1, keepdim=True)  # first, or the squares of small rows would vanish
    return F.normalize(vectors / torch.where(largest == 0, 1.0, largest), dim=1)


@checked
def similar_classes(cosines: Tensor, labels: Tensor, power: float = 0.3, tau: float = 0.5) -> Dense:
    """Divide probability by similarity to the true class: softmax over i of sign(c_ti)·|c_ti|^a/τ.

    The paper does not define negative cosines; the sign is limbeck's choice.

    Args:
        cosines: c, (K, K), as `class_cosines` returns them.
        labels: (...) int64 in [0, K), or `UNLABELLED`, whose row is uniform; the caller masks it.
        power: a > 0; values below 1 separate small cosines.
        tau: τ > 0; small values sharpen.

    Returns:
        Log-probabilities (..., K).

    Raises:
        InputError: if a shape is wrong, a label is out of range, or power or tau is not above 0.

    Example:
        >>> cosines = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> similar_classes(cosines, torch.tensor([0]), power=1.0, tau=0.5).log_probs.exp()
        tensor([[0.7311, 0.2689]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-sim), arXiv:2002.03532.
    """
    checks.positive("power", power)
    checks.positive("tau", tau)
    cosines = compute_dtype(cosines.detach())
    if cosines.ndim != 2 or cosines.shape[0] != cosines.shape[1]:
        raise InputError(f"cosines: found {tuple(cosines.shape)}, expected (K, K)")
    return _softmax_of_rows(lambda classes: cosines[classes], cosines.shape[0], labels, power, tau)


def _softmax_of_rows(
    rows_of: Callable[[Tensor], Tensor], classes: int, labels: Tensor, power: float, tau: float
) -> Dense:
    """Return the softmax of the powered cosines at the labels; on the CPU each class in a batch is computed once.

    rows_of: gives the cosines (n, K) of some classes (n,).
    """
    index, labelled = at_label(labels, torch.empty(1, device=labels.device).expand(*labels.shape, classes))
    asked = index.squeeze(-1)
    if on_accelerator(asked):  # how many classes there are in the batch, the host would have to wait for
        present, places = asked.flatten(), torch.arange(asked.numel(), device=asked.device).view(asked.shape)
    else:
        present, places = asked.unique(return_inverse=True)
    rows = rows_of(present)
    log_probs = F.log_softmax(rows.sign() * rows.abs().pow(power) / tau, dim=-1)
    return Dense(uniform_without_label(log_probs[places], labelled))


@checked_fields
@dataclass(frozen=True)
class SimilarClasses(Target):
    """Match the softmax of the powered cosines between the true class and each class in the teacher's last layer.

    It needs labels, and a teacher with a linear last layer; a `Distiller` adds the cosines to the teacher's outputs.
    The temperature of the term softens the student alone.

    Attributes:
        power: a > 0.
        tau: τ > 0, in place of the temperature.

    Raises:
        InputError: if power or tau is not above 0; when called, if the outputs have no class cosines.

    Example:
        >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
        >>> teacher = Outputs(torch.zeros(1, 2), class_cosines=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> SimilarClasses(power=1.0, tau=0.5)(teacher, batch, temperature=4.0).log_probs.exp()
        tensor([[0.7311, 0.2689]])

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation" (KD-sim), arXiv:2002.03532.
    """

    needs_labels = True
    reads_teacher = True
    reads_class_cosines = True

    power: float = 0.3
    tau: float = 0.5

    def __post_init__(self) -> None:
        checks.positive("power", self.power)
        checks.positive("tau", self.tau)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        if outputs.class_cosines is None:
            raise InputError("target sim: the outputs hold no class_cosines; a Distiller puts them there")
        cosines, labels = outputs.class_cosines.to(compute_dtype(outputs.logits[:0])), labels_of(batch, self.kind)
        if isinstance(cosines, CosineRows):
            return _softmax_of_rows(cosines.rows, len(cosines.unit), labels, self.power, self.tau)
        return similar_classes(cosines, labels, self.power, self.tau)
