"""Classes with known relations: the synthetic data of Tang et al. (2020), at any size and exact in every sample."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.content import check_fits
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import InputError
from limbeck.randomness import derive_seed

__all__ = ["SyntheticTask", "synthetic", "synthetic_task"]

_BLOCK = 1024


@checked
def synthetic(
    tau: float = 0.6,
    train: int = 20000,
    test: int = 10000,
    classes: int = 50,
    groups: int = 10,
    dimensions: int = 500,
    terms: int = 4,
    frequency: float = 33.5,
    function: int = 0,
    seed: int = 0,
) -> Splits:
    """Return standard normal inputs whose labels are a nonlinear function of class vectors in groups.

    The label of x is argmax_k g(w_k·x/|x|), where g(s) = s + Σ_m sin(a_m·s + b_m).  Every set has `groups`, the group
    of each class.

    Args:
        tau: τ in [0, 1); the cosine of two classes of one group is about τ², of two groups about 0.
        train: training samples.
        test: test samples.
        classes: K, a multiple of `groups`.
        groups: of the classes.
        dimensions: of an input.
        terms: M, the number of sines in g.
        frequency: a, the standard deviation of the sines' frequencies; a/√dimensions is the deviation of the angles
            inside the sines.
        function: the seed of the sines' frequencies and phases.  It is separate because it decides how hard and how
            linear the task is.
        seed: of the class vectors and the samples.  A sample is a function of the seed, its part and its position: a
            smaller set is the beginning of a larger one.

    Returns:
        Training and test set of float32 rows (dimensions,).

    Raises:
        InputError: if a value is out of range.
        DataError: if the sets do not fit into memory.

    Example:
        >>> data = synthetic(tau=0.5, train=100, test=50, classes=6, groups=3, dimensions=20)
        >>> data.train.input_shape, data.train.groups
        ((20,), (0, 0, 1, 1, 2, 2))

    Reference:
        Tang et al. (2020), "Understanding and Improving Knowledge Distillation", arXiv:2002.03532; Ma et al. (2018),
        "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts".
    """
    checks.at_least("train", train, 1)
    checks.at_least("test", test, 1)
    task = synthetic_task(tau, classes, groups, dimensions, terms, frequency, function, seed)
    check_fits("train and test", 4 * dimensions * (train + test))
    name = f"synthetic {tau:g}"
    return Splits(
        _part(task, "train", train, seed, f"{name}/train"), _part(task, "test", test, seed, f"{name}/test"), name
    )


@dataclass(frozen=True, eq=False)
class SyntheticTask:
    """What makes the labels: label(x) = argmax_k g(w_k·x/|x|), with g(s) = s + Σ_m sin(a_m·s + b_m).

    centres: (C, d) float64, orthonormal.  vectors: (K, d) float64, w_k = τ·u + √(1-τ²)·e, u the centre of the class's
    group and e a random unit vector orthogonal to all centres.  frequencies, phases: (M,) float64, a_m ~ N(0, a²) and
    b_m ~ U(0, 2π), the same for all classes.  groups: of each class.
    """

    centres: Tensor
    vectors: Tensor
    frequencies: Tensor
    phases: Tensor
    groups: tuple[int, ...]

    def scores(self, inputs: Tensor) -> Tensor:
        """Return g(w_k·x/|x|) of inputs (N, d) for every class: (N, K) float64."""
        exact = inputs.to(torch.float64)
        plain: Tensor = (exact @ self.vectors.T) / torch.linalg.vector_norm(exact, dim=1, keepdim=True)
        scores = plain.clone()
        for frequency, phase in zip(self.frequencies, self.phases, strict=True):
            scores += torch.sin(frequency * plain + phase)
        return scores

    def labels(self, inputs: Tensor) -> Tensor:
        """Return the label of each input: (N,) int64."""
        return self.scores(inputs).argmax(1)


def synthetic_task(
    tau: float, classes: int, groups: int, dimensions: int, terms: int, frequency: float, function: int, seed: int
) -> SyntheticTask:
    """Draw a task; the parameters are those of `synthetic`.

    Centres, the random parts of the class vectors, frequencies and phases are each functions of their seed alone, so
    that another `tau` gives the same classes, only closer together or further apart.

    >>> task = synthetic_task(0.8, classes=4, groups=2, dimensions=9, terms=3, frequency=20.0, function=0, seed=0)
    >>> (task.vectors @ task.centres.T).abs().round(decimals=4)
    tensor([[0.8000, 0.0000],
            [0.8000, 0.0000],
            [0.0000, 0.8000],
            [0.0000, 0.8000]], dtype=torch.float64)
    """
    checks.unit_interval("tau", tau)
    for name, value, least in (
        ("classes", classes, 2),
        ("groups", groups, 1),
        ("dimensions", dimensions, 2),
        ("terms", terms, 0),
        ("function", function, 0),
        ("seed", seed, 0),
    ):
        checks.at_least(name, value, least)
    checks.non_negative("frequency", frequency)
    if tau == 1:
        raise InputError("tau: found 1, where the classes of a group are equal; expected a number below 1")
    if classes % groups:
        raise InputError(f"groups: found {groups}, expected a divisor of the {classes} classes")
    if dimensions <= groups:
        raise InputError(f"dimensions: found {dimensions} for {groups} groups, expected more dimensions than groups")
    check_fits("classes and dimensions", 8 * dimensions * (classes + groups) + 16 * terms)
    centres = torch.linalg.qr(_normal(seed, "centres", dimensions, groups))[0].T.contiguous()
    own = _normal(seed, "classes", classes, dimensions)
    own = functional.normalize(own - (own @ centres.T) @ centres, dim=1)
    group = torch.arange(classes) * groups // classes
    return SyntheticTask(
        centres=centres,
        vectors=tau * centres[group] + (1 - tau**2) ** 0.5 * own,
        frequencies=frequency * _normal(function, "frequencies", terms),
        phases=2 * torch.pi * torch.rand(terms, dtype=torch.float64, generator=_generator(function, "phases")),
        groups=tuple(group.tolist()),
    )


def _part(task: SyntheticTask, part: str, size: int, seed: int, name: str) -> TensorSet:
    """Draw the samples in blocks, each from a generator of its own; the last block is drawn whole and cut."""
    inputs = torch.empty(size, task.vectors.shape[1])
    labels = torch.empty(size, dtype=torch.int64)
    whole = torch.empty(_BLOCK, inputs.shape[1])
    for start in range(0, size, _BLOCK):
        whole.normal_(generator=_generator(seed, part, start // _BLOCK))
        here = inputs[start : start + _BLOCK]
        here.copy_(whole[: len(here)])
        labels[start : start + _BLOCK] = task.labels(here)
    return TensorSet.of(inputs, labels, classes=len(task.groups), groups=task.groups, name=name)


def _normal(seed: int, purpose: str, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_generator(seed, purpose))


def _generator(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "synthetic", *purpose))
