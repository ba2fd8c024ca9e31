"""What a model generated: tokens, how many of them count, and what they scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import as_tensor
from limbeck.devices import exact
from limbeck.errors import InputError, ModelError
from limbeck.networks import check_network, evaluating

__all__ = ["Generated", "checked_ends", "checked_inputs", "log_softmax", "of_equal_prompts"]


@dataclass(frozen=True, eq=False)
class Generated:
    """Generated sequences, each with its end token, without the prompt.

    Attributes:
        tokens: (N, L) int64, or (N, K, L) where K sequences were asked for; 0 where `mask` is False.
        mask: bool, shaped as the tokens: False behind the first end token.
        log_probs: (N,) or (N, K) float64, the sum of the model's log-probabilities of the tokens that count, at
            temperature 1; -inf of a sequence that does not exist, where there are fewer than K.
        scores: (N,) or (N, K) float64, by which sequences were ranked: the log-probabilities, divided by the length
            penalty if there is one.

    Example:
        >>> found = Generated(torch.tensor([[4, 2, 0]]), torch.tensor([[True, True, False]]), *torch.zeros(2, 1))
        >>> found.lengths
        tensor([2])
    """

    tokens: Tensor
    mask: Tensor
    log_probs: Tensor
    scores: Tensor

    @property
    def lengths(self) -> Tensor:
        """How many tokens count, end token included: (N,) or (N, K)."""
        return self.mask.sum(-1)

    def best(self) -> "Generated":
        """Return the first of K sequences of each sample: (N, L)."""
        if self.tokens.dim() == 2:
            return self
        return Generated(self.tokens[:, 0], self.mask[:, 0], self.log_probs[:, 0], self.scores[:, 0])

    def lists(self) -> list[Any]:
        """Return the tokens that count as nested lists.

        >>> Generated(torch.tensor([[4, 2, 0]]), torch.tensor([[True, True, False]]), *torch.zeros(2, 1)).lists()
        [[4, 2]]
        """
        if self.tokens.dim() == 2:
            rows = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
            return [row[:length] for row, length in rows]
        return [
            Generated(*each).lists() for each in zip(self.tokens, self.mask, self.log_probs, self.scores, strict=True)
        ]


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log-probabilities in float64 of logits (M, V); ModelError for NaN."""
    logits = exact(logits)
    if bool(logits.isnan().any()):
        raise ModelError("model: it answers NaN while it generates; check its weights")
    return (logits / temperature).log_softmax(-1)


def checked_ends(ends: Sequence[int]) -> tuple[int, ...]:
    """Return the ids of end tokens; InputError unless they are whole numbers from 0 on.

    >>> checked_ends([3, 2])
    (3, 2)
    """
    for each in ends:
        checks.at_least("ends", each, 0)
    return tuple(ends)


def checked_inputs(inputs: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Return inputs as tensors, with their token ids (N, L) and their mask; InputError for other shapes."""
    if isinstance(inputs, Mapping):
        inputs = {name: as_tensor(f"inputs '{name}'", each) for name, each in inputs.items()}
        if "input_ids" not in inputs:
            raise InputError(f"inputs: found {sorted(inputs)}; expected input_ids among them")
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    else:
        inputs = ids = as_tensor("inputs", inputs)
        mask = None
    if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32) or ids.numel() == 0:
        raise InputError(f"inputs: found {ids.dtype} {tuple(ids.shape)}; expected token ids (N, L), int64, none empty")
    if mask is not None and mask.shape != ids.shape:
        raise InputError(f"attention_mask: found {tuple(mask.shape)}; expected {tuple(ids.shape)}, as the input_ids")
    return inputs, ids, mask


def of_equal_prompts(model: nn.Module, inputs: Any, length: int, run: Callable[[Any, Tensor], Generated]) -> Generated:
    """Run a generation on inputs, prompts of each length by themselves, and return all rows in their order.

    Prompts are padded on either side; without their padding they need no mask and no positions, so that a model gives
    each prompt what it gives it alone.  Inputs of an encoder and decoder are run as they are.
    run: is handed inputs without padding, and the places of their rows (M,) in the batch.
    """
    check_network("model", model)
    checks.at_least("length", length, 1)
    inputs, ids, mask = checked_inputs(inputs)
    everything = torch.arange(len(ids), device=ids.device)
    with evaluating(model), torch.no_grad():
        if isinstance(inputs, Mapping) and "decoder_input_ids" in inputs:
            return _filled([run(inputs, everything)], everything)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        counts = real.sum(1)
        if not bool((counts > 0).all()):
            raise InputError("attention_mask: found a prompt without tokens; expected one token or more in each")
        found, places = [], []
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero().squeeze(1)
            prompt = ids[rows][real[rows]].view(len(rows), count)
            found.append(run({"input_ids": prompt} if isinstance(inputs, Mapping) else prompt, rows))
            places.append(rows)
        return _filled(found, torch.cat(places))


def _filled(parts: Sequence[Generated], places: Tensor) -> Generated:
    """Return rows of several generations in the order of their places, as long as the longest."""
    order = places.argsort()
    longest = max(part.tokens.shape[-1] for part in parts)

    def joined(name: str) -> Tensor:
        rows = [getattr(part, name) for part in parts]
        if name in ("tokens", "mask"):
            rows = [torch.nn.functional.pad(each, (0, longest - each.shape[-1])) for each in rows]
        return torch.cat(rows)[order]

    return Generated(*(joined(name) for name in ("tokens", "mask", "log_probs", "scores")))
