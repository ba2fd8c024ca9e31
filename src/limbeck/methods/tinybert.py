"""TinyBERT: a transformer taught by its teacher's embeddings, hidden states, attention scores and predictions."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limbeck import checks, losses, projections
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.blocks import Blocks, BlockTerm, Match
from limbeck.card import Card
from limbeck.errors import InputError, ModelError
from limbeck.layers import LayerPairs
from limbeck.losses import CROSS_ENTROPY
from limbeck.objective import Objective, Term
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import HardLabels, SoftTargets

__all__ = ["CARD", "Attention", "Embedding", "Hidden", "tinybert"]

CARD = Card(
    name="tinybert",
    summary="embeddings, hidden states and attention scores of a transformer, layer by layer, and its predictions",
    authors="Xiaoqi Jiao, Yichun Yin, Lifeng Shang, Xin Jiang, Xiao Chen, Linlin Li, Fang Wang, Qun Liu",
    year=2020,
    title="TinyBERT: Distilling BERT for Natural Language Understanding",
    source="https://arxiv.org/abs/1909.10351",
    formula="embedding_weight·mse(E^S·W, E^T) + Σ_layers (hidden_weight·mse(H^S·W, H^T) + attention_weight·mse(A^S,"
    " A^T)) + soft_weight·T²·H(softmax(v/T), softmax(z/T))",
)

Projection = Literal["shared", "each", "none"]


class Hidden(BlockTerm):
    """Squared error of the hidden states of matched blocks, summed over the blocks; the mean over features and tokens.

    Args:
        weight: a number or schedule, finite and not negative.
        layers: pairs of blocks by their paths; None to match them by depth.
        match: "uniform", "top" or "bottom".
        projection: "shared", one linear layer with bias for all blocks; "each", one for each; or "none".

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Hidden().name
        'hidden'

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """

    def __init__(
        self,
        weight: Schedule = 1.0,
        layers: LayerPairs | None = None,
        *,
        match: Match = "uniform",
        projection: Projection = "shared",
        name: str = "hidden",
    ) -> None:
        super().__init__(name, weight, layers, match)
        checks.choice("projection", projection, ("shared", "each", "none"))
        self.projection: Projection = projection

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        if self.projection == "none":
            checks.shapes_match("without a projection, the student", student.shape, "the teacher", teacher.shape)
            return None
        return projections.linear(student.shape, teacher.shape) if self.projection == "each" or not number else None

    def projection_text(self, number: int) -> str:
        """Return what is learned, and that all pairs share it where they do."""
        text = super().projection_text(0 if self.projection == "shared" else number)
        return f"{text}, shared" if self.projection == "shared" and number else text

    def projected(self, student: Tensor, number: int) -> Tensor:
        return super().projected(student, 0 if self.projection == "shared" else number)

    def compare(self, student: Tensor, teacher: Tensor, number: int) -> Tensor:
        return losses.hidden_mse(self.projected(student, number), teacher, reduction="none")


class Embedding(Hidden):
    """Squared error of what the first blocks read, the embedded tokens; the mean over features and tokens.

    Args:
        weight: a number or schedule, finite and not negative.
        projection: "shared", that of the hidden states; "each", one of its own; or "none".
        hidden: the term whose projection is shared; None for one of its own.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Embedding().name
        'embedding'

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """

    def __init__(
        self, weight: Schedule = 1.0, *, projection: Projection = "shared", hidden: Hidden | None = None
    ) -> None:
        super().__init__(weight, projection=projection, name="embedding")
        self._lender = (hidden if projection == "shared" else None,)  # in a tuple: its weights are not this term's

    def chosen(self, student: int, teacher: int) -> Sequence[int]:
        """Return no pair of blocks: what the first ones read is compared."""
        return ()

    def places(self, own: Blocks, other: Blocks, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(own.hidden(0), other.hidden(0))]

    def project(self, number: int, student: Tensor, teacher: Tensor) -> nn.Module | None:
        return None if self._lender[0] is not None else super().project(number, student, teacher)

    def projection_text(self, number: int) -> str:
        """Return what is learned, and that it is the hidden states' where it is."""
        return "that of the hidden states" if self._lender[0] is not None else super().projection_text(number)

    def projected(self, student: Tensor, number: int) -> Tensor:
        lender = self._lender[0]
        return super().projected(student, number) if lender is None else lender.projected(student, 0)


class Attention(BlockTerm):
    """Difference of the attention of matched blocks, summed over the blocks.

    Scores are Q·Kᵀ/√d_h from the projections of queries and keys, whatever computes the attention itself.  Their
    squared error is the mean over heads and pairs of real tokens; the divergence of probabilities is the mean over
    heads and queries.
    One block is computed at a time, and again in the backward pass, so that scores of one block alone are in memory.

    Args:
        weight: a number or schedule, finite and not negative.
        layers: pairs of blocks by their paths; None to match them by depth.
        match: "uniform", "top" or "bottom".
        of: "scores" before the softmax, or "probabilities".
        heads: "equal" compares head by head; "mean" compares the means over the heads.
        centre: of scores, "rows" subtracts each row's mean.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Attention().name
        'attention'

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """

    def __init__(
        self,
        weight: Schedule = 1.0,
        layers: LayerPairs | None = None,
        *,
        match: Match = "uniform",
        of: Literal["scores", "probabilities"] = "scores",
        heads: Literal["equal", "mean"] = "equal",
        centre: Literal["none", "rows"] = "none",
    ) -> None:
        super().__init__("attention", weight, layers, match)
        checks.choice("attention", of, ("scores", "probabilities"))
        checks.choice("heads", heads, ("equal", "mean"))
        checks.choice("centre", centre, ("none", "rows"))
        if of == "probabilities" and centre != "none":
            raise InputError("centre: found 'rows', which is for scores, beside attention: probabilities; leave it out")
        self.of, self.heads = of, heads
        self.centre: Literal["none", "rows"] = centre
        self._heads = (1, 1)
        self._causal = False

    def places(self, own: Blocks, other: Blocks, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return the projections of queries and keys, in turn."""
        for role, blocks in (("student", own), ("teacher", other)):
            if blocks.rotary:
                raise ModelError(
                    f"attention: the {role} rotates its queries and keys by their positions, which their projections do"
                    " not show; use minilm, or set attention_weight: 0"
                )
        if self.heads == "equal" and own.heads != other.heads:
            raise ModelError(
                f"heads: the student has {own.heads} and the teacher {other.heads} in each block; expected as many. Use"
                " minilm, which needs neither equal heads nor equal widths, or set heads: mean"
            )
        if own.causal != other.causal:
            raise ModelError("attention: one of student and teacher is causal; expected both or neither")
        self._heads, self._causal = (own.heads, other.heads), own.causal
        found = [(own.blocks[m - 1], other.blocks[g - 1]) for m, g in pairs]
        return [pair for s, t in found for pair in ((s.query, t.query), (s.key, t.key))]

    def count(self, batch: Batch) -> Tensor | int:
        """Return how many pairs of real tokens count, or queries of which probabilities are compared."""
        if self.of == "probabilities" or not self._pairs:
            return super().count(batch)
        mask = self._mask(batch)
        if mask is None:
            length = self._pairs[0].student_shape[1]
            return len(batch) * (length * (length + 1) // 2 if self._causal else length * length)
        mask = self._counted(mask)
        if self._causal:  # keys up to the query, wherever the padding is
            return (mask.cumsum(1) * mask).sum()
        return mask.sum(1).square().sum()

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        """Return the sum over blocks and over what counts."""
        total: Tensor | None = None
        for first in range(0, len(students), 2):
            pair = (students[first], students[first + 1], teachers[first], teachers[first + 1])
            with self._naming(first):
                value = checkpoint(self._block, *pair, mask, use_reentrant=False, preserve_rng_state=False)
            total = value if total is None else total + value
        return total  # type: ignore[return-value]  # there is a block at least

    def _block(self, query: Tensor, key: Tensor, query_t: Tensor, key_t: Tensor, mask: Tensor | None) -> Tensor:
        """Return the sum of a block, from the queries and keys of student and teacher."""
        scores = [
            losses.attention_scores(q, k, heads)
            for q, k, heads in zip((query, query_t), (key, key_t), self._heads, strict=True)
        ]
        if self.heads == "mean":
            scores = [each.mean(1, keepdim=True) for each in scores]
        if self.of == "probabilities":
            return losses.attention_kl(scores[0], scores[1], mask, causal=self._causal, reduction="sum")
        return losses.attention_mse(
            scores[0], scores[1], mask, causal=self._causal, centre=self.centre, reduction="sum"
        )


@checked
def tinybert(
    layers: LayerPairs | None = None,
    embedding_weight: Schedule = 1.0,
    hidden_weight: Schedule = 1.0,
    attention_weight: Schedule = 1.0,
    soft_weight: Schedule = 1.0,
    hard_weight: Schedule = 0.0,
    temperature: Schedule = 1.0,
    projection: Projection = "shared",
    attention: Literal["scores", "probabilities"] = "scores",
    heads: Literal["equal", "mean"] = "equal",
    centre: Literal["none", "rows"] = "none",
    match: Match = "uniform",
) -> Objective:
    """Build TinyBERT for a student and a teacher that are transformers; their blocks are found in the networks.

    The paper trains the terms on layers first and the predictions afterwards: use it with `scheme: hints`.  An ablation
    is a weight of 0.

    Args:
        layers: pairs of blocks, {student's path: teacher's path}; None to match all of the student's by depth.
        embedding_weight: of the embedded tokens, a number or schedule.
        hidden_weight: of the hidden states of each block.
        attention_weight: of the attention of each block.
        soft_weight: of T² times the cross-entropy between teacher and student.
        hard_weight: of the cross-entropy on labels.
        temperature: T > 0 of the soft targets, a number or schedule.
        projection: from the student's width to the teacher's: "shared" by embeddings and all blocks, "each" for one of
            each, or "none" for equal widths.
        attention: "scores" before the softmax, or "probabilities", whose divergence is taken.
        heads: "equal" compares head by head; "mean" compares the means over heads, where their numbers differ.
        centre: "rows" subtracts from each row of scores its mean, which the softmax ignores as well.
        match: the teacher's block for each of the student's: "uniform", the "top" ones or the "bottom" ones.

    Returns:
        The objective, with the terms `hidden`, `embedding`, `attention`, `soft` and `hard`, less those of weight 0.

    Raises:
        InputError: if a value is out of range, or all weights are 0.

    Example:
        >>> sorted(tinybert().terms)
        ['attention', 'embedding', 'hidden', 'soft']

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """
    hidden = Hidden(hidden_weight, layers, match=match, projection=projection)
    lender = hidden if hidden.weight != 0 else None
    terms: list[Term] = [
        hidden,  # before the embedding, which shares its projection
        Embedding(embedding_weight, projection=projection, hidden=lender),
        Attention(attention_weight, layers, match=match, of=attention, heads=heads, centre=centre),
        SoftTargets(soft_weight, temperature=temperature, divergence=CROSS_ENTROPY),
        HardLabels(hard_weight),
    ]
    return Objective([term for term in terms if term.weight != 0])
