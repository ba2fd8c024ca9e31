"""What would wait for an accelerator, noticed on a machine without one."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "aten::_local_scalar_dense",  # item(), bool(), int(), float() and tolist() of one value
    "aten::equal",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::repeat_interleave.Tensor",
    "aten::bincount",
}
"""Operations whose result is read on the host, or has a shape that the host must know."""


class WouldWaitError(AssertionError):
    """An operation that makes the host wait for the device."""


class _NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in _WAITING or f"{name}.{func._overloadname}" in _WAITING:
            raise WouldWaitError(f"{name} waits for the device")
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            masks = [each for each in args[1] if each is not None and each.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise WouldWaitError(f"{name} by a mask waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(monkeypatch):
    """Refuse, with WouldWaitError, whatever would make the host wait if the tensors were on a CUDA device."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
        with _NoWaiting():
            yield
