"""Small sets of CIFAR's kind, in the bytes of each of their files."""

import gzip
import io
import struct
import tarfile

import numpy as np
from PIL import Image

from limbeck.data import cifar

COUNTS = (20, 10)


class Small:
    """A small set of CIFAR's kind, in the bytes of each of its files."""

    def __init__(self, published, counts=COUNTS):
        generator = np.random.default_rng(0)
        self.hundred = published.name == "cifar-100"
        self.images = [generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for count in counts]
        top = 100 if self.hundred else 10
        self.fine = [generator.integers(0, top, count) for count in counts]
        self.coarse = [np.array(cifar._GROUP_OF)[labels % 100] for labels in self.fine]

    def rows(self, part, start, stop):
        kinds = (self.coarse, self.fine) if self.hundred else (self.fine,)
        labels = np.stack([kind[part][start:stop] for kind in kinds], 1).astype(np.uint8)
        pixels = self.images[part][start:stop].reshape(stop - start, -1)
        return np.concatenate([labels, pixels], 1).tobytes()

    def files(self, archive):
        content = {}
        for part, names in enumerate((archive.train, archive.test)):
            share = len(self.images[part]) // len(names)
            content.update({name: self.rows(part, n * share, (n + 1) * share) for n, name in enumerate(names)})
        return content


def tar_bytes(folder, content, extra=()):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for member, data in extra:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, data in reversed(content.items()):  # not in the order in which they are read
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write(place, content):
    place.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (place / name).write_bytes(data)
    return str(place)


def idx_gz(labels):
    return gzip.compress(struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels.astype(np.uint8).tobytes())


def webp(tiles, columns):
    """Return lossless WebP of tiles (n, 3, 32, 32), row by row."""
    rows = len(tiles) // columns
    sheet = Image.new("RGB", (32 * columns, 32 * rows))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile.transpose(1, 2, 0)), (number % columns * 32, number // columns * 32))
    file = io.BytesIO()
    sheet.save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def sheets(small):
    train, test = small.images
    cut = 2 * len(train) // 5
    content = {
        "train-images-00.webp": webp(train[:cut], 4),
        "train-images-01.webp": webp(train[cut : 2 * cut], 4),
        "train-images-02.webp": webp(train[2 * cut :], 2),
        "test-images-00.webp": webp(test, 5),
    }
    for part, name in enumerate(("train", "test")):
        content[f"{name}-fine-labels-idx1-ubyte.gz"] = idx_gz(small.fine[part])
        content[f"{name}-coarse-labels-idx1-ubyte.gz"] = idx_gz(small.coarse[part])
    return content
