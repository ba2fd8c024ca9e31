"""A student that begins with blocks of its teacher."""

import copy

import torch
from torch import Tensor, nn

from limbeck.arguments import checked
from limbeck.blocks import Block, Match, blocks_of, matched
from limbeck.errors import ModelError
from limbeck.networks import canonical_path

__all__ = ["copy_blocks"]


@checked
def copy_blocks(student: nn.Module, teacher: nn.Module, match: Match = "uniform") -> nn.Module:
    """Make a student that begins with weights of its teacher: whole blocks, and all outside the blocks that fits.

    Both are transformers of one kind and one width.  Outside the blocks (embeddings, a head), what has the same name
    and shape in both is copied.

    Args:
        student: which is not changed.
        teacher: with as many blocks at least.
        match: which block each of the student's is copied from: "uniform" takes every second one for half as many,
            "top" the last ones, "bottom" the first ones.

    Returns:
        A copy of the student with these weights.

    Raises:
        ModelError: if the networks are no transformers, or their blocks have other weights.

    Example:
        >>> from limbeck.models import transformer
        >>> sizes = {"vocabulary": 20, "width": 8, "heads": 2}
        >>> student, teacher = (transformer((4,), 2, layers=layers, **sizes) for layers in (1, 2))
        >>> begun = copy_blocks(student, teacher)
        >>> torch.equal(begun.layers[0].intermediate.weight, teacher.layers[1].intermediate.weight)
        True

    Reference:
        Sanh et al. (2019), "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        arXiv:1910.01108.
    """
    begun = copy.deepcopy(student)
    own, other = blocks_of(begun, "student").blocks, blocks_of(teacher, "teacher").blocks
    given, taken = _weights(teacher), _weights(begun)
    for block, number in zip(own, matched(len(own), len(other), match), strict=True):
        source = other[number - 1]
        inside = {name.removeprefix(f"{block.path}.") for name in taken if name.startswith(f"{block.path}.")}
        there = {name.removeprefix(f"{source.path}.") for name in given if name.startswith(f"{source.path}.")}
        if inside != there:
            name = min(inside ^ there)
            raise ModelError(
                f"a block of one of student and teacher has a weight '{name}' and one of the other has none; expected"
                " transformers of one kind"
            )
        for name in inside:
            _put(taken[f"{block.path}.{name}"], given[f"{source.path}.{name}"], f"{block.path}.{name}")
    for name, weights in taken.items():
        fits = name in given and given[name].shape == weights.shape
        if fits and not _inside(name, own) and not _inside(name, other):
            _put(weights, given[name], name)
    return begun


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by their canonical names."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return {canonical_path(name): value for name, value in named}


def _inside(name: str, blocks: tuple[Block, ...]) -> bool:
    return any(name.startswith(f"{block.path}.") for block in blocks)


@torch.no_grad()
def _put(weights: Tensor, source: Tensor, name: str) -> None:
    if weights.shape != source.shape:
        raise ModelError(
            f"the student's '{name}' has shape {tuple(weights.shape)}, the teacher's {tuple(source.shape)}; expected"
            " blocks of one width. Give the student the teacher's width, or leave the copy out"
        )
    weights.copy_(source)
