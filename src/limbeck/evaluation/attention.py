"""Where the tokens of a sentence attend to: student and teacher side by side, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.blocks import Blocks, Match, blocks_of, matched
from limbeck.data import SampleSet, TextSet
from limbeck.errors import InputError, ModelError
from limbeck.losses import attention_scores
from limbeck.networks import evaluating
from limbeck.outputs import capture

__all__ = ["AttentionMap", "compare_attention", "token_attention"]


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The attention of one sentence in a block of the student and in the teacher's block that it is matched with.

    Attributes:
        tokens: the names of the sentence's tokens, special tokens included.
        student_block: from 1.
        teacher_block: from 1.
        student: (L, L), how much each token (row) attends to each other (column), the mean over the heads.
        teacher: the same of the teacher.

    Example:
        >>> AttentionMap(("a",), 1, 2, torch.ones(1, 1), torch.ones(1, 1)).teacher_block
        2
    """

    tokens: tuple[str, ...]
    student_block: int
    teacher_block: int
    student: Tensor
    teacher: Tensor


@checked
def token_attention(model: nn.Module, inputs: Any, block: int) -> Tensor:
    """Compute the attention probabilities of a block of a transformer, the mean over its heads.

    They are computed from the projections of queries and keys, so that fused attention has them too.

    Args:
        model: a transformer, whose blocks are found in its structure (`limbeck.blocks.blocks_of`).
        inputs: a mapping of its keywords, such as {"input_ids": (N, L), "attention_mask": (N, L)}.
        block: its number, from 1.

    Returns:
        (N, L, L) float32 at least; a row is over the real tokens, and of padding is 0.

    Raises:
        ModelError: if the model is no such transformer, or rotates queries and keys behind their projections.
        InputError: if there is no such block.

    Example:
        >>> from limbeck.models import transformer
        >>> model = transformer((4,), 2, vocabulary=9, layers=1, width=8, heads=2)
        >>> token_attention(model, {"input_ids": torch.tensor([[1, 2, 3]])}, 1).sum(2)
        tensor([[1., 1., 1.]])

    Reference:
        Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.
    """
    found = blocks_of(model)
    if not isinstance(inputs, Mapping):
        raise InputError("inputs: found no mapping; expected the model's keywords, such as input_ids")
    if not 1 <= block <= len(found):
        raise InputError(f"block: found {block}, expected 1 to {len(found)}, the blocks of the model")
    return _attention(model, found, inputs, [block])[0]


def _attention(model: nn.Module, found: Blocks, inputs: Any, numbers: Sequence[int]) -> list[Tensor]:
    """Return the mean attention of some blocks, from one forward pass."""
    if found.rotary:
        raise ModelError("attention: the model rotates queries and keys by their positions behind their projections")
    places = [found.blocks[number - 1] for number in numbers]
    taps = {path: path for each in places for path in (each.query, each.key)}
    with evaluating(model), torch.no_grad(), capture(model, taps) as features:
        model(**inputs)
    maps = []
    for each in places:
        scores = attention_scores(features[each.query], features[each.key], found.heads)
        real = torch.ones(scores.shape[0], scores.shape[2], dtype=torch.bool, device=scores.device)
        if "attention_mask" in inputs:
            real = inputs["attention_mask"].bool()
        seen = real[:, None, :].expand(-1, scores.shape[2], -1)
        seen = seen.tril() if found.causal else seen
        probabilities = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1).mean(1)
        maps.append(torch.where(real[:, :, None], probabilities, 0.0))
    return maps


@checked
def compare_attention(
    student: nn.Module, teacher: nn.Module, samples: SampleSet, positions: Sequence[int], match: Match = "uniform"
) -> list[AttentionMap]:
    """Compute the attention of student and teacher for a few sentences, in each of the student's blocks.

    Args:
        student: a transformer.
        teacher: a transformer with at least as many blocks.
        samples: sentences with their tokenizer.
        positions: of the sentences in the set.
        match: which of the teacher's blocks is beside each of the student's, see `limbeck.blocks.matched`.

    Returns:
        For each sentence, in order, one map for each block of the student.

    Raises:
        ModelError: if a network is no such transformer.
        InputError: if the samples are no sentences.

    Example:
        >>> from limbeck.models import transformer
        >>> from limbeck.tokenizers import Words
        >>> texts = ["a good film", "bad"]
        >>> samples = TextSet.of(texts, torch.tensor([1, 0]), tokenizer=Words().fit(texts))
        >>> one, two = (transformer((4,), 2, vocabulary=9, layers=n, width=8, heads=2) for n in (1, 2))
        >>> [(each.tokens, each.teacher_block) for each in compare_attention(one, two, samples, [1])]
        [(('bad', '<eos>'), 2)]

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """
    if not isinstance(samples, TextSet) or samples.tokenizer is None:
        raise InputError(f"samples: '{samples.name}' holds no sentences with a tokenizer; expected kind: sentences")
    own, other = blocks_of(student, "student"), blocks_of(teacher, "teacher")
    numbers = matched(len(own), len(other), match)
    inputs = samples.batch(torch.as_tensor(list(positions)), augment=None, seed=0, view=0).inputs
    first = _attention(student, own, inputs, range(1, len(own) + 1))
    second = _attention(teacher, other, inputs, numbers)
    maps = []
    for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
        tokens = tuple(samples.tokenizer.names[number] for number in ids[real].tolist())
        for place, number in enumerate(numbers):
            pair = (each[row][real][:, real].cpu() for each in (first[place], second[place]))
            maps.append(AttentionMap(tokens, place + 1, number, *pair))
    return maps
