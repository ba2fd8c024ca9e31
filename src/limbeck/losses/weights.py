"""The two weights of a distillation loss, and the sugar `alpha` for them."""

import math

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError

__all__ = ["kd_weights"]

_DEFAULT_ALPHA = 0.1


@checked
def kd_weights(
    alpha: float | None = None, hard_weight: float | None = None, soft_weight: float | None = None
) -> tuple[float, float]:
    """Return (hard_weight, soft_weight), the two weights of a distillation loss.

    Args:
        alpha: in [0, 1]: hard_weight = alpha and soft_weight = 1 - alpha.  0.1 if nothing is given.
        hard_weight: instead of `alpha`; finite, not negative.  0 if only `soft_weight` is given.
        soft_weight: instead of `alpha`; finite, not negative.  0 if only `hard_weight` is given.

    Returns:
        The two weights.

    Raises:
        InputError: if `alpha` is given beside a weight, a value is out of range, or both weights are 0.

    Example:
        >>> kd_weights(alpha=0.25), kd_weights(soft_weight=2.0), kd_weights()
        ((0.25, 0.75), (0.0, 2.0), (0.1, 0.9))
    """
    if alpha is not None:
        if hard_weight is not None or soft_weight is not None:
            raise InputError("alpha: found together with hard_weight or soft_weight; give alpha, or the two weights")
        if isinstance(alpha, float) and math.isnan(alpha):
            raise InputError("alpha: found nan, expected a number in [0, 1]")
        checks.unit_interval("alpha", alpha, mend="; for free weights give hard_weight and soft_weight")
        return alpha, 1.0 - alpha
    if hard_weight is None and soft_weight is None:
        return _DEFAULT_ALPHA, 1.0 - _DEFAULT_ALPHA
    hard, soft = hard_weight or 0.0, soft_weight or 0.0
    checks.non_negative("hard_weight", hard)
    checks.non_negative("soft_weight", soft)
    checks.some_weight({"hard_weight": hard, "soft_weight": soft})
    return hard, soft
