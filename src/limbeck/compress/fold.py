"""Folding: the second factor of a low-rank embedding becomes part of the layers around it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limbeck.arguments import checked_fields
from limbeck.card import Card
from limbeck.compress.factorised import LowRankEmbedding, LowRankLinear
from limbeck.compress.statistics import Statistics
from limbeck.compress.transform import Log, Transform
from limbeck.errors import ModelError
from limbeck.models.layers import TiedSoftmax, TokenEmbedding
from limbeck.models.lstm_lm import LstmLanguageModel

__all__ = ["CARD", "Fold"]

CARD = Card(
    name="fold",
    summary="a tied embedding A·B of an LSTM language model as A alone, with B inside the layers around it",
    authors="Seunghak Yu, Nilesh Kulkarni, Haejun Lee, Jihie Kim",
    year=2018,
    title="On-Device Neural Language Model Based Word Prediction",
    source="https://aclanthology.org/C18-2028",
    formula="W_ih·(A[x]·B)ᵀ = (W_ih·Bᵀ)·A[x]ᵀ; logits A·(B·h) + b",
)


@checked_fields
@dataclass(frozen=True)
class Fold(Transform):
    """Give the tokens of an `lstm_lm` r numbers each in place of d, where its tied matrix is A·B of rank r.

    Token x has the vector A[x]·B, which the first layer multiplies by W_ih: the product W_ih·Bᵀ (4H, r) takes the place
    of W_ih.  The softmax is A·(B·h) + b: B becomes its projection.  Outputs stay the same, with fewer weights and
    operations.  Apply `low_rank` to the tied matrix first.

    Example:
        >>> import torch
        >>> from limbeck.compress import LowRank
        >>> from limbeck.models import lstm_lm
        >>> model = lstm_lm((5,), 20, vocabulary=20, embedding=8, hidden=8, layers=1)
        >>> low, _ = LowRank(rank=3, select=("embedding",)).apply(model)
        >>> folded, _ = Fold().apply(low)
        >>> folded.embedding.weight.shape, folded.layers[0].weight_ih_l0.shape
        (torch.Size([20, 3]), torch.Size([32, 3]))
    """

    def change(self, model: nn.Module, statistics: Statistics | None, seed: int) -> tuple[nn.Module, Log]:
        """Return the model with the products in place of B."""
        parts = _parts(model)
        basis: Tensor = parts.embedding.b.weight
        own: Any = parts.first.weight_ih_l0
        rank, width = basis.shape
        tokens, inputs = parts.embedding.a.weight, own @ basis.T
        weight, bias = basis, None
        if parts.projection is not None:
            weight, bias = basis @ parts.projection.weight, basis @ parts.projection.bias
        plan = {"rank": rank, "bias": bias is not None}
        folded: Any = self.restructure(model, plan)
        folded.embedding.weight.copy_(tokens)
        folded.layers[0].weight_ih_l0.copy_(inputs)
        folded.decoder.projection.weight.copy_(weight)
        if bias is not None:
            folded.decoder.projection.bias.copy_(bias)
        changed = {
            "embedding": f"{width} numbers a token, of rank {rank}: {rank}",
            "layers.0": f"LSTM of {width} inputs: {rank}",
            "decoder": f"a projection from {len(weight.T)} to {rank} before the softmax",
        }
        kept = {f"layers.{number}": "reads no embedding" for number in range(1, len(folded.layers))}
        return folded, Log(changed, kept, plan)

    def restructure(self, model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
        """Return the model with modules of the sizes that `change` gave them, and the weights that stay."""
        parts, rank = _parts(model), int(plan["rank"])
        like = parts.embedding.a.weight
        parts.model.embedding = TokenEmbedding(len(like), rank).to(like)
        first = nn.LSTM(rank, parts.first.hidden_size, batch_first=True).to(like)
        stays = {name: each for name, each in parts.first.state_dict().items() if name != "weight_ih_l0"}
        first.load_state_dict(stays, strict=False)
        parts.model.layers[0] = first
        hidden = int(parts.model.layers[-1].hidden_size)  # type: ignore[arg-type]
        decoder = TiedSoftmax(hidden, rank, len(like)).to(like)
        decoder.projection = nn.Linear(hidden, rank, bias=plan["bias"]).to(like)
        decoder.bias.copy_(parts.bias)
        parts.model.decoder = decoder
        return parts.model


@dataclass(frozen=True)
class _Parts:
    """What is folded.  projection: of the softmax, before the tied matrix; None without one.  bias: of its logits."""

    model: LstmLanguageModel
    embedding: LowRankEmbedding
    first: nn.LSTM
    projection: nn.Linear | None
    bias: Tensor


def _parts(model: nn.Module) -> _Parts:
    """Return the parts of a language model with a tied matrix of low rank; ModelError for any other network."""
    mend = "apply low_rank to the tied embedding of an lstm_lm before"
    if not isinstance(model, LstmLanguageModel):
        raise ModelError(f"fold: found {type(model).__name__}, expected an lstm_lm; {mend}")
    embedding, first, decoder = model.embedding, model.layers[0], model.decoder
    if not isinstance(embedding, LowRankEmbedding):
        raise ModelError(f"fold: found an embedding {type(embedding).__name__}, expected one of low rank; {mend}")
    if not isinstance(first, nn.LSTM):
        raise ModelError(f"fold: found a first layer {type(first).__name__}, expected an LSTM; skip it in low_rank")
    if isinstance(decoder, TiedSoftmax):
        return _Parts(model, embedding, first, decoder.projection, decoder.bias)
    projection, out = getattr(decoder, "projection", None), getattr(decoder, "out", decoder)
    if isinstance(out, LowRankLinear) and out.a.weight is embedding.a.weight:
        return _Parts(model, embedding, first, projection, out.a.bias)
    raise ModelError(
        f"fold: found a softmax {type(decoder).__name__} with a matrix of its own, expected one that shares the "
        f"embedding's; share it, and {mend}"
    )
