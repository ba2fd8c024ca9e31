"""Targets: what the student is asked to match, as distributions over classes in log space.

Each function takes and returns log-probabilities with the class axis last and any number of leading axes; what it makes
of a teacher's answer it makes of any `Dense`, so that the functions compose.
"""

from limbeck.losses.targets.combining import geometric_mean, mixture
from limbeck.losses.targets.dense import Dense, SoftTarget, soften, uniform
from limbeck.losses.targets.labels import smooth_labels, true_class, virtual_teacher
from limbeck.losses.targets.relations import class_cosines, related_classes, similar_classes
from limbeck.losses.targets.selection import label_positions, permute, restrict, top_k

__all__ = [
    "Dense",
    "SoftTarget",
    "class_cosines",
    "geometric_mean",
    "label_positions",
    "mixture",
    "permute",
    "related_classes",
    "restrict",
    "similar_classes",
    "smooth_labels",
    "soften",
    "top_k",
    "true_class",
    "uniform",
    "virtual_teacher",
]
