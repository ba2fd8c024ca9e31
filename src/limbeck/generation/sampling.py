"""Greedy decoding, and sampling with one number a token, which is a function of (seed, view, sample, position)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError
from limbeck.generation.decoders import decoder_of
from limbeck.generation.generated import Generated, checked_ends, checked_inputs, log_softmax, of_equal_prompts
from limbeck.randomness import uniform

__all__ = ["OneOpen", "greedy", "inverse_cdf", "sample"]

_Pick = Callable[[Tensor, Tensor, int], Tensor]


@checked
def inverse_cdf(logits: Tensor, numbers: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the first token whose cumulative probability is above a number, computed in float64.

    Args:
        logits: (M, V) floating point; -inf excludes a token.
        numbers: (M,) in [0, 1).
        temperature: > 0, by which logits are divided.

    Returns:
        (M,) int64.

    Raises:
        InputError: if the shapes disagree or the temperature is not positive.

    Example:
        >>> logits = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(3, 3)
        >>> inverse_cdf(logits, torch.tensor([0.1, 0.4, 0.99]))
        tensor([0, 1, 2])
    """
    checks.positive("temperature", temperature)
    checks.logits("logits", logits)
    if logits.dim() != 2 or numbers.shape != logits.shape[:1]:
        raise InputError(f"logits {tuple(logits.shape)}, numbers {tuple(numbers.shape)}: expected (M, V) and (M,)")
    mass = log_softmax(logits, temperature).exp()
    below = (mass.cumsum(-1) <= numbers.to(mass)[:, None]).sum(-1)
    possible = torch.arange(mass.shape[-1], device=mass.device) * (mass > 0)
    return torch.minimum(below, possible.amax(-1)).to(logits.device)  # the sum may end a rounding below 1


@checked
def greedy(model: nn.Module, inputs: Any, *, length: int, ends: Sequence[int] = ()) -> Generated:
    """Generate the most probable token at each step; of equal ones the one with the lowest id.

    Args:
        model: a causal language model from token ids (N, L) to logits (N, L, V), recurrent or not, or an encoder and
            decoder.  It answers in eval mode.
        inputs: prompts (N, P) int64; or {input_ids, attention_mask}, padded on either side; with decoder_input_ids for
            an encoder and decoder, whose first column begins the sequence.
        length: the largest number of tokens to generate.
        ends: ids of end tokens.  A sequence keeps its end token and is masked behind it; without any, all have the
            full length.

    Returns:
        Tokens (N, L), their mask and log-probabilities.

    Raises:
        InputError: if inputs, length or ends are wrong.
        ModelError: if the model raises, or answers in another form.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 5), nn.Linear(5, 5))
        >>> greedy(model, torch.tensor([[3], [1]]), length=4).tokens.shape
        torch.Size([2, 4])
    """
    return _decode(model, inputs, length, ends, lambda log_probs, _rows, _position: _first_of_largest(log_probs))


@checked
def sample(
    model: nn.Module,
    inputs: Any,
    *,
    length: int,
    ends: Sequence[int] = (),
    temperature: float = 1.0,
    seed: int = 0,
    view: Tensor | None = None,
    index: Tensor | None = None,
) -> Generated:
    """Sample sequences, each token by one number that depends on (seed, view, index, position) alone.

    How prompts are cut into batches, ordered or padded therefore changes no token.  At the same numbers a lower
    temperature gives the more probable tokens.

    Args:
        model: as in `greedy`.
        inputs: as in `greedy`.
        length: the largest number of tokens to generate.
        ends: ids of end tokens, as in `greedy`.
        temperature: > 0, by which logits are divided before a token is drawn.
        seed: of the numbers.
        view: (N,) int64, as in a `Batch`: other views of a sample are other draws; 0 by default.
        index: (N,) int64, the number of each sample; its row by default.

    Returns:
        Tokens (N, L), their mask, and their log-probabilities at temperature 1.

    Raises:
        InputError: if inputs, length, ends, temperature or numbers are wrong.
        ModelError: if the model raises, or answers in another form.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 5), nn.Linear(5, 5))
        >>> prompts = torch.tensor([[3], [1]])
        >>> both = sample(model, prompts, length=4).tokens
        >>> torch.equal(both[1:], sample(model, prompts[1:], length=4, index=torch.tensor([1])).tokens)
        True
    """
    checks.positive("temperature", temperature)
    checks.at_least("length", length, 1)
    inputs, ids, _ = checked_inputs(inputs)
    index = torch.arange(len(ids)) if index is None else _whole("index", index, len(ids))
    view = torch.zeros_like(index) if view is None else _whole("view", view, len(ids)).to(index.device)
    numbers = uniform(checks.seed(seed), "generate", view, index, length).to(ids.device)

    def pick(log_probs: Tensor, rows: Tensor, position: int) -> Tensor:
        return inverse_cdf(log_probs, numbers[rows, position], temperature=temperature)

    return _decode(model, inputs, length, ends, pick)


class OneOpen:
    """A logits processor for `generate` of the Transformers library: its greedy search then samples as `sample` does.

    At each step it leaves one token open, the one that `inverse_cdf` draws, and excludes all others.

    Args:
        prompt: the number of columns of the prompts, padding included; 1 for an encoder and decoder.
        index: (N,) int64, the number of each sample.
        seed: of the numbers.
        temperature: > 0.
        view: (N,) int64; 0 by default.

    Raises:
        InputError: if the temperature is not positive, or the numbers do not fit the samples.

    Example:
        >>> scores = torch.tensor([[0.2, 0.3, 0.5]]).log()
        >>> OneOpen(prompt=1, index=torch.tensor([0]))(torch.tensor([[2]]), scores).isfinite().sum()
        tensor(1)
    """

    @checked
    def __init__(
        self,
        prompt: int,
        index: Tensor,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        view: Tensor | None = None,
    ) -> None:
        checks.at_least("prompt", prompt, 1)
        checks.positive("temperature", temperature)
        self.prompt = prompt
        self.seed = seed
        self.temperature = temperature
        self.index = _whole("index", index, len(index))
        self.view = torch.zeros_like(self.index) if view is None else _whole("view", view, len(index))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (N, V) with -inf for all tokens but the one that is drawn."""
        if len(scores) != len(self.index):
            raise InputError(f"index: found {len(self.index)} samples; expected {len(scores)}, one for each prompt")
        position = input_ids.shape[1] - self.prompt
        if position < 0:
            raise InputError(f"prompt: found {self.prompt} columns; expected at most {input_ids.shape[1]}")
        index, view = self.index.to(scores.device), self.view.to(scores.device)
        numbers = uniform(self.seed, "generate", view, index, position + 1)[:, position]
        token = inverse_cdf(scores, numbers, temperature=self.temperature)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def _decode(model: nn.Module, inputs: Any, length: int, ends: Sequence[int], pick: _Pick) -> Generated:
    ends = checked_ends(ends)

    def run(given: Any, places: Tensor) -> Generated:
        decoder = decoder_of(model)
        logits, state = decoder.start(given)
        tokens = torch.zeros(len(places), length, dtype=torch.int64, device=places.device)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        total = torch.zeros(len(places), dtype=torch.float64)
        live = torch.arange(len(places), device=places.device)
        for position in range(length):
            log_probs = log_softmax(logits)
            token = pick(log_probs, places[live], position).to(places.device)
            tokens[live, position], mask[live, position] = token, True
            total[live.cpu()] += log_probs.gather(1, token.to(log_probs.device)[:, None]).squeeze(1).cpu()
            going = _going_on(token, ends)
            if position + 1 == length or not bool(going.any()):
                break
            if not bool(going.all()):
                rows = going.nonzero().squeeze(1)
                live, token, state = live[rows], token[rows], decoder.select(state, rows)
            logits, state = decoder.step(token, state)
        longest = int(mask.sum(1).max())
        return Generated(tokens[:, :longest], mask[:, :longest], total, total.clone())

    return of_equal_prompts(model, inputs, length, run)


def _going_on(token: Tensor, ends: Sequence[int]) -> Tensor:
    going = torch.ones_like(token, dtype=torch.bool)
    for end in ends:
        going &= token != end
    return going


def _first_of_largest(log_probs: Tensor) -> Tensor:
    ids = torch.arange(log_probs.shape[-1], device=log_probs.device)
    largest = log_probs == log_probs.amax(-1, keepdim=True)
    return torch.where(largest, ids, log_probs.shape[-1]).amin(-1)


def _whole(name: str, values: Tensor, count: int) -> Tensor:
    if values.dtype != torch.int64 or values.shape != (count,):
        raise InputError(f"{name}: found {values.dtype} {tuple(values.shape)}; expected ({count},) int64")
    return values
