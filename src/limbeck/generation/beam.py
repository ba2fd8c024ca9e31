"""Beam search: the K best sequences that a model can be led to, in one order on every run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.generation.decoders import Decoder, decoder_of
from limbeck.generation.generated import Generated, checked_ends, log_softmax, of_equal_prompts

__all__ = ["beam_search"]


@checked
def beam_search(
    model: nn.Module,
    inputs: Any,
    *,
    length: int,
    ends: Sequence[int] = (),
    beam: int = 5,
    best: int = 1,
    length_penalty: float = 0.0,
) -> Generated:
    """Search for the most probable sequences with K beams.

    The score of a sequence is Σ log q, divided by ((5 + length)/6)^a with a length penalty a; its length counts the end
    token.  A finished sequence stays among the K while its score is one of the K best.  Of equal scores the one
    that is finished comes first, then the lower token id, so that results never vary.

    Args:
        model: as in `greedy`.
        inputs: as in `greedy`.
        length: the largest number of tokens to generate.
        ends: ids of end tokens, as in `greedy`.
        beam: K, how many sequences are extended at a time; 1 is greedy decoding.
        best: how many of the K are returned, the best first.
        length_penalty: a, from 0 on; 0 leaves scores as they are.

    Returns:
        Tokens (N, best, L), their mask, log-probabilities and scores; log-probability -inf and no token where there
        are fewer sequences.  `best()` gives the first of each.

    Raises:
        InputError: if a value is wrong, or `best` is above `beam`.
        ModelError: if the model raises, or answers in another form.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 5), nn.Linear(5, 5))
        >>> found = beam_search(model, torch.tensor([[3], [1]]), length=4, beam=3, best=2)
        >>> found.tokens.shape, bool((found.scores[:, 0] >= found.scores[:, 1]).all())
        (torch.Size([2, 2, 4]), True)

    Reference:
        Length penalty: Wu et al. (2016), "Google's Neural Machine Translation System", https://arxiv.org/abs/1609.08144
    """
    checks.at_least("beam", beam, 1)
    checks.at_least("best", best, 1)
    checks.non_negative("length_penalty", length_penalty)
    ends = checked_ends(ends)
    if best > beam:
        raise InputError(f"best: found {best} with beam {beam}; expected at most the beam")

    def run(given: Any, places: Tensor) -> Generated:
        return _Search(len(places), length, ends, beam, best, length_penalty).run(decoder_of(model), given)

    return of_equal_prompts(model, inputs, length, run)


class _Search:
    """N samples with K beams each, the best first; sums and scores are (N, K) float64 on the CPU, -inf for no beam."""

    def __init__(
        self, samples: int, length: int, ends: tuple[int, ...], beam: int, best: int, length_penalty: float
    ) -> None:
        self.ends, self.best, self.beam, self.penalty = ends, best, beam, length_penalty
        self.tokens = torch.zeros(samples, beam, length, dtype=torch.int64)
        self.lengths = torch.zeros(samples, beam, dtype=torch.int64)
        self.sums = torch.full((samples, beam), -torch.inf, dtype=torch.float64)
        self.sums[:, 0] = 0.0
        self.finished = torch.zeros(samples, beam, dtype=torch.bool)

    def run(self, decoder: Decoder, given: Any) -> Generated:
        logits, state = decoder.start(given)
        device = logits.device
        rows = torch.arange(len(self.sums)) * self.beam  # of the beams (N·K,) that the model answered for
        for position in range(self.tokens.shape[2]):
            parents = self._extend(log_softmax(logits).cpu(), rows, position)
            going = (self.sums > -torch.inf) & ~self.finished & ~self._settled()[:, None]
            if position + 1 == self.tokens.shape[2] or not bool(going.any()):
                break
            row_of = torch.full((self.sums.numel(),), -1)
            row_of[rows] = torch.arange(len(rows))
            rows = going.flatten().nonzero().squeeze(1)
            state = decoder.select(state, row_of[parents.flatten()[rows]].to(device))
            logits, state = decoder.step(self.tokens[:, :, position].flatten()[rows].to(device), state)
        return self._found()

    def _extend(self, log_probs: Tensor, rows: Tensor, position: int) -> Tensor:
        """Extend beams by a token, keep the K best of each sample and return the beam that each comes from (N, K)."""
        samples, beam = self.sums.shape
        width = min(beam, log_probs.shape[1])
        values, tokens = (each[:, :width] for each in log_probs.sort(stable=True, dim=-1, descending=True))
        sums = torch.full((samples * beam, width), -torch.inf, dtype=torch.float64)
        ids = torch.full((samples * beam, width), -1)
        sums[rows], ids[rows] = self.sums.flatten()[rows, None] + values, tokens
        lengths = torch.full_like(ids, position + 1)
        done = self.finished.flatten()
        sums[done, 0], ids[done, 0] = self.sums.flatten()[done], -1
        lengths[done] = self.lengths.flatten()[done, None]
        parents = torch.arange(samples * beam)[:, None].expand(-1, width)
        sums, ids, lengths, parents = (each.reshape(samples, -1) for each in (sums, ids, lengths, parents))
        order = ids.sort(stable=True, dim=-1).indices
        scores = self._scores(sums, lengths).gather(1, order)
        order = order.gather(1, scores.sort(stable=True, dim=-1, descending=True).indices)[:, :beam]
        self.sums, ids, self.lengths, parents = (each.gather(1, order) for each in (sums, ids, lengths, parents))
        self.tokens = self.tokens.flatten(0, 1)[parents]
        stayed = self.finished.flatten()[parents]
        self.tokens[:, :, position] = torch.where(stayed | (ids < 0), 0, ids)
        self.finished = stayed | torch.isin(ids, torch.tensor(self.ends, dtype=torch.int64))
        return parents

    def _settled(self) -> Tensor:
        """Return whose best sequences can change no more (N,): sums only fall, so that no beam behind overtakes."""
        over = self.finished | (self.sums == -torch.inf)
        return over[:, : self.best].all(1) if self.penalty == 0 else over.all(1)

    def _scores(self, sums: Tensor, lengths: Tensor) -> Tensor:
        return sums / ((5 + lengths.double()) / 6) ** self.penalty if self.penalty else sums

    def _found(self) -> Generated:
        sums, lengths, tokens = (each[:, : self.best] for each in (self.sums, self.lengths, self.tokens))
        lengths = torch.where(sums > -torch.inf, lengths, 0)
        longest = max(1, int(lengths.max()))
        mask = torch.arange(longest) < lengths[..., None]
        return Generated(tokens[..., :longest] * mask, mask, sums, self._scores(sums, lengths))
