"""Where a network sees a class: class activation maps, and gradients of a class by the last map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.maps import both, pooled, product, require_axes, same_shape, unit, unit_difference
from limbeck.losses.reduction import Reduction, compute_dtype, reduce

__all__ = ["cat_kd", "class_activation_maps", "grad_cam"]


@checked
def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Compute CAM_k = Σ_c W_kc·F_c, the part of each class's logit that comes from each position.

    For a network that pools F over its positions and then applies a linear layer W, b: mean_hw CAM_k + b_k is the
    logit of class k.

    Args:
        features: F, the last map before the pooling, (N, C, H, W) floating point.
        weight: W of the last linear layer, (K, C).

    Returns:
        (N, K, H, W), in float32 at least.

    Raises:
        InputError: if the shapes do not fit.

    Example:
        >>> class_activation_maps(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 2.0]])).flatten()
        tensor([3.])

    Reference:
        Zhou et al. (2016), "Learning Deep Features for Discriminative Localization", arXiv:1512.04150.
    """
    features, weight = compute_dtype(features, "features"), compute_dtype(weight, "weight")
    require_axes("features", features, 4, "a map (N, C, H, W)")
    if weight.dim() != 2 or weight.shape[1] != features.shape[1]:
        raise InputError(
            f"weight: found shape {tuple(weight.shape)}, expected (K, {features.shape[1]}) for maps of "
            f"{features.shape[1]} channels"
        )
    dtype = torch.promote_types(features.dtype, weight.dtype)
    maps = product(weight.to(dtype), features.to(dtype).flatten(2))
    return maps.view(len(features), len(weight), *features.shape[2:])


@checked
def cat_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    size: int = 2,
    normalise: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute mean (CAM_S - CAM_T)² over classes and positions, of maps pooled to size × size.

    With size 1 and without `normalise` it is logit matching without the biases.  With `normalise`, a class whose
    map is all zeros in either has value 0 and gradient 0.

    Args:
        student: class activation maps, (N, K, H, W) floating point, as `class_activation_maps` gives them.
        teacher: (N, K, H', W'); they receive no gradient.
        size: of the pooled maps; a map that is smaller stays as it is.
        normalise: divide each pooled map by its Euclidean norm over the positions.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        Squared logits (without `normalise`): a scalar, or (N,) with ``reduction="none"``.

    Raises:
        InputError: if the numbers of classes disagree, or the pooled maps differ in shape.

    Example:
        >>> cat_kd(torch.full((1, 3, 8, 8), 2.0), torch.zeros(1, 3, 4, 4))
        tensor(4.)

    Reference:
        Guo et al. (2023), "Class Attention Transfer Based Knowledge Distillation", arXiv:2304.12777.
    """
    checks.at_least("size", size, 1)
    student, teacher = both(student, teacher)
    require_axes("student", student, 4, "maps (N, K, H, W)")
    student, teacher = same_shape(_reduced(student, size), _reduced(teacher, size))
    student, teacher = student.flatten(2), teacher.flatten(2)
    difference = unit_difference(student, teacher) if normalise else student - teacher
    return reduce(difference.square().mean((1, 2)), None, reduction)


@checked
def grad_cam(
    student: Tensor,
    teacher: Tensor,
    student_gradient: Tensor,
    teacher_gradient: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute mean |M_S - M_T| over positions, M = relu(Σ_c w_c·F_c)/‖·‖ and w_c = mean_hw ∂z_y/∂F_c.

    Where the last map is pooled and followed by a linear layer, M is the rectified class activation map of class y.  A
    map without a position above 0 has M = 0 and no gradient.

    Args:
        student: F, (N, C, H, W) floating point.
        teacher: G, (N, C', H', W'); it receives no gradient.
        student_gradient: ∂z_y/∂F of the student, of F's shape; differentiable where w is to be learned too.
        teacher_gradient: ∂v_y/∂G of the teacher, of G's shape; it receives no gradient.
        reduction: "mean" over the examples, "sum", or "none".

    Returns:
        A number without unit: a scalar, or (N,) with ``reduction="none"``.  Of two sizes, the larger map is reduced by
        average pooling.

    Raises:
        InputError: if a gradient is not of its map's shape.

    Example:
        >>> maps, gradient = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
        >>> grad_cam(maps, maps, gradient, 2.0 * gradient) < 1e-6
        tensor(True)

    Reference:
        Selvaraju et al. (2017), "Grad-CAM", arXiv:1610.02391; Dhar et al. (2019), "Learning without Memorizing",
        arXiv:1811.08051.
    """
    student, teacher = both(student, teacher)
    require_axes("student", student, 4, "a map (N, C, H, W)")
    own = _rectified("student", student, compute_dtype(student_gradient, "student_gradient"))
    other = _rectified("teacher", teacher, compute_dtype(teacher_gradient.detach(), "teacher_gradient"))
    own, other = pooled(own, other)
    difference = unit(own.flatten(1)) - unit(other.flatten(1))
    return reduce(difference.abs().mean(1), None, reduction)


def _reduced(maps: Tensor, size: int) -> Tensor:
    return F.adaptive_avg_pool2d(maps, (min(size, maps.shape[2]), min(size, maps.shape[3])))


def _rectified(name: str, maps: Tensor, gradient: Tensor) -> Tensor:
    checks.shapes_match(f"gradient of the {name}", gradient.shape, name, maps.shape)
    weights = gradient.to(maps.dtype).mean((2, 3), keepdim=True)
    return F.relu((weights * maps).sum(1, keepdim=True))
