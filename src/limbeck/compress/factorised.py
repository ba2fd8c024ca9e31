"""Layers whose matrix is a product of two smaller ones: W = A·B."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import ModelError

__all__ = ["LowRankConv2d", "LowRankEmbedding", "LowRankLSTM", "LowRankLinear"]


class LowRankLinear(nn.Module):
    """A linear layer (…, n) → (…, m) of rank r: `b`, n → r without bias, then `a`, r → m.

    >>> LowRankLinear(8, 6, 2)(torch.zeros(3, 8)).shape
    torch.Size([3, 6])
    """

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.b = nn.Linear(in_features, rank, bias=False)
        self.a = nn.Linear(rank, out_features, bias=bias)

    @property
    def weight(self) -> Tensor:
        """The matrix A·B (m, n)."""
        return self.a.weight @ self.b.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (m,); None without one."""
        return self.a.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return self.a(self.b(inputs))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the rank, which no part says."""
        return f"rank={self.rank}"


class LowRankConv2d(nn.Module):
    """A convolution of rank r: `b`, k × k to r channels without bias, then `a`, 1 × 1 to the output channels.

    It is made of the convolution that it replaces.

    >>> LowRankConv2d(nn.Conv2d(3, 8, 3, padding=1), 4)(torch.zeros(1, 3, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, of: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.b = nn.Conv2d(
            of.in_channels,
            rank,
            of.kernel_size,  # type: ignore[arg-type]
            of.stride,  # type: ignore[arg-type]
            of.padding,  # type: ignore[arg-type]
            of.dilation,  # type: ignore[arg-type]
            bias=False,
            padding_mode=of.padding_mode,
        )
        self.a = nn.Conv2d(rank, of.out_channels, 1, bias=of.bias is not None)

    @property
    def weight(self) -> Tensor:
        """The kernel (c_out, c_in, k, k)."""
        return torch.einsum("or,rikl->oikl", self.a.weight[:, :, 0, 0], self.b.weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias (c_out,); None without one."""
        return self.a.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return self.a(self.b(inputs))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the rank, which no part says."""
        return f"rank={self.rank}"


class LowRankEmbedding(nn.Module):
    """An embedding (V, d) of rank r: token x has the vector A[x]·B.

    `a.weight` is A (V, r) and `b.weight` B (r, d), as in the `LowRankLinear` of a tied softmax, which can share both.

    >>> embedding = LowRankEmbedding(10, 6, 2)
    >>> embedding(torch.tensor([[0, 9]])).shape, embedding.scores(torch.zeros(1, 2, 6)).shape
    (torch.Size([1, 2, 6]), torch.Size([1, 2, 10]))
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, rank: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.padding_idx = padding_idx
        self.b = nn.Linear(embedding_dim, rank, bias=False)
        self.a = nn.Embedding(num_embeddings, rank, padding_idx)

    @property
    def weight(self) -> Tensor:
        """The matrix A·B (V, d)."""
        return self.a.weight @ self.b.weight

    @property
    def vectors(self) -> Tensor:
        """The vectors of all tokens, (V, d)."""
        return self.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.a(ids) @ self.b.weight  # type: ignore[no-any-return]

    def scores(self, hidden: Tensor) -> Tensor:
        """Return A·(B·h), the logits of a tied softmax: (…, d) to (…, V)."""
        return functional.linear(self.b(hidden), self.a.weight)

    def extra_repr(self) -> str:
        """Return the rank, which no part says."""
        return f"rank={self.rank}"


class LowRankLSTM(nn.Module):
    """An LSTM whose matrices W_ih and W_hh, the four gates stacked (4H, ·), are products of two each.

    It is called as `nn.LSTM` is, with sequences of equal length, and answers as that does.  Layer k has `input_b.k`
    (r, n) and `input_a.k` (4H, r), `hidden_b.k` and `hidden_a.k` likewise, and `bias.k` (4H,), the sum of the two of
    `nn.LSTM`.

    >>> layer = LowRankLSTM(nn.LSTM(8, 16, batch_first=True), [(4, 4)])
    >>> output, (hidden, cell) = layer(torch.zeros(2, 5, 8))
    >>> output.shape, hidden.shape
    (torch.Size([2, 5, 16]), torch.Size([1, 2, 16]))
    """

    def __init__(self, of: nn.LSTM, ranks: list[tuple[int, int]]) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = of.input_size, of.hidden_size, of.num_layers
        self.batch_first, self.dropout, self.ranks = of.batch_first, of.dropout, [tuple(each) for each in ranks]
        gates = 4 * of.hidden_size
        sizes = [of.input_size, *[of.hidden_size] * (of.num_layers - 1)]
        if len(ranks) != of.num_layers:
            raise ModelError(f"ranks: found {len(ranks)}, expected {of.num_layers}, two for each layer of the LSTM")
        like: dict[str, Any] = {"dtype": of.weight_ih_l0.dtype, "device": of.weight_ih_l0.device}

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, **like))

        self.input_a = nn.ParameterList([zeros(gates, first) for first, _ in ranks])
        self.input_b = nn.ParameterList([zeros(first, n) for (first, _), n in zip(ranks, sizes, strict=True)])
        self.hidden_a = nn.ParameterList([zeros(gates, second) for _, second in ranks])
        self.hidden_b = nn.ParameterList([zeros(second, of.hidden_size) for _, second in ranks])
        self.bias = nn.ParameterList([zeros(gates) for _ in ranks] if of.bias else [])

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            raise ModelError(
                "LowRankLSTM: found no batch of sequences of equal length, expected (N, T, n); pad them, or skip the "
                "LSTM in low_rank"
            )
        hidden = inputs if self.batch_first else inputs.transpose(0, 1)
        finals = []
        for layer in range(self.num_layers):
            if layer:
                hidden = functional.dropout(hidden, self.dropout, self.training)
            before = None if state is None else (state[0][layer : layer + 1], state[1][layer : layer + 1])
            hidden, after = self._layer(layer, hidden, before)
            finals.append(after)
        output = hidden if self.batch_first else hidden.transpose(0, 1)
        return output, (torch.cat([h for h, _ in finals]), torch.cat([c for _, c in finals]))

    def _layer(
        self, layer: int, inputs: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer; W_hh is multiplied out where there are so many places that this is the cheaper way."""
        if state is None:
            nothing = inputs.new_zeros(1, len(inputs), self.hidden_size)
            state = (nothing, nothing)
        left, right = self.hidden_a[layer], self.hidden_b[layer]
        bias = self.bias[layer] if len(self.bias) else None
        narrow = functional.linear(inputs, self.input_b[layer])
        if inputs.shape[0] * inputs.shape[1] > self.ranks[layer][1]:
            weights = [self.input_a[layer], left @ right]
            weights += [] if bias is None else [bias, torch.zeros_like(bias)]
            output, hidden, cell = torch.lstm(
                narrow, state, weights, bias is not None, 1, 0.0, self.training, False, True
            )
            return output, (hidden, cell)
        hidden, cell = state[0][0], state[1][0]
        outputs = []
        for given in functional.linear(narrow, self.input_a[layer], bias).unbind(1):
            gates = given + functional.linear(functional.linear(hidden, right), left)
            i, f, g, o = gates.chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs, 1), (hidden[None], cell[None])

    def extra_repr(self) -> str:
        """Return the sizes, which no part says."""
        return f"{self.input_size}, {self.hidden_size}, ranks={self.ranks}"
