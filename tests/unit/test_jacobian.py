"""Gradients by inputs, and the samples at a boundary that steps along them find."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import losses
from limbeck.errors import InputError
from sheet import A, B
from walk import over

X = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)


def gradients(cotangents, *weights, x=X):
    """Of linear networks z = W·x."""
    found = []
    for w in weights:
        inputs = x.clone().requires_grad_()
        found.append(losses.vector_jacobian(inputs @ w.T, inputs, cotangents))
    return found


def test_values_of_the_specification():
    axes = torch.eye(2, dtype=torch.float64)[:, None]
    full = losses.input_gradient(*gradients(axes, A, B), over="sum")
    assert float(full) == pytest.approx(11.0)
    assert float(losses.input_gradient(*gradients(axes, A, B))) == pytest.approx(5.5)
    direction = torch.tensor([[[0.6, 0.8]]], dtype=torch.float64)
    assert float(losses.input_gradient(*gradients(direction, A, B))) == pytest.approx(2.48)
    label = losses.input_gradient(*gradients(axes[:1], A, B), normalise=True)
    assert float(label) == pytest.approx(1.2)
    found = []
    for w in (A, B):
        q = F.softmax(X @ w.T, 1)
        found += gradients((q - axes[0])[None], w)
    assert float(losses.input_gradient(*found)) == pytest.approx(15.262683, abs=1e-6)
    assert float((found[0] - found[1]).norm()) == pytest.approx(3.906748, abs=1e-6)


def test_directions_estimate_the_whole_jacobian_and_noise_on_the_inputs_adds_it_to_logit_matching():
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(20000, 1, 2, generator=generator, dtype=torch.float64), dim=2)
    student, teacher = ((directions.flatten(1) @ w)[:, None] for w in (A, B))
    assert float(losses.input_gradient(student, teacher)) == pytest.approx(5.5, rel=0.02)
    noise = 0.1 * torch.randn(200000, 3, generator=generator, dtype=torch.float64)
    error = ((X + noise) @ (A - B).T).square().sum(1).mean()
    assert float(error) == pytest.approx(2.11, rel=0.02)


def test_each_example_has_its_own_gradient_whatever_its_batch_is():
    x = torch.randn(4, 3, dtype=torch.float64)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    cotangents = torch.randn(3, 4, 2, dtype=torch.float64)

    def of(rows):
        inputs = x[rows].clone().requires_grad_()
        return losses.vector_jacobian(network(inputs), inputs, cotangents[:, rows])

    whole = of([0, 1, 2, 3])
    torch.testing.assert_close(whole, torch.cat([of([i]) for i in range(4)], 1), rtol=1e-9, atol=1e-12)
    each = losses.input_gradient(whole, 0 * whole, reduction="none")
    torch.testing.assert_close(each, whole.square().sum(2).mean(0), rtol=1e-9, atol=0)


def small(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ).double()


@over("of", ["label", "loss", "random"])
def test_parameters_learn_from_it_as_finite_differences_say(of):
    student, teacher = small(1), small(2)
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    labels = torch.tensor([0, 2])

    def gradient(network):
        inputs = x.clone().requires_grad_()
        logits = network(inputs)
        one_hot = F.one_hot(labels, 3).double()
        cotangents = {
            "label": one_hot[None],
            "loss": (logits.softmax(1) - one_hot)[None],
            "random": F.normalize(torch.ones(2, 2, 3, dtype=torch.float64).cumsum(2), dim=2),
        }[of]
        return losses.vector_jacobian(logits, inputs, cotangents)

    target = gradient(teacher).detach()

    def value():
        return losses.input_gradient(gradient(student), target, normalise=of == "label")

    value().backward()
    weight = student[0].weight
    direction = torch.randn(weight.shape, dtype=torch.float64)
    slope = float((weight.grad * direction).sum())
    step = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(value().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_equal_gradients_have_value_zero_and_a_zero_gradient_has_no_direction():
    own = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for normalise in (False, True):
        value = losses.input_gradient(own, own, normalise=normalise)
        (slope,) = torch.autograd.grad(value, own)
        assert value == 0
        assert not slope.any()
    dead = torch.zeros(1, 1, 4, requires_grad=True)
    value = losses.input_gradient(dead, torch.ones(1, 1, 4), normalise=True)
    value.backward()
    assert value == 0
    assert not dead.grad.any()
    half = losses.input_gradient(own.half(), own.detach().half() + 1)
    assert half.dtype == torch.float32


def test_what_has_no_gradient_by_the_inputs_is_refused():
    x = torch.ones(1, 3)
    with pytest.raises(InputError, match=r"inputs.requires_grad_\(\)"):
        losses.vector_jacobian(x, x, torch.ones(1, 1, 3))
    other = torch.ones(1, 3, requires_grad=True)
    with pytest.raises(InputError, match="no dependence"):
        losses.vector_jacobian(2 * other, x.requires_grad_(), torch.ones(1, 1, 3))
    with pytest.raises(InputError, match=r"cotangents: found \(1, 3\), expected \(V, 1, 3\)"):
        losses.vector_jacobian(x * 2, x, torch.ones(1, 3))


# ------------------------------------------------------------------------------------------- boundary samples


def identity(inputs):
    return inputs, lambda cotangents: cotangents


def test_a_step_is_that_of_the_specification_and_ten_do_not_cross_what_seventeen_do():
    x, other = torch.tensor([[1.0, 0.2]], dtype=torch.float64), torch.tensor([1])
    first = losses.boundary_samples(identity, x, other, steps=1)
    torch.testing.assert_close(first, torch.tensor([[0.830273, 0.369727]], dtype=torch.float64), rtol=0, atol=1e-6)
    assert [int(losses.boundary_samples(identity, x, other, steps=steps).argmax()) for steps in (10, 16, 17)] == [
        0,
        0,
        1,
    ]


@over("rate", [0.05, 0.2, 0.5])
def test_a_linear_teacher_is_crossed_after_the_number_of_steps_in_closed_form(rate):
    weight = torch.tensor([[1.0, 0.0], [0.2, 0.9]], dtype=torch.float64)
    x = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    margin = 1e-4
    length = float((weight[1] - weight[0]).norm())
    gap = float((x @ (weight[0] - weight[1])).sum())
    steps = math.ceil(math.log(margin / (gap + margin)) / math.log(1 - rate * length))

    def linear(inputs):
        return inputs @ weight.T, lambda cotangents: cotangents @ weight

    def top(count):
        found = losses.boundary_samples(linear, x, torch.tensor([1]), steps=count, rate=rate)
        return int((found @ weight.T).argmax())

    assert (top(steps - 1), top(steps), top(steps + 5)) == (0, 1, 1)


def test_samples_stop_at_the_range_of_the_inputs_and_one_that_crossed_stays():
    x = torch.tensor([[1.0, 0.2], [0.3, 0.2]], dtype=torch.float64)
    found = losses.boundary_samples(identity, x, torch.tensor([1, 1]), steps=40, low=0.5, high=0.6)
    assert found.min() >= 0.5
    assert found.max() <= 0.6
    crossed = losses.boundary_samples(identity, x, torch.tensor([1, 1]), steps=17)
    torch.testing.assert_close(
        losses.boundary_samples(identity, x, torch.tensor([1, 1]), steps=60), crossed, rtol=0, atol=1e-3
    )
    assert losses.boundary_samples(identity, x[:0], torch.tensor([], dtype=torch.int64)).shape == (0, 2)
    assert torch.equal(losses.boundary_samples(identity, x, torch.tensor([1, 1]), steps=0), x)
