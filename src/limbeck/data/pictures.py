"""One image file as pixels, as a person sees it: upright, without transparency, in grey or in colours."""

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LONGEST_SIDE", "opened", "picture", "size_and_mode"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever its ending, a file is taken for no other: EPS, say, runs a program
_MOST_PIXELS, LONGEST_SIDE = 2**26, 2**15
_RUN_LENGTHS = (1, 2)  # of a bmp: 8 and 4 bits
_ORIENTATION = 0x0112
_PAPER = (255, 255, 255, 255)


def picture(path: Path, size: tuple[int, int], grey: bool, content: bytes | None = None) -> tuple[Tensor, int]:
    """Read one image as uint8 (C, H, W), resized to (H, W), and count its frames, of which the first is read.

    It is turned as its EXIF orientation says, and laid on white where it is transparent; colour profiles are not
    applied.  content: of the file, where it lies within another; `path` then names it.
    Raises DataError naming the file, when it is damaged, too large, or of more than 8 bits a channel in grey.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PIL about palettes and metadata; what is damaged raises
            with Image.open(path if content is None else BytesIO(content), formats=_FORMATS) as image:
                _check(path, image)
                frames = int(getattr(image, "n_frames", 1))
                pixels = _fitted(image, size, grey)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more than {_MOST_PIXELS:,} pixels; make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it does not begin as a png, jpeg, webp or bmp file"
        raise DataError(f"{path}: cannot be read as an image ({reason}); remove or replace it") from None
    return pixels, frames


def size_and_mode(path: Path) -> tuple[tuple[int, int], str]:
    """Return an image's height and width as its file has them, and PIL's name of its mode; no pixel is decoded.

    Raises DataError naming the file, when it is no image.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                return (image.height, image.width), image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); remove or replace it") from None


def opened(image: "Image", size: tuple[int, int], grey: bool) -> Tensor:
    """Return an image of PIL as `picture` reads it from a file; DataError where it is damaged or too large."""
    _check("inputs", image)
    try:
        return _fitted(image, size, grey)
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"inputs: an image cannot be read ({reason}); open it again, or leave it out") from None


def _fitted(image: "Image", size: tuple[int, int], grey: bool) -> Tensor:
    """Return an open image as uint8 (C, H, W): upright, on white where it is transparent, resized to (H, W)."""
    import numpy as np
    from PIL import Image

    seen = _upright(_opaque(image), _orientation(image)).convert("L" if grey else "RGB")
    pixels = torch.from_numpy(np.array(seen.resize((size[1], size[0]), Image.Resampling.BILINEAR)))
    return pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()


def _check(path: Path | str, image: "Image") -> None:
    """Refuse an image whose pixels are of another kind, or more than its file may cost to read; none is decoded yet."""
    width, height = image.size
    if width * height > _MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        raise DataError(
            f"{path}: is {width} x {height} pixels, expected at most {_MOST_PIXELS:,}, and {LONGEST_SIDE:,} a side;"
            " make it smaller"
        )
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path}: has pixels of mode {image.mode}, expected 8 bits a channel; convert it")
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise DataError(f"{path}: is a run-length encoded bmp, which is slow to read; convert it to png")


def _opaque(image: "Image") -> "Image":
    """Return an image laid on white paper where it is transparent, by an alpha channel or by a colour that is none."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, _PAPER), seen)


def _orientation(image: "Image") -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or the EXIF data is damaged, as viewers take it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1


def _upright(image: "Image", orientation: int) -> "Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
