"""Whatever lies in a folder of images, limbeck reads it or names it on one line: no traceback, no warning, no wait."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fuzzing import answered, cases, noisy
from limbeck.data import Splits, image_folder

FORMATS = {
    "png": [("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")],
    "jpg": [("JPEG", mode, {"progressive": mode == "L"}) for mode in ("RGB", "L", "CMYK")],
    "webp": [("WEBP", "RGBA", {}), ("WEBP", "RGB", {"lossless": True})],
    "bmp": [("BMP", "RGB", {}), ("BMP", "P", {})],
}


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 20), **more: object) -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(*size, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert("L" if mode == "I;16" else mode)
    file = io.BytesIO()
    (image.convert("I;16") if mode == "I;16" else image).save(file, kind, **more)
    return file.getvalue()


@pytest.fixture
def place() -> Path:
    """A folder of two good images; what is damaged is written as train/a/it.*."""
    for folder in ("train/a", "train/b", "test/a"):
        Path("images", folder).mkdir(parents=True)
    for folder in ("train/b", "test/a"):
        Path("images", folder, "good.png").write_bytes(encoded("PNG"))
    return Path("images/train/a")


def read() -> Splits:
    return image_folder("images", size=(8, 6))


def refused(path: Path, *said: str) -> None:
    """Require the one line that names the file, whether the set is kept in memory or read as needed."""
    for limit in (2**31, 0):
        line = answered(lambda limit=limit: everything(image_folder("images", size=(8, 6), limit_bytes=limit)))
        assert isinstance(line, str), line
        assert line.startswith(f"{path}: ")
        for part in said:
            assert part in line


def everything(splits: Splits) -> torch.Tensor:
    return splits.train.gather(torch.arange(len(splits.train)))


@pytest.mark.miniature(2)
@pytest.mark.parametrize("seeds", cases(60, 2000, 2))
@pytest.mark.parametrize("ending", FORMATS)
def test_no_damaged_image_ends_in_anything_but_one_line(place, ending, seeds):
    known = 0
    for seed in seeds:
        draw = random.Random(f"{ending} {seed}")
        kind, mode, more = draw.choice(FORMATS[ending])
        path = place / f"it.{ending}"
        path.write_bytes(bytes(noisy(draw, encoded(kind, mode, **more))))
        found = answered(read)
        if isinstance(found, str):
            assert found.startswith(f"{path}: "), seed
            known += 1
        else:
            assert found.train.gather(torch.arange(2)).shape == (2, 3, 8, 6), seed
    assert known > len(seeds) // 4


@pytest.mark.parametrize("ending", FORMATS)
def test_the_images_that_the_damage_starts_from_are_good(place, ending):
    for kind, mode, more in FORMATS[ending]:
        path = place / f"it.{ending}"
        path.write_bytes(encoded(kind, mode, **more))
        if mode == "I;16":
            refused(path, "has pixels of mode I;16, expected 8 bits a channel; convert it")
        else:
            assert len(read().train) == 2


@pytest.mark.miniature(21)
@pytest.mark.parametrize("ending", [*FORMATS, "PNG", "jpeg"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"label,1,2\n" * 50, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n", b"BM"],
    ids=["empty", "zero", "text", "svg", "only a png's beginning", "only a bmp's"],
)
def test_what_is_no_image_is_named(place, ending, content):
    path = place / f"it.{ending}"
    path.write_bytes(content)
    refused(path, "remove or replace it")


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PPM", "PCX"])
def test_a_file_of_another_format_is_not_opened_whatever_its_ending(place, kind):
    """To open some formats is to run a program, or a decoder that few have looked at."""
    path = place / "it.png"
    path.write_bytes(encoded(kind, "P" if kind == "GIF" else "RGB"))
    refused(path, "does not begin as a png, jpeg, webp or bmp file")


def test_the_ending_need_not_be_that_of_the_format(place):
    (place / "it.jpg").write_bytes(encoded("PNG"))
    assert len(read().train) == 2


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes((width + 1) * height) if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    body = b"\2\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body


def bmp(width: int, height: int, coding: int, body: bytes) -> bytes:
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, coding, len(body), 0, 0, 256, 256)
    start = 14 + len(sizes) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + sizes + bytes(1024) + body


BOMBS = {
    "png of 81 megapixels": ("png", png(9000, 9000), "is 9000 x 9000 pixels, expected at most 67,108,864"),
    "png that claims 4 exapixels": ("png", png(2**31 - 1, 2**31 - 1, b""), "more than 67,108,864 pixels"),
    "png of one long row": ("png", png(10**7, 1), "is 10000000 x 1 pixels, expected at most"),
    "png of many rows": ("png", png(1, 10**7), "is 1 x 10000000 pixels, expected at most"),
    "webp that claims 268 megapixels": ("webp", webp(16383, 16383), "more than 67,108,864 pixels"),
    "webp that claims 281 terapixels": ("webp", webp(2**24, 2**24), "more than 67,108,864 pixels"),
    "bmp of coded rows": ("bmp", bmp(8000, 8000, 1, b"\1\1\0\0" * 8000 + b"\0\1"), "is a run-length encoded bmp"),
    "bmp of 4 bits": ("bmp", bmp(30, 30, 2, b"\0\1"), "is a run-length encoded bmp"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_image_costs_much_more_than_it_holds(place, bomb):
    ending, content, said = BOMBS[bomb]
    assert len(content) < 200_000
    path = place / f"it.{ending}"
    path.write_bytes(content)
    refused(path, said)


def test_what_is_no_file_is_not_waited_for(place):
    os.mkfifo(place / "it.png")
    refused(place / "it.png", "is not a file; remove it")
    (place / "it.png").unlink()
    (place / "it.png").mkdir()
    refused(place / "it.png", "is not a file; remove it")
    (place / "it.png").rmdir()
    (place / "it.png").symlink_to("nowhere")
    refused(place / "it.png", "is not a file; remove it")


@pytest.mark.parametrize("size", [(2**40, 2**40), (10**6, 10**6), (2**15 + 1, 1), (2**13, 2**13)])
@pytest.mark.parametrize("limit", [0, 2**31, 2**62])
def test_a_size_that_no_memory_holds_is_refused(place, size, limit):
    line = answered(lambda: image_folder("images", size=size, limit_bytes=limit))
    assert line.startswith(f"size: found {size}, expected at most 16,777,216 pixels, and 32,768 a side")


def test_a_set_that_no_memory_holds_is_refused(place, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 2**10)  # pages of 1 KiB, and as many of them
    (place / "it.png").write_bytes(encoded("PNG"))
    line = answered(lambda: image_folder("images", size=(512, 512), limit_bytes=2**62))
    assert line == "images/train: needs 1,572,864 bytes, but this machine has 1,048,576; make it smaller"
    assert len(image_folder("images", size=(512, 512), limit_bytes=0).train) == 2


@pytest.mark.parametrize("where", ["train/a", "train"])
def test_a_name_that_is_no_text_is_named(place, where):
    name = os.fsdecode(b"it\xff.png")
    if where == "train":
        Path("images", where, name).mkdir()
    else:
        Path("images", where, name).write_bytes(encoded("PNG"))
    line = answered(lambda: image_folder("images", size=(8, 6), limit_bytes=0))
    assert line.endswith(r"it\udcff.png: the file name is not UTF-8; rename it")
