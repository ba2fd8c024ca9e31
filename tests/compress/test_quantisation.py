"""Grids, ranges and their gradients, against formulas in float64 written out by hand."""

import math

import pytest
import torch

from limbeck.compress.gradients import first_step, learned_steps, straight_through
from limbeck.compress.quantisation import (
    Grid,
    activation_grid,
    activation_range,
    dequantize,
    pack,
    quantize,
    quantize_activations,
    signal_to_noise,
    to_16bit,
    unpack,
    weight_scales,
)
from limbeck.errors import InputError


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(weight, bits, group):
    """Quantise a matrix element by element, in Python's numbers."""
    highest = 2 ** (bits - 1) - 1
    codes = []
    for row in weight.tolist():
        size = group or len(row)
        line = []
        for start in range(0, len(row), size):
            part = row[start : start + size]
            largest = max(abs(each) for each in part)
            scale = largest / highest if largest else 1.0
            line += [max(-highest, min(highest, round(each / scale))) for each in part]  # round: half to even
        codes.append(line)
    return codes


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 32), (3, 5), (8, 64)])
def test_codes_equal_those_by_hand_and_the_error_is_at_most_half_a_step(bits, group):
    weight = gaussian(6, 48)
    weight[2] = 0.0
    grid = quantize(weight, bits, group=group)
    assert grid.codes.tolist() == by_hand(weight, bits, group)
    steps = grid.scales.repeat_interleave(group or 48, 1)[:, :48]
    assert ((dequantize(grid) - weight).abs() <= steps / 2 * (1 + 1e-12)).all()
    assert grid.scales[2].tolist() == [1.0] * grid.scales.shape[1]
    assert quantize(dequantize(grid), bits, group=group).codes.equal(grid.codes)  # on the grid: fixed points


def test_the_example_of_the_specification():
    grid = quantize(torch.tensor([[0.5, -1.27, 0.003]], dtype=torch.float64))
    assert grid.codes.tolist() == [[50, -127, 0]]
    assert grid.scales.item() == pytest.approx(0.01, abs=1e-12)


def test_signal_to_noise_of_gaussian_rows():
    weight = gaussian(4000, 64)
    for bits, rounded in ((8, 44.5), (4, 19.4)):
        step = weight.abs().amax(1) / (2 ** (bits - 1) - 1)
        uniform = 10 * math.log10(12 / float(step.square().mean()))  # the noise of a step s is s²/12
        found = signal_to_noise(weight, dequantize(quantize(weight, bits)))
        assert found == pytest.approx(uniform, abs=0.1)
        assert found == pytest.approx(rounded, abs=0.1)


def test_four_bits_take_half_a_byte():
    codes = torch.arange(-8, 7).to(torch.int8)
    assert pack(codes).shape == (8,)
    assert unpack(pack(codes), 15).equal(codes)
    with pytest.raises(InputError, match="found -9 to 3, expected -8 to 7"):
        pack(torch.tensor([-9, 3], dtype=torch.int8))


def test_activations_have_an_asymmetric_grid_with_0_on_it():
    values = gaussian(7, 9) + 0.7
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    scale, zero = activation_grid(low, high)
    rounded = quantize_activations(values, scale, zero)
    assert ((rounded - values).abs() <= scale * (1 + 1e-9)).all()  # the zero point is rounded too
    assert quantize_activations(torch.zeros(7, 9, dtype=torch.float64), scale, zero).abs().max() == 0
    again = quantize_activations(rounded, scale, zero)
    assert torch.equal(again, rounded)


def test_ranges_from_calibration():
    values = torch.cat([gaussian(200_000), torch.tensor([50.0], dtype=torch.float64)])
    assert activation_range(values)[1] == 50.0
    low, high = activation_range(values, by="percentile")
    assert ((values >= low) & (values <= high)).double().mean() == pytest.approx(0.9999, abs=2e-5)
    errors = {}
    for by in ("minmax", "mse"):
        grid = activation_grid(*activation_range(values, by=by))
        errors[by] = float((quantize_activations(values, *grid) - values).square().mean())
    assert errors["mse"] < errors["minmax"]


def test_sixteen_bits():
    weight = gaussian(10_000)
    weight = weight[weight.abs() > 6.1e-5]
    for kind, bound in (("fp16", 2.0**-11), ("bf16", 2.0**-8)):
        assert ((to_16bit(weight, kind).double() - weight).abs() / weight.abs()).max() <= bound
    with pytest.raises(InputError, match="found 70000, expected at most 65504 for fp16; use bf16"):
        to_16bit(torch.tensor([70000.0]))
    assert to_16bit(torch.tensor([70000.0]), "bf16").isfinite()


def test_the_straight_through_gradient_is_1_inside_and_0_outside():
    values = torch.tensor([-9.0, -1.3, 0.2, 3.4, 3.6], dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    rounded = straight_through(values, one, lowest=-3, highest=3)
    (rounded * slopes).sum().backward()
    assert rounded.tolist() == [-3.0, -1.0, 0.0, 3.0, 3.0]
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    weight = gaussian(5, 64, dtype=torch.float32).requires_grad_()
    straight_through(weight, weight_scales(weight.detach()), lowest=-127, highest=127).sum().backward()
    assert (weight.grad == 1).all()  # a scale from the maximum leaves none outside


def test_learned_steps_have_the_gradients_of_the_paper():
    weight = torch.tensor([-1.3, -0.2, 0.1, 0.45, 0.9], dtype=torch.float64, requires_grad=True)
    levels, slopes = [], []
    for number in range(5):
        step = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
        rounded = learned_steps(weight, step, lowest=4, highest=3)
        levels.append(round(float(rounded[number].detach() / 0.25)))
        rounded[number].backward()
        slopes.append(float(step.grad) * math.sqrt(5 * 3))  # the gradient is scaled by 1/√(n·Q_P)
    assert levels == [-4, -1, 0, 2, 3]
    assert slopes == pytest.approx([-4, -0.2, -0.4, 0.2, 3], abs=1e-12)
    assert weight.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert float(first_step(weight, highest=3)) == pytest.approx(2 * 0.59 / math.sqrt(3), abs=1e-12)


def test_a_step_of_each_row_has_the_gradient_of_its_own_row():
    weight = gaussian(3, 8)
    steps = torch.full((3, 1), 0.3, dtype=torch.float64, requires_grad=True)
    learned_steps(weight, steps, lowest=4, highest=3).sum().backward()
    for row in range(3):
        step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        learned_steps(weight[row], step, lowest=4, highest=3).sum().backward()
        assert float(step.grad) == pytest.approx(float(steps.grad[row]), abs=1e-12)


def test_what_is_no_grid_is_refused():
    with pytest.raises(InputError, match="bits: found 9"):
        quantize(torch.ones(2, 3), 9)
    with pytest.raises(InputError, match="expected two axes or more"):
        quantize(torch.ones(3))
    with pytest.raises(InputError, match="scales: found shape"):
        Grid(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2, 2))
