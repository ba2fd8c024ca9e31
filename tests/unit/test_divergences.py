"""The divergences beside KL: float64 references that share no code with them, closed-form gradients, limits, bounds."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from limbeck import losses, methods, targets
from limbeck.config import sections
from limbeck.errors import InputError, RecipeError
from limbeck.losses import divergences
from walk import over

INF = math.inf
TEMPERATURES = [0.5, 1.0, 2.0, 4.0, 20.0]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def drawn(leading=(6,), classes=5, scale=3.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(2, *leading, classes))


def distributions(z, v, temperature):
    return softmax(v / temperature, -1), softmax(z / temperature, -1)


def by_loop(function, p, q):
    """Sum a function of one class's two probabilities over the classes, one by one."""
    rows = zip(p.reshape(-1, p.shape[-1]), q.reshape(-1, q.shape[-1]), strict=True)
    return np.array([math.fsum(function(a, b) for a, b in zip(*row, strict=True)) for row in rows]).reshape(
        p.shape[:-1]
    )


def term(a, b):
    return a * math.log(a / b) if a > 0 else 0.0


def reference_js(p, q, beta):
    return by_loop(
        lambda a, b: beta * term(a, beta * a + (1 - beta) * b) + (1 - beta) * term(b, beta * a + (1 - beta) * b), p, q
    )


REFERENCES = {
    "kl": ({}, lambda p, q: by_loop(term, p, q)),
    "reverse_kl": ({}, lambda p, q: by_loop(lambda a, b: term(b, a), p, q)),
    "js": ({"beta": 0.3}, lambda p, q: reference_js(p, q, 0.3)),
    "skewed_kl": ({"skew": 0.2}, lambda p, q: by_loop(lambda a, b: term(a, 0.2 * a + 0.8 * b), p, q)),
    "total_variation": ({}, lambda p, q: by_loop(lambda a, b: max(a - b, 0.0), p, q)),
}
every = pytest.mark.parametrize("kind", REFERENCES)


def value(kind, z, v, temperature=1.0, **parameters):
    made = losses.divergence(kind, **(parameters or REFERENCES[kind][0]))
    return made.per_example(torch.as_tensor(z), losses.soften(torch.as_tensor(v), temperature), temperature)


def gradient(kind, z, v, temperature=1.0, **parameters):
    z = torch.tensor(z, requires_grad=True)
    value(kind, z, v, temperature, **parameters).sum().backward()
    return z.grad.numpy()


# --------------------------------------------------------------------------------------------------------------- values


@every
@over("temperature", TEMPERATURES)
@over("leading", [(), (7,), (2, 3)])
def test_a_divergence_equals_its_reference(kind, leading, temperature):
    z, v = drawn(leading)
    expected = REFERENCES[kind][1](*distributions(z, v, temperature))
    np.testing.assert_allclose(value(kind, z, v, temperature).numpy(), expected, rtol=1e-11, atol=1e-14)


@every
def test_the_loss_of_the_same_name_is_the_mean_of_the_divergence_at_its_temperature(kind):
    z, v = drawn()
    mask = np.array([True, False, True, True, False, True])
    loss = getattr(losses, kind)
    options = REFERENCES[kind][0] | {"temperature": 2.0}
    expected = REFERENCES[kind][1](*distributions(z, v, 2.0))
    z, v = torch.tensor(z), torch.tensor(v)
    assert loss(z, v, **options).item() == pytest.approx(expected.mean(), rel=1e-12)
    assert loss(z, v, mask=torch.tensor(mask), **options).item() == pytest.approx(expected[mask].mean(), rel=1e-12)
    np.testing.assert_allclose(loss(z, v, reduction="none", **options).numpy(), expected, rtol=1e-12)


def test_js_at_one_half_is_the_square_of_scipys_distance_and_symmetric():
    z, v = drawn()
    p, q = distributions(z, v, 1.0)
    given = value("js", z, v, beta=0.5).numpy()
    np.testing.assert_allclose(given, jensenshannon(p, q, axis=-1) ** 2, rtol=1e-10)
    np.testing.assert_allclose(given, value("js", v, z, beta=0.5).numpy(), rtol=1e-12)


@over("beta", [0.01, 0.3, 0.5, 0.9])
def test_js_with_student_and_teacher_exchanged_is_js_with_one_minus_beta(beta):
    z, v = drawn()
    np.testing.assert_allclose(
        value("js", z, v, beta=beta).numpy(), value("js", v, z, beta=1 - beta).numpy(), rtol=1e-12
    )


@every
@over("dtype", DTYPES)
def test_equals_have_divergence_zero(kind, dtype):
    x = torch.tensor(drawn()[0]).to(dtype)
    assert value(kind, x, x, 3.0).abs().max() <= (1e-15 if dtype == torch.float64 else 1e-6)


# ------------------------------------------------------------------------------------------------------------ gradients


def closed_form(kind, p, q, temperature):
    if kind == "kl":
        return (q - p) / temperature
    if kind == "reverse_kl":
        log_ratio = np.log(q / p)
        return q * (log_ratio - (q * log_ratio).sum(-1, keepdims=True)) / temperature
    if kind == "js":
        log_ratio = np.log(q / (0.3 * p + 0.7 * q))
        return 0.7 * q * (log_ratio - (q * log_ratio).sum(-1, keepdims=True)) / temperature
    if kind == "skewed_kl":
        ratio = 0.8 * p / (0.2 * p + 0.8 * q)
        return -q * (ratio - (q * ratio).sum(-1, keepdims=True)) / temperature
    sign = np.sign(q - p)
    return 0.5 * q * (sign - (q * sign).sum(-1, keepdims=True)) / temperature


@every
@over("temperature", TEMPERATURES)
def test_a_gradient_is_its_closed_form(kind, temperature):
    z, v = drawn()
    expected = closed_form(kind, *distributions(z, v, temperature), temperature)
    np.testing.assert_allclose(gradient(kind, z, v, temperature), expected, rtol=1e-9, atol=1e-15)


# --------------------------------------------------------------------------------------------------------------- limits


def test_js_over_beta_goes_to_kl_and_over_one_minus_beta_to_reverse_kl():
    z, v = drawn(scale=1.0)
    kl, reverse = (value(kind, z, v).numpy() for kind in ("kl", "reverse_kl"))
    gaps = [np.abs(value("js", z, v, beta=beta).numpy() / beta - kl).max() for beta in (1e-3, 1e-4, 1e-5)]
    assert gaps[2] < 1e-4
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)
    gaps = [np.abs(value("js", z, v, beta=1 - rest).numpy() / rest - reverse).max() for rest in (1e-3, 1e-4, 1e-5)]
    assert gaps[2] < 1e-4
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)


def test_kl_skewed_by_nothing_is_kl_with_its_gradient_and_by_little_nearly():
    z, v = drawn()
    np.testing.assert_allclose(value("skewed_kl", z, v, skew=0.0).numpy(), value("kl", z, v).numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradient("skewed_kl", z, v, skew=0.0), gradient("kl", z, v), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(value("skewed_kl", z, v, skew=1e-9).numpy(), value("kl", z, v).numpy(), rtol=1e-5)


@every
def test_the_gradient_times_the_factor_has_its_limit_at_high_temperature(kind):
    z, v = drawn(classes=10)
    z0, v0 = z - z.mean(-1, keepdims=True), v - v.mean(-1, keepdims=True)
    sign = np.sign(z0 - v0)
    limits = {
        "kl": (z0 - v0) / 10,
        "reverse_kl": (z0 - v0) / 10,
        "js": 0.3 * 0.7 * (z0 - v0) / 10,
        "skewed_kl": 0.8**2 * (z0 - v0) / 10,
        "total_variation": (sign - sign.mean(-1, keepdims=True)) / 20,
    }
    made = losses.divergence(kind, **REFERENCES[kind][0])
    errors = [
        np.abs(made.factor(t) * gradient(kind, z, v, t) - limits[kind]).max() / np.abs(limits[kind]).max()
        for t in (2e3, 4e3)
    ]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


# ----------------------------------------------------------------------------------------------- extremes and precision


@over("kind", ["kl", "js", "skewed_kl", "total_variation"])
def test_a_target_that_gives_a_class_exactly_nothing_is_met(kind):
    z = drawn()[0]
    target = targets.smooth_labels(torch.tensor([0, 1, 2, 3, 4, 0]), 5, 0.0, dtype=torch.float64)
    p, q = target.log_probs.exp().numpy(), softmax(z, -1)
    made = losses.divergence(kind, **REFERENCES[kind][0])
    student = torch.tensor(z, requires_grad=True)
    given = made.per_example(student, target, 1.0)
    np.testing.assert_allclose(given.detach().numpy(), REFERENCES[kind][1](p, q), rtol=1e-12)
    given.sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), closed_form(kind, p, q, 1.0), rtol=1e-9, atol=1e-15)


def test_reverse_kl_is_infinite_where_the_target_gives_nothing_to_what_the_student_gives():
    target = targets.smooth_labels(torch.tensor([0]), 3, 0.0)
    assert losses.REVERSE_KL.per_example(torch.zeros(1, 3), target, 1.0).item() == INF
    certain = torch.tensor([[0.0, -INF, -INF]])
    assert losses.REVERSE_KL.per_example(certain, target, 1.0).item() == 0.0


@every
def test_classes_that_nobody_can_have_change_neither_value_nor_gradient(kind):
    z, v = drawn()
    wide = [np.concatenate([x, np.full((6, 3), -INF)], -1) for x in (z, v)]
    np.testing.assert_allclose(value(kind, *wide, 2.0).numpy(), value(kind, z, v, 2.0).numpy(), rtol=1e-12)
    wide_gradient = gradient(kind, *wide, 2.0)
    np.testing.assert_allclose(wide_gradient[:, :5], gradient(kind, z, v, 2.0), rtol=1e-10, atol=1e-15)
    assert (wide_gradient[:, 5:] == 0).all()


def test_what_is_far_apart_reaches_the_bounds():
    z, v = np.array([1e4, 0.0]), np.array([0.0, 1e4])
    assert value("js", z, v, beta=0.3).item() == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7))
    assert value("skewed_kl", z, v, skew=0.2).item() == pytest.approx(math.log(5))
    assert value("total_variation", z, v).item() == 1.0
    assert value("reverse_kl", z, v).item() == 1e4


# ------------------------------------------------------------------------------------------------- names and parameters


@over("beta", [0, 1, -0.1, 1.5, math.nan, INF, "0.5", True, None])
def test_js_refuses_a_beta_outside_the_open_interval(beta):
    with pytest.raises(InputError, match=r"^beta: found "):
        losses.jensen_shannon(beta)


@over("skew", [1, -0.1, 1.5, math.nan, "0.5"])
def test_skewed_kl_refuses_a_skew_of_one_and_beyond(skew):
    with pytest.raises(InputError, match=r"^skew: found "):
        losses.skewed(skew)


def test_a_divergence_is_found_by_name_with_its_parameters():
    assert losses.divergence("reverse_kl") is losses.REVERSE_KL
    assert losses.divergence("js", beta=0.25).name != losses.divergence("js").name
    with pytest.raises(InputError, match=r"there is no 'skewd_kl'; did you mean 'skewed_kl'\?"):
        losses.divergence("skewd_kl")
    with pytest.raises(InputError, match=r"'js' has no parameter 'alpha'; one of: beta|did you mean 'beta'\?"):
        losses.divergence("js", alpha=0.25)
    with pytest.raises(InputError, match=r"'kl' has no parameter 'beta'; it takes none"):
        losses.divergence("kl", beta=0.25)


def soft(section):
    return section.build().terms["soft"].divergence


@over(
    ("written", "name", "resolved"),
    [
        ("reverse_kl", "reverse_kl", "reverse_kl"),
        ({"kind": "reverse_kl"}, "reverse_kl", "reverse_kl"),
        ("js", "js(beta=0.5)", {"kind": "js", "beta": 0.5}),
        ({"kind": "js", "beta": 0.25}, "js(beta=0.25)", {"kind": "js", "beta": 0.25}),
        ({"kind": "skewed_kl", "skew": 0}, "skewed_kl(skew=0.0)", {"kind": "skewed_kl", "skew": 0.0}),
    ],
    ids=str,
)
def test_a_recipe_names_a_divergence_alone_or_with_its_parameters(written, name, resolved):
    section = sections.parse(methods.kd, {"divergence": written}, "method")
    assert soft(section).name == name
    assert section.values["divergence"] == resolved
    again = sections.parse(methods.kd, dict(section.values), "method")
    assert again.values == section.values
    assert soft(again).name == name


def test_a_recipe_without_a_divergence_has_kl_and_says_so():
    section = sections.parse(methods.kd, {}, "method")
    assert section.values["divergence"] == "kl"
    assert soft(section) is losses.KL


@over(
    ("written", "line"),
    [
        ("revers_kl", "method.divergence: found 'revers_kl'; did you mean 'reverse_kl'?"),
        ({"kind": "jss"}, "method.divergence.kind: found 'jss'; did you mean 'js'?"),
        ({"beta": 0.5}, "method.divergence.kind: is missing; one of: "),
        ({"kind": "js", "bta": 0.5}, "method.divergence.bta: there is no such key; did you mean 'beta'?"),
        ({"kind": "js", "beta": "x"}, "method.divergence.beta: found 'x', expected a number"),
        ({"kind": "js", "beta": 1}, "method.divergence.beta: found 1.0, expected a number above 0 and below 1"),
        ({"kind": "kl", "beta": 1}, "method.divergence.beta: there is no such key; "),
        (3, "method.divergence: found 3; one of: "),
        (None, "method.divergence: found None; one of: "),
        (["kl"], "method.divergence: found ['kl']; one of: "),
    ],
    ids=str,
)
def test_a_recipe_with_a_wrong_divergence_is_refused_in_one_line(written, line):
    with pytest.raises(RecipeError) as caught:
        sections.parse(methods.kd, {"divergence": written}, "method").build()
    assert str(caught.value).startswith(line)


def test_rel_entr_agrees_with_the_references_themselves():
    p, q = distributions(*drawn(), 1.0)
    np.testing.assert_allclose(REFERENCES["kl"][1](p, q), rel_entr(p, q).sum(-1), rtol=1e-12)


def test_every_kind_is_tested_here():
    elsewhere = {"cross_entropy", "correlation"}
    assert set(REFERENCES) | elsewhere == set(divergences.kinds())
