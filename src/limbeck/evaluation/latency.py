"""How long a language model takes for the next word, one at a time, as on a keyboard."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.evaluation.cost import Timing
from limbeck.networks import evaluating
from limbeck.outputs import run_model
from limbeck.tasks import TOKENS

__all__ = ["time_word"]

_FEWEST, _MOST = 20, 5000
"""Words that are timed."""
_STEP = 7919
"""From one word to the next, a prime, so that the rows of the embedding do not stay in the processor's cache."""


@checked
def time_word(model: nn.Module, vocabulary: int, *, offers: int = 3, warm_up: int = 20, budget: float = 1.0) -> Timing:
    """Time one word: a step of the model at batch size 1 on one thread, the scores of all words, and the best of them.

    The model reads one token (1, 1) at a time and its recurrent state is carried from word to word.  At least 20 words
    are timed and at most 5000.

    Args:
        model: a language model, with logits (1, 1, V).
        vocabulary: V, the words that it reads and predicts.
        offers: n, the words that are offered.
        warm_up: words that are not timed.
        budget: seconds to spend.

    Returns:
        Median and quartiles of a word.

    Raises:
        InputError: if a value is out of range, or the model does not score each word.

    Example:
        >>> from limbeck.models import lstm_lm
        >>> time_word(lstm_lm((1,), 50, vocabulary=50, embedding=4, hidden=4), 50, budget=0.01).batch
        1
    """
    checks.at_least("vocabulary", vocabulary, 1)
    checks.at_least("offers", offers, 1, at_most=vocabulary)
    checks.at_least("warm_up", warm_up, 0)
    checks.positive("budget", budget)
    device = next((weights.device for weights in model.parameters()), torch.device("cpu"))
    token, state = torch.zeros(1, 1, dtype=torch.int64, device=device), None
    seconds: list[float] = []
    start, number = 0.0, 0
    with _one_thread(), evaluating(model), torch.no_grad():
        while len(seconds) < _FEWEST or (time.perf_counter() - start < budget and len(seconds) < _MOST):
            if number == warm_up:
                start = time.perf_counter()
            token.fill_(number * _STEP % vocabulary)
            began = time.perf_counter()
            outputs = run_model(model, token, task=TOKENS, state=state)
            state = outputs.state
            if outputs.logits.shape != (1, 1, vocabulary):
                raise InputError(
                    f"model: found logits {tuple(outputs.logits.shape)} for one token, expected (1, 1, {vocabulary})"
                )
            outputs.logits[0, 0].topk(offers).indices.tolist()  # which also waits for the device
            if number >= warm_up:
                seconds.append(max(time.perf_counter() - began, 1e-9))
            number += 1
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(1, median, lower, upper, len(seconds))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the scope."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
