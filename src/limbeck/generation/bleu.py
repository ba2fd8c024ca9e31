"""BLEU of single sentences."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from limbeck import checks
from limbeck.arguments import checked

__all__ = ["sentence_bleu"]


@checked
def sentence_bleu(candidate: Sequence[Hashable], reference: Sequence[Hashable], *, n: int = 4) -> float:
    """Return the smoothed BLEU of a sequence against one reference: min(1, e^(1-r/c))·exp(mean of log p_1 .. p_n).

    p_k is the share of the candidate's k-grams that the reference has, each counted at most as often as there; for
    k from 2 on, both numbers of the fraction are increased by 1, so that one k without a match does not give 0.

    Args:
        candidate: tokens, c of them: words, characters or ids.
        reference: tokens, r of them.
        n: the length of the longest k-grams.

    Returns:
        A number in [0, 1]; 1 for two equal sequences, 0 if no token is shared.

    Raises:
        InputError: if n is below 1.

    Example:
        >>> round(sentence_bleu("the cat sat".split(), "the cat sat down".split()), 4)
        0.7165

    Reference:
        Papineni et al. (2002), "BLEU", https://aclanthology.org/P02-1040; the smoothing: Lin & Och (2004),
        "ORANGE", https://aclanthology.org/C04-1072
    """
    checks.at_least("n", n, 1)
    if not candidate or not reference:
        return float(len(candidate) == len(reference))
    total = 0.0
    for size in range(1, n + 1):
        own, other = (Counter(zip(*(each[k:] for k in range(size)), strict=False)) for each in (candidate, reference))
        matches, count, more = sum((own & other).values()), max(len(candidate) - size + 1, 0), int(size > 1)
        if matches + more == 0:
            return 0.0
        total += math.log((matches + more) / (count + more))
    return math.exp(min(0.0, 1 - len(reference) / len(candidate)) + total / n)
