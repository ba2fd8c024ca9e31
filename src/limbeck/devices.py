"""What a device can compute, and which one a name is."""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

from limbeck.errors import InputError, one_line

__all__ = ["crowded", "exact", "has_float64", "on_accelerator", "place", "refusal", "without_autocast_on_cpu"]

_CROWDED = 1.25  # processes at work a processor
_WITHOUT_FLOAT64 = ("mps",)


def has_float64(device: torch.device) -> bool:
    """Return whether a device computes in float64.

    >>> has_float64(torch.device("cpu")), has_float64(torch.device("mps"))
    (True, False)
    """
    return device.type not in _WITHOUT_FLOAT64


def on_accelerator(tensor: Tensor) -> bool:
    """Return whether the host would have to wait for a device to look at a tensor's values.

    Checks of values that are made in every step are made on the CPU alone.

    >>> on_accelerator(torch.zeros(3))
    False
    """
    return tensor.is_cuda or tensor.device.type != "cpu"


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor in float64: on its device, or on the CPU where the device has no float64.

    What is computed of it is to be brought back to the tensor's device.

    >>> exact(torch.tensor([0.5])).dtype
    torch.float64
    """
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def without_autocast_on_cpu() -> AbstractContextManager[None]:
    """Return a scope without autocast on the CPU, for modules that not every processor runs in bf16: LSTMs.

    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast_on_cpu():
    ...     torch.nn.LSTM(3, 4)(torch.zeros(2, 3))[0].dtype
    torch.float32
    """
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def crowded() -> str | None:
    """Return a line where other work keeps the processors busy, so that what is timed takes longer than it should.

    None where there is no sign of it, or the system does not tell.
    """
    processors = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]  # of the last minute, this process included
    except (AttributeError, OSError):
        return None
    if load <= _CROWDED * processors:
        return None
    return (
        f"times: found {load:.1f} processes at work on {processors} processors in the last minute, so that times are"
        " too long; measure again when the machine is idle"
    )


def place(device: str | None) -> torch.device:
    """Return the device of a name, after a number was put there; by default CUDA where there is one.

    >>> place("cpu")
    device(type='cpu')
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        reason = refusal(name)
    except RuntimeError as error:  # there is no such name
        reason = one_line(error)
    if reason:
        raise InputError(f"device: found '{name}' ({reason}), expected one such as cpu or cuda:0")
    return torch.zeros(1, device=name).device


def refusal(device: torch.device | str | int) -> str:
    """Return in a line why nothing can be put on a device of this name; "" where it can.

    >>> refusal("cpu")
    ''
    """
    found = torch.device(device)
    return "" if found.type == "cpu" else _refused(found)


@cache
def _refused(device: torch.device) -> str:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return one_line(error)
    return ""
