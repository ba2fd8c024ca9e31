"""The attention of a finished run's student and teacher for a few sentences."""

from collections.abc import Sequence

import torch

from limbeck.data import SampleSet, TextSet
from limbeck.errors import ModelError
from limbeck.evaluation.attention import AttentionMap, compare_attention
from limbeck.results.finished import FinishedRun

__all__ = ["sentence_attention"]


def sentence_attention(
    run: FinishedRun, samples: SampleSet, positions: Sequence[int], device: torch.device
) -> tuple[AttentionMap, ...]:
    """Return the attention maps of the first seed's distilled student beside its teacher's, sentence by sentence.

    None where the run has no teacher, the samples are no sentences, or the two are no transformers whose blocks match.
    """
    if not run.recipe.scheme.uses_teacher or not isinstance(samples, TextSet) or samples.tokenizer is None:
        return ()
    seed = run.seeds[0]
    student, teacher = run.student("distilled", seed).to(device), run.teacher(seed).to(device)
    method = run.recipe.method.values
    match = method.get("match", "uniform")
    try:
        return tuple(compare_attention(student, teacher, samples.to(device), positions, match))
    except ModelError:
        return ()
