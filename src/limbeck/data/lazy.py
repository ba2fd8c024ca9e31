"""Sets that do not fit in memory: samples are fetched one by one, by worker processes where the loader has them."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.arguments import as_tensor, checked
from limbeck.batch import UNLABELLED
from limbeck.checks import shown
from limbeck.data.content import check_inputs, checked_labels, raw_bytes
from limbeck.data.sets import SampleSet
from limbeck.errors import DataError, InputError, LimbeckError, one_line

__all__ = ["LazySet"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LazySet(SampleSet):
    """A set whose samples are fetched when a batch needs them.

    fetch: root index -> (sample, label).  The sample is uint8, float32 or int64 of `input_shape` and a function of the
        index alone: whatever is random belongs in `Augment`.
    dtype: the type of every sample.
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

        The label of a sample is the number of its class, or `UNLABELLED`: one whole number.
        labels: (n,) as `TensorSet.of` takes them.  source: what identifies the content, since it is not read whole.
        Both may be left out for a dataset that has a length: every sample is then read once to learn them.
        Raises DataError when samples or labels are not as they should be, InputError when too little is given.

        >>> rows = [(torch.zeros(3), 0), (torch.ones(3), 1)]
        >>> samples = LazySet.of(rows)
        >>> samples.batch(torch.tensor([1]), augment=None, seed=0, view=0).inputs
        tensor([[1., 1., 1.]])
        """
        if (labels is None) != (source is None):
            raise InputError(f"{name}: give both labels and source, or neither (to read every sample once)")
        fetch: Callable[[int], tuple[Tensor, int]] = getattr(samples, "__getitem__", samples)
        if labels is None or source is None:
            if not hasattr(samples, "__len__"):
                raise InputError(f"{name}: a function has no length; give labels and source")
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


def _sample(name: str, fetch: Callable[[int], tuple[Any, Any]], root: int) -> tuple[Tensor, int]:
    try:
        answer = fetch(root)
    except (LimbeckError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"{name}: fetching sample {root} raised {type(error).__name__}: {one_line(error)}; mend what fetches it"
        ) from error
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise DataError(f"{name}: sample {root} is {type(answer).__name__}, expected a tuple (tensor, label)")
    sample = as_tensor(f"{name}: sample {root}", answer[0])
    check_inputs(f"{name}: sample {root}", sample[None])
    return sample, _label(name, root, answer[1])


def _label(name: str, root: int, label: Any) -> int:
    """Return a sample's label as a whole number; DataError for what is no class's number."""
    array = hasattr(label, "item") and hasattr(label, "shape")
    several = array and math.prod(label.shape) != 1
    found = label.item() if array and not several else label
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 2**63:
        return found
    what = f"of shape {tuple(label.shape)}" if several else shown(found)
    mend = "number the classes from 0 on"
    if isinstance(found, str):
        mend = "number the classes from 0 on and give class_names"
    elif several or isinstance(found, float | bool | list | tuple):
        mend = "for several labels, masks or numbers to predict use TensorSet with its task"
    raise DataError(
        f"{name}: sample {root} has label {what}, expected the number of a class (a whole number from 0 on), or "
        f"{UNLABELLED} for none; {mend}"
    )


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
