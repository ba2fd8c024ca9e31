"""Sequences that a model generates: greedy, sampled or by beam search, and how near they are to given ones."""

from limbeck.generation.batches import generated_batch
from limbeck.generation.beam import beam_search
from limbeck.generation.bleu import sentence_bleu
from limbeck.generation.figures import sequence_figures, word_matches
from limbeck.generation.generated import Generated
from limbeck.generation.sampling import OneOpen, greedy, inverse_cdf, sample

__all__ = [
    "Generated",
    "OneOpen",
    "beam_search",
    "generated_batch",
    "greedy",
    "inverse_cdf",
    "sample",
    "sentence_bleu",
    "sequence_figures",
    "word_matches",
]
