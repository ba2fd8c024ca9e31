"""Weights of classes in the terms on labels."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck import checks
from limbeck.batch import UNLABELLED
from limbeck.data import SampleSet
from limbeck.data.sources import Source
from limbeck.errors import InputError, one_of
from limbeck.objective import Objective
from limbeck.tasks import Need
from limbeck.training.settings import Training

__all__ = ["class_weighted"]


@contextmanager
def class_weighted(objective: Objective, training: Training, samples: "SampleSet | Source") -> Iterator[None]:
    """Weigh the classes inside the scope as the settings say; InputError where the data or the objective cannot."""
    weights = _weights(training, samples)
    objective.weigh(weights)
    try:
        yield
    finally:
        objective.weigh(None)


def _weights(training: Training, samples: "SampleSet | Source") -> Tensor | None:
    """Return a weight for each class (K,), the smallest of which is 1; None where all count alike.

    As the loss is divided by the sum of the weights, a common factor has no effect.  With a smallest weight of 1 the
    sum is at least the number of examples: it is 0 for a batch without any, and never small.
    """
    given = training.class_weights
    if given is None:
        return None
    samples.task.require(Need.ONE_CLASS, what="class_weights: weigh", mend="leave them out")
    names = samples.class_names if isinstance(samples, SampleSet) else ()
    if isinstance(given, str):
        if not isinstance(samples, SampleSet):
            raise InputError(
                "class_weights: found balanced for data whose labels are not known beforehand; expected a SampleSet or"
                " arrays. Give a weight for each class"
            )
        counts = torch.bincount(samples.labels[samples.labels != UNLABELLED].flatten().cpu(), minlength=samples.classes)
        weights = counts.sum() / counts.clamp_min(1).double()  # of a class without samples, no sample is weighed
        return weights / weights[counts > 0].min() if bool(counts.any()) else torch.ones(samples.classes).double()
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise InputError(f"class_weights: there is no class {name!r}; {one_of(name, names)}")
        numbers = tuple(given.get(name, 1.0) for name in names)
    else:
        numbers = given
    classes = samples.classes or len(numbers)
    if len(numbers) != classes:
        raise InputError(f"class_weights: found {len(numbers)} weights; expected {classes}, one for each class")
    for number in numbers:
        checks.positive("class_weights", number)
    weights = torch.tensor(numbers, dtype=torch.float64)
    return weights / weights.min()
