"""A small recurrent language model, and batches of a stream for it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Lanes
from limbeck.outputs import Outputs
from limbeck.tasks import TOKENS


class SmallLanguageModel(nn.Module):
    """Embedding, LSTM, linear layer; float64."""

    def __init__(self, tokens: int = 7, width: int = 5, *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(tokens, width)
            self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
            self.output = nn.Linear(width, tokens)
        self.double()

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Outputs:
        hidden, state = self.lstm(self.embedding(inputs), state)
        return Outputs(self.output(hidden), state=state)


def stream_batches(ids: Tensor, lanes: int, length: int) -> Iterator[Batch]:
    """Yield the batches of a stream of token ids (n,) in lanes."""
    rows = (len(ids) - 1) // lanes
    inputs, labels = ids[: lanes * rows].view(lanes, rows), ids[1 : lanes * rows + 1].view(lanes, rows)
    for start in range(0, rows, length):
        part = slice(start, start + length)
        yield stream_batch(inputs[:, part], labels[:, part], fresh=start == 0)


def stream_batch(inputs: Tensor, labels: Tensor, *, fresh: bool, lanes: Tensor | None = None) -> Batch:
    batch = Batch.of(inputs, labels, mask=torch.ones_like(labels, dtype=torch.bool), task=TOKENS)
    number = torch.arange(len(inputs)) if lanes is None else lanes
    batch.lanes = Lanes(number, torch.full((len(inputs),), fresh))
    return batch
