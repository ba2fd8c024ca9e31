"""LSTM language models: the AWD-LSTM of Merity et al. (2017), and the keyboard model of Yu et al. (2018)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from limbeck import checks
from limbeck.arguments import checked, checked_fields
from limbeck.devices import without_autocast_on_cpu
from limbeck.errors import InputError, ModelError
from limbeck.models.layers import LockedDropout, RowDropout, TiedSoftmax, TokenEmbedding, check_tokens
from limbeck.models.layers.locked_dropout import call_with_dropped_weights, check_dropout
from limbeck.outputs import Outputs

__all__ = ["LstmDropout", "LstmLanguageModel", "lstm_lm"]

_INITIAL = 0.1

State = tuple[tuple[Tensor, Tensor], ...]
"""h and c of each layer, each (1, N, size)."""


@checked_fields
@dataclass(frozen=True)
class LstmDropout:
    """What an LSTM language model drops in training, as shares in [0, 1).

    Each mask is the same at all time steps of a batch.

    Attributes:
        embedding_rows: of the rows of the embedding matrix, dropped whole.
        input: of the embedded input.
        between: of what one layer gives the next.
        output: of what the last layer gives.
        weight_drop: of the single weights of every W_hh (DropConnect).

    Raises:
        InputError: if a share is out of range.

    Example:
        >>> LstmDropout(output=0.4, weight_drop=0.5).between
        0.0

    Reference:
        Merity et al. (2017), "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182.
    """

    embedding_rows: float = 0.0
    input: float = 0.0
    between: float = 0.0
    output: float = 0.0
    weight_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("embedding_rows", "input", "between", "output", "weight_drop"):
            check_dropout(name, getattr(self, name))


class LstmLanguageModel(nn.Module):
    """Token ids (N, T) to `Outputs` with logits (N, T, V) of the next token and the state after the last one.

    Parts: `embedding`, `rows` and `input` (dropout), `layers`, each an `nn.LSTM` of one layer, `between` and `output`
    (dropout), `decoder`.  The output of `output` is the last layer's with dropout, its input the same without.

    With a tied softmax the embedding owns the only matrix, and the decoder is a `TiedSoftmax`.

    state: (h, c) of each layer, each (1, N, size); None begins with zeros.
    """

    state_axis: ClassVar[int] = 1

    def __init__(
        self, embedding: TokenEmbedding, layers: Sequence[nn.LSTM], decoder: nn.Module, dropout: LstmDropout
    ) -> None:
        super().__init__()
        self.embedding: nn.Module = embedding
        self.rows = RowDropout(dropout.embedding_rows, embedding.num_embeddings)
        self.input = LockedDropout(dropout.input)
        self.layers = nn.ModuleList(layers)
        self.between = LockedDropout(dropout.between)
        self.output = LockedDropout(dropout.output)
        self.decoder = decoder
        self.weight_drop = dropout.weight_drop

    @property
    def tied(self) -> bool:
        """Whether the softmax has the embedding's matrix."""
        return isinstance(self.decoder, TiedSoftmax)

    @property
    def class_vectors(self) -> Tensor | None:
        """The vectors of the tokens in a tied softmax (V, d); None where the decoder has a matrix of its own."""
        return self.embedding.vectors if self.tied else None  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor:
        """The bias of the softmax, (V,)."""
        return self.decoder.bias  # type: ignore[return-value]

    def forward(self, input_ids: Tensor, state: State | None = None, attention_mask: Tensor | None = None) -> Outputs:
        """Return logits and state.

        Padding stands after a sample's tokens, where it changes no answer to them; so `attention_mask` is not read.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ModelError(
                f"lstm_lm: found inputs {input_ids.dtype} {tuple(input_ids.shape)}, expected token ids (N, T) of int64;"
                " use data of kind token_stream"
            )
        hidden = self.input(self.rows(self.embedding(input_ids), input_ids))
        after: list[tuple[Tensor, Tensor]] = []
        for number, layer in enumerate(self.layers):
            if number:
                hidden = self.between(hidden)
            given = () if state is None else (state[number],)
            with without_autocast_on_cpu():
                answer: Any = call_with_dropped_weights(layer, self.weight_drop, hidden, *given)
            hidden = answer[0]
            after.append(answer[1])
        hidden = self.output(hidden)
        logits = self.decoder(hidden, self.embedding) if self.tied else self.decoder(hidden)
        return Outputs(logits, state=tuple(after))

    def extra_repr(self) -> str:
        """Return what no module says."""
        return f"weight_drop={self.weight_drop}"


@checked
def lstm_lm(
    input_shape: int | Sequence[int],
    classes: int,
    vocabulary: int = 0,
    embedding: int = 200,
    hidden: int = 200,
    layers: int = 2,
    tied: bool = True,
    projection: bool = False,
    dropout: LstmDropout = LstmDropout(),
) -> LstmLanguageModel:
    """Build an LSTM language model with a softmax that shares the matrix of the embedding, or has its own.

    With a tied softmax the last layer has the size of the embedding, as in AWD-LSTM; with `projection` it keeps the
    size `hidden`, and a linear layer stands between it and the shared matrix, as in the keyboard model.
    The AWD-LSTM of the Penn Treebank is `embedding=400, hidden=1150, layers=3`, 24.2M parameters.

    Args:
        input_shape: (T,): a sample is a row of token ids.
        classes: V, the tokens that are predicted.
        vocabulary: V, the tokens that are read; a recipe fills it in from its data.
        embedding: the size of a token's vector.
        hidden: the size of the layers.
        layers: how many.
        tied: whether the softmax has the matrix of the embedding.
        projection: whether a linear layer brings the last layer to the size of the embedding; it is left out where
            `hidden` is that size.
        dropout: what is dropped in training.

    Returns:
        A network from token ids (N, T) int64 to `Outputs` with logits (N, T, V) and a state.

    Raises:
        ModelError: if a sample is no row of token ids.
        InputError: if a value is out of range, or there is a projection without a tied softmax.

    Example:
        >>> import torch
        >>> model = lstm_lm((35,), classes=10, vocabulary=10, embedding=4, hidden=6)
        >>> outputs = model(torch.zeros(2, 35, dtype=torch.int64))
        >>> outputs.logits.shape, outputs.state[0][0].shape
        (torch.Size([2, 35, 10]), torch.Size([1, 2, 6]))

    Reference:
        Merity et al. (2017), arXiv:1708.02182; Yu et al. (2018), "On-Device Neural Language Model Based Word
        Prediction", COLING 2018, for the projection.
    """
    checks.at_least("classes", classes, 1)
    check_tokens("lstm_lm", input_shape, vocabulary, 0)
    if vocabulary != classes:
        raise ModelError(
            f"kind: lstm_lm predicts the tokens that it reads, found {vocabulary} tokens and {classes} classes; use"
            " data of kind token_stream"
        )
    for name, value in (("embedding", embedding), ("hidden", hidden), ("layers", layers)):
        checks.at_least(name, value, 1)
    if projection and not tied:
        raise InputError("projection: needs a tied softmax; leave it out, or set tied: true")
    last = embedding if tied and not projection else hidden
    sizes = [embedding, *[hidden] * (layers - 1), last]
    table = TokenEmbedding(vocabulary, embedding)
    nn.init.uniform_(table.weight, -_INITIAL, _INITIAL)
    stack = [nn.LSTM(before, after, batch_first=True) for before, after in itertools.pairwise(sizes)]
    decoder = TiedSoftmax(last, embedding, vocabulary) if tied else nn.Linear(last, vocabulary)
    if isinstance(decoder, nn.Linear):
        nn.init.uniform_(decoder.weight, -_INITIAL, _INITIAL)
        nn.init.zeros_(decoder.bias)
    return LstmLanguageModel(table, stack, decoder, dropout)
