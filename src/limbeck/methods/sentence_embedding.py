"""Sentence embeddings: the teacher's vector of a sentence, or how the sentences of a batch compare by it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.blocks import BlockTerm
from limbeck.card import Card
from limbeck.features import RelationalTerm
from limbeck.layers import LayerPairs
from limbeck.losses.maps import unit
from limbeck.objective import Objective, Setup
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "SentenceRelations", "SentenceVectors", "sentence_embedding"]

CARD = Card(
    name="sentence_embedding",
    summary="the teacher's embedding of a sentence, in its own or in fewer dimensions, or its similarities in a batch",
    authors="Nils Reimers, Iryna Gurevych",
    year=2020,
    title="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
    source="https://arxiv.org/abs/2004.09813",
    formula="hard_weight·H(y, q) + weight·mean (W·s - t)², or (s - PCA(t))², or ((s_ij - s_ik) - (t_ij - t_ik))², or"
    " (cos s_ij - cos t_ij)²",
)

Pooling = Literal["mean", "first"]


class _Pooled(BlockTerm):
    """A term on one vector of each sentence: the hidden states of its tokens pooled, or vectors as they are given."""

    per_token = False
    axes = frozenset({2})

    def __init__(self, layers: LayerPairs | None, weight: Schedule, pooling: Pooling, normalise: bool) -> None:
        super().__init__("sentence_embedding", weight, layers)
        checks.choice("pooling", pooling, ("mean", "first"))
        self.pooling: Pooling = pooling
        self.normalise = normalise

    def locate(self, networks: Mapping[str, nn.Module]) -> None:
        """Read the layers that were named, vectors or tokens; by default the last blocks of both networks."""
        if self.given is None:
            super().locate(networks)
        else:
            self.place(self.given)

    def chosen(self, student: int, teacher: int) -> Sequence[int]:
        """Return the teacher's last block for the student's last, none for the others."""
        return [0] * (student - 1) + [teacher]

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Check the vectors' shapes, and make what is learned."""
        super().build(self.pooled(outputs), setup)

    def sum(self, outputs: Mapping[str, Outputs], batch: Batch, step: int | None) -> Tensor:
        """Return the loss of the sentences that count."""
        return super().sum(self.pooled(outputs), batch, step)

    def pooled(self, outputs: Mapping[str, Outputs]) -> dict[str, Outputs]:
        """Return the outputs of both networks with one vector of each sentence as their features."""
        found = dict(outputs)
        for role, number in (("student", 0), ("teacher", 1)):
            given = outputs[role]
            names = {pair[number] for pair in self.layers.pairs}
            vectors = {name: self._vector(given.features[name], given.padding) for name in names}
            found[role] = replace(given, features={**given.features, **vectors})
        return found

    def _vector(self, feature: Tensor, padding: Tensor | None) -> Tensor:
        vector = losses.pool_tokens(feature, padding, pooling=self.pooling) if feature.dim() == 3 else feature
        return unit(vector) if self.normalise else vector


class SentenceVectors(_Pooled):
    """Squared error of each sentence's embedding, the mean over its dimensions.

    Args:
        layers: of tokens or vectors in both networks; None for the last blocks.
        weight: a number or schedule, finite and not negative.
        compare: "projected", a linear layer of the student's vector against the teacher's; "pca", the student's vector
            against the teacher's in as many dimensions, the principal axes of the training sentences.
        pooling: of tokens, their "mean" or the "first".
        normalise: bring the vectors to length 1 first.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> SentenceVectors().name
        'sentence_embedding'

    Reference:
        Reimers & Gurevych (2020), arXiv:2004.09813.
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: Schedule = 1.0,
        *,
        compare: Literal["projected", "pca"] = "projected",
        pooling: Pooling = "mean",
        normalise: bool = False,
    ) -> None:
        super().__init__(layers, weight, pooling, normalise)
        checks.choice("compare", compare, ("projected", "pca"))
        self.compared: Literal["projected", "pca"] = compare
        self.mean: Tensor
        self.axes_of_teacher: Tensor
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("axes_of_teacher", torch.zeros(0, 0))

    def build(self, outputs: Mapping[str, Outputs], setup: Setup) -> None:
        """Make the projection, or find the principal axes of the teacher's embeddings of the training sentences.

        Where there are fewer sentences than axes, the further axes are 0.
        """
        super().build(outputs, setup)
        if self.compared != "pca":
            return
        (own, other) = self.layers.pairs[0]
        pooled = self.pooled(outputs)
        student, teacher = pooled["student"].features[own], pooled["teacher"].features[other]
        width, shape = student.shape[1], (student.shape[1], teacher.shape[1])
        if self.axes_of_teacher.shape == shape:
            return
        passes = [self.pooled(each)["teacher"].features[other] for each in setup.passes()]
        vectors = torch.cat(passes) if passes else teacher
        mean, axes = losses.principal_axes(vectors, min(width, *vectors.shape))
        self.mean = mean
        self.axes_of_teacher = torch.cat([axes, axes.new_zeros(width - len(axes), axes.shape[1])])

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        return projections.linear(student.shape, teacher.shape) if self.compared == "projected" else None

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        if self.compared == "pca":
            teacher = (teacher - self.mean.to(teacher)) @ self.axes_of_teacher.to(teacher).T
            teacher = unit(teacher) if self.normalise else teacher  # else no student of length 1 could reach it
        return losses.hint(self.projected(student, number), teacher, reduction="none")


class SentenceRelations(_Pooled, RelationalTerm):
    """Squared error of how the sentences of a batch compare by the cosine of their embeddings.

    Args:
        layers: of tokens or vectors in both networks; None for the last blocks.
        weight: a number or schedule, finite and not negative.
        compare: "margin", how much closer one sentence is than another; "cosine", the cosines themselves.
        pooling: of tokens, their "mean" or the "first".
        normalise: bring the vectors to length 1 first, which no cosine needs.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> SentenceRelations().relates_examples
        True

    Reference:
        Hofstätter et al. (2020), arXiv:2010.02666; Park et al. (2019), arXiv:1904.05068.
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: Schedule = 1.0,
        *,
        compare: Literal["margin", "cosine"] = "cosine",
        pooling: Pooling = "mean",
        normalise: bool = False,
    ) -> None:
        super().__init__(layers, weight, pooling, normalise)
        checks.choice("compare", compare, ("margin", "cosine"))
        self.compared = compare

    def relate(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return (losses.batch_margins if self.compared == "margin" else losses.cosine_matrix)(student, teacher)


@checked
def sentence_embedding(
    layers: LayerPairs | None = None,
    weight: Schedule = 1.0,
    compare: Literal["projected", "pca", "margin", "cosine"] = "projected",
    pooling: Pooling = "mean",
    normalise: bool = False,
    hard_weight: Schedule = 0.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build the distillation of sentence embeddings; labels are not needed.

    Args:
        layers: places of tokens (N, L, d), which are pooled, or of vectors (N, d), {student's: teacher's}; None for the
            last blocks of two transformers.
        weight: a number or schedule, finite and not negative.
        compare: "projected" learns a linear layer from the student's embedding to the teacher's; "pca" brings the
            teacher's to the student's dimensions by the principal axes of the training sentences, so that the student
            needs no projection afterwards; "margin" and "cosine" compare the cosines of all pairs in a batch.
        pooling: of tokens, the "mean" of the real ones or the "first".
        normalise: bring the embeddings to length 1 first; cosines need it not.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `sentence_embedding`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(sentence_embedding(compare="pca").terms)
        ['sentence_embedding']

    Reference:
        Reimers & Gurevych (2020), "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        arXiv:2004.09813; Hofstätter et al. (2020), arXiv:2010.02666, for the margin.
    """
    checks.choice("compare", compare, ("projected", "pca", "margin", "cosine"))
    term: _Pooled
    if compare == "margin" or compare == "cosine":
        term = SentenceRelations(layers, weight, compare=compare, pooling=pooling, normalise=normalise)
    else:
        term = SentenceVectors(layers, weight, compare=compare, pooling=pooling, normalise=normalise)
    return beside_logits([term], hard_weight, soft_weight, temperature)
