"""RandAugment: each operation against Pillow's, the strengths of AutoAugment, and views that no batch changes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import stats

from limbeck.config import Recipe
from limbeck.data import Augment, Loader, RandAugment, TensorSet, randaugment
from limbeck.errors import DataError, InputError, RecipeError
from walk import over

NAMES = list(randaugment.OPERATIONS)


def pictures(channels, count=6, height=24, width=32):
    """Images with gradients, flat places, few levels, noise, and one of a single level."""
    generator = np.random.default_rng(channels)
    down, across = np.mgrid[0:height, 0:width]
    images = generator.integers(0, 256, (count, channels, height, width))
    images[1] = (down * 5 + across * 3) % 256
    images[2] = 40 + 100 * ((down // 4 + across // 4) % 2)
    images[3] = generator.integers(90, 140, (channels, height, width))
    images[4] = 77
    images[5, :, 5:20, 8:25] = (images[5, :, 5:20, 8:25] // 64) * 64
    return images.astype(np.uint8)


def pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0], "L") if len(image) == 1 else Image.fromarray(image.transpose(1, 2, 0), "RGB")


def array(image: Image.Image) -> np.ndarray:
    found = np.asarray(image)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def levels(images: torch.Tensor) -> np.ndarray:
    return (images.double() * 255).numpy()


def compare(images, found, reference, *, within):
    """Require that every value is within so many of 255 levels of what Pillow makes of the image."""
    for image, result in zip(images, levels(found), strict=True):
        np.testing.assert_allclose(result, array(reference(pillow(image))).astype(float), rtol=0, atol=within)


def tensors(images):
    return torch.from_numpy(images).to(torch.float32) / 255


every_channels = pytest.mark.parametrize("channels", [1, 3])


# --------------------------------------------------------------------------------------------------------------- Pillow


@every_channels
def test_autocontrast_is_pillows(channels):
    images = pictures(channels)
    compare(images, randaugment.autocontrast(tensors(images)), ImageOps.autocontrast, within=1.001)


@every_channels
@over("size", [(24, 32), (3, 5), (16, 16), (70, 90)])
def test_equalize_is_pillows_level_by_level(channels, size):
    images = pictures(channels, 6, max(size[0], 24), max(size[1], 32))[:, :, : size[0], : size[1]].copy()
    compare(images, randaugment.equalize(tensors(images)), ImageOps.equalize, within=1e-4)


@every_channels
@over("bits", [1, 4, 6, 8])
def test_posterize_is_pillows(channels, bits):
    images = pictures(channels)
    found = randaugment.posterize(tensors(images), bits)
    compare(images, found, lambda image: ImageOps.posterize(image, bits), within=1e-4)


@every_channels
@over("threshold", [0, 77, 128, 256])
def test_solarize_is_pillows(channels, threshold):
    images = pictures(channels)
    found = randaugment.solarize(tensors(images), threshold / 255)
    compare(images, found, lambda image: ImageOps.solarize(image, threshold), within=1e-4)


@every_channels
def test_smooth_is_pillows(channels):
    images = pictures(channels)
    found = randaugment.smooth(tensors(images))
    compare(images, found, lambda image: image.filter(ImageFilter.SMOOTH), within=0.501)


ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


@every_channels
@over("name", ENHANCERS)
@over("strength", [-1.0, -0.5, 0.5, 1.0])
def test_enhancements_are_pillows(channels, name, strength):
    images = pictures(channels)
    found = randaugment.OPERATIONS[name](tensors(images), torch.full((len(images),), strength))
    factor = 1 + 0.9 * strength
    # Pillow rounds the degenerate image to whole levels before it extrapolates from it, and cuts the result.
    compare(images, found, lambda image: ENHANCERS[name](image).enhance(factor), within=1.5)


@every_channels
@over("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
@over("strength", [-1.0, -0.3, 0.7])
def test_moves_are_pillows_affine_transforms(channels, name, strength):
    images = pictures(channels)[1:2]
    _, _, height, width = images.shape
    found = levels(randaugment.OPERATIONS[name](tensors(images), torch.tensor([strength])))[0]
    angle = math.radians(30 * strength)
    matrix = {
        "rotate": [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]],
        "shear_x": [[1, 0.3 * strength, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [0.3 * strength, 1, 0]],
        "translate_x": [[1, 0, 150 / 331 * width * strength], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, 150 / 331 * height * strength]],
    }[name]
    about = np.array(matrix, dtype=float)
    middle = np.array([width / 2, height / 2])
    about[:, 2] += middle - about[:, :2] @ middle
    flat = tuple(about.ravel())
    one = pillow(images[0])
    smooth = array(one.transform(one.size, Image.Transform.AFFINE, flat, Image.Resampling.BILINEAR))
    down, across = np.mgrid[0:height, 0:width] + 0.5
    x, y = (about[i, 0] * across + about[i, 1] * down + about[i, 2] for i in (0, 1))
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)  # at the border Pillow repeats pixels
    outside = (x < -0.5) | (x > width + 0.5) | (y < -0.5) | (y > height + 0.5)
    assert inside.sum() > 0.2 * inside.size
    np.testing.assert_allclose(found[:, inside], smooth[:, inside].astype(float), rtol=0, atol=1.01)
    assert not found[:, outside].any()


@pytest.mark.parametrize("factor", [-1.0, 1.0])
def test_rotation_of_a_positive_angle_turns_against_the_clock(factor):
    images = torch.zeros(1, 1, 21, 21)
    images[0, 0, 10, 18] = 1  # to the right of the centre
    found = randaugment.OPERATIONS["rotate"](images, torch.tensor([factor]))[0, 0]
    down, across = divmod(int(found.argmax()), 21)
    assert across > 14
    assert (down < 10) == (factor > 0)


# ------------------------------------------------------------------------------------------------------------ strengths


@every_channels
@over("name", NAMES)
def test_results_are_images_and_inputs_stay(channels, name):
    images = tensors(pictures(channels))
    before = images.clone()
    found = randaugment.OPERATIONS[name](images, torch.tensor([1.0, -1.0] * 3))
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(images, before)


@over("name", [name for name in NAMES if name not in ("autocontrast", "equalize")])
def test_without_strength_nothing_changes(name):
    images = tensors(pictures(3))
    found = randaugment.OPERATIONS[name](images, torch.zeros(6))
    torch.testing.assert_close(found, images, rtol=0, atol=2e-5)


@over("name", [name for name in NAMES if name not in ("identity", "autocontrast", "equalize")])
def test_more_strength_changes_more(name):
    images = tensors(pictures(3))[:1]
    weak, strong = (
        (randaugment.OPERATIONS[name](images, torch.tensor([strength])) - images).abs().mean()
        for strength in (0.25, 1.0)
    )
    assert 0 < weak < strong


def test_there_are_the_fourteen_operations_of_the_paper():
    assert sorted(NAMES) == [
        *("autocontrast", "brightness", "color", "contrast", "equalize", "identity", "posterize", "rotate"),
        *("sharpness", "shear_x", "shear_y", "solarize", "translate_x", "translate_y"),
    ]


# ------------------------------------------------------------------------------------------------------- what is drawn


def trace(monkeypatch, count, n, seed=0, view=1, magnitude=5):
    """Return which operations were drawn for each image, and in which direction."""
    seen = [[] for _ in range(count)]

    def noting(name):
        def operation(images, strength):
            for image, each in zip(images, strength, strict=True):
                seen[int(image.flatten()[0] * count + 0.5)].append((name, float(each)))
            return images

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: noting(name) for name in NAMES})
    images = (torch.arange(count) / count).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    index = torch.arange(count)
    RandAugment(n=n, magnitude=magnitude).apply(images, seed=seed, view=torch.full_like(index, view), index=index)
    return seen


def test_every_image_gets_n_operations_all_as_often_in_both_directions(monkeypatch):
    drawn = trace(monkeypatch, 3000, 2)
    assert {len(each) for each in drawn} == {2}
    for layer in range(2):
        counts = [sum(each[layer][0] == name for each in drawn) for name in NAMES]
        assert stats.chisquare(counts).pvalue > 1e-4
        strengths = [each[layer][1] for each in drawn]
        assert set(strengths) == {-0.5, 0.5}
        assert stats.binomtest(strengths.count(0.5), 3000, 0.5).pvalue > 1e-4
    same = sum(first[0] == second[0] for first, second in drawn)
    alike = sum(first[1] == second[1] for first, second in drawn)
    assert stats.binomtest(alike, 3000, 0.5).pvalue > 1e-4
    assert stats.binomtest(same, 3000, 1 / 14).pvalue > 1e-4


@over("magnitude", [0, 2.5, 9, 10])
def test_the_strength_is_a_tenth_of_the_magnitude(monkeypatch, magnitude):
    drawn = trace(monkeypatch, 40, 1, magnitude=magnitude)
    assert {round(abs(strength), 6) for ((_, strength),) in drawn} == {magnitude / 10}


def test_views_and_seeds_draw_anew(monkeypatch):
    first = trace(monkeypatch, 300, 1)
    assert first == trace(monkeypatch, 300, 1)
    for other in (trace(monkeypatch, 300, 1, view=2), trace(monkeypatch, 300, 1, seed=1)):
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 40


@pytest.mark.miniature(2)
@every_channels
@pytest.mark.parametrize("magnitude", [3.5, 9])
def test_no_batch_order_or_rank_changes_a_view(channels, magnitude):
    samples = TensorSet.of(torch.from_numpy(pictures(channels, 60)), torch.arange(60) % 3)
    augment = Augment(flip=0.5, randaugment=RandAugment(n=2, magnitude=magnitude))

    def everything(batch_size, world=1):
        loader = Loader(samples, batch_size, seed=3, augment=augment)
        batches = [batch for rank in range(world) for batch in loader.epoch(2, rank=rank, world=world)]
        return {int(i): x for batch in batches for i, x in zip(batch.index, batch.inputs, strict=True)}

    expected = everything(60)
    for found in (everything(1), everything(7), everything(20, world=3)):
        assert set(found) == set(range(60))
        assert all(torch.equal(found[index], expected[index]) for index in found)


def test_it_comes_after_flips_and_before_colours():
    images = torch.rand(30, 3, 8, 8)
    index = torch.arange(30)
    draw = {"seed": 1, "view": torch.ones_like(index), "index": index}
    rand = RandAugment(n=2, magnitude=6)
    both = Augment(flip=0.5, randaugment=rand, brightness=0.3).apply(images, **draw)
    flipped = Augment(flip=0.5).apply(images, **draw)
    expected = Augment(brightness=0.3).apply(Augment(randaugment=rand).apply(flipped, **draw), **draw)
    assert torch.equal(both, expected)
    assert not torch.equal(both, Augment(flip=0.5, brightness=0.3).apply(images, **draw))


def test_half_precision_images_keep_their_type():
    images, index = torch.rand(40, 3, 8, 8).to(torch.bfloat16), torch.arange(40)
    found = RandAugment(n=2).apply(images, seed=0, view=torch.ones_like(index), index=index)
    assert found.dtype == torch.bfloat16
    assert bool(torch.isfinite(found).all())


# ------------------------------------------------------------------------------------------------------------ bad input


@over(
    ("keys", "line"),
    [
        ({"n": -1}, "randaugment.n"),
        ({"n": 1.5}, "^n: found 1.5, expected a whole number"),
        ({"n": 2, "magnitude": 27}, "expected at most 10; divide by 3 if your scale ends at 30"),
        ({"n": 2, "magnitude": -1}, "randaugment.magnitude"),
        ({"magnitude": 5.0}, "randaugment.magnitude: given without n"),
    ],
)
def test_values_out_of_range_are_refused(keys, line):
    with pytest.raises(InputError, match=line) as caught:
        RandAugment(**keys)
    assert "\n" not in str(caught.value)


def test_it_needs_images_of_pixels():
    augment = Augment(randaugment=RandAugment(n=1))
    index = torch.arange(4)
    draw = {"seed": 0, "view": torch.ones_like(index), "index": index}
    with pytest.raises(DataError, match=r"inputs of shape \(4, 12\)"):
        augment.apply(torch.rand(4, 12), **draw)
    with pytest.raises(DataError, match=r"augment.randaugment: pixels lie in"):
        augment.apply(torch.randn(4, 3, 8, 8), **draw)
    with pytest.raises(DataError, match=r"torch.int64"):
        augment.apply(torch.zeros(4, 3, 8, 8, dtype=torch.int64), **draw)


def test_a_recipe_names_it_under_augment():
    keys = {
        "name": "noisy",
        "data": {"kind": "digits"},
        "student": {"model": {"kind": "mlp", "hidden": [8]}},
        "training": {"augment": {"randaugment": {"n": 2, "magnitude": 9}}},
    }
    recipe = Recipe.parse(keys)
    assert recipe.training.augment.randaugment == RandAugment(n=2, magnitude=9)
    assert Recipe.parse(recipe.keys).keys == recipe.keys
    with pytest.raises(RecipeError, match=r"training.augment.randaugment.magnitude: given without n"):
        Recipe.parse({**keys, "training": {"augment": {"randaugment": {"magnitude": 5}}}})
    with pytest.raises(RecipeError, match="did you mean 'magnitude'"):
        Recipe.parse({**keys, "training": {"augment": {"randaugment": {"n": 2, "magnitud": 9}}}})
