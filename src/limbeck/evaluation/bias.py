"""A bias for classes that a transfer set left out (Hinton, Vinyals & Dean 2015, section 3)."""

from collections.abc import Sequence

from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.losses.reduction import check_labels

__all__ = ["fit_bias", "with_bias"]


@checked
def with_bias(logits: Tensor, classes: Sequence[int], bias: float) -> Tensor:
    """Return logits with a bias added to some classes.

    Args:
        logits: (n, K) floating point.
        classes: numbers in [0, K).
        bias: in nats.

    Returns:
        Logits (n, K).

    Raises:
        InputError: if a class is out of range.

    Example:
        >>> with_bias(torch.zeros(1, 3), [2], 1.5)
        tensor([[0.0000, 0.0000, 1.5000]])
    """
    if any(not 0 <= label < logits.shape[-1] for label in classes):
        raise InputError(f"classes: found {list(classes)}, expected 0 to {logits.shape[-1] - 1}")
    raised = logits.clone()
    raised[..., list(classes)] += bias
    return raised


@checked
def fit_bias(
    logits: Tensor, labels: Tensor, classes: Sequence[int], *, limit: float = 20.0, step: float = 0.1
) -> float:
    """Return the bias for some classes that makes the fewest errors on held-out data.

    Args:
        logits: (n, K) floating point.
        labels: (n,) int64.
        classes: the classes whose logits the bias is added to.
        limit: the bias is searched in [-limit, limit], in nats.
        step: of the search, in nats.

    Returns:
        The bias; among equally good values the middle one of the longest run.

    Raises:
        InputError: if shapes, classes or values are wrong.

    Example:
        >>> logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0]]), torch.tensor([1, 1, 0])
        >>> 1.0 < fit_bias(logits, labels, [1]) < 2.0
        True

    Reference:
        Hinton, Vinyals & Dean (2015), section 3, arXiv:1503.02531.
    """
    checks.positive("limit", limit)
    checks.positive("step", step)
    checks.logits("logits", logits)
    check_labels(labels, logits.shape[:-1])
    count = round(2 * limit / step) + 1
    values = [-limit + i * step for i in range(count)]
    errors = [int((with_bias(logits, classes, value).argmax(-1) != labels).sum()) for value in values]
    fewest, best, start = min(errors), (0, 0), 0
    for i, found in enumerate([*errors, -1]):
        if found != fewest:
            if i - start > best[1] - best[0]:
                best = (start, i)
            start = i + 1
    return round(values[(best[0] + best[1] - 1) // 2], 10)
