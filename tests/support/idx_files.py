"""Small IDX files, in their bytes."""

import gzip
import struct
from pathlib import Path

import numpy as np

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_content(size: int = 12, test: int = 5, classes: int = 10) -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    arrays = (
        generator.integers(0, 256, (size, 4, 3)),
        np.arange(size) % classes,
        generator.integers(0, 256, (test, 4, 3)),
        np.arange(test) % classes,
    )
    return {file: idx_bytes(array) for file, array in zip(FILES, arrays, strict=True)}


def written(folder: Path, content: dict[str, bytes], *, gzipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in content.items():
        if gzipped:
            (folder / f"{file}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / file).write_bytes(data)
    return folder
