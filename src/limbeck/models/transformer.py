"""Small transformers for text: encoders as BERT (Devlin et al. 2019) and decoder language models."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError
from limbeck.models.layers import MeanOfTokens, check_tokens

__all__ = ["Transformer", "transformer"]

_SPREAD = 0.02
_EPSILON = 1e-12


class Embeddings(nn.Module):
    """Sum of the vectors of words, positions and token types, then LayerNorm and dropout: (N, L, width)."""

    def __init__(self, vocabulary: int, width: int, positions: int, types: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        types = torch.zeros_like(ids) if types is None else types
        summed = self.words(ids) + self.positions(positions) + self.types(types)
        embedded: Tensor = self.dropout(self.norm(summed))
        return embedded


class Residual(nn.Module):
    """A linear layer and dropout, added to what came before: norm(x + dropout(dense(h))), or without the norm."""

    def __init__(self, inner: int, width: int, dropout: float, *, norm: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=_EPSILON) if norm else nn.Identity()

    def forward(self, made: Tensor, before: Tensor) -> Tensor:
        summed: Tensor = self.norm(before + self.dropout(self.dense(made)))
        return summed


class Attention(nn.Module):
    """Multi-head attention, softmax(QKᵀ/√d)·V over the places that `seen` allows, with its residual connection."""

    def __init__(self, width: int, heads: int, dropout: float, *, post: bool) -> None:
        super().__init__()
        self.heads, self.chance = heads, dropout
        self.norm = nn.Identity() if post else nn.LayerNorm(width, eps=_EPSILON)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = Residual(width, width, dropout, norm=post)

    def forward(self, hidden: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
        read = self.norm(hidden)
        query, key, value = (
            layer(read).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        chance = self.chance if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=chance, is_causal=causal and seen is None
        )
        summed: Tensor = self.output(mixed.transpose(1, 2).flatten(2), hidden)
        return summed

    def extra_repr(self) -> str:
        """Return what the layers do not say."""
        return f"heads={self.heads}, dropout={self.chance}"


class Layer(nn.Module):
    """Attention, then two linear layers with GELU between, each with its residual connection."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, *, post: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout, post=post)
        self.norm = nn.Identity() if post else nn.LayerNorm(width, eps=_EPSILON)
        self.intermediate = nn.Linear(width, feed_forward)
        self.output = Residual(feed_forward, width, dropout, norm=post)

    def forward(self, hidden: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
        hidden = self.attention(hidden, seen, causal)
        made: Tensor = self.output(functional.gelu(self.intermediate(self.norm(hidden))), hidden)
        return made


class FirstToken(nn.Module):
    """A linear layer and tanh on the first token's hidden state: (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor, _: Tensor | None) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class Transformer(nn.Module):
    """Embeddings, layers and a head; see `transformer`, which builds one.

    Its forward takes the keywords `input_ids` (N, L) int64, `attention_mask` (N, L), 0 for padding, or (N, L, L) for
    places that see only some others, `token_type_ids` (N, L) and `position_ids` (N, L).  Positions count the real
    tokens of a row, wherever its padding is.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        layers: Sequence[Layer],
        classes: int,
        *,
        head: str,
        pooling: str,
        causal: bool,
        post: bool,
    ) -> None:
        super().__init__()
        width, chance = embeddings.words.embedding_dim, embeddings.dropout.p
        self.causal, self.head = causal, head
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Identity() if post else nn.LayerNorm(width, eps=_EPSILON)
        self.pooler: nn.Module | None = None
        if head in ("classification", "none"):
            self.pooler = FirstToken(width) if pooling == "first" else MeanOfTokens()
        self.dropout = nn.Dropout(chance)
        self.classifier = None if head == "none" else nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_SPREAD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if self.classifier is not None and head == "words":
            self.classifier.weight = embeddings.words.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return logits: (N, K) of sentences, (N, L, K) of tokens; vectors (N, width) with `head: none`."""
        most = self.embeddings.positions.num_embeddings
        if input_ids.shape[1] > most:
            raise ModelError(
                f"transformer: found sequences of {input_ids.shape[1]} tokens; expected at most {most}, its positions."
                " Cut them at max_length, or build it with more positions"
            )
        mask = None if attention_mask is None else attention_mask.bool()
        padding = None if mask is None or mask.dim() != 2 else mask
        if position_ids is None:
            places = torch.ones_like(input_ids) if padding is None else padding.long()
            position_ids = (places.cumsum(1) - 1).clamp(min=0)
        hidden = self.embeddings(input_ids, position_ids, token_type_ids)
        seen = None if mask is None else self._seen(mask)
        for layer in self.layers:
            hidden = layer(hidden, seen, self.causal)
        hidden = self.norm(hidden)
        if self.pooler is not None:
            hidden = self.pooler(hidden, padding)
        logits: Tensor = hidden
        if self.classifier is not None:
            logits = self.classifier(hidden if self.head == "words" else self.dropout(hidden))
        return logits

    def _seen(self, mask: Tensor) -> Tensor:
        """Return which places each place sees: bool (N, 1, L, L), at least itself."""
        length = mask.shape[-1]
        seen = mask[:, None, :].expand(-1, length, -1) if mask.dim() == 2 else mask
        if self.causal:
            seen = seen & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)
        return (seen | itself)[:, None]

    def extra_repr(self) -> str:
        """Return what the parts do not say."""
        return f"head={self.head}, causal={self.causal}"


@checked
def transformer(
    input_shape: int | Sequence[int],
    classes: int,
    vocabulary: int = 0,
    max_length: int = 0,
    layers: int = 4,
    width: int = 256,
    heads: int = 4,
    feed_forward: int | None = None,
    dropout: float = 0.1,
    positions: int = 512,
    causal: bool = False,
    head: Literal["classification", "tokens", "words", "none"] | None = None,
    pooling: Literal["first", "mean"] = "first",
    norm: Literal["post", "pre"] | None = None,
) -> Transformer:
    """Build a small transformer over token ids: an encoder as BERT, or a decoder language model.

    Parts: `embeddings`; `layers.0` and so on, with `attention.query`, `.key`, `.value`, `.output`, `intermediate` and
    `output`; `pooler`; `classifier`.  `embeddings` and each layer output hidden states (N, L, width).

    Args:
        input_shape: (L,), the longest sequence.
        classes: K; for `head: words` the vocabulary.
        vocabulary: token ids, V.
        max_length: the longest sequence of the data; 0 for that of `input_shape`.
        layers: how many.
        width: of a token.
        heads: of each attention; the width is a multiple of it.
        feed_forward: width between a layer's two last linear layers; None for 4 times the width.
        dropout: after embeddings, attention and layers, of attention probabilities, and before the classifier.
        positions: the longest sequence that the model takes; each has a learned vector.
        causal: whether a token sees only itself and those before it.
        head: "classification" of sentences, (N, K); "tokens", a linear layer on each token, (N, L, K); "words", the
            same with the weights of the word embedding (tied) and a bias, (N, L, V); "none", the pooled vector
            (N, width).  None for "words" if causal, otherwise "classification".
        pooling: of a sentence: "first", a linear layer and tanh on its first token; "mean" of its real tokens.
        norm: LayerNorm "post" each residual connection, as in BERT, or "pre", before each part and once at the end.
            None for "pre" if causal, otherwise "post".

    Returns:
        A network from the keywords `input_ids`, `attention_mask`, `token_type_ids` to logits.

    Raises:
        ModelError: if the data has no token ids, longer sequences than positions, or other classes than words.
        InputError: if a value is out of range.

    Example:
        >>> model = transformer((16,), 2, vocabulary=100, layers=2, width=8, heads=2)
        >>> model(input_ids=torch.zeros(3, 5, dtype=torch.int64)).shape
        torch.Size([3, 2])
        >>> model = transformer((16,), 100, vocabulary=100, layers=2, width=8, heads=2, causal=True)
        >>> model(input_ids=torch.zeros(3, 5, dtype=torch.int64)).shape
        torch.Size([3, 5, 100])

    Reference:
        Vaswani et al. (2017), arXiv:1706.03762; Devlin et al. (2019), arXiv:1810.04805, for the encoder; Press & Wolf
        (2017), arXiv:1608.05859, for the tied softmax.
    """
    checks.at_least("classes", classes, 1)
    longest = check_tokens("transformer", input_shape, vocabulary, max_length)
    inner = 4 * width if feed_forward is None else feed_forward
    for name, value in (("layers", layers), ("width", width), ("heads", heads), ("feed_forward", inner)):
        checks.at_least(name, value, 1)
    checks.at_least("positions", positions, 1)
    checks.unit_interval("dropout", dropout)
    if width % heads:
        raise InputError(f"heads: found {heads} for a width of {width}, expected a divisor of it")
    head = head or ("words" if causal else "classification")
    if causal and head == "classification":
        raise InputError("head: found classification with causal: true; expected words, tokens or none")
    if longest > positions:
        raise ModelError(
            f"positions: found {positions} for sequences of up to {longest} tokens; expected as many. Set positions:"
            f" {longest}, or a smaller max_length of the data"
        )
    if head == "words" and classes != vocabulary:
        raise ModelError(
            f"head: words answers one of {vocabulary} token ids, and the data has {classes} classes; use head: tokens,"
            " or leave causal out to classify sentences"
        )
    post = (norm or ("pre" if causal else "post")) == "post"
    embeddings = Embeddings(vocabulary, width, positions, 2, dropout)
    every = [Layer(width, heads, inner, dropout, post=post) for _ in range(layers)]
    return Transformer(embeddings, every, classes, head=head, pooling=pooling, causal=causal, post=post)
