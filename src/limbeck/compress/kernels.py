"""Linear layers with int8 weights, run by torchao's kernels where that library is installed."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from limbeck.arguments import checked
from limbeck.compress.settling import settled
from limbeck.compress.weights import Packed, computed_by, layers_of, replace
from limbeck.errors import InputError, silenced

__all__ = ["with_torchao"]


@checked
def with_torchao(model: nn.Module) -> nn.Module:
    """Return a network whose linear layers with int8 weights are run by torchao; for use, not for training or saving.

    The weights are those of the given network; the answers differ by rounding.  torchao takes linear layers with int8
    and one scale an output; other layers stay as they are.

    Args:
        model: with weights that `Quantize(to="int8")` rounded; it stays as it is.

    Returns:
        A new network.

    Raises:
        InputError: if torchao is not installed, or no layer is one that it takes.

    Example:
        >>> with_torchao(nn.Sequential(nn.Linear(4, 2)))
        Traceback (most recent call last):
        limbeck.errors.InputError: model: found no linear layer with int8 weights and one scale an output; expected ...
    """
    small = settled(model).eval()
    taken = [(path, module, packed) for path, module in layers_of(small) if (packed := _packed(module)) is not None]
    if not taken:
        raise InputError(
            "model: found no linear layer with int8 weights and one scale an output; expected one for torchao, as"
            " Quantize(to='int8') makes it. Other layers run without torchao"
        )
    tensor = _library()
    for path, module, packed in taken:
        weight: Any = module.parametrizations["weight"].original  # type: ignore[index,union-attr]
        kept = tensor(weight.data, packed.scales.float(), [1, weight.shape[1]], torch.float32)
        replace(small, [(path, "weight")], nn.Parameter(kept, requires_grad=False))
    return small


def _packed(module: nn.Module) -> Packed | None:
    """Return what computes the weight of a linear layer that torchao takes; None of any other."""
    chain = computed_by(module, "weight") if isinstance(module, nn.Linear) else []
    last = chain[0] if len(chain) == 1 else None
    return last if isinstance(last, Packed) and last.bits == 8 and last.group == 0 else None


def _library() -> Any:
    """Return torchao's tensor of int8 weights, without what the library says when it is imported."""
    if find_spec("torchao") is None:
        raise InputError("torchao: found no such package; expected it for these kernels. pip install 'limbeck[export]'")
    with silenced():
        from torchao.quantization import Int8Tensor

    return Int8Tensor
