"""Augmentation against per-sample references, its distributions, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.data import Augment, colours
from limbeck.errors import DataError, InputError
from limbeck.randomness import normal, uniform
from walk import over, pairs


def moved(image: np.ndarray, down: int, across: int) -> np.ndarray:
    """Roll an image (C, H, W) and put zeros where it came round."""
    image = np.roll(image, (down, across), axis=(1, 2))
    height, width = image.shape[1:]
    rows = np.arange(height)[:, None] - down
    columns = np.arange(width)[None] - across
    return image * ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))


def apply(augment: Augment, inputs: torch.Tensor, *, seed: int = 0, view: int = 1, first: int = 0) -> torch.Tensor:
    index = torch.arange(first, first + len(inputs))
    return augment.apply(inputs, seed=seed, view=torch.full_like(index, view), index=index)


def moves_of(images: torch.Tensor, found: torch.Tensor, reach: int) -> list[tuple[int, int]]:
    """Return how far each image moved, by trying every move of the reference."""
    steps = range(-reach, reach + 1)
    moves = []
    for image, result in zip(images.numpy(), found.numpy(), strict=True):
        fits = [(y, x) for y in steps for x in steps if np.array_equal(moved(image, y, x), result)]
        assert len(fits) == 1
        moves += fits
    return moves


@over("shape", [(40, 1, 7, 9), (40, 3, 8, 6), (1, 2, 5, 5)])
@over("reach", [1, 3])
def test_shift_is_a_roll_with_zeros_within_reach(shape, reach):
    images = torch.rand(shape) + 0.1
    moves = moves_of(images, apply(Augment(shift=reach), images), reach)
    assert len(moves) == len(images)


def test_every_shift_is_as_likely():
    images = torch.rand(1, 1, 6, 6).add(0.1).expand(1500, -1, -1, -1)
    moves = moves_of(images, apply(Augment(shift=2), images), 2)
    counts = np.zeros((5, 5))
    for down, across in moves:
        counts[down + 2, across + 2] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_moves_never_change_from_release_to_release():
    images = torch.rand(12, 1, 6, 6) + 0.1
    index = torch.arange(12)
    drawn = uniform(3, "augment.shift", torch.full_like(index, 2), index, 2)
    expected = [(2 - int(down * 5), 2 - int(across * 5)) for down, across in drawn.tolist()]
    assert moves_of(images, apply(Augment(shift=2), images, seed=3, view=2), 2) == expected


def test_pad_crop_is_shift_by_another_name():
    images = torch.rand(20, 3, 8, 8)
    assert torch.equal(apply(Augment(pad_crop=2), images), apply(Augment(shift=2), images))


def test_flip_mirrors_left_to_right_as_often_as_asked():
    images = torch.rand(2000, 1, 2, 3)
    found = apply(Augment(flip=0.3), images)
    mirrored = torch.from_numpy(images.numpy()[..., ::-1].copy())
    flipped = (found == mirrored).flatten(1).all(1)
    assert torch.equal(found, torch.where(flipped[:, None, None, None], mirrored, images))
    assert stats.binomtest(int(flipped.sum()), 2000, 0.3).pvalue > 1e-4
    assert torch.equal(apply(Augment(flip=1.0), images), mirrored)


@pytest.mark.parametrize("shape", [(500, 12), (500, 3, 2, 2)])
def test_noise_adds_scaled_normal_numbers(shape):
    inputs = torch.rand(shape)
    found = apply(Augment(noise=0.25), inputs, seed=4, view=2)
    index = torch.arange(500)
    drawn = normal(4, "augment.noise", torch.full_like(index, 2), index, 12).view(shape)
    torch.testing.assert_close(found, inputs + 0.25 * drawn)
    assert stats.kstest(((found - inputs) / 0.25).flatten().numpy(), "norm").pvalue > 1e-4


def test_flip_comes_before_shift():
    images = torch.rand(30, 1, 6, 6)
    both = apply(Augment(shift=1, flip=0.5), images)
    assert torch.equal(both, apply(Augment(shift=1), apply(Augment(flip=0.5), images)))


def test_inputs_and_the_global_generator_stay_as_they_are():
    images = torch.rand(10, 1, 6, 6)
    before, state = images.clone(), torch.get_rng_state()
    apply(Augment(shift=1, flip=0.5, noise=0.1), images)
    assert torch.equal(images, before)
    assert torch.equal(state, torch.get_rng_state())


def test_memory_layout_does_not_matter():
    images = torch.rand(10, 3, 6, 6)
    augment = Augment(shift=2, flip=0.5)
    expected = apply(augment, images)
    assert torch.equal(apply(augment, images.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(apply(augment, images.transpose(2, 3).contiguous().transpose(2, 3)), expected)


def test_half_precision_images_keep_their_type():
    images = torch.rand(10, 1, 6, 6).to(torch.bfloat16)
    found = apply(Augment(shift=1, flip=0.5), images)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), apply(Augment(shift=1, flip=0.5), images.float()))


def test_active_says_whether_views_differ():
    assert not Augment().active
    colours = (Augment(brightness=0.1), Augment(contrast=0.1), Augment(saturation=0.1))
    for augment in (Augment(shift=1), Augment(pad_crop=1), Augment(flip=0.1), Augment(noise=0.1), *colours):
        assert augment.active
    inputs = torch.rand(3, 4)
    assert torch.equal(apply(Augment(), inputs), inputs)


@over(
    "values",
    [
        {"shift": -1},
        {"shift": 1.5},
        {"shift": True},
        {"pad_crop": -2},
        {"flip": 1.1},
        {"flip": -0.1},
        {"flip": float("nan")},
        {"noise": -0.1},
        {"noise": float("inf")},
        {"brightness": -0.1},
        {"contrast": float("nan")},
        {"saturation": 101.0},
        {"saturation": True},
        {"shift": 1, "pad_crop": 1},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(InputError, match=rf"^(augment\.)?{next(iter(values))}: |^augment: ") as caught:
        Augment(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("augment", [Augment(shift=1), Augment(pad_crop=1), Augment(flip=0.5)])
def test_what_is_no_image_cannot_be_moved(augment):
    with pytest.raises(DataError, match=r"\(5, 12\)"):
        apply(augment, torch.rand(5, 12))


def test_whole_numbers_cannot_be_augmented():
    with pytest.raises(DataError, match=r"torch.int64"):
        apply(Augment(noise=0.1), torch.zeros(5, 12, dtype=torch.int64))


def test_a_shift_that_can_empty_an_image_is_refused():
    with pytest.raises(DataError, match=r"shift of 4 pixels.*\(1, 4, 9\)"):
        apply(Augment(shift=4), torch.rand(2, 1, 4, 9))


# -------------------------------------------------------------------------------------------------------------- colours


def coloured(name: str, image: np.ndarray, factor: float) -> np.ndarray:
    """One image (C, H, W) in float64, pixel by pixel, written as the formulas are."""
    channels, height, width = image.shape
    weights = (0.299, 0.587, 0.114) if channels == 3 else (1 / channels,) * channels
    greys = np.array(
        [[sum(w * image[c, y, x] for c, w in enumerate(weights)) for x in range(width)] for y in range(height)]
    )
    target = {"brightness": 0.0, "contrast": greys.mean(), "saturation": greys}[name]
    return np.clip(image * factor + (1 - factor) * target, 0, 1)


@over("name, reach, channels", pairs(["brightness", "contrast", "saturation"], [0.3, 1.0, 2.5], [1, 2, 3]))
def test_colours_change_as_their_formulas_say(name, reach, channels):
    if name == "saturation" and channels != 3:
        return
    images = torch.rand(30, channels, 4, 5)
    found = apply(Augment(**{name: reach}), images, seed=3, view=2)
    index = torch.arange(30)
    drawn = uniform(3, f"augment.{name}", torch.full_like(index, 2), index)[:, 0].double()
    low = max(0.0, 1 - reach)
    factors = low + drawn * (1 + reach - low)
    for image, result, factor in zip(images.double().numpy(), found.numpy(), factors.tolist(), strict=True):
        np.testing.assert_allclose(result, coloured(name, image, factor), rtol=0, atol=2e-6)


def test_factors_are_uniform_and_each_images_own():
    flat = torch.full((4000, 1, 1, 1), 0.25)
    factors = apply(Augment(brightness=0.4), flat).flatten() / 0.25
    assert stats.kstest(factors.numpy(), "uniform", args=(0.6, 0.8)).pvalue > 1e-4
    widest = apply(Augment(brightness=3.0), flat).flatten() / 0.25
    assert float(widest.min()) < 0.01
    assert stats.kstest(widest.numpy(), "uniform", args=(0, 4)).pvalue > 1e-4


def test_a_factor_of_one_changes_nothing_and_of_none_takes_all():
    images, one, none = torch.rand(5, 3, 4, 4), torch.ones(5, 1, 1, 1), torch.zeros(5, 1, 1, 1)
    for change in (colours.brightness, colours.contrast, colours.saturation):
        torch.testing.assert_close(change(images, one), images)
    assert not colours.brightness(images, none).any()
    assert float(colours.contrast(images, none).flatten(1).std(1).max()) < 1e-6
    plain = colours.saturation(images, none)
    assert torch.equal(plain, colours.grey(images).expand_as(images))


def test_colours_come_after_moves_in_their_order_and_before_noise():
    images = torch.rand(20, 3, 6, 6)
    whole = Augment(pad_crop=1, flip=0.5, brightness=0.5, contrast=0.5, saturation=0.5, noise=0.1)
    steps = images
    for one in (
        Augment(flip=0.5),
        Augment(pad_crop=1),
        Augment(brightness=0.5),
        Augment(contrast=0.5),
        Augment(saturation=0.5),
        Augment(noise=0.1),
    ):
        steps = apply(one, steps)
    torch.testing.assert_close(apply(whole, images), steps, rtol=0, atol=0)


def test_colours_of_a_sample_do_not_depend_on_its_batch():
    images = torch.rand(9, 3, 5, 5)
    augment = Augment(brightness=0.4, contrast=0.4, saturation=0.4)
    whole = apply(augment, images)
    torch.testing.assert_close(apply(augment, images[4:], first=4), whole[4:])
    assert not torch.allclose(apply(augment, images, view=2), whole)


def test_colours_leave_inputs_and_types_as_they_are():
    images = torch.rand(6, 3, 5, 5)
    before = images.clone()
    augment = Augment(brightness=0.4, contrast=0.4, saturation=0.4)
    found = apply(augment, images)
    assert torch.equal(images, before)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert apply(augment, images.to(torch.bfloat16)).dtype == torch.bfloat16


def test_colours_of_what_is_no_picture_are_refused():
    with pytest.raises(DataError, match=r"augment.contrast: pixels lie in \[-1, 2\], expected \[0, 1\]"):
        apply(Augment(contrast=0.5), torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1))
    with pytest.raises(DataError, match=r"augment.brightness: pixels lie in \[nan, nan\]"):
        apply(Augment(brightness=0.5), torch.full((2, 1, 1, 1), float("nan")))
    with pytest.raises(DataError, match=r"augment.saturation: images of shape \(1, 4, 4\) do not have three channels"):
        apply(Augment(saturation=0.5), torch.rand(2, 1, 4, 4))
    with pytest.raises(DataError, match=r"\(5, 12\)"):
        apply(Augment(brightness=0.5), torch.rand(5, 12))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_moves_images_as_the_cpu_does():
    images, index = torch.rand(64, 3, 9, 8), torch.arange(64)
    augment = Augment(shift=2, flip=0.5)
    there = augment.apply(
        images.cuda(), seed=1, view=torch.full_like(index, 3).cuda(), index=torch.arange(64, device="cuda")
    )
    assert torch.equal(there.cpu(), apply(augment, images, seed=1, view=3))
