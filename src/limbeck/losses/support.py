"""Samples on the boundary between two classes of a teacher, found by steps along its gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.losses.maps import unit

__all__ = ["boundary_samples"]


@checked
def boundary_samples(
    answer: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]],
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int = 10,
    rate: float = 0.3,
    margin: float = 1e-4,
    low: float | Tensor = -torch.inf,
    high: float | Tensor = torch.inf,
) -> Tensor:
    """Move samples towards a class until the teacher answers with it or another one: adversarial by its logits.

    A step is x ← clip(x + η·(L + ε)·g/‖g‖) with L = v_b - v_k, g = ∇(v_k - v_b), b the first top class and k the
    class aimed at.  A sample whose top class is no longer b stays where it is.  The step is not divided by ‖g‖ again:
    it shortens L + ε to 1 - η‖g‖ of itself for a linear teacher, so that 10 steps need not suffice.

    Args:
        answer: the teacher, in eval mode: inputs (N, ...) to its logits (N, K) and a function that gives their
            vector-Jacobian products, cotangents (V, N, K) to (V, N, ...), as `torch.func.vjp` does.
        inputs: x, (N, ...) floating point.
        targets: k, (N,) int64, another class than the teacher's top one.
        steps: at most; 0 or more.
        rate: η > 0.
        margin: ε, 0 or more, in logits.
        low: the lowest value of an input, a number or a tensor that broadcasts with the inputs.
        high: the highest value of an input, as `low`.

    Returns:
        (N, ...) without gradient.

    Raises:
        InputError: if a value is out of range or shapes disagree.

    Example:
        >>> def identity(inputs):
        ...     return inputs, lambda cotangents: cotangents
        >>> boundary_samples(identity, torch.tensor([[1.0, 0.2]]), torch.tensor([1]), steps=1)
        tensor([[0.8303, 0.3697]])

    Reference:
        Heo et al. (2019), "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
        arXiv:1805.05532.
    """
    checks.at_least("steps", steps, 0)
    checks.positive("rate", rate)
    checks.non_negative("margin", margin)
    checks.shapes_match("targets", targets.shape, "one for each input", inputs.shape[:1])
    samples = inputs.detach().clone()
    lowest, highest = (torch.as_tensor(each, dtype=samples.dtype, device=samples.device) for each in (low, high))
    base: Tensor | None = None
    for _ in range(steps if len(samples) else 0):
        logits, products = answer(samples)
        checks.shapes_match("logits of the teacher", logits.shape[:1], "inputs", samples.shape[:1])
        top = logits.argmax(1)
        base = top if base is None else base
        still = top == base
        if not bool(still.any()):
            break
        towards = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)
        towards = towards.scatter_add(1, base[:, None], -torch.ones_like(towards[:, :1]))
        gap = -(towards * logits).sum(1)
        length = torch.where(still, rate * (gap + margin), 0.0)
        step = unit(products(towards[None])[0].flatten(1)) * length[:, None]
        samples = (samples + step.view_as(samples).to(samples.dtype)).clamp(lowest, highest)
    return samples
