"""Samples mixed with another sample of their set: mixup and cutmix, as functions of (seed, view, sample index).

Who is mixed with whom, how, and how much is drawn for each sample alone, so that neither the batch that it falls into
nor the rank that holds it changes its view.
"""

import math

import torch
from torch import Tensor

from limbeck import checks
from limbeck.devices import exact
from limbeck.errors import InputError
from limbeck.randomness import uniform

__all__ = ["beta", "blend", "boxes", "partners", "paste"]


def partners(seed: int, view: Tensor, index: Tensor, size: int) -> Tensor:
    """Return for each sample the place of another in a set of `size`, uniform: (N,) int64 in [0, size).

    view, index: (N,) int64.  A sample may be drawn for itself.

    >>> index = torch.arange(4)
    >>> partners(0, torch.ones_like(index), index, size=3).shape
    torch.Size([4])
    """
    checks.at_least("size", size, 1)
    drawn = exact(uniform(seed, "mix.partner", view, index, 2))
    fine = drawn[:, 0] + drawn[:, 1] * 2.0**-24  # 48 bits, for sets beyond 2^24 samples
    return (fine * size).to(torch.int64).clamp_max(size - 1).to(index.device)


def beta(concentration: float, drawn: Tensor) -> Tensor:
    """Turn pairs of numbers uniform on [0, 1) into numbers of the Beta(α, α) distribution, (N, 2) -> (N,) float32.

    With t Student-distributed of 2α degrees of freedom, ½ + ½·t/√(2α + t²) is Beta(α, α), and t² = 2α·(u^(-1/α) -
    1)·cos²(2πv) (Bailey 1994; Devroye 1996): exact for every concentration α above 0, and without rejection.  None is 0
    or 1: what would round to them is the nearest number above 0 or below 1.

    >>> beta(0.2, torch.tensor([[0.5, 0.25], [0.5, 0.0]])).round(decimals=3)
    tensor([0.5000, 0.9920])
    """
    checks.positive("concentration", concentration)
    u, v = exact(drawn).unbind(1)
    remaining, angle = 1.0 - u, 2.0 * torch.pi * v
    cosine = torch.cos(angle)
    odds = (remaining ** (-1.0 / concentration) - 1.0) * cosine.square()  # t²/2α
    lesser = 0.5 / ((1.0 + odds) * (1.0 + torch.sqrt(1.0 / (1.0 + 1.0 / odds))))  # ½ - ½·√(odds/(1 + odds))
    share = torch.where(cosine > 0, 1.0 - lesser, lesser).to(torch.float32).to(drawn.device)
    return share.clamp(torch.finfo(torch.float32).tiny, 1.0 - torch.finfo(torch.float32).eps / 2)


def blend(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return λ·own + (1-λ)·other of each pair (mixup, Zhang et al. 2018).

    own, other: (N, ...) floating point.  share: λ, (N,).

    >>> blend(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.75]))
    tensor([[0.7500, 0.7500]])
    """
    weight = share.to(own.dtype).view(-1, *(1,) * (own.dim() - 1))
    return torch.lerp(other, own, weight)


def boxes(share: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Return the boxes that cutmix takes out: (N, 4) int64, top, bottom, left, right, within height × width.

    share: λ, (N,); a box has sides √(1-λ) of the image's, rounded down, and is cut off at the border.
    centre: (N, 2), uniform on [0, 1), down and across.

    >>> boxes(torch.tensor([0.75]), torch.tensor([[0.5, 0.0]]), 8, 8)
    tensor([[2, 6, 0, 2]])
    """
    sides = torch.tensor([height, width], device=share.device)
    cut = torch.sqrt(1.0 - exact(share))[:, None] * exact(sides)
    half = cut.to(torch.int64).to(share.device) // 2
    middle = (centre * sides).to(torch.int64)
    first = (middle - half).clamp_min(0)
    last = torch.minimum(middle + half, sides)
    return torch.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], dim=1)


def paste(own: Tensor, other: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Put a box of the other image into each (cutmix, Yun et al. 2019) and return what is left of its own.

    own, other: (N, C, H, W).  box: (N, 4), as `boxes` gives it.  Returns the images and λ, (N,) float32, the share of
    pixels that are its own.

    >>> images, share = paste(torch.ones(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), torch.tensor([[0, 2, 1, 3]]))
    >>> images, share
    (tensor([[[[1., 0., 0., 1.],
               [1., 0., 0., 1.]]]]), tensor([0.5000]))
    """
    if own.dim() != 4 or own.shape != other.shape:
        raise InputError(f"images: found {tuple(own.shape)} and {tuple(other.shape)}, expected the same (N, C, H, W)")
    height, width = own.shape[2:]
    rows = torch.arange(height, device=own.device)
    columns = torch.arange(width, device=own.device)
    top, bottom, left, right = box[:, :, None].unbind(1)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
    share = 1.0 - area.to(torch.float32) / math.prod((height, width))
    return torch.where(inside[:, None], other, own), share
