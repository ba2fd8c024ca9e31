"""What a black box said of a set, as a network: it is asked with samples and answers by looking them up."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.cache import CachedTeacher
from limbeck.data import Loader, SampleSet, Splits
from limbeck.errors import CheckpointError, DataError, InputError, ModelError
from limbeck.outputs import Outputs
from limbeck.randomness import fingerprints
from limbeck.sparse import SampledAnswer
from limbeck.tasks import Need
from limbeck.teacher import Teacher
from limbeck.teachers.arrays import read_of_splits

__all__ = ["LookedUpAnswers", "answers", "answers_of", "stored"]

_NEVER = -1e4
"""The logit of a class that is impossible: its probability is 0 at any temperature that is used, and yet finite."""


def answers(input_shape: Sequence[int], classes: int, path: str, renormalise: bool = False) -> "LookedUpAnswers":
    """Return what an .npz or .safetensors file holds, made elsewhere, as a teacher of a recipe.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        path: the .npz or .safetensors file; see `ArrayTeacher.read` for its arrays.  It has an answer to every sample,
            those of the test set too: of a set that is split, one row for each of its samples in their order, or an
            `index` of their places; of a set with a test part of its own, further arrays whose names begin with
            `test_`.
        renormalise: divide each row of probabilities by its sum.
    """
    return LookedUpAnswers(input_shape, classes, path, renormalise=renormalise)


def stored(input_shape: Sequence[int], classes: int, path: str, test: str | None = None) -> "LookedUpAnswers":
    """Return the answers of stores as a teacher of a recipe, by which it is measured; a student reads its store itself.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        path: the folder of a store with answers to the transfer set, as they are without augmentation: what
            `limbeck cache import` writes.
        test: the folder of a store with answers to the test part (`limbeck cache import --part test`); by default the
            folder `test` in `path`.
    """
    return LookedUpAnswers(input_shape, classes, path, test=test)


class LookedUpAnswers(nn.Module):
    """Logits by sample: the logarithms of a black box's probabilities, looked up by the sample's unaugmented content.

    Before it is filled or loaded it answers 0 for everything.  Samples that are alike have one answer, the mean of
    theirs.  key: (n,) int64, of the samples, rising.  logits: (n, outputs) float32.

    >>> import limbeck as lb
    >>> data = lb.data.bundled("iris")
    >>> model = LookedUpAnswers((4,), 3, "")
    >>> whole = torch.eye(3)[torch.arange(150) // 50]
    >>> model.fill([(part, lb.ArrayTeacher.of_probabilities(whole, part, index=torch.arange(150))) for part in (
    ...     data.train, data.test)])
    >>> lb.evaluate(model, data.test).accuracy
    1.0
    """

    grown = frozenset({"key", "logits"})
    key: Tensor
    logits: Tensor

    def __init__(
        self, input_shape: Sequence[int], outputs: int, path: str, *, renormalise: bool = False, test: str | None = None
    ) -> None:
        super().__init__()
        self.test = test
        self.path, self.renormalise, self.outputs = path, renormalise, outputs
        self.input_shape = tuple(input_shape)
        self.register_buffer("key", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("logits", torch.zeros(0, outputs))

    def read(self, splits: Splits) -> None:
        """Fill it from its file with the answers to all samples of a set; DataError naming what is wrong with it."""
        splits.train.task.require(
            Need.ONE_LABEL,
            what=f"{self.path}: its answers are for",
            mend="use a network as the teacher",
            error=DataError,
        )
        pairs = list(zip((splits.train, splits.test), read_of_splits(self.path, splits, self.renormalise), strict=True))
        for samples, teacher in pairs:
            missing = samples.index[~torch.isin(samples.index, teacher.rows.index)]
            if len(missing):
                raise DataError(
                    f"{self.path}: it has no answer to {len(missing):,} of the {len(samples):,} samples of "
                    f"'{samples.name}', the first at place {int(missing.min())}; add them"
                )
        self.fill(pairs)

    def fill(self, pairs: Sequence[tuple[SampleSet, Teacher]]) -> None:
        """Take the answers to all samples of some sets: the logarithms of probabilities."""
        keys, logs = [], []
        for samples, teacher in pairs:
            for batch in Loader(samples, 4096, seed=0, shuffle=False).epoch(0):
                keys.append(_content(batch.inputs))
                answer = teacher(batch)
                known = isinstance(teacher, CachedTeacher)
                logs.append(_log_probabilities(answer) if known else answer.logits.double())
        key, place = torch.cat(keys).unique(return_inverse=True)
        probabilities = torch.cat(logs).exp()
        total = torch.zeros(len(key), probabilities.shape[1], dtype=torch.float64).index_add_(0, place, probabilities)
        logits = (total / total.sum(1, keepdim=True)).log().clamp_min(_NEVER).to(torch.float32)
        self.key, self.logits = key, logits if self.outputs != 1 else logits[:, 1:] - logits[:, :1]

    def forward(self, inputs: Tensor | None = None, **texts: Tensor) -> Tensor:
        """Return the logits of samples; ModelError for one that was never answered."""
        wanted = _content(texts if inputs is None else inputs)
        if not len(self.key):
            return torch.zeros(len(wanted), self.outputs, device=wanted.device)
        place = torch.searchsorted(self.key, wanted).clamp_max(len(self.key) - 1)
        unknown = self.key[place] != wanted
        if bool(unknown.any()):
            raise ModelError(
                f"teacher.{'arrays' if self.test is None else 'stored'}: {int(unknown.sum())} of {len(wanted)} samples"
                " were never answered; it can be asked about unaugmented samples of its set alone"
            )
        return self.logits[place]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Take as many answers as a file has."""
        key, logits = state_dict.get(f"{prefix}key"), state_dict.get(f"{prefix}logits")
        if key is not None and logits is not None:
            if key.ndim != 1 or logits.shape != (len(key), self.outputs) or bool((key[1:] <= key[:-1]).any()):
                raise CheckpointError("checkpoint: found no answers to this data; store them again")
            self.key, self.logits = torch.empty_like(key), torch.empty_like(logits)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def answers_of(model: nn.Module) -> LookedUpAnswers:
    """Return the module of a member whose answers were made elsewhere."""
    if not isinstance(model, LookedUpAnswers):
        raise InputError(f"{type(model).__name__} looks no answers up")
    return model


def _content(inputs: Any) -> Tensor:
    """Return a number for the content of each sample; of texts, for their tokens without padding."""
    if not isinstance(inputs, Mapping):
        return fingerprints(inputs)
    return fingerprints(inputs["input_ids"], inputs["attention_mask"])


def _log_probabilities(answer: Outputs) -> Tensor:
    """Return a store's answers as log-probabilities (N, K) float64; what is left of few classes is spread evenly."""
    if answer.sparse is None:
        return answer.logits.double().log_softmax(-1)
    ids, classes = answer.sparse.ids, answer.sparse.classes
    if isinstance(answer.sparse, SampledAnswer):
        shares = torch.full(ids.shape, 1 / ids.shape[-1], dtype=torch.float64)
        return torch.zeros(len(ids), classes, dtype=torch.float64).scatter_add(-1, ids, shares).log()
    logs, rest = answer.sparse.at(1.0 if 1.0 in answer.sparse.rest else min(answer.sparse.rest))
    even = rest.double() - math.log(max(1, classes - ids.shape[-1]))
    return even.unsqueeze(-1).expand(-1, classes).scatter(-1, ids, logs.double())
