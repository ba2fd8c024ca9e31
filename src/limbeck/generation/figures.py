"""How well a model generates the targets of a set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data import SampleSet
from limbeck.errors import InputError
from limbeck.evaluation import evaluate
from limbeck.evaluation.summed import perplexity
from limbeck.generation.beam import beam_search
from limbeck.tasks import TOKENS, UNLABELLED

__all__ = ["sequence_figures", "word_matches"]

_AT_ONCE = 256


@checked
def word_matches(found: str, target: str) -> int:
    """Return how many words two texts share in the same order: the length of their longest common subsequence.

    Args:
        found: words, parted by spaces.
        target: the same.

    Returns:
        A number from 0 to the number of words in the target.

    Example:
        >>> word_matches("a very good film", "very bad film")
        2
    """
    own, other = found.split(), target.split()
    before = [0] * (len(other) + 1)
    for word in own:
        now = [0]
        for place, each in enumerate(other):
            now.append(before[place] + 1 if word == each else max(now[place], before[place + 1]))
        before = now
    return before[-1]


@checked
def sequence_figures(
    model: nn.Module, samples: SampleSet, *, beams: Sequence[int] = (1, 5), length: int | None = None
) -> dict[str, Any]:
    """Measure what a model generates for the sources of a set, beside the targets.

    Args:
        model: an encoder and decoder.
        samples: of kind seq2seq, with a tokenizer.
        beams: the widths of the searches; 1 is greedy decoding.
        length: the largest number of tokens; None for that of the set's longest text.

    Returns:
        `perplexity` of the targets; and by beam (`beam_1`), `exact_match`, the share of samples whose target is found;
        `word_accuracy`, the share of the targets' words that are found in their order; `probability`, the mean
        probability of what is found.

    Raises:
        InputError: if the set has no targets of tokens, or a beam is below 1.

    Example:
        >>> from limbeck import generation
        >>> generation.sequence_figures is sequence_figures
        True
    """
    if samples.task is not TOKENS or samples.tokenizer is None:
        raise InputError(f"samples: found the task {samples.task.name}; expected pairs of texts, of kind seq2seq")
    for beam in beams:
        checks.at_least("beams", beam, 1)
    end = samples.tokenizer.special.eos
    sums = {beam: dict.fromkeys(("exact", "words", "probability"), 0.0) for beam in beams}
    words = 0
    for positions in torch.arange(len(samples)).split(_AT_ONCE):
        batch = samples.batch(positions, augment=None, seed=0, view=0)
        targets = [_text(samples, row) for row in ([] if batch.labels is None else batch.labels.tolist())]
        words += sum(len(target.split()) for target in targets)
        for beam, total in sums.items():
            found = beam_search(
                model,
                batch.inputs,
                length=length or samples.max_length,
                ends=[] if end is None else [end],
                beam=beam,
            ).best()
            texts = [_text(samples, row) for row in found.lists()]
            pairs = list(zip(texts, targets, strict=True))
            total["exact"] += sum(own == target for own, target in pairs)
            total["words"] += sum(word_matches(own, target) for own, target in pairs)
            total["probability"] += float(found.log_probs.exp().sum())
    figures: Mapping[str, Any] = {
        f"beam_{beam}": {
            "exact_match": total["exact"] / len(samples),
            "word_accuracy": total["words"] / max(words, 1),
            "probability": total["probability"] / len(samples),
        }
        for beam, total in sums.items()
    }
    return {"perplexity": perplexity(float(evaluate(model, samples).nll)), **figures}


def _text(samples: SampleSet, row: Sequence[int]) -> str:
    tokenizer = samples.tokenizer
    return "" if tokenizer is None else tokenizer.decode([token for token in row if token != UNLABELLED])
