"""The modules that are learned between layers: shapes, starts and what they can reach."""

import pytest
import torch
from torch import nn

from limbeck import projections
from limbeck.errors import InputError
from walk import over

SIZES = {(8, 4): (3, 2), (4, 8): (4, 2), (4, 4): (1, 1), (3, 2): (2, 1), (6, 4): (3, 1), (2, 1): (3, 2), (1, 2): (4, 2)}
"""Of a side of the student's map and of the teacher's: the kernel and the stride that fit them."""


def shapes(student, teacher):
    return (2, 3, *student), (2, 5, *teacher)


@over("sides", SIZES)
def test_conv_bn_relu_brings_a_map_to_the_teachers_size(sides):
    own, other = shapes((sides[0], sides[0]), (sides[1], sides[1]))
    module = projections.conv_bn_relu(own, other)
    assert (module[0].kernel_size, module[0].stride) == tuple((each, each) for each in SIZES[sides])
    assert module[0].bias is not None
    assert tuple(module(torch.randn(own)).shape) == other


@over("student, teacher", [((8, 6), (4, 5)), ((8, 3), (4, 3)), ((2, 3), (4, 6)), ((2, 3), (4, 3))])
def test_the_two_sides_of_a_map_may_differ(student, teacher):
    own, other = shapes(student, teacher)
    assert tuple(projections.conv_bn_relu(own, other)(torch.randn(own)).shape) == other


@over("kind, student, teacher", [
    ("conv_bn_relu", (2, 2), (3, 3)), ("conv_bn_relu", (2, 2), (8, 8)), ("conv_bn_relu", (4, 2), (2, 4)),
    ("conv_act", (2, 2), (4, 4)), ("conv_act", (4, 2), (2, 4)),
])  # fmt: skip
def test_a_map_that_does_not_fit_is_refused_with_both_shapes(kind, student, teacher):
    own, other = shapes(student, teacher)
    with pytest.raises(InputError, match=f"projection {kind}: found student .* and teacher") as error:
        projections.KINDS[kind](own, other)
    assert str(own) in str(error.value)
    assert str(other) in str(error.value)


@over("kind", sorted(projections.KINDS))
def test_a_projection_of_the_other_kind_of_feature_is_refused(kind):
    vectors = kind in ("linear", "orthogonal")
    right = [((2, 3), (2, 5)), ((2, 7, 3), (2, 7, 5))] if vectors else [shapes((4, 6), (4, 6))]
    wrong = [shapes((4, 4), (4, 4)), ((2, 3), (2, 7, 5))] if vectors else [((2, 3), (2, 5)), ((2, 7, 3), (2, 7, 5))]
    for own, other in right:
        assert tuple(projections.KINDS[kind](own, other)(torch.randn(own)).shape) == other
    for own, other in wrong:
        with pytest.raises(InputError, match=f"projection {kind}"):
            projections.KINDS[kind](own, other)


def test_projections_start_as_published():
    torch.manual_seed(0)
    own, other = (2, 64, 4, 4), (2, 128, 4, 4)
    conv = projections.conv_bn(own, other)[0]
    assert conv.bias is None
    assert float(conv.weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not any(isinstance(each, nn.ReLU) for each in projections.conv_bn(own, other))
    assert float(projections.conv_act(own, other)[0].weight.detach().abs().max()) == pytest.approx(0.05, rel=1e-3)
    assert [each.bias for each in projections.three_conv(own, other) if isinstance(each, nn.Conv2d)] == [None] * 3
    inner = [each.weight.shape[:2] for each in projections.bottleneck(own, other, 4) if isinstance(each, nn.Conv2d)]
    assert inner == [(32, 64), (32, 32), (128, 32)]
    for factor in (0, 129):
        with pytest.raises(InputError, match="factor"):
            projections.bottleneck(own, other, factor)


def test_the_weights_of_conv_act_are_cut_to_their_longest_length():
    module = projections.conv_act((2, 3, 4, 4), (2, 5, 4, 4), activation=nn.Identity)
    inputs = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        module[0].bias.zero_()
        module[0].weight.mul_(1000.0)
        lengths = module[0].weight.flatten(1).norm(dim=1)
        expected = nn.functional.conv2d(inputs, module[0].weight * (0.9 / lengths).reshape(-1, 1, 1, 1))
        torch.testing.assert_close(module(inputs), expected)
        module[0].weight.mul_(0.5 / lengths.reshape(-1, 1, 1, 1))
        torch.testing.assert_close(module(inputs), nn.functional.conv2d(inputs, module[0].weight))


@over("widths", [(4, 3), (3, 4), (4, 4)])
def test_orthogonal_stays_so_after_steps_with_weight_decay(widths):
    module = projections.orthogonal((2, widths[0]), (2, widths[1])).double()
    inputs, target = torch.randn(8, widths[0]).double(), torch.randn(8, widths[1]).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.1)
    before = module.weight.detach().clone()
    errors = []
    for _ in range(20):
        loss = (module(inputs) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    weight = module.weight.detach()
    gram = weight @ weight.T if widths[0] >= widths[1] else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(widths)).double(), rtol=0, atol=1e-12)
    assert errors[-1] < errors[0]
    assert not torch.allclose(weight, before, atol=1e-3)
    assert module(inputs.half()).dtype == torch.float16


def test_embedded_vectors_have_length_one_and_zeros_have_no_gradient():
    module = projections.embed((2, 3, 2, 2), 7)
    torch.testing.assert_close(module(torch.randn(2, 3, 2, 2)).norm(dim=1), torch.ones(2))
    zeros = torch.zeros(2, 3, requires_grad=True)
    projections.UnitLength()(zeros).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros(2, 3))


@over("kind", ["linear", "conv_bn"])
def test_a_projection_alone_reaches_a_target_that_it_can_express(kind):
    vectors = kind == "linear"
    student = torch.randn(64, 3) if vectors else torch.randn(16, 3, 4, 4)
    made = nn.Linear(3, 4) if vectors else nn.Conv2d(3, 4, 1)
    target = made(student).detach()
    module = projections.KINDS[kind](student.shape, target.shape)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (module(student) - target).square().mean()
        loss.backward()
        return loss

    first = float(closure().detach())
    for _ in range(3):
        optimizer.step(closure)
    assert float(closure().detach()) < 1e-4 * first
