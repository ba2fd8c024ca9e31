"""Encoder and decoder of LSTM layers with attention, as in Luong et al. (2015) without input feeding."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from limbeck import checks
from limbeck.arguments import checked
from limbeck.devices import without_autocast_on_cpu
from limbeck.errors import ModelError

__all__ = ["Seq2SeqLSTM", "seq2seq_lstm"]


class _Encoder(nn.LSTM):
    """LSTM layers over sequences that are padded on the right, whose last states are those of their last tokens."""

    def forward(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        with without_autocast_on_cpu():
            outputs, state = super().forward(packed)
        return pad_packed_sequence(outputs, batch_first=True, total_length=embedded.shape[1])[0], state


class Seq2SeqLSTM(nn.Module):
    """An LSTM encoder, and an LSTM decoder that starts from its last state and attends to its outputs.

    Parts: source_embedding, encoder, target_embedding, decoder, query (the attention's matrix), pool (tanh of a linear
    layer on what is attended to and the decoder's output, the penultimate feature), fc.

    A state, for decoding step by step, is a mapping of tensors whose batch axis is 1.
    """

    def __init__(self, sources: int, targets: int, *, layers: int, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.source_embedding = nn.Embedding(sources, embedding)
        self.encoder = _Encoder(embedding, width, layers, batch_first=True, dropout=between)
        self.target_embedding = nn.Embedding(targets, embedding)
        self.decoder = nn.LSTM(embedding, width, layers, batch_first=True, dropout=between)
        self.query = nn.Linear(width, width, bias=False)
        self.pool = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh())
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, targets)
        for weights in self.parameters():
            nn.init.uniform_(weights, -0.1, 0.1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """Return logits (N, L, V) of the token after each of decoder_input_ids (N, L).

        input_ids: (N, S) int64.  attention_mask: (N, S), 0 or False for padding, which is on the right.
        """
        if decoder_input_ids is None:
            raise ModelError("seq2seq_lstm: found no decoder_input_ids; expected them beside input_ids, (N, L) int64")
        return self._decode(decoder_input_ids, self.start(input_ids, attention_mask))[0]

    def start(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Read the sources and return the state before the first token."""
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lengths = real.sum(1)
        first = torch.arange(input_ids.shape[1], device=real.device) < lengths[:, None]
        exported = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
        if not exported and not torch.equal(real, first):  # an exported graph cannot look at values
            raise ModelError(
                "seq2seq_lstm: attention_mask has padding before a token; expected sources that are padded on the right"
            )
        embedded = self.dropout(self.source_embedding(input_ids))
        memory, (hidden, cell) = self.encoder(embedded, lengths.clamp_min(1))
        seen = real | (torch.arange(real.shape[1], device=real.device) == 0)  # one place of an empty source
        return {
            "memory": memory.transpose(0, 1),
            "keys": self.query(memory).transpose(0, 1),
            "seen": seen.T,
            "hidden": hidden,
            "cell": cell,
        }

    def step(self, tokens: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits (N, V) of the token after tokens (N,), and the next state."""
        logits, state = self._decode(tokens[:, None], state)
        return logits[:, 0], state

    def _decode(self, tokens: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        embedded = self.dropout(self.target_embedding(tokens))
        before = (state["hidden"].contiguous(), state["cell"].contiguous())
        with without_autocast_on_cpu():
            outputs, (hidden, cell) = self.decoder(embedded, before)
        scores = outputs @ state["keys"].permute(1, 2, 0)
        attention = scores.masked_fill(~state["seen"].T[:, None], -torch.inf).softmax(-1)
        context = attention @ state["memory"].transpose(0, 1)
        logits: Tensor = self.fc(self.dropout(self.pool(torch.cat([context, outputs], -1))))
        return logits, {**state, "hidden": hidden, "cell": cell}


@checked
def seq2seq_lstm(
    input_shape: int | Sequence[int],
    classes: int,
    vocabulary: int = 0,
    layers: int = 1,
    width: int = 64,
    embedding: int | None = None,
    dropout: float = 0.0,
) -> Seq2SeqLSTM:
    """Build an encoder and decoder of LSTM layers with attention, for pairs of a source and a target.

    Args:
        input_shape: (S,), the longest source; any length can be read.
        classes: V, tokens of the targets.
        vocabulary: tokens of the sources; a recipe fills it in from its data.
        layers: of the encoder, and of the decoder.
        width: units of each layer.
        embedding: the size of the token vectors; half of the width by default.
        dropout: on token vectors, between layers and before fc, in [0, 1].

    Returns:
        A network from {input_ids (N, S), attention_mask, decoder_input_ids (N, L)} to logits (N, L, V).  `start` and
        `step` decode token by token, as `limbeck.generation` does.

    Raises:
        ModelError: if the samples are no token ids.
        InputError: if a value is out of range.

    Example:
        >>> net = seq2seq_lstm((9,), classes=7, vocabulary=5)
        >>> source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 6]])
        >>> net(source, decoder_input_ids=target).shape
        torch.Size([1, 2, 7])
        >>> logits, state = net.step(torch.tensor([0]), net.start(source))
        >>> logits.shape
        torch.Size([1, 7])

    Reference:
        Luong, Pham & Manning (2015), "Effective Approaches to Attention-based Neural Machine Translation",
        https://arxiv.org/abs/1508.04025
    """
    for name, value in (("classes", classes), ("layers", layers), ("width", width)):
        checks.at_least(name, value, 1)
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if len(shape) != 1 or vocabulary < 1:
        raise ModelError(
            f"kind: seq2seq_lstm takes the token ids of a source, (length,), and samples have shape {shape} with"
            f" {vocabulary} tokens; use data of kind seq2seq"
        )
    embedding = max(1, width // 2) if embedding is None else embedding
    checks.at_least("embedding", embedding, 1)
    checks.unit_interval("dropout", dropout)
    return Seq2SeqLSTM(vocabulary, classes, layers=layers, width=width, embedding=embedding, dropout=dropout)
