"""The losses on features: worked numbers, references of their own, closed forms and what changes nothing."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, ortho_group

from limbeck import losses
from limbeck.errors import InputError
from small_features import ramp_u, ramp_v
from walk import over

S = torch.tensor([[1.0, 0, 2, -1], [0, 1, -1, 2], [2, 1, 0, 1]]).double()
T = torch.tensor([[2.0, -1, 1, 0], [1, 1, 0, 1], [0, 2, -1, 1]]).double()
MAP, OTHER, SAME = ramp_u(2, 2, 2, 2), ramp_v(2, 3, 2, 2), ramp_v(2, 2, 2, 2)
FLOW = [ramp_u(2, 2, 4, 4), ramp_u(2, 3, 2, 2)], [ramp_v(2, 2, 4, 4), ramp_v(2, 3, 2, 2)]
MARGINS = losses.batch_norm_margins(torch.tensor([1.0, 2.0]).double(), torch.tensor([0.0, 0.5]).double())

EXAMPLES = [
    ("hint", (S, T), {}, 1.083333),
    ("hint", (S, T), {"norm": "half_sum"}, 2.166667),
    ("attention_transfer", (MAP, OTHER), {}, 0.055081),
    ("attention_transfer", (MAP, OTHER), {"power": 1}, 0.009200),
    ("attention_transfer", (MAP, OTHER), {"norm": "l2"}, 0.455667),
    ("fsp", FLOW, {}, 0.064785),
    ("fsp", FLOW, {"norm": "sum"}, 0.388712),
    ("fsp", FLOW, {"pooling": "mean"}, 0.021523),
    ("ickd", (MAP, SAME), {}, 0.476460),
    ("activation_boundary", (MAP, SAME), {}, 8.980000),
    ("activation_boundary", (S, T), {}, 4.000000),
    ("ofd", (MAP, SAME, MARGINS), {}, 4.778393),
    ("nst", (MAP, OTHER), {"kernel": "linear"}, 0.738724),
    ("nst", (MAP, OTHER), {}, 0.735817),
    ("nst", (MAP, OTHER), {"kernel": "gaussian"}, 0.267304),
    ("vid", (MAP, SAME, torch.full((2,), 5.0).double()), {}, 0.872976),
    ("vid", (MAP, SAME, (MAP - SAME).square().mean((0, 2, 3))), {}, 0.305615),
    ("rkd_distance", (S, T), {}, 0.052301),
    ("rkd_distance", (S, T), {"distinct": True}, 0.078452),
    ("rkd_angle", (S, T), {}, 0.135006),
    ("rkd_angle", (S, T), {"distinct": True}, 0.607528),
    ("similarity_preserving", (S, T), {}, 0.198750),
    ("similarity_preserving", (S, T), {"per": "anchor"}, 0.596251),
    ("similarity_preserving", (MAP, OTHER), {}, 0.000586),
    ("correlation_congruence", (S, T), {}, 0.028308),
    ("correlation_congruence", (S, T), {"order": 30}, 0.030546),
    ("neighbour_congruence", (S, T), {}, 3.000000),
    ("pkt", (S, T), {}, 0.047590),
    ("pkt", (S, T), {"per": "anchor"}, 0.142771),
    ("pkt", (S, T), {"diagonal": False}, 0.088000),
    ("pkt", (S, T), {"diagonal": False, "per": "anchor"}, 0.263999),
]


@over("name, given, options, expected", EXAMPLES)
def test_a_loss_has_the_value_of_its_example(name, given, options, expected):
    assert float(getattr(losses, name)(*given, **options)) == pytest.approx(expected, abs=1e-6)


def drawn(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def gradient(loss, student, *rest, **options):
    student = student.detach().clone().requires_grad_()
    loss(student, *rest, **options).sum().backward()
    return student.grad


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected).to(found.dtype), rtol=tolerance, atol=tolerance
    )


def rotation(size, seed=1):
    return torch.tensor(ortho_group.rvs(size, random_state=seed))


# ------------------------------------------------------------------------------------- equal features, and what is free

EQUAL = ["attention_transfer", "hint", "ickd", "nst", "correlation_congruence", "pkt", "rkd_angle", "rkd_distance"]
EQUAL += ["similarity_preserving", "neighbour_congruence"]


@over("name", EQUAL)
def test_equal_features_have_value_and_gradient_zero(name):
    feature = drawn(5, 3, 4, 2)
    loss = getattr(losses, name)
    close(loss(feature, feature), 0.0, 1e-14)
    rounding = 1e-8 if name == "pkt" else 1e-12  # its constant 1e-7 inside the logarithm
    close(gradient(loss, feature, feature), torch.zeros_like(feature), rounding)
    assert float(loss(feature + 0.1 * drawn(5, 3, 4, 2, seed=3), feature)) > 1e-6
    for option in {"nst": [{"kernel": "gaussian"}, {"kernel": "linear"}], "attention_transfer": [{"norm": "l2"}]}.get(
        name, []
    ):
        close(loss(feature, feature, **option), 0.0, 1e-14)
        close(gradient(loss, feature, feature, **option), torch.zeros_like(feature), 1e-12)


ORDER = torch.tensor([2, 0, 3, 1])
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0]).double().reshape(1, 4, 1, 1)
SCALES = torch.tensor([0.5, 2.0, 3.0, 0.1]).double().reshape(1, 4, 1, 1)
FREE = {
    "attention_transfer": {
        "channels permuted": lambda f: f[:, ORDER],
        "scaled": lambda f: -3 * f,
        "signs": lambda f: SIGNS * f,
    },
    "nst": {
        "channels permuted": lambda f: f[:, ORDER],
        "each scaled": lambda f: SCALES * f,
        "signs": lambda f: SIGNS * f,
    },
    "ickd": {"scaled": lambda f: -3 * f},
    "rkd_distance": {"moved and turned": lambda f: 3 * (f.flatten(1) @ rotation(24)).reshape(f.shape) + 0.7},
    "rkd_angle": {"moved and turned": lambda f: -3 * (f.flatten(1) @ rotation(24)).reshape(f.shape) + 0.7},
    "similarity_preserving": {"turned": lambda f: -3 * (f.flatten(1) @ rotation(24)).reshape(f.shape)},
    "correlation_congruence": {"turned": lambda f: 3 * (f.flatten(1) @ rotation(24)).reshape(f.shape)},
    "pkt": {
        "turned": lambda f: (f.flatten(1) @ rotation(24)).reshape(f.shape),
        "each scaled": lambda f: torch.arange(1, 6).reshape(5, 1, 1, 1) * f,
    },
}


@over("name, change", [(name, change) for name, changes in FREE.items() for change in changes])
def test_what_a_loss_does_not_read_changes_nothing(name, change):
    student, teacher, loss = drawn(5, 4, 3, 2), drawn(5, 4, 3, 2, seed=1), getattr(losses, name)
    expected = loss(student, teacher)
    assert expected > 1e-4
    close(loss(FREE[name][change](student), teacher), expected)
    close(loss(student, FREE[name][change](teacher)), expected)


@over("name", ["similarity_preserving", "pkt", "correlation_congruence"])
def test_a_shift_changes_what_reads_directions_from_zero(name):
    student, teacher, loss = drawn(5, 4), drawn(5, 4, seed=1), getattr(losses, name)
    assert abs(float(loss(student + 1.0, teacher) - loss(student, teacher))) > 1e-4


def test_bounds_hold():
    student, teacher = drawn(6, 3, 4, 2), drawn(6, 5, 4, 2, seed=1)
    assert (losses.attention_transfer(student, teacher, reduction="none") <= 2 / 8).all()
    apart = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    assert losses.attention_transfer(*apart) == 2 / 2
    assert losses.similarity_preserving(student, teacher) <= 4 / 6
    assert losses.pkt(drawn(6, 4), drawn(6, 3, seed=1)) > 0


def test_a_map_a_row_or_a_channel_of_zeros_is_left_out():
    student, teacher = drawn(3, 2, 2, 2), drawn(3, 2, 2, 2, seed=1)
    for zeroed in (0, 1):
        given = [student.clone(), teacher.clone()]
        given[zeroed][1] = 0
        for name in ("attention_transfer", "ickd"):
            each = getattr(losses, name)(*given, reduction="none")
            assert (each > 0).tolist() == [True, False, True]
            close(gradient(getattr(losses, name), *given)[1], torch.zeros(2, 2, 2))
        f, g = (rows.flatten(1) @ rows.flatten(1).T for rows in given)
        rows = torch.nn.functional.normalize(f, dim=1) - torch.nn.functional.normalize(g, dim=1)
        close(losses.similarity_preserving(*given), rows[[0, 2]].square().sum() / 9)


@over("name, options, scale", [
    ("attention_transfer", {"power": 9}, 1e6), ("similarity_preserving", {}, 1e25), ("ickd", {}, 1e25),
    ("nst", {}, 1e25), ("pkt", {}, 1e25), ("correlation_congruence", {}, 1e25),
])  # fmt: skip
def test_what_does_not_read_the_scale_holds_at_any_scale_in_single_precision(name, options, scale):
    student, teacher = drawn(4, 3, 2, 2).float(), drawn(4, 3, 2, 2, seed=1).float()
    expected = getattr(losses, name)(student, teacher, **options)
    for factor in (scale, 1 / scale):
        close(getattr(losses, name)(factor * student, teacher, **options), expected, 1e-4)


# ----------------------------------------------------------------------------------------------------------- references


def test_attention_is_numpys():
    student, teacher = drawn(3, 4, 2, 3).numpy(), drawn(3, 2, 2, 3, seed=1).numpy()
    for power in (1, 2, 3.5):
        a, b = ((np.abs(each) ** power).sum(1).reshape(3, -1) for each in (student, teacher))
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        found = losses.attention_transfer(student, teacher, power=power, reduction="none")
        close(found, ((a - b) ** 2).mean(1), 1e-12)
        close(losses.attention_transfer(student, teacher, power=power, norm="l2"), np.linalg.norm(a - b, axis=1).mean())


def test_tokens_are_positions_and_their_last_axis_is_channels():
    student, teacher = drawn(3, 4, 2, 3), drawn(3, 4, 2, 3, seed=1)
    for name in ("attention_transfer", "nst", "ickd"):
        tokens = (each.flatten(2).transpose(1, 2) for each in (student, teacher))
        close(getattr(losses, name)(*tokens), getattr(losses, name)(student, teacher))


def test_the_larger_map_is_reduced_by_average_pooling_on_each_side_of_it():
    small, large = drawn(2, 3, 2, 4), drawn(2, 3, 4, 2, seed=1)
    reduced = small.reshape(2, 3, 2, 2, 2).mean(-1), large.reshape(2, 3, 2, 2, 2).mean(3)
    beside = {"ofd": [torch.tensor([-0.1, -0.5, -0.2])], "vid": [torch.tensor([0.5, 1.0, 2.0])]}
    for name in ("attention_transfer", "nst", "ofd", "vid"):
        loss = getattr(losses, name)
        close(loss(small, large, *beside.get(name, [])), loss(*reduced, *beside.get(name, [])))


@over("kernel", ["poly", "linear", "gaussian"])
def test_nst_is_the_squared_distance_of_mean_embeddings(kernel):
    student, teacher = drawn(2, 3, 2, 3).numpy(), drawn(2, 4, 2, 3, seed=1).numpy()
    expected = []
    for f, g in zip(student, teacher, strict=True):
        x, y = (each.reshape(len(each), -1) for each in (f, g))
        x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
        if kernel == "linear":
            expected.append(((x.mean(0) - y.mean(0)) ** 2).sum())
        elif kernel == "poly":
            expected.append(((x.T @ x / len(x) - y.T @ y / len(y)) ** 2).sum())
        else:
            width = np.mean([((a - b) ** 2).sum() for a in x for b in y])
            pairs = [(x, x), (y, y), (x, y)]
            means = [np.mean([np.exp(-((a - b) ** 2).sum() / (2 * width)) for a in p for b in q]) for p, q in pairs]
            expected.append(means[0] + means[1] - 2 * means[2])
    close(losses.nst(student, teacher, kernel=kernel, reduction="none"), expected, 1e-12)


def test_ickd_is_numpys_and_leaves_a_dead_channel_out():
    student, teacher = drawn(2, 3, 2, 3).numpy(), drawn(2, 3, 4, 2, seed=1).numpy()
    expected = []
    for f, g in zip(student, teacher, strict=True):
        c, d = (each.reshape(3, -1) @ each.reshape(3, -1).T for each in (f, g))
        c, d = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (c, d))
        expected.append(((c - d) ** 2).sum(1))
    close(losses.ickd(student, teacher, reduction="none"), np.sum(expected, 1) / 3, 1e-12)
    teacher[:, 1] = 0
    alive = drawn(2, 3, 2, 3).requires_grad_()
    losses.ickd(alive, teacher).backward()
    assert torch.isfinite(alive.grad).all()


def test_relations_are_those_of_loops_over_pairs_and_triples():
    f, g = drawn(4, 3).numpy(), drawn(4, 5, seed=1).numpy()
    places = range(4)

    def huber(d):
        return 0.5 * d**2 if abs(d) <= 1 else abs(d) - 0.5

    def relative(x):
        return (
            np.array([[np.linalg.norm(a - b) for b in x] for a in x])
            * 12
            / sum(np.linalg.norm(a - b) for a in x for b in x)
        )

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return 0.0 if not a.any() or not b.any() else a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    pairs = sum(huber(a - b) for a, b in zip(relative(f).flat, relative(g).flat, strict=True))
    close(losses.rkd_distance(f, g), pairs / 16, 1e-12)
    triples = [huber(cosine(f, i, j, k) - cosine(g, i, j, k)) for j in places for i in places for k in places]
    close(losses.rkd_angle(f, g), sum(triples) / 64, 1e-12)
    close(losses.rkd_angle(f, g, anchors=2), sum(triples[:32]) / 32, 1e-12)
    close(losses.rkd_angle(f, g, distinct=True), sum(triples) / 24, 1e-12)
    close(losses.rkd_angle(f, g, anchors=9), losses.rkd_angle(f, g))


def test_close_rows_keep_the_digits_of_their_distances_in_single_precision():
    rows = 10 + 0.01 * drawn(32, 16)
    rows = rows.float()
    exact = losses.rkd_distance(rows.double(), drawn(32, 16, seed=2))
    assert float(losses.rkd_distance(rows, drawn(32, 16, seed=2).float())) == pytest.approx(float(exact), rel=1e-5)


def test_the_series_of_correlation_congruence_tends_to_its_kernel():
    f, g = drawn(4, 3), drawn(4, 3, seed=1)
    kernels = []
    for rows in (f, g):
        rows = rows / rows.norm(dim=1, keepdim=True)
        kernels.append(torch.exp(-0.7 * (rows[:, None] - rows[None]).square().sum(-1)))
    close(losses.correlation_congruence(f, g, gamma=0.7, order=40), (kernels[0] - kernels[1]).square().mean(), 1e-12)


def test_one_example_relates_to_nothing():
    names = (
        "rkd_distance",
        "rkd_angle",
        "pkt",
        "similarity_preserving",
        "correlation_congruence",
        "neighbour_congruence",
    )
    for name in names:
        loss = getattr(losses, name)
        close(loss(S[:1], T[:1]), 0.0, 1e-14)
        close(gradient(loss, S[:1], T[:1]), torch.zeros(1, 4), 1e-14)
    close(losses.rkd_distance(S[:2], T[:2]), 0.0, 1e-14)


# --------------------------------------------------------------------------------------------------------- closed forms


def test_the_gradient_of_a_hint():
    student, teacher = drawn(3, 2, 4, 5), drawn(3, 2, 4, 5, seed=1)
    close(gradient(losses.hint, student, teacher), 2 * (student - teacher) / (3 * 40), 1e-12)
    close(gradient(losses.hint, student, teacher, norm="half_sum"), (student - teacher) / 3, 1e-12)
    close(losses.hint(3 * student, 3 * teacher), 9 * losses.hint(student, teacher), 1e-12)


def test_a_flow_scales_with_each_layer_and_does_not_read_the_order_of_positions():
    first, second = drawn(2, 3, 2, 2), drawn(2, 4, 2, 2, seed=1)
    flow = losses.fsp_matrix(first, second)
    close(losses.fsp_matrix(2 * first, 3 * second), 6 * flow, 1e-12)
    close(losses.fsp_matrix(first.flip(-1, -2), second.flip(-1, -2)), flow, 1e-12)
    close(flow, torch.einsum("nihw,njhw->nij", first, second) / 4, 1e-12)
    assert torch.linalg.matrix_rank(losses.fsp_matrix(first[..., :1, :1], second[..., :1, :1])).tolist() == [1, 1]
    with pytest.raises(InputError, match="flow"):
        losses.fsp([first, second], [second, first])
    with pytest.raises(InputError, match="expected those of two layers"):
        losses.fsp([first], [first])
    large = drawn(2, 3, 4, 6, seed=2)
    reduced = large.reshape(2, 3, 2, 2, 2, 3).amax((3, 5))
    close(losses.fsp_matrix(large, second), losses.fsp_matrix(reduced, second), 1e-12)


def test_the_gradient_of_an_activation_boundary():
    student, teacher = 2 * drawn(3, 5), drawn(3, 5, seed=1)
    active = -2 * (1 - student).relu()
    passive = 2 * (1 + student).relu()
    close(
        gradient(losses.activation_boundary, student, teacher, reduction="sum"),
        torch.where(teacher > 0, active, passive),
    )
    close(losses.activation_boundary(student, 7 * teacher), losses.activation_boundary(student, teacher))
    assert losses.activation_boundary(torch.where(teacher > 0, 1.0, -1.0), teacher) == 0
    zero = torch.zeros(1, 1)
    assert losses.activation_boundary(zero - 1, zero) == 0  # a teacher's 0 counts as inactive
    hinge = torch.where(student * torch.where(teacher > 0, 1, -1) < 0, student, 0.0).square().sum() / 3
    close(losses.activation_boundary(student, teacher, margin=0.0), hinge)


def test_ofd_costs_above_the_target_alone_where_the_target_is_not_positive():
    margins = torch.tensor([-1.0]).double()
    for z, g, expected in [
        (2, 3, 1),
        (4, 3, 1),
        (-2, 3, 25),
        (-2, -0.5, 0),
        (0.5, -0.5, 1),
        (-0.75, -5, 0.0625),
        (-2, -5, 0),
    ]:
        given = torch.tensor([[float(z)]]).double(), torch.tensor([[float(g)]]).double()
        close(losses.ofd(*given, margins), float(expected), 1e-12)
    student, teacher = drawn(3, 4), drawn(3, 4, seed=1)
    nothing, everything = torch.full((4,), -1e9), torch.zeros(4)
    plain = torch.where((student <= teacher) & (teacher <= 0), 0.0, student - teacher).square().sum() / 3
    close(losses.ofd(student, teacher, nothing), plain)
    close(losses.ofd(student.relu(), teacher, everything), (student.relu() - teacher.relu()).square().sum() / 3)
    assert losses.ofd(teacher, teacher, nothing) == 0
    assert losses.ofd(torch.tensor([[torch.nan]]), torch.tensor([[-1.0]]), margins).isnan()
    for wrong in (torch.zeros(3), torch.ones(4)):
        with pytest.raises(InputError, match="margins"):
            losses.ofd(student, teacher, wrong)


def test_the_margin_of_a_batch_norm_is_the_mean_of_a_truncated_normal():
    weight, bias = (
        torch.tensor([1.0, -2.0, 0.5, 1.0, 0.0, 0.0]).double(),
        torch.tensor([0.0, 0.5, -1.0, 4.0, -2.0, 2.0]).double(),
    )
    found = losses.batch_norm_margins(weight, bias)
    close(found, [-0.797885, -1.427108, -1.027624, -3.0, -2.0, 0.0], 1e-6)
    for number in range(3):
        mean, deviation = float(bias[number]), abs(float(weight[number]))
        samples = norm.rvs(mean, deviation, size=400_000, random_state=0)
        assert float(found[number]) == pytest.approx(samples[samples < 0].mean(), abs=5e-3)
    assert losses.batch_norm_margins(weight.half(), bias.half()).dtype == torch.float32


def test_vid_at_its_best_variance_and_its_derivative_by_the_variance():
    student, teacher = drawn(4, 3, 2, 5), drawn(4, 3, 2, 5, seed=1)
    error = (student - teacher).square().mean((0, 2, 3))
    close(losses.vid(student, teacher, error), (0.5 * (1 + error.log())).mean(), 1e-12)
    logarithm = torch.tensor([0.1, -0.4, 1.2]).double().requires_grad_()
    losses.vid(student, teacher, logarithm.exp()).backward()
    close(logarithm.grad, 0.5 * (1 - error / logarithm.detach().exp()) / 3, 1e-12)
    fixed = torch.full((3,), 5.0).double()
    mean = losses.hint(student, teacher) / 10 + 0.5 * math.log(5)
    close(losses.vid(student, teacher, fixed), mean, 1e-12)
    for wrong in (torch.ones(2), torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(InputError, match="variance"):
            losses.vid(student, teacher, wrong)


def test_the_gradient_of_pkt_by_a_similarity():
    f, g = drawn(4, 3), drawn(4, 3, seed=1)

    def similarities(rows):
        rows = rows / rows.norm(dim=1, keepdim=True)
        return (1 + rows @ rows.t()) / 2

    c = similarities(f).requires_grad_()
    p = similarities(g)
    p = p / p.sum(1, keepdim=True)
    q = c / c.sum(1, keepdim=True)
    value = (p * (p / q).log()).sum() / 4
    value.backward()
    close(c.grad, (-p / c + 1 / c.sum(1, keepdim=True)).detach() / 4, 1e-12)
    close(losses.pkt(f, g, per="anchor"), value.detach(), 1e-5)


def test_a_gradient_lowers_each_loss():
    for name, options in [("rkd_angle", {}), ("rkd_distance", {}), ("pkt", {}), ("similarity_preserving", {})]:
        loss, student, teacher = getattr(losses, name), drawn(6, 4), drawn(6, 5, seed=1)
        step = gradient(loss, student, teacher, **options)
        assert loss(student - 0.01 * step / step.norm(), teacher) < loss(student, teacher)
