"""Every target on MNIST."""

from limbeck.recipes.all_targets import all_targets

__all__ = ["REPRODUCTION"]

_GROUPS = (0, 1, 2, 3, 4, 3, 0, 4, 3, 4)
"""By their strokes, 0 6 | 1 | 2 | 3 5 8 | 4 7 9: ours, since MNIST has no hierarchy."""

REPRODUCTION = all_targets(
    "mnist", "targets-mnist", "MNIST (no paper): what of the teacher a student learns", _GROUPS, teacher_shift=2
)
