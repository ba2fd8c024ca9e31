"""A student that ends in its teacher's classifier."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import checks, projections
from limbeck.arguments import checked, checked_fields
from limbeck.errors import InputError, ModelError
from limbeck.layers import LayerPairs, Layers
from limbeck.models.layers.grafted import Grafted
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.teachers.class_vectors import weights_of

__all__ = ["Graft", "graft"]

_LAST = {name: name for name in ("last_linear.weight", "last_linear.bias")}
_NEAR = 0.02


@checked_fields
@dataclass(frozen=True)
class Graft:
    """What is grafted onto a student, as a recipe's key `student.graft` says it.

    Attributes:
        layers: the student's map and the teacher's last one before the pooling: a path that both have, or {student's
            path: teacher's path}.
        factor: f, 1 or above: the projector is C'/f channels wide inside.

    Raises:
        InputError: if there is not one pair of layers, or the factor is below 1.

    Example:
        >>> Graft("stage3").factor
        2
    """

    layers: LayerPairs
    factor: int = 2

    def __post_init__(self) -> None:
        checks.at_least("factor", self.factor, 1)
        pairs = len(Layers.of(self.layers))
        if pairs != 1:
            raise InputError(f"layers: found {pairs} pairs, expected one: the student has one end")


@checked
def graft(student: nn.Module, teacher: nn.Module, inputs: Tensor, *, layers: LayerPairs, factor: int = 2) -> nn.Module:
    """Make a student that projects its map to the teacher's and answers by a copy of the teacher's fixed classifier.

    The projector and the classifier belong to the student: they are counted and saved with it.  Its map is what the
    module `projector` gives, which `methods.simkd` compares with the teacher's.

    Args:
        student: which keeps its own classifier, unused.
        teacher: whose logits are its last linear layer on the mean over the positions of its last map.
        inputs: (N, ...), to find the shapes with.
        layers: one pair, the student's map and the teacher's last one.
        factor: f, 1 or above: the projector is C'/f channels wide inside.

    Returns:
        The student, with the modules `student`, `projector` and `classifier`.

    Raises:
        InputError: if there is not one pair of layers.
        ModelError: if the layers are no maps, or the teacher's logits are made in another way.

    Example:
        >>> from limbeck.models import cnn
        >>> small, large = (cnn((1, 8, 8), 4, channels=(width, width)) for width in (4, 16))
        >>> grafted = graft(small, large, torch.zeros(2, 1, 8, 8), layers="stage1")
        >>> grafted(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4])

    Reference:
        Chen et al. (2022), "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.
    """
    pairs = Layers.of(Graft(layers, factor).layers)
    ((own, other),) = pairs.pairs
    taps = pairs.taps()
    with evaluating(student), evaluating(teacher), torch.no_grad():
        found = run_model(student, inputs, taps["student"], role="student").features[own]
        answer = run_model(teacher, inputs, taps["teacher"], role="teacher")
    wanted = answer.features[other]
    for role, where, feature in (("student", own, found), ("teacher", other, wanted)):
        if feature.dim() != 4:
            raise ModelError(f"layers: the {role}'s '{where}' gives {tuple(feature.shape)}, expected maps (N, C, H, W)")
    weight, bias = weights_of(teacher, _LAST, answer.logits.shape[-1]).values()
    if weight.shape[1] == wanted.shape[1]:
        logits = F.linear(wanted.mean((2, 3)), weight, bias)
        if bool((logits - answer.logits).abs().amax() <= _NEAR * answer.logits.abs().amax().clamp_min(1e-3)):
            projector = projections.bottleneck(found.shape, wanted.shape, factor)
            return Grafted(student, own, projector, _linear(weight, bias))
    raise ModelError(
        f"layers: the teacher's '{other}' gives {tuple(wanted.shape)}, whose mean over the positions and last linear"
        f" layer {tuple(weight.shape)} are not its logits; name the last map before the pooling"
    )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
