"""Memory for gradients of large logits, in large pages where the system has them."""

import ctypes
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["room_like", "wide_enough"]

_PAGE = 2**21
_HUGE = 14  # MADV_HUGEPAGE
_FROM = 2 * _PAGE


def wide_enough(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a gradient by tensors of a type is kept until it is multiplied by what comes from above.

    In float16 the gradient of a mean over many rows is 0: a loss scale has to reach it first.

    >>> wide_enough(torch.float16), wide_enough(torch.bfloat16)
    (torch.float32, torch.bfloat16)
    """
    return torch.float32 if dtype == torch.float16 else dtype


def room_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor of the same shape, not filled in.

    The first touch of each page of new memory is a call of the system, which for pages of 4 kB takes as long as the
    loss itself.  On Linux the system is advised to use pages of 2 MB.

    >>> room_like(torch.zeros(2, 3), torch.float64).dtype
    torch.float64
    """
    room = torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
    size = room.numel() * room.element_size()
    if room.device.type == "cpu" and size >= _FROM and (advise := _advise()) is not None:
        start = -(-room.data_ptr() // _PAGE) * _PAGE
        end = (room.data_ptr() + size) // _PAGE * _PAGE
        if end > start:
            advise(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), _HUGE
            )  # advice alone: what it returns is not needed
    return room


@functools.cache
def _advise() -> Callable[..., int] | None:
    """Return the system's `madvise`; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
