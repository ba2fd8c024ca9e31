"""A CIFAR set as a few large images: lossless WebP sheets of tiles, and labels in IDX files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.cifar_files import ArchivePart
from limbeck.data.idx import read_idx
from limbeck.errors import DataError

__all__ = ["has_sheets", "read_sheets"]

_SIDE = 32


def has_sheets(place: Path) -> bool:
    """Return whether a folder holds a set as sheets."""
    return any(place.glob("train-images-*.webp"))


def read_sheets(place: Path, part: str, kinds: tuple[str, ...]) -> ArchivePart:
    """Read one part of a set from sheets of 32×32 RGB tiles, which stand row by row.

    part: "train" or "test".  The folder holds PART-images-00.webp, PART-images-01.webp and so on, and for each of
    `kinds` PART-KIND-labels-idx1-ubyte.gz.
    Raises DataError naming the file that is missing, damaged or of another size.
    """
    paths = sorted(place.glob(f"{part}-images-*.webp"))
    for number in range(max(1, len(paths))):
        expected = place / f"{part}-images-{number:02d}.webp"
        if expected not in paths:
            raise DataError(f"{place}: has no file {expected.name}; sheets are numbered from 00 without gaps")
    labels = [_labels(place / f"{part}-{kind}-labels-idx1-ubyte.gz") for kind in kinds]
    counts = [_tiles(path) for path in paths]
    for kind, column in zip(kinds, labels, strict=True):
        if len(column) != sum(counts):
            raise DataError(f"{place}: {part} has {sum(counts):,} images and {len(column):,} {kind} labels")
    images = torch.empty(sum(counts), 3, _SIDE, _SIDE, dtype=torch.uint8)
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        for _ in pool.map(_decode, paths, images.split(counts)):
            pass  # each has filled its part of the images
    return ArchivePart(images, torch.stack(labels, dim=1))


def _labels(path: Path) -> Tensor:
    labels = read_idx(path)
    if labels.dim() != 1:
        raise DataError(f"{path}: holds labels of shape {tuple(labels.shape)}, expected one a sample")
    return labels


def _tiles(path: Path) -> int:
    """Return how many tiles a sheet holds, of which only the header is read."""
    with _opened(path) as sheet:
        width, height = sheet.size
    if width % _SIDE or height % _SIDE:
        raise DataError(f"{path}: is {width}×{height} pixels, expected whole tiles of {_SIDE}×{_SIDE}")
    return int(width // _SIDE) * int(height // _SIDE)


def _decode(path: Path, images: Tensor) -> None:
    """Fill `images` with the tiles of a sheet."""
    import numpy as np

    with _opened(path) as sheet:
        try:
            pixels = np.asarray(sheet.convert("RGB"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is truncated or damaged ({error}); download it again") from None
    rows, columns = pixels.shape[0] // _SIDE, pixels.shape[1] // _SIDE
    tiles = torch.from_numpy(pixels.copy()).view(rows, _SIDE, columns, _SIDE, 3).permute(0, 2, 4, 1, 3)
    images.view(rows, columns, 3, _SIDE, _SIDE).copy_(tiles)


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path, formats=["WEBP"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a WebP image ({reason}); download it again") from None
