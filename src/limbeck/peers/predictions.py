"""What a peer may show instead of its network: its answers to the samples that all peers hold."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import SampleSet
from limbeck.distiller import check_answer
from limbeck.errors import CheckpointError, InputError
from limbeck.evaluation import predict
from limbeck.outputs import Outputs, Tap
from limbeck.tasks import Need
from limbeck.teacher import refuse_taps
from limbeck.teachers.rows import Rows
from limbeck.training import Training, load_weights

__all__ = ["Predictions", "PredictionsTeacher", "check_samples"]


class Predictions(nn.Module):
    """A network's logits for the samples of a set, unaugmented and in eval mode, by sample index.

    Its state is what is published, kept in checkpoints and read back: `index` (n,) int64, `logits` (n, K) float32.

    >>> import limbeck as lb
    >>> samples = lb.data.TensorSet.of(torch.randn(20, 3), torch.randint(4, (20,)), classes=4)
    >>> shown = Predictions(samples)
    >>> shown.fill(nn.Linear(3, 4))
    >>> shown.logits.shape
    torch.Size([20, 4])
    """

    index: Tensor
    logits: Tensor

    def __init__(self, samples: SampleSet) -> None:
        super().__init__()
        samples.task.require(Need.ONE_OF_SEVERAL, what="peers: predictions are of", mend="exchange weights")
        self.samples = samples
        self.register_buffer("index", samples.index.clone())
        self.register_buffer("logits", torch.zeros(len(samples), samples.classes))

    @torch.no_grad()
    def fill(self, network: nn.Module) -> None:
        """Let a network answer for all samples; ModelError where it answers other classes."""
        logits = predict(network, self.samples)
        check_answer("peer", logits, self.samples.classes, self.samples.task)
        self.logits.copy_(logits)

    def of(self, network: nn.Module) -> "Predictions":
        """Return those of another network for the same samples."""
        others = Predictions(self.samples).to(self.logits.device)
        others.fill(network)
        return others

    @torch.no_grad()
    def read(self, path: Path) -> None:
        """Read what another peer has published; CheckpointError where it is of other samples, or of other classes."""
        found = Predictions(self.samples)
        load_weights(found, path)
        if not torch.equal(found.index, self.samples.index.to(found.index.device)):
            raise CheckpointError(f"'{path}' has predictions for other samples")
        self.logits.copy_(found.logits)


class PredictionsTeacher:
    """A teacher that looks up what a peer has said of a batch's samples."""

    def __init__(self, said: Predictions) -> None:
        self.said = said
        self._rows = Rows(said.index, source=said.samples.source)

    def __call__(self, batch: Batch, taps: Mapping[str, str | Tap] | None = None) -> Outputs:
        """Return the logits; InputError for a batch of other samples, or of samples that are changed."""
        refuse_taps(taps, "peers", "predictions", "use kd, for example")
        (logits,) = self._rows.look_up(batch, [self.said.logits])
        return Outputs(logits)

    def to(self, device: torch.device | str) -> "PredictionsTeacher":
        """Place the predictions on a device."""
        self.said.to(device)
        self._rows.to(device)
        return self

    def fingerprint(self) -> str:
        """Return what decides the answers besides the peer's own training."""
        return f"predictions for {self.said.samples.source}"


def check_samples(said: Predictions, samples: SampleSet, training: Training) -> None:
    """Refuse to learn from predictions where they are not about the samples that a training sees."""
    if training.augment.active:
        raise InputError("peers: predictions are for unaugmented samples, but augment changes them; leave it out")
    known = said.samples
    if known.source != samples.source or not bool(torch.isin(samples.index.cpu(), known.index.cpu()).all()):
        raise InputError(
            f"peers: {len(known)} samples have predictions, but a peer learns from others; every peer must hold the "
            "samples that are predicted, all of those it learns from"
        )
