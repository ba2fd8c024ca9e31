"""Hints: a projection of the student's feature gives the teacher's."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.features import FeatureTerm, by_token
from limbeck.layers import LayerPairs
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Hint", "hint"]

CARD = Card(
    name="hint",
    summary="a middle layer of the teacher, which a projection of the student's has to give",
    authors="Adriana Romero, Nicolas Ballas, Samira Ebrahimi Kahou, Antoine Chassang, Carlo Gatta, Yoshua Bengio",
    year=2015,
    title="FitNets: Hints for Thin Deep Nets",
    source="https://arxiv.org/abs/1412.6550",
    formula="hard_weight·H(y, q) + weight·Σ_layers mean (r(F) - G)², r learned",
)


class Hint(FeatureTerm):
    """Squared error of projected features, summed over the layers; the mean over the feature of an example or token.

    Args:
        layers: what is compared.
        weight: a number or schedule, finite and not negative.
        projection: "auto", "none" or one of `projections.KINDS`.
        norm: "mean" or "half_sum" (see `losses.hint`).

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> Hint("stage2").name
        'hint'

    Reference:
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """

    per_token = True

    def __init__(
        self,
        layers: LayerPairs,
        weight: Schedule = 100.0,
        *,
        projection: str | dict[str, str] = "auto",
        norm: Literal["mean", "half_sum"] = "mean",
    ) -> None:
        super().__init__("hint", weight, layers)
        projection = projections.kind_of(projection)
        checks.choice("projection", projection, ("auto", "none", *sorted(projections.KINDS)))
        checks.choice("norm", norm, ("mean", "half_sum"))
        self.projection = projection
        self.norm: Literal["mean", "half_sum"] = norm
        self._unreached: dict[int, float] = {}

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Make the projections; refuse the student's logits, which are no hint."""
        logits = outputs["student"].logits
        for own, _ in self.layers.pairs:
            feature = outputs["student"].features[own]
            if feature.shape == logits.shape and torch.equal(feature, logits):
                raise InputError(
                    f"layers: the student's '{own}' gives its logits; use logit_matching, or name a hidden layer"
                )
        super().build(outputs, setup)

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        kind, below = self.projection, float((teacher < 0).float().mean())
        if kind == "none":
            checks.shapes_match("without a projection, the student", student.shape, "the teacher", teacher.shape)
            return None
        if kind == "auto":
            kind = "linear" if teacher.dim() < 4 else "fit_bn" if below else "conv_bn_relu"
        if kind in ("conv_bn_relu", "conv_act", "bottleneck"):
            self._unreached[number] = below
        return projections.KINDS[kind](student.shape, teacher.shape)

    def projection_text(self, number: int) -> str:
        """Return what is learned, and which share of the target its ReLU cannot reach."""
        text, below = super().projection_text(number), self._unreached.get(number, 0.0)
        return f"{text}; its ReLU cannot reach the {below:.0%} of the target below 0" if below else text

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return by_token(losses.hint, self.projected(student, number), teacher, norm=self.norm)


@checked
def hint(
    layers: LayerPairs,
    weight: Schedule = 100.0,
    projection: str | dict[str, str] = "auto",
    norm: Literal["mean", "half_sum"] = "mean",
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build hints, trained together with the other terms.

    The literature's tables train it so and call it FitNet; the paper trains in two stages, as `scheme: hints` does.

    Args:
        layers: what is compared: a path, a list of paths that both networks have, or {student's path: teacher's path}.
        weight: a number or schedule, 100 in the literature's tables; it belongs to the scale of the teacher's feature.
        projection: r.  "auto" is `conv_bn_relu` for maps that are nowhere negative, `fit_bn` for other maps, and
            `linear` for vectors and tokens; "none", or one of `projections.KINDS`, alone or as {"kind": ...}.
        norm: "mean" over a feature, or "half_sum", the paper's.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `hint`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range or there is no layer.

    Example:
        >>> sorted(hint({"stage2": "stage2"}).terms)
        ['hard', 'hint']

    Reference:
        Romero et al. (2015), "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """
    term = Hint(layers, weight, projection=projection, norm=norm)
    return beside_logits([term], hard_weight, soft_weight, temperature)
