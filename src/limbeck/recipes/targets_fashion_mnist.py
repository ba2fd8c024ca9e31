"""Every target on Fashion-MNIST."""

from limbeck.recipes.all_targets import all_targets

__all__ = ["REPRODUCTION"]

_GROUPS = (0, 1, 0, 0, 0, 2, 0, 2, 3, 2)
"""What is worn above, trousers, shoes and bags: ours, since the set has no hierarchy."""

REPRODUCTION = all_targets(
    "fashion_mnist",
    "targets-fashion-mnist",
    "Fashion-MNIST (no paper): what of the teacher a student learns",
    _GROUPS,
    teacher_shift=0,
)
