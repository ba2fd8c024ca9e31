"""Transformers by their blocks: where hidden states, queries, keys and values are, and terms that compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError, one_of
from limbeck.features import FeatureTerm
from limbeck.layers import LayerPairs, Layers
from limbeck.networks import canonical_path
from limbeck.schedules import Schedule

__all__ = ["Block", "BlockTerm", "Blocks", "Match", "blocks_of", "matched"]

Match = Literal["uniform", "top", "bottom"]
"""Which of the teacher's blocks a student's block is compared with."""

_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
"""What a block's projections are called: here and in BERT, in DistilBERT, in Llama and those after it."""
_HEADS = ("heads", "num_attention_heads", "n_heads", "num_heads")
_OTHER_TOKENS = ("cross", "encoder_attn")
"""Parts of the names of attention to another sequence."""


@dataclass(frozen=True)
class Block:
    """A layer of a transformer, by the paths of its modules.

    path: of the module that gives its hidden states.  query, key, value: of the projections.
    """

    path: str
    query: str
    key: str
    value: str


@dataclass(frozen=True)
class Blocks:
    """The layers of a transformer, from the first to the last.

    heads: of the queries in each.  causal: whether a token sees only itself and those before it.
    rotary: whether positions enter by a rotation of queries and keys, behind their projections.
    """

    blocks: tuple[Block, ...]
    heads: int
    causal: bool = False
    rotary: bool = False

    def __len__(self) -> int:
        return len(self.blocks)

    def hidden(self, number: int) -> str:
        """Return the place of the hidden states: 0 for those that the first block reads, m for what block m gives."""
        return self.blocks[number - 1].path if number else f"{self.blocks[0].path}@input"

    def number(self, path: str, role: str) -> int:
        """Return the number of the block at a path, from 1; ModelError if there is none."""
        known = [block.path for block in self.blocks]
        if path not in known:
            raise ModelError(f"layers: the {role} has no block '{path}'; {one_of(path, known)}")
        return known.index(path) + 1


@checked
def blocks_of(network: nn.Module, role: str = "network") -> Blocks:
    """Find the blocks of a transformer: modules side by side, numbered, each with projections of its own.

    Projections are three modules beside each other called query, key and value, q_lin, k_lin and v_lin, or q_proj,
    k_proj and v_proj, as in `limbeck.models.transformer` and the models of the Transformers library.

    Args:
        network: any.
        role: what errors call it.

    Returns:
        The blocks in order.

    Raises:
        ModelError: if there are none, or blocks of several stacks, or the number of heads is unknown.

    Example:
        >>> from limbeck.models import transformer
        >>> found = blocks_of(transformer((8,), 2, vocabulary=20, layers=2, width=8, heads=2))
        >>> found.blocks[1].query, found.heads, found.hidden(0)
        ('layers.1.attention.query', 2, 'layers.0@input')
    """
    modules: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        modules.setdefault(canonical_path(path), module)
    stacks: dict[tuple[str, str], dict[int, Block]] = {}
    for path in modules:
        for names in _PROJECTIONS:
            around, _, own = path.rpartition(".")
            others = [f"{around}.{name}" for name in names]
            numbered = [place for place, part in enumerate(around.split(".")) if part.isdigit()]
            if own != names[0] or not numbered or not set(others) <= set(modules):
                continue
            parts = around.split(".")
            stack, inner = ".".join(parts[: numbered[-1]]), ".".join(parts[numbered[-1] + 1 :])
            if not any(name in inner for name in _OTHER_TOKENS):
                block = Block(".".join(parts[: numbered[-1] + 1]), *others)
                stacks.setdefault((stack, inner), {})[int(parts[numbered[-1]])] = block
    if not stacks:
        raise ModelError(
            f"layers: the {role} has no blocks with projections called query, key and value; expected a transformer,"
            " such as kind: transformer. Use hint with layers for other networks"
        )
    if len(stacks) > 1:
        where = ", ".join(f"'{stack}'" for stack, _ in stacks)
        raise ModelError(f"layers: the {role} has blocks in {where}; expected one stack, as an encoder has")
    [found] = stacks.values()
    blocks = tuple(found[number] for number in sorted(found))
    path_of_first = blocks[0].query.split(".")
    outer = [modules[".".join(path_of_first[:depth])] for depth in range(len(path_of_first) - 1, -1, -1)]
    return Blocks(blocks, _heads(outer, role), _is_causal(outer), _is_rotary(modules.values()))


def _heads(outer: Sequence[nn.Module], role: str) -> int:
    """Return the number of heads that a module around the first projections declares, the nearest first."""
    for module in [*outer, *(getattr(each, "config", None) for each in outer)]:
        for name in _HEADS:
            value = getattr(module, name, None)
            if isinstance(value, int) and value > 0:
                return value
    raise ModelError(
        f"heads: the {role} does not say how many heads its attention has; give its attention modules an attribute"
        " 'heads'"
    )


def _is_causal(outer: Sequence[nn.Module]) -> bool:
    for module in outer:
        for name in ("is_causal", "causal"):
            if isinstance(value := getattr(module, name, None), bool):
                return value
    return any(bool(getattr(getattr(module, "config", None), "is_decoder", False)) for module in outer)


def _is_rotary(modules: object) -> bool:
    return any("rotary" in type(module).__name__.lower() for module in modules)  # type: ignore[attr-defined]


@checked
def matched(student: int, teacher: int, match: Match = "uniform") -> tuple[int, ...]:
    """Return the teacher's block for each of the student's blocks, numbered from 1.

    Args:
        student: blocks of the student, M.
        teacher: blocks of the teacher, N, at least M.
        match: "uniform" spreads them, g(m) = round(m·N/M), which is m·k for N = k·M; "top" takes the last M, "bottom"
            the first M.

    Returns:
        g(1), ..., g(M).

    Raises:
        ModelError: if the student has more blocks.
        InputError: if the match is unknown.

    Example:
        >>> matched(3, 6), matched(3, 6, "top"), matched(3, 6, "bottom")
        ((2, 4, 6), (4, 5, 6), (1, 2, 3))

    Reference:
        Jiao et al. (2020), "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351.
    """
    checks.choice("match", match, ("uniform", "top", "bottom"))
    if student > teacher:
        raise ModelError(
            f"layers: the student has {student} blocks and the teacher {teacher}; expected at most as many. Name pairs"
            " of blocks, {student path: teacher path}"
        )
    if match == "uniform":
        return tuple((2 * number * teacher + student) // (2 * student) for number in range(1, student + 1))
    return tuple(number + (teacher - student if match == "top" else 0) for number in range(1, student + 1))


class BlockTerm(FeatureTerm):
    """A term that compares blocks of two transformers, which it finds in the networks themselves.

    It counts real tokens: those that are no padding, of samples that count.  A subclass says what it reads of a pair.

    Args:
        name: of the term.
        weight: a number or schedule, finite and not negative.
        layers: pairs of blocks by their paths, as for `FeatureTerm`; None to match them by depth.
        match: how they are matched, see `matched`.

    Raises:
        InputError: if the weight, the layers or the match are not as they should be.

    Example:
        >>> BlockTerm("hidden").match
        'uniform'
    """

    per_token = True
    finds_layers = True
    axes = frozenset({3})

    def __init__(
        self, name: str, weight: Schedule = 1.0, layers: LayerPairs | None = None, match: Match = "uniform"
    ) -> None:
        super().__init__(name, weight, None)
        checks.choice("match", match, ("uniform", "top", "bottom"))
        if layers is not None and match != "uniform":
            raise InputError(
                f"match: found '{match}' beside layers, which say the pairs themselves; leave one of them out"
            )
        self.match: Match = match
        self.given = None if layers is None else Layers.of(layers)

    def locate(self, networks: Mapping[str, nn.Module]) -> None:
        """Find the blocks of both networks."""
        own, other = (blocks_of(networks[role], role) for role in ("student", "teacher"))
        if self.given is None:
            numbers = list(enumerate(self.chosen(len(own), len(other)), 1))
            pairs = [(m, g) for m, g in numbers if g]
        else:
            pairs = [(own.number(s, "student"), other.number(t, "teacher")) for s, t in self.given.pairs]
        self.place(Layers(tuple(self.places(own, other, pairs))))

    def chosen(self, student: int, teacher: int) -> Sequence[int]:
        """Return the teacher's block for each of the student's, 0 for none."""
        return matched(student, teacher, self.match)

    def places(self, own: Blocks, other: Blocks, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return the places that are read of pairs of blocks, given by their numbers."""
        return [(own.hidden(m), other.hidden(g)) for m, g in pairs]
