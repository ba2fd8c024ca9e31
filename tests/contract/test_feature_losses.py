"""What every public loss on features promises, found by walking `limbeck.losses`."""

import inspect

import pytest
import torch

from limbeck.errors import InputError
from small_features import MAP, SHAPES, feature_losses
from walk import over

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LOSSES = feature_losses()
BESIDE = {"ofd": {"margins": torch.tensor([-0.3, -0.1, -0.7])}, "vid": {"variance": torch.tensor([0.5, 2.0, 1.0])}}
"""What a loss takes beside the two features."""
every_loss = over("name", sorted(LOSSES))


ANCHORED = {"dark_rank"}
"""Losses of the relations of a batch that are reduced over its examples."""


def relates(name):
    return name in ANCHORED or "reduction" not in inspect.signature(LOSSES[name]).parameters


def features(name, examples=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(examples, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in SHAPES.get(name, (MAP, MAP))
    ]


def value(name, student, teacher, **options):
    """Compute a loss; what it takes beside the features of one layer is made of them."""
    beside = {
        key: tensor.to(torch.promote_types(student.dtype, torch.float32))
        for key, tensor in BESIDE.get(name, {}).items()
    }
    if name == "fsp":
        student, teacher = ([each, -each[:, :2, :2] if each.dim() == 4 else each] for each in (student, teacher))
    if name == "review_kd":
        student, teacher = [student, 2 * student], [teacher, teacher]
    elif name == "input_gradient":
        student, teacher = student[None], teacher[None]
    elif name in ("grad_cam", "srrl"):  # gradients, or logits
        return LOSSES[name](student, teacher, student, teacher, **options)
    return LOSSES[name](student, teacher, **beside, **options)


def value_and_gradient(name, student, teacher, **options):
    student = student.detach().requires_grad_()
    found = value(name, student, teacher, **options)
    found.sum().backward()
    return found.detach(), student.grad


def test_the_walk_finds_the_losses():
    assert {"attention_transfer", "hint", "nst", "rkd_angle", "vid"} <= set(LOSSES)
    assert {name for name in LOSSES if relates(name)} >= {"pkt", "rkd_distance", "similarity_preserving"}
    for name, loss in LOSSES.items():
        assert list(inspect.signature(loss).parameters)[:2] == ["student", "teacher"], name


@every_loss
@over("dtype", DTYPES)
@over("examples", [0, 1, 6])
def test_value_and_gradient_are_finite_in_every_precision_for_any_number_of_examples(name, dtype, examples):
    found, gradient = value_and_gradient(name, *features(name, examples, dtype))
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    assert torch.isfinite(found)
    assert torch.isfinite(gradient).all()
    assert examples or found == 0


@every_loss
def test_half_precision_is_computed_in_single_and_autocast_changes_nothing(name):
    student, teacher = features(name, dtype=torch.bfloat16)
    expected = value_and_gradient(name, student.float(), teacher.float())
    assert torch.equal(value(name, student, teacher), expected[0])
    single = student.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = value(name, single, teacher.float())
    found.backward()
    assert torch.equal(found, expected[0])
    assert torch.equal(single.grad, expected[1])


@pytest.mark.thorough
@every_loss
@over("dtype", DTYPES)
def test_large_and_tiny_features_stay_finite(name, dtype):
    for scale in (1e4, 1e-30 if dtype in (torch.float32, torch.float64) else 1e-6):
        student, teacher = (each * scale for each in features(name, 6, dtype))
        assert torch.isfinite(value(name, student, teacher))
        single = torch.promote_types(dtype, torch.float32)  # the square of a large feature may be no half number
        assert torch.isfinite(value_and_gradient(name, student.to(single), teacher.to(single))[1]).all()


@every_loss
def test_zeros_and_equal_examples_have_finite_values_and_gradients(name):
    student, teacher = features(name)
    cases = [(torch.zeros_like(student), teacher), (student, torch.zeros_like(teacher))]
    cases += [(torch.zeros_like(student), torch.zeros_like(teacher))]
    cases += [(student[:1].expand_as(student), teacher), (student, teacher[:1].expand_as(teacher))]
    cases += [
        (student.relu() * torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).reshape(-1, *[1] * (student.dim() - 1)), teacher)
    ]
    if student.dim() == 4:
        dead = student.clone()
        dead[:, 1] = 0
        cases += [(dead, teacher)]
    for first, second in cases:
        found, gradient = value_and_gradient(name, first, second)
        assert torch.isfinite(found)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e4


@every_loss
def test_nan_in_either_feature_is_never_a_finite_loss(name):
    for who in (0, 1):
        given = features(name)
        given[who].flatten()[7] = torch.nan
        try:
            assert not torch.isfinite(value(name, *given)), who
        except InputError:
            continue


@pytest.mark.thorough
@every_loss
def test_the_gradient_belongs_to_the_value_and_none_reaches_the_teacher(name):
    student, teacher = features(name, 3)
    assert torch.autograd.gradcheck(lambda each: value(name, each, teacher), (student.requires_grad_(),))
    before = student.detach().clone(), teacher.clone()
    teacher.requires_grad_()
    value(name, student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@every_loss
def test_features_of_another_layout_in_memory_have_the_same_loss(name):
    student, teacher = features(name)
    if student.dim() == 4:
        other = [each.to(memory_format=torch.channels_last) for each in (student, teacher)]
    else:
        other = [torch.stack([each, each], -1)[..., 0] for each in (student, teacher)]
    for found, expected in zip(
        value_and_gradient(name, *other), value_and_gradient(name, student, teacher), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_the_order_of_the_batch_changes_nothing(name):
    if name == "neighbour_congruence":  # which is about the order
        pytest.skip()
    student, teacher = features(name)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    expected, gradient = value_and_gradient(name, student, teacher)
    found, other = value_and_gradient(name, student[order], teacher[order])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other, gradient[order], rtol=1e-12, atol=1e-14)


@over("name", [name for name in sorted(LOSSES) if not relates(name)])
def test_a_loss_per_example_is_that_of_each_example_alone(name):
    student, teacher = features(name)
    each = value(name, student, teacher, reduction="none")
    alone = torch.stack([value(name, student[n : n + 1], teacher[n : n + 1]) for n in range(6)])
    torch.testing.assert_close(each, alone, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(value(name, student, teacher), each.mean(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(value(name, student, teacher, reduction="sum"), each.sum(), rtol=1e-12, atol=1e-14)


@every_loss
def test_features_that_do_not_fit_are_refused_in_one_line(name):
    student, teacher = features(name)
    wrong = [(student, teacher[:5]), (student, teacher.unsqueeze(1)), (student, teacher.long())]
    wrong += [(student[:, 0, 0, 0], teacher[:, 0, 0, 0])] if student.dim() == 4 else []
    for first, second in wrong:
        with pytest.raises(InputError) as error:
            value(name, first, second)
        assert "found" in str(error.value) or "expected" in str(error.value) or "must be the same" in str(error.value)


@every_loss
def test_an_unknown_choice_is_refused_by_its_name(name):
    student, teacher = features(name)
    for key, parameter in inspect.signature(LOSSES[name]).parameters.items():
        if isinstance(parameter.default, str):
            with pytest.raises(InputError, match=f"{key}: found 'other'"):
                value(name, student, teacher, **{key: "other"})
