"""KD-sim: how like each other the teacher's last layer holds the classes, whatever the sample."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.devices import exact
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, at_label, labels_of

__all__ = ["CARD", "SimilarClasses", "class_cosines", "similar_classes", "unit_rows"]

CARD = Card(
    name="sim",
    summary="the similarity of the classes in the teacher's last linear layer alone",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="ρ = softmax_i(sign(c_ti)·|c_ti|^a/τ), c_ti = cos(w_t, w_i)",
)


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
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise InputError(f"class vectors: found {vectors.dtype} {tuple(vectors.shape)}, expected floating point (K, d)")
    if not bool(vectors.isfinite().all()):
        raise InputError("class vectors: found NaN or infinity, expected numbers; look at the teacher's last layer")
    rows = unit_rows(exact(vectors.detach()))
    cosines = (rows @ rows.T).clamp(-1.0, 1.0)
    return cosines.fill_diagonal_(1.0).to(compute_dtype(vectors[:0]).dtype).to(vectors.device)


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
    index, labelled = at_label(labels, cosines[:1].expand(*labels.shape, -1))
    rows = cosines[index.squeeze(-1)]
    log_probs = F.log_softmax(rows.sign() * rows.abs().pow(power) / tau, dim=-1)
    return Dense(torch.where(labelled, log_probs, -math.log(cosines.shape[0])))


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
        cosines = outputs.class_cosines.to(compute_dtype(outputs.logits[:0]))
        return similar_classes(cosines, labels_of(batch, self.kind), self.power, self.tau)
