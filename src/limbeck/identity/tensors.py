"""A digest of a tensor's values, whatever its layout, wherever it is."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["known_from_files", "read_from_files", "tensor_digest"]

_FILES = "read_from_files"  # the attribute of a tensor that was read from files and is as it was read

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


def read_from_files(tensor: Tensor, digest: str) -> None:
    """Note that a tensor holds what files have, so that their digest stands for its values until it is changed.

    A change through `.data` is not seen.
    """
    setattr(tensor, _FILES, (digest, tensor._version, tensor.data_ptr()))  # noqa: SLF001 - it has no public name


def known_from_files(tensor: Tensor) -> str | None:
    """Return the digest of the files that a tensor was read from, if it has not been changed or moved since.

    >>> weights = torch.zeros(2)
    >>> read_from_files(weights, "digest")
    >>> known_from_files(weights), known_from_files(weights.add_(1))
    ('digest', None)
    """
    found: tuple[str, int, int] | None = getattr(tensor, _FILES, None)
    same = found is not None and found[1:] == (tensor._version, tensor.data_ptr())  # noqa: SLF001
    return found[0] if found is not None and same else None


def tensor_digest(value: Tensor, unread: Callable[[Any], Exception]) -> str:
    """Return text that tells a tensor by its type, shape and values: sparse, quantised and complex ones too.

    unread: makes the error for one that holds no values that can be read.

    >>> tensor_digest(torch.ones(2, 3), ValueError) == tensor_digest(torch.ones(3, 2).T, ValueError)
    True
    """
    if torch.nn.parameter.is_lazy(value):
        return f"tensor not initialised {value.dtype}"
    if (known := known_from_files(value)) is not None:
        return f"tensor {value.dtype} {tuple(value.shape)} {known}"
    value = value.detach()
    head = f"tensor {value.dtype}"

    def inner(*parts: Tensor) -> str:
        return " ".join(tensor_digest(part, unread) for part in parts)

    if value.is_nested:
        return f"{head} nested {inner(*value.unbind())}"
    head += f" {tuple(value.shape)}"
    if hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        return f"{head} {type(value).__qualname__} {context!r} {inner(*(getattr(value, name) for name in names))}"
    if value.is_meta or type(value) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        if value.is_meta:
            raise unread(value)
        value = value.as_subclass(Tensor)
    if value.is_mkldnn:
        value = value.to_dense()
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return f"{head} sparse {inner(value.indices(), value.values())}"
    if value.layout in _COMPRESSED:
        places = [getattr(value, name)() for name in _COMPRESSED[value.layout]]
        return f"{head} {value.layout} {inner(*places, value.values())}"
    if value.is_quantized:
        head += f" {value.qscheme()}"
        if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return f"{head} {value.q_scale()!r} {value.q_zero_point()} {inner(value.int_repr())}"
        scales = inner(value.q_per_channel_scales(), value.q_per_channel_zero_points())
        return f"{head} {value.q_per_channel_axis()} {scales} {inner(value.int_repr())}"
    try:
        plain = value.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, NotImplementedError, TypeError):
        raise unread(value) from None
    return f"{head} {hashlib.sha256(plain.data).hexdigest()}"
