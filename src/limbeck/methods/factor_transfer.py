"""Factor transfer: the teacher's map paraphrased into a compact factor, which the student learns to translate to."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs
from limbeck.losses.hints import hint
from limbeck.losses.maps import pooled
from limbeck.losses.reduction import compute_dtype
from limbeck.objective import Objective
from limbeck.schedules import Schedule, piecewise, until
from limbeck.terms import beside_logits

__all__ = ["CARD", "FactorTransfer", "Paraphrase", "Paraphraser", "factor_transfer"]

CARD = Card(
    name="factor_transfer",
    summary="the teacher's map as a compact factor that an autoencoder found, which a translator of the student gives",
    authors="Jangho Kim, SeongUk Park, Nojun Kwak",
    year=2018,
    title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
    source="https://arxiv.org/abs/1802.04977",
    formula="hard_weight·H(y, softmax(z)) + weight·mean |φ(translator(F)) - φ(paraphraser(G))|, φ(x) = x/‖x‖",
)


class Paraphraser(nn.Module):
    """Three 3×3 convolutions from a map to a factor, and three transposed ones back, with leaky ReLUs."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.encode = _convolutions(nn.Conv2d, channels, channels, factor, factor)
        self.decode = _convolutions(nn.ConvTranspose2d, factor, factor, channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the map that the factor gives back."""
        decoded: Tensor = self.decode(self.factor(maps))
        return decoded

    def factor(self, maps: Tensor) -> Tensor:
        """Return the factor of a map."""
        encoded: Tensor = self.encode(maps.to(next(self.parameters()).dtype))
        return encoded


class Paraphrase(FeatureTerm):
    """What the paraphraser's factor loses of the teacher's map: mean |·|, or mean (·)², over an example."""

    axes = frozenset({4})

    def __init__(
        self,
        weight: Schedule,
        *,
        layers: LayerPairs,
        rate: float = 0.5,
        error: Literal["absolute", "squared"] = "absolute",
        name: str = "paraphrase",
    ) -> None:
        super().__init__(name, weight, layers)
        checks.choice("error", error, ("absolute", "squared"))
        checks.positive("rate", rate)
        self.rate = rate
        self.error = error

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        return Paraphraser(teacher.shape[1], width(teacher, self.rate))

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        decoded = self.projections[number](teacher)
        if self.error == "squared":
            return hint(decoded, teacher, reduction="none")
        return (compute_dtype(decoded, "paraphrase") - teacher).abs().flatten(1).mean(1)


class FactorTransfer(FeatureTerm):
    """Mean |φ(translator(F)) - φ(factor of the teacher)| per example; the paraphraser is another term's and fixed."""

    axes = frozenset({4})

    def __init__(
        self,
        weight: Schedule,
        *,
        layers: LayerPairs,
        paraphrase: Paraphrase,
        of: Literal["factor", "attention"] = "factor",
        name: str = "factor_transfer",
    ) -> None:
        super().__init__(name, weight, layers)
        checks.choice("of", of, ("factor", "attention"))
        self.of = of
        self._paraphrase = (paraphrase,)  # not registered: its parameters are the other term's

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module:
        own, factor = student.shape[1], width(teacher, self._paraphrase[0].rate)
        return _convolutions(nn.Conv2d, own, own, factor, factor)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            factor = self._paraphrase[0].projections[number].factor(teacher)  # type: ignore[operator]
        own, other = pooled(self.projected(student, number), factor)
        return losses.factor_transfer(own, other, of=self.of, reduction="none")


def width(teacher: Tensor, rate: float) -> int:
    """Return the channels of a factor of the teacher's map."""
    return max(1, round(rate * teacher.shape[1]))


def _convolutions(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], *channels: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for own, other in pairwise(channels):
        parts += [kind(own, other, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts)


@checked
def factor_transfer(
    layers: LayerPairs,
    weight: float = 500.0,
    rate: float = 0.5,
    paraphraser_steps: int = 4000,
    error: Literal["absolute", "squared"] = "absolute",
    of: Literal["factor", "attention"] = "factor",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build factor transfer, with the terms `hard`, `paraphrase` and `factor_transfer`.

    In the first steps the paraphraser learns from the teacher alone, beside the student's labels.  Then it is fixed,
    and the student's translator learns its factors.

    Args:
        layers: maps (N, C, H, W), published the last one, such as `stage3`.
        weight: β of the mean over the numbers of a factor, from `paraphraser_steps` on; published 500, and 200 with
            `of: attention`.
        rate: k, the channels of a factor as a share of the teacher's.
        paraphraser_steps: optimizer steps in which the paraphraser learns, 1 or more; fewer than the training has.
            Published: 5 epochs, or 30 with the squared error.
        error: "absolute", as the authors' code has it, or "squared", as the paper.
        of: "factor", or "attention": the mean square of a factor over its channels, which RepDistiller compares under
            this name.
        hard_weight: of the labels; a number or schedule.
        soft_weight: of soft targets beside it; a number or schedule.
        temperature: T > 0 of the soft targets.

    Returns:
        The objective.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(factor_transfer("stage3").terms)
        ['factor_transfer', 'hard', 'paraphrase']

    Reference:
        Kim, Park & Kwak (2018), arXiv:1802.04977.
    """
    checks.at_least("paraphraser_steps", paraphraser_steps, 1)
    checks.positive("weight", weight)
    paraphrase = Paraphrase(until(paraphraser_steps, 1.0), layers=layers, rate=rate, error=error)
    schedule = piecewise([0.0, weight], boundaries=[paraphraser_steps])
    transfer = FactorTransfer(schedule, layers=layers, paraphrase=paraphrase, of=of)
    return beside_logits([paraphrase, transfer], hard_weight, soft_weight, temperature)
