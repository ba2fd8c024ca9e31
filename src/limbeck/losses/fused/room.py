"""Memory for gradients of large logits: lent again where it is free, in large pages where the system has them."""

import ctypes
import functools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["room_like", "wide_enough"]

_PAGE = 2**21
_HUGE = 14  # MADV_HUGEPAGE
_FROM, _MOST = 2 * _PAGE, 2**30


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
    loss itself.  So on a processor memory that nobody holds any more is lent again, up to 1 GiB of it, and Linux is
    advised to make pages of 2 MB of new memory.

    >>> room_like(torch.zeros(2, 3), torch.float64).dtype
    torch.float64
    """
    size = tensor.numel() * dtype.itemsize
    if tensor.device.type != "cpu" or size < _FROM:
        return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.from_numpy(_LENDER.lend(size)).view(dtype).view(tensor.shape)


class _Lender:
    """Lends the same memory again and again, to one tensor at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory = np.empty(0, dtype=np.uint8)
        self._lent: Callable[[], Any] = lambda: None  # a weak reference to what a tensor has of it

    def lend(self, size: int) -> "np.ndarray[Any, Any]":
        """Return memory (size,) uint8; what is held elsewhere is left alone."""
        with self._lock:
            free = self._lent() is None
            if not free or not size <= self._memory.nbytes <= 2 * size:
                new = _new(size)
                if not free or size > _MOST:
                    return new
                self._memory = new
            lent = self._memory[:size]
            self._lent = weakref.ref(lent)
            return lent


_LENDER = _Lender()


def _new(size: int) -> "np.ndarray[Any, Any]":
    """Return new memory, in large pages if the system has them."""
    memory = np.empty(size, dtype=np.uint8)
    if (advise := _advise()) is not None:
        first = memory.ctypes.data
        start, end = -(-first // _PAGE) * _PAGE, (first + size) // _PAGE * _PAGE
        if end > start:  # advice alone: what it returns is not needed
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _HUGE)
    return memory


@functools.cache
def _advise() -> Callable[..., int] | None:
    """Return the system's `madvise`; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
