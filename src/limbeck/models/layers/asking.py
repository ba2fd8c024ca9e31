"""What limbeck does before and after the forward of a model of the Transformers library."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.head import head_behind
from limbeck.models.layers.tokens import MeanOfTokens
from limbeck.outputs import Outputs

__all__ = ["Asking", "Cutting", "LastToken", "Pooling", "counts_positions_itself"]


class Asking:
    """Makes the keywords that a model of the library is called with.

    No cache is kept unless one is asked for.  Token types go only to a model that has them.  Positions count the real
    tokens of a row, so that padding on the left moves none; a model that counts them itself (RoBERTa) does.  A mask
    (N, L, L) of the places that each place sees becomes what is added to the scores, (N, 1, L, L).
    """

    def __init__(self, *, types: bool, positions: bool, cache: bool) -> None:
        self.types, self.positions, self.cache = types, positions, cache

    @classmethod
    def of(cls, model: nn.Module) -> "Asking":
        """Return what a model needs."""
        takes = inspect.signature(type(model).forward).parameters
        return cls(
            types="token_type_ids" in takes and getattr(model.config, "type_vocab_size", 2) > 1,
            positions="position_ids" in takes and counts_positions_itself(model) is None,
            cache="use_cache" in takes,
        )

    def __call__(self, model: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(keywords)
        if args and isinstance(args[0], Tensor):
            given["input_ids"], args = args[0], args[1:]
        if not self.types:
            given.pop("token_type_ids", None)
        if self.cache:
            given.setdefault("use_cache", False)
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 3:
            dtype = next(model.parameters()).dtype
            hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            given["attention_mask"] = hidden.masked_fill(~mask.bool(), torch.finfo(dtype).min)[:, None]
        if not self.positions or given.get("position_ids") is not None:
            return args, given
        if isinstance(ids, Tensor) and isinstance(mask, Tensor) and mask.dim() == 2:
            given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return args, given


def counts_positions_itself(model: nn.Module) -> int | None:
    """Return the padding's own position where a model counts positions from it on, as RoBERTa does; otherwise None."""
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding) and part.padding_idx is not None and name.endswith("position_embeddings"):
            return part.padding_idx
    return None


class Pooling:
    """Makes the answer of a model without head the vector of each sentence: its first token's, or the mean."""

    def __init__(self, pooling: str) -> None:
        self.pooling = pooling

    def __call__(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], answer: Any) -> Any:
        del args
        hidden = answer[0]
        if self.pooling == "first":
            return Outputs(hidden[:, 0])
        mask = keywords.get("attention_mask")
        return Outputs(MeanOfTokens()(hidden, mask if mask is not None and mask.dim() == 2 else None))


class LastToken:
    """Makes the answer of a decoder for a sentence the one at its last real token.

    The library's own looks for the last token that is not the padding's id.  Where texts end with that id, as where one
    id is both, it would read an earlier one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.scores: Tensor | None = None
        model.get_submodule("score").register_forward_hook(self.keep)

    def keep(self, _: nn.Module, __: Any, scores: Tensor) -> None:
        """Note the scores of all tokens (N, L, K) until the forward ends."""
        self.scores = scores

    def __call__(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], answer: Any) -> Any:
        del args
        scores, self.scores = self.scores, None
        mask = keywords.get("attention_mask")
        if scores is not None and scores.dim() == 3:
            places = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
            last = places[:, -1] if mask is None else (places * mask).argmax(1)
            answer["logits"] = scores[torch.arange(len(scores), device=scores.device), last]
        return answer


class Cutting:
    """Leaves out the logits of ids that the tokenizer does not have, as the rows that pad an embedding give them."""

    def __init__(self, real: int) -> None:
        self.real = real

    def __call__(self, _: nn.Module, __: Any, answer: Any) -> Any:
        logits = answer["logits"]
        head = head_behind(logits)
        answer["logits"] = logits[..., : self.real] if head is None else head.first(self.real).placeholder()
        return answer
