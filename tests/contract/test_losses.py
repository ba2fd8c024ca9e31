"""What every public loss promises, found by walking `limbeck.losses`: a new loss is tested by being there."""

import inspect

import pytest
import torch

from limbeck import losses
from limbeck.losses import Divergence, divergences
from small_features import ELSEWHERE, feature_losses
from walk import over

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CLASSES = 5

NO_LOSSES = {"Dense", "Divergence", "Reduction", "Sampled", "Standardise", "TopK"}
"""Types."""
HELPERS = {
    "attention_scores",
    "bank_rows",
    "batch_norm_margins",
    "boundary_samples",
    "class_activation_maps",
    "contrast_constant",
    "correlation",
    "divergence",
    "fsp_matrix",
    "jensen_shannon",
    "kd_weights",
    "pool_tokens",
    "principal_axes",
    "reduce",
    "skewed",
    "soften",
    "standardise",
    "vector_jacobian",
}
"""Functions that make divergences, weights, margins, maps, gradients, rows of banks or reductions: no loss out."""


ON_NUMBERS = {"bounded_squared_error", "squared_error"}
"""Losses on numbers to predict, which have no logits; tests/unit/test_tasks.py tests them."""


def public():
    return {name: getattr(losses, name) for name in losses.__all__}


def is_loss(value):
    return inspect.isfunction(value) and bool({"student_logits", "logits"} & set(inspect.signature(value).parameters))


FUNCTIONS = {name: value for name, value in public().items() if is_loss(value) and name not in HELPERS}
CONSTANTS = {name: value for name, value in public().items() if isinstance(value, Divergence)}
KINDS = {kind: losses.divergence(kind) for kind in divergences.kinds()}
DIVERGENCES = CONSTANTS | {f"divergence {kind}": made for kind, made in KINDS.items()}


def as_loss(divergence):
    def loss(student_logits, teacher_logits, *, temperature=2.0, mask=None):
        target = losses.soften(teacher_logits, temperature)
        per_example = divergence.per_example(student_logits, target, temperature)
        return losses.reduce(per_example, mask, "mean")

    return loss


LOSSES = FUNCTIONS | {name: as_loss(divergence) for name, divergence in DIVERGENCES.items()}
every_loss = over("name", sorted(LOSSES))


def arguments(name, leading=(6,), dtype=torch.float64, *, with_mask=True):
    """Build the arguments of a loss by the names of its parameters; an unknown one without a default fails here."""
    generator = torch.Generator().manual_seed(3)
    made = {
        "student_logits": torch.randn(*leading, CLASSES, generator=generator, dtype=torch.float64).to(dtype),
        "teacher_logits": torch.randn(*leading, CLASSES, generator=generator, dtype=torch.float64).to(dtype),
        "labels": torch.randint(CLASSES, leading, generator=generator),
        "mask": torch.rand(leading, generator=generator) < 0.7,
    }
    made["logits"] = made["student_logits"]
    made["positives"] = torch.stack([made["labels"], (made["labels"] + 1) % CLASSES], -1)
    made["negatives"] = ((made["labels"] + 3) % CLASSES).unsqueeze(-1)
    made["confidence"] = torch.rand(leading, generator=generator, dtype=torch.float64)
    parameters = inspect.signature(LOSSES[name]).parameters
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in made]
    assert not missing, f"{name} takes {missing}: teach this test to make them"
    chosen = {key: value for key, value in made.items() if key in parameters}
    if not with_mask:
        chosen.pop("mask", None)
    student = "student_logits" if "student_logits" in chosen else "logits"
    chosen[student].requires_grad_()
    return chosen, chosen[student]


def value_and_gradient(name, chosen, student):
    student.grad = None
    value = LOSSES[name](**chosen)
    value.backward()
    return value.detach(), student.grad.clone()


def test_the_walk_finds_every_public_name_as_a_loss_or_a_declared_helper():
    assert {"cross_entropy", "kd", "kl", "logit_matching", "soft_cross_entropy"} <= set(FUNCTIONS)
    assert {"CROSS_ENTROPY", "KL", "REVERSE_KL", "TOTAL_VARIATION"} <= set(CONSTANTS)
    assert {"cross_entropy", "js", "kl", "reverse_kl", "skewed_kl", "total_variation"} <= set(KINDS)
    unknown = set(public()) - set(LOSSES) - NO_LOSSES - HELPERS
    unknown -= ON_NUMBERS | set(feature_losses()) | ELSEWHERE
    assert not unknown, f"{unknown}: neither a loss on logits or features nor a declared helper"
    assert not (NO_LOSSES | HELPERS) - set(public()), "a declared helper is not public"


def test_every_divergence_bears_its_name_and_a_recipe_can_name_it():
    for name, divergence in CONSTANTS.items():
        assert divergence.name == name.lower()
        assert divergence in KINDS.values()
    for kind, divergence in KINDS.items():
        assert divergence.name.partition("(")[0] == kind
    assert len({divergence.name for divergence in KINDS.values()}) == len(KINDS)


@over("kind", sorted(KINDS))
def test_the_factor_of_a_divergence_keeps_its_gradient_finite_and_above_zero_as_temperature_grows(kind):
    divergence = KINDS[kind]
    assert divergence.factor(1.0) == 1.0
    norms = []
    for temperature in (1e2, 1e3, 1e4):
        student, teacher = 3.0 * torch.randn(2, 6, 5, generator=torch.manual_seed(1), dtype=torch.float64)
        student.requires_grad_()
        divergence.per_example(student, losses.soften(teacher, temperature), temperature).sum().backward()
        norms.append(divergence.factor(temperature) * float(student.grad.norm()))
    assert norms[-1] > 1e-3
    assert norms[2] == pytest.approx(norms[1], rel=1e-2)
    assert abs(norms[2] / norms[1] - 1) < abs(norms[1] / norms[0] - 1)


@every_loss
@over("dtype, leading", zip(DTYPES, [(6,), (2, 3), (), (6,)], strict=True))
def test_value_and_gradient_are_finite_in_every_precision(name, leading, dtype):
    value, gradient = value_and_gradient(name, *arguments(name, leading, dtype))
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.thorough
@every_loss
@over("dtype", DTYPES)
def test_wide_logits_stay_finite_in_every_precision_at_any_temperature(name, dtype):
    wide = torch.tensor([1e4, -1e4, 0.0, 5e3, -1.0], dtype=dtype)
    rolled = torch.stack([wide.roll(shift) for shift in range(5) for _ in range(5)])
    made = {"student_logits": rolled, "teacher_logits": wide.expand(25, 5), "logits": rolled}
    for temperature in (0.1, 1.0, 20.0):
        chosen, _ = arguments(name, (25,), dtype, with_mask=False)
        chosen |= {key: made[key].clone() for key in chosen if key in made}
        if "labels" in chosen:
            chosen["labels"] = torch.arange(25) % 5
        if "temperature" in inspect.signature(LOSSES[name]).parameters:
            chosen["temperature"] = temperature
        student = chosen.get("student_logits", chosen.get("logits")).requires_grad_()
        value, gradient = value_and_gradient(name, chosen, student)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@every_loss
def test_half_precision_is_computed_in_single(name):
    half, _ = arguments(name, dtype=torch.float16)
    single = {
        key: value.detach().to(torch.float32) if value.is_floating_point() else value for key, value in half.items()
    }
    assert torch.equal(LOSSES[name](**half).detach(), LOSSES[name](**single))


@pytest.mark.thorough
@every_loss
@over("leading, with_mask", [((0,), True), ((0, 3), False), ((3, 0), True)])
def test_an_empty_batch_has_loss_zero_and_an_empty_gradient(name, with_mask, leading):
    value, gradient = value_and_gradient(name, *arguments(name, leading, with_mask=with_mask))
    assert value == 0
    assert gradient.shape == (*leading, CLASSES)


@every_loss
def test_a_batch_of_padding_has_loss_zero_and_gradient_zero(name):
    chosen, student = arguments(name)
    chosen["mask"] = torch.zeros(6, dtype=torch.bool)
    value, gradient = value_and_gradient(name, chosen, student)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_loss
def test_what_is_masked_changes_nothing(name):
    chosen, student = arguments(name)
    assert not chosen["mask"].all()
    value, gradient = value_and_gradient(name, chosen, student)
    with torch.no_grad():
        for key in chosen:
            if key.endswith("logits"):
                chosen[key][~chosen["mask"]] = 1e3
            elif key == "labels":
                chosen[key][~chosen["mask"]] = 0
    other_value, other_gradient = value_and_gradient(name, chosen, student)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert torch.equal(gradient[~chosen["mask"]], torch.zeros_like(gradient[~chosen["mask"]]))


@every_loss
def test_a_loss_is_the_same_each_time(name):
    first, second = (value_and_gradient(name, *arguments(name)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@every_loss
def test_the_order_of_the_batch_changes_nothing(name):
    chosen, student = arguments(name, leading=(16,))
    order = torch.randperm(16)
    value, gradient = value_and_gradient(name, chosen, student)
    shuffled = {key: tensor.detach()[order] for key, tensor in chosen.items()}
    key = "student_logits" if "student_logits" in chosen else "logits"
    shuffled[key].requires_grad_()
    other_value, other_gradient = value_and_gradient(name, shuffled, shuffled[key])
    torch.testing.assert_close(other_value, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_gradient, gradient[order], rtol=1e-12, atol=1e-14)


@every_loss
def test_a_batch_twice_has_the_same_mean(name):
    chosen, _ = arguments(name)
    twice = {key: torch.cat([tensor, tensor]) for key, tensor in chosen.items()}
    torch.testing.assert_close(LOSSES[name](**twice), LOSSES[name](**chosen), rtol=1e-12, atol=1e-14)


@every_loss
def test_further_classes_that_nobody_can_have_change_nothing(name):
    chosen, _ = arguments(name)
    wide = {
        key: torch.nn.functional.pad(tensor, (0, CLASSES), value=-torch.inf) if key.endswith("logits") else tensor
        for key, tensor in chosen.items()
    }
    torch.testing.assert_close(LOSSES[name](**wide), LOSSES[name](**chosen), rtol=1e-12, atol=1e-14)


@every_loss
def test_arguments_are_not_changed_and_no_gradient_reaches_the_teacher(name):
    chosen, student = arguments(name)
    if "teacher_logits" in chosen:
        chosen["teacher_logits"].requires_grad_()
    before = {key: tensor.detach().clone() for key, tensor in chosen.items()}
    LOSSES[name](**chosen).backward()
    assert all(torch.equal(before[key], tensor.detach()) for key, tensor in chosen.items())
    assert all(tensor.grad is None for tensor in chosen.values() if tensor is not student)
    assert student.grad.abs().sum() > 0


@pytest.mark.thorough
@every_loss
def test_the_gradient_belongs_to_the_value(name):
    chosen, student = arguments(name)
    key = "student_logits" if "student_logits" in chosen else "logits"
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](**{**chosen, key: logits}), (student,))
