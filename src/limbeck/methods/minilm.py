"""MiniLMv2: the relations between the tokens' queries, keys and values in one layer of a transformer."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from limbeck import checks, losses
from limbeck.arguments import checked
from limbeck.batch import Batch
from limbeck.blocks import Blocks, BlockTerm
from limbeck.card import Card
from limbeck.errors import ModelError
from limbeck.layers import LayerPairs
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schedules import Schedule
from limbeck.terms import beside_logits

__all__ = ["CARD", "Relations", "minilm"]

CARD = Card(
    name="minilm",
    summary="how the tokens' queries, keys and values relate in the last layer; widths and heads may differ",
    authors="Wenhui Wang, Hangbo Bao, Shaohan Huang, Li Dong, Furu Wei",
    year=2021,
    title="MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
    source="https://arxiv.org/abs/2012.15828",
    formula="hard_weight·H(y, q) + weight·Σ_{X in Q,K,V} mean over heads and tokens of KL(R^T ‖ R^S), R ="
    " softmax(X·Xᵀ/√d_r)",
)


class Relations(BlockTerm):
    """Divergence of the relations between tokens in pairs of blocks, summed over queries, keys and values.

    Args:
        layers: pairs of blocks by their paths; None for the last of both.
        weight: a number or schedule, finite and not negative.
        relation_heads: into how many heads queries, keys and values are cut anew.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Relations().name
        'minilm'

    Reference:
        Wang et al. (2021), "MiniLMv2", arXiv:2012.15828.
    """

    def __init__(self, layers: LayerPairs | None = None, weight: Schedule = 1.0, *, relation_heads: int = 12) -> None:
        super().__init__("minilm", weight, layers)
        checks.at_least("relation_heads", relation_heads, 1)
        self.relation_heads = relation_heads
        self._causal = False

    def chosen(self, student: int, teacher: int) -> Sequence[int]:
        """Return the teacher's last block for the student's last, none for the others."""
        return [0] * (student - 1) + [teacher]

    def places(self, own: Blocks, other: Blocks, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return the projections of queries, keys and values, in turn."""
        if own.causal != other.causal:
            raise ModelError("minilm: one of student and teacher is causal; expected both or neither")
        self._causal = own.causal
        blocks = [(own.blocks[m - 1], other.blocks[g - 1]) for m, g in pairs]
        return [pair for s, t in blocks for pair in ((s.query, t.query), (s.key, t.key), (s.value, t.value))]

    def project(self, number: int, student: Tensor, teacher: Tensor) -> None:
        """Learn nothing; refuse widths that the relation heads do not divide."""
        for role, feature in (("student", student), ("teacher", teacher)):
            if feature.shape[2] % self.relation_heads:
                raise ModelError(
                    f"relation_heads: found {self.relation_heads}, and the {role}'s projections are"
                    f" {feature.shape[2]} wide; expected a divisor of both widths"
                )

    def total(
        self,
        students: list[Tensor],
        teachers: list[Tensor],
        mask: Tensor | None,
        outputs: Mapping[str, Outputs],
        batch: Batch,
        step: int | None,
    ) -> Tensor:
        """Return the sum over queries, keys and values, and over the tokens that count."""
        total: Tensor | None = None
        for number, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            with self._naming(number):
                value = losses.relation_kl(
                    student, teacher, self.relation_heads, mask, causal=self._causal, reduction="sum"
                )
            total = value if total is None else total + value
        return total  # type: ignore[return-value]  # there is a block at least


@checked
def minilm(
    layers: LayerPairs | None = None,
    weight: Schedule = 1.0,
    relation_heads: int = 12,
    hard_weight: Schedule = 1.0,
    soft_weight: Schedule = 0.0,
    temperature: Schedule = 4.0,
) -> Objective:
    """Build MiniLMv2 for a student and a teacher that are transformers; their blocks are found in the networks.

    It learns no projection, and student and teacher may have other widths and other numbers of heads.

    Args:
        layers: pairs of blocks, {student's path: teacher's path}; None for the last of both.  For large teachers the
            paper takes a block above the middle.
        weight: a number or schedule, finite and not negative.
        relation_heads: A, into how many heads queries, keys and values are cut anew; a divisor of both widths.  The
            paper takes more than the networks' own, 48 for BERT-base.
        hard_weight: of the cross-entropy on labels, a number or schedule; 0 leaves it out.
        soft_weight: of T²·KL between teacher and student, a number or schedule; 0 leaves it out.
        temperature: T > 0 of the soft targets, a number or schedule.

    Returns:
        The objective, with the terms `minilm`, `hard` and `soft`; one of weight 0 is left out.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> sorted(minilm().terms)
        ['hard', 'minilm']

    Reference:
        Wang et al. (2021), "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers", arXiv:2012.15828.
    """
    term = Relations(layers, weight, relation_heads=relation_heads)
    return beside_logits([term], hard_weight, soft_weight, temperature)
