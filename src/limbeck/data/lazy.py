"""Sets that do not fit in memory: samples are fetched one by one, by worker processes where the loader has them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import checked
from limbeck.batch import UNLABELLED
from limbeck.data.content import checked_labels, raw_bytes
from limbeck.data.items import check_sample, class_number, fetched_item, inputs_of, parts_of
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError

__all__ = ["LazySet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LazySet(SampleSet):
    """A set whose samples are fetched when a batch needs them.

    The further attributes are those of `SampleSet`.

    Attributes:
        fetch: a function from the root index to (sample, label).  The sample is uint8, float32 or int64 of
            `input_shape`, and depends on the index alone; random changes belong in `Augment`.
        dtype: the type of every sample.

    Example:
        >>> from limbeck.data import SampleSet
        >>> issubclass(LazySet, SampleSet)
        True
    """

    fetch: Callable[[int], tuple[Tensor, int]]
    dtype: torch.dtype

    @classmethod
    @checked
    def of(
        cls,
        samples: Any,
        labels: Tensor | None = None,
        *,
        source: str | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "lazy",
    ) -> "LazySet":
        """Wrap a map-style dataset, or a function: root index -> (sample, label).

        A sample is a pair (inputs, label), a mapping of a column of inputs and a `label`, or inputs alone; inputs are a
        tensor, an array or an image of PIL, and the label is the number of its class, or `UNLABELLED`.
        labels: (n,) as `TensorSet.of` takes them.  source: what identifies the content, since it is not read whole.
        Both may be left out for a dataset that has a length: every sample is then read once to learn them.
        Raises DataError when samples or labels are not as they should be, InputError when too little is given.

        >>> rows = [(torch.zeros(3), 0), (torch.ones(3), 1)]
        >>> samples = LazySet.of(rows)
        >>> samples.batch(torch.tensor([1]), augment=None, seed=0, view=0).inputs
        tensor([[1., 1., 1.]])
        """
        if (labels is None) != (source is None):
            raise InputError(
                f"{name}: found one of labels and source; give both, or neither (then every sample is read once)"
            )
        fetch: Callable[[int], tuple[Tensor, int]] = getattr(samples, "__getitem__", samples)
        if labels is None or source is None:
            if not hasattr(samples, "__len__"):
                raise InputError(f"{name}: found a function, which has no length; give labels and source")
            labels, source = _scan(name, fetch, len(samples))
        labels, classes, names = checked_labels(name, len(labels), labels, classes, class_names)
        first = _sample(name, fetch, 0)[0]
        return cls(
            name=name,
            classes=classes,
            class_names=names,
            source=source,
            index=torch.arange(len(labels)),
            labels=labels,
            input_shape=tuple(first.shape),
            fetch=fetch,
            dtype=first.dtype,
        )

    def gather(self, positions: Tensor) -> Tensor:
        """Fetch the samples at `positions` within this set, in this process.

        Raises DataError for a sample of another shape, type or label than the set has.
        """
        fetched = []
        for root, declared in zip(self.index[positions].tolist(), self.labels[positions].tolist(), strict=True):
            sample, label = _sample(self.name, self.fetch, root)
            if tuple(sample.shape) != self.input_shape or sample.dtype != self.dtype:
                raise DataError(
                    f"{self.name}: sample {root} is {sample.dtype} {tuple(sample.shape)}, "
                    f"expected {self.dtype} {self.input_shape}"
                )
            if label != declared and UNLABELLED not in (label, declared):
                raise DataError(f"{self.name}: sample {root} was fetched with label {label}, declared as {declared}")
            fetched.append(sample)
        return torch.stack(fetched).to(self.index.device)


def _sample(name: str, fetch: Callable[[int], Any], root: int) -> tuple[Tensor, int]:
    where = f"{name}: sample {root}"
    inputs, label = parts_of(where, fetched_item(name, fetch, root))
    sample = inputs_of(where, inputs)
    if not isinstance(sample, Tensor):
        raise DataError(f"{where}: found the columns {', '.join(sample)}, expected one beside the label")
    check_sample(where, sample)
    return sample, UNLABELLED if label is None else class_number(where, label)


def _scan(name: str, fetch: Callable[[int], tuple[Any, Any]], size: int) -> tuple[Tensor, str]:
    """Read every sample once: return the labels and the SHA-256 of it all."""
    labels = []
    digest = hashlib.sha256()
    for root in range(size):
        sample, label = _sample(name, fetch, root)
        labels.append(label)
        digest.update(f"{sample.dtype} {tuple(sample.shape)} {label}".encode())
        digest.update(raw_bytes(sample))
    return torch.tensor(labels, dtype=torch.int64), digest.hexdigest()
