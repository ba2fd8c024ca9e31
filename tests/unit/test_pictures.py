"""Images as a person sees them, and folders as people leave them: nothing is turned, cut or left out unseen."""

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from limbeck.data import image_folder
from limbeck.data.pictures import picture
from limbeck.errors import DataError, DataWarning
from walk import over

RED, WHITE, MIXED = (255, 0, 0), (255, 255, 255), (255, 127, 127)


def saved(path: Path, image: Image.Image | None = None, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.new("RGB", (4, 4), RED) if image is None else image).save(path, **more)
    return path


def seen(path: Path, size: tuple[int, int] = (4, 6), *, grey: bool = False) -> list[list[int]]:
    return picture(path, size, grey)[0].flatten(1).T.tolist()


@over("orientation", range(10))
@over("ending", ["png", "webp", "jpg"])
def test_an_image_is_turned_as_its_orientation_says(tmp_path, orientation, ending):
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = (250, 0, 0), (0, 250, 0)  # so that each of the 8 orientations differs
    tags = Image.Exif()
    tags[0x0112] = orientation
    keys = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}, "png": {}}[ending]
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(pixels), exif=tags, **keys)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    height, width = expected.shape[:2]
    found = picture(path, (height, width), False)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)
    assert (height > width) == (orientation in (5, 6, 7, 8))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage, and more of it"])
def test_damaged_exif_data_turns_nothing(tmp_path, exif):
    assert seen(saved(tmp_path / "a.png", exif=exif), (1, 1)) == [list(RED)]


def transparent(mode: str, alpha: int) -> tuple[Image.Image, dict[str, object]]:
    """An image of black, or of red, that lets through what is under it."""
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([*RED, 0, 0, 0])
        return image, {"transparency": bytes([alpha])}
    if mode in ("L", "RGB"):  # one colour of it is none
        return Image.new(mode, (4, 4), 0), {"transparency": 0 if mode == "L" else (0, 0, 0)}
    return Image.new(mode, (4, 4), (0, alpha) if mode == "LA" else (*RED, alpha)), {}


@over(
    ("mode", "alpha", "expected"),
    [
        ("RGBA", 0, WHITE), ("RGBA", 128, MIXED), ("RGBA", 255, RED),
        ("P", 0, WHITE), ("P", 128, MIXED), ("P", 255, RED),
        ("LA", 0, WHITE), ("LA", 128, (127, 127, 127)), ("LA", 255, (0, 0, 0)),
        ("L", 0, WHITE), ("RGB", 0, WHITE),
    ],
)  # fmt: skip
def test_what_is_transparent_lies_on_white(tmp_path, mode, alpha, expected):
    image, more = transparent(mode, alpha)
    path = saved(tmp_path / "a.png", image, **more)
    assert seen(path, (1, 1)) == [list(expected)]
    shade = Image.new("RGB", (1, 1), expected).convert("L").getpixel((0, 0))
    assert seen(path, (1, 1), grey=True) == [[shade]]


def test_other_kinds_of_pixels_are_brought_into_eight_bits_or_refused(tmp_path):
    assert seen(saved(tmp_path / "c.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), quality=100), (1, 1)) == [
        list(WHITE)
    ]
    dark = seen(saved(tmp_path / "k.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 255)), quality=100), (1, 1))
    assert max(dark[0]) < 5
    assert seen(saved(tmp_path / "1.png", Image.new("1", (4, 4), 1)), (1, 1)) == [list(WHITE)]
    deep = Image.fromarray(np.full((4, 4), 300, dtype=np.uint16))
    with pytest.raises(DataError, match="has pixels of mode I;16, expected 8 bits a channel; convert it"):
        picture(saved(tmp_path / "16.png", deep), (1, 1), False)


# -------------------------------------------------------------------------------------------------------------- folders


def read(root: Path, **keys: object):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return image_folder(str(root), (2, 2), **keys)


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("cat", "dog"):
        for number in range(5):
            saved(tmp_path / "own" / name / f"{number}.PNG")
    return tmp_path / "own"


@pytest.mark.parametrize("name", ["__MACOSX", ".git", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "__pycache__"])
def test_a_folder_that_programs_leave_is_no_class(root, name):
    saved(root / name / "a.png")
    saved(root / "cat" / name / "a.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / "._0.png").write_bytes(b"of a Mac")
    found = image_folder(str(root), (2, 2))  # and no warning
    assert found.train.class_names == ("cat", "dog")
    assert len(found.train) + len(found.test) == 10
    assert any(f"hidden and foreign folders are no classes: '{name}'" in note for note in found.notes)
    assert any("1 files that are no images are left out" in note for note in found.notes)


def test_images_that_are_left_out_are_counted(root):
    for number in range(3):
        for ending in ("tif", "GIF"):
            (root / "cat" / f"{number}.{ending}").write_bytes(b"")
        saved(root / "cat" / "more" / "deep" / f"{number}.png")
    (root / "eel").mkdir()
    saved(root / "loose.png")
    with pytest.warns(DataWarning) as caught:
        found = image_folder(str(root), (2, 2))
    lines = [str(each.message) for each in caught]
    assert set(lines) <= set(found.notes)
    for said in (
        "images of other types are left out (3 .gif, 3 .tif); convert them to png or jpeg",
        "3 images in deeper folders are left out, the first in",
        "1 of 3 classes have no images: 'eel'",
        "1 images beside the class folders are left out",
    ):
        assert any(said in line for line in lines), said
    assert caught[0].filename == __file__


def test_a_part_that_is_neither_train_nor_test_is_said(root):
    for part in ("train", "test", "extra"):
        saved(root / part / "cat" / "0.png")
    with pytest.warns(DataWarning, match=r"train, test alone are read, and not 'cat', 'dog', 'extra'"):
        image_folder(str(root), (2, 2))


def test_parts_that_are_written_otherwise_are_no_classes(tmp_path):
    for part in ("Train", "Test"):
        saved(tmp_path / part / "cat" / "0.png")
    with pytest.raises(DataError, match="its folders 'Test', 'Train' are not classes; name them train and test"):
        read(tmp_path)


def test_a_folder_around_the_classes_is_named(root):
    with pytest.raises(
        DataError, match=r"has no images; .*10 images in deeper folders are left out, the first in .*cat"
    ):
        read(root.parent)


def test_classes_that_differ_in_case_are_said_and_in_unicode_form_refused(root):
    saved(root / "Cat" / "0.png")
    assert any("class names 'Cat' and 'cat' look alike" in note for note in read(root).notes)
    for form in ("NFC", "NFD"):
        saved(root / unicodedata.normalize(form, "caf\u00e9") / "0.png")
    if len(list(root.glob("caf*"))) == 2:  # some file systems know them as one
        with pytest.raises(DataError, match="occurs twice, in two Unicode forms"):
            read(root)


def test_a_class_folder_whose_name_is_not_printed_is_refused(root):
    saved(root / "a\nb" / "0.png")
    with pytest.raises(DataError, match=r"class name 'a\\nb' holds the unprintable character U\+000A"):
        read(root)


@pytest.mark.parametrize("ending", ["webp", "png"])
def test_of_several_frames_the_first_is_read_and_said(root, ending):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (WHITE, RED)]
    saved(root / "cat" / f"x.{ending}", frames[0], save_all=True, append_images=frames[1:], duration=40, lossless=True)
    found = read(root)
    assert any("1 images have several frames, of which the first is read" in note for note in found.notes)
    assert picture(root / "cat" / f"x.{ending}", (1, 1), False)[0].min() > 250


def test_grey_and_coloured_images_are_one_set(root):
    saved(root / "cat" / "grey.png", Image.new("L", (4, 4), 7))
    found = read(root)
    assert found.train.input_shape == (3, 2, 2)
    assert torch.unique(torch.cat([found.train.inputs, found.test.inputs])).tolist() == [0, 7, 255]
