"""Targets from one teacher against references that are written as the formulas are: with loops, in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import losses, methods, targets
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError
from limbeck.losses import Dense
from limbeck.outputs import Outputs
from limbeck.tasks import BINARY, MULTILABEL
from limbeck.terms import SoftTargets
from target_references import EXACT, NAMES, labels_of, logits_of, probabilities, same, softmax
from walk import over

# ---------------------------------------------------------------------------------------------- KD-pt: confidence alone


def test_the_confidence_alone_is_its_formula():
    logits, labels = logits_of(), labels_of()
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row, 4.0)
        expected.append([p[label] if i == label else (1 - p[label]) / 5 for i in range(6)])
    same(probabilities(targets.true_class(losses.soften(logits, 4.0), labels)), expected)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=2), st.floats(0.1, 20), st.integers(0, 1))
def test_of_two_classes_the_confidence_is_the_plain_target(row, temperature, label):
    plain = losses.soften(torch.tensor([row], dtype=torch.float64), temperature)
    same(targets.true_class(plain, torch.tensor([label])).log_probs, plain.log_probs)


@over("dtype", [torch.float32, torch.float64])
@over("gap", [20.0, 100.0, 1e4])
def test_a_confidence_that_rounds_to_one_leaves_the_others_their_logarithm(gap, dtype):
    logits = torch.tensor([[gap, 0.0, 0.0, 0.0]], dtype=dtype)
    target = targets.true_class(losses.soften(logits), torch.tensor([0]))
    torch.testing.assert_close(target.log_probs[0, 1:], torch.full((3,), -gap, dtype=dtype), rtol=1e-6, atol=1e-6)


def test_the_confidence_of_a_class_that_is_impossible_or_certain():
    certain = Dense(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64).log())
    found = targets.true_class(certain, torch.tensor([0, 0]))
    assert not found.log_probs.isnan().any()
    same(probabilities(found), [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])


def test_the_confidence_of_a_mixed_target_is_its_own():
    outputs = Outputs(logits_of())
    batch = Batch.of(torch.zeros(7, 1), labels_of())
    inner = targets.Mixture((targets.Softmax(), targets.Uniform()), (0.25, 0.75))
    found = targets.TrueClass(inner)(outputs, batch, 2.0)
    same(
        probabilities(found).gather(1, batch.labels[:, None]),
        probabilities(inner(outputs, batch, 2.0)).gather(1, batch.labels[:, None]),
    )
    wrong = probabilities(found).scatter(1, batch.labels[:, None], math.nan)
    assert all(len(set(np.round(row[~np.isnan(row)], 14))) == 1 for row in wrong.numpy())


def test_distilling_the_confidence_rescales_the_gradient_of_hard_labels():
    """Tang 2020, Prop. 2: over the wrong classes, T²·KL to ρ = KD-pt sums to T(1-q̃_t) - T(1-p̃_t)."""
    student, teacher, labels = logits_of(seed=3).requires_grad_(), logits_of(), labels_of()
    hard_weight, temperature = 0.3, 4.0
    outputs = {"student": Outputs(student), "teacher": Outputs(teacher)}
    batch = Batch.of(torch.zeros(7, 1), labels)
    gradients = {}
    for name, method in {
        "kd": methods.kd(temperature=temperature, alpha=hard_weight),
        "pt": methods.kd_pt(temperature=temperature, alpha=hard_weight),
        "hard": methods.hard(),
    }.items():
        (gradients[name],) = torch.autograd.grad(method(outputs, batch).total * 7, student)
    truth = labels[:, None]
    wrong = {name: grad.sum(1) - grad.gather(1, truth).squeeze(1) for name, grad in gradients.items()}
    q = torch.softmax(student.detach(), 1)
    soft_q = torch.softmax(student.detach() / temperature, 1).gather(1, truth).squeeze(1)
    soft_p = torch.softmax(teacher / temperature, 1).gather(1, truth).squeeze(1)
    rest = q.sum(1) - q.gather(1, truth).squeeze(1)
    rescaling = hard_weight + (1 - hard_weight) * temperature * (soft_q - soft_p) / -rest
    torch.testing.assert_close(wrong["pt"] / wrong["hard"], rescaling, **EXACT)
    torch.testing.assert_close(wrong["kd"], wrong["pt"], **EXACT)
    assert not torch.allclose(gradients["kd"], gradients["pt"])


# ----------------------------------------------------------------------------------------- KD-sim and KD-rel: relations


def test_class_cosines_are_their_formula():
    vectors = logits_of(5, 3)
    rows = vectors.tolist()
    expected = [
        [
            sum(x * y for x, y in zip(a, b, strict=True))
            / math.sqrt(sum(x * x for x in a))
            / math.sqrt(sum(y * y for y in b))
            for b in rows
        ]
        for a in rows
    ]
    same(targets.class_cosines(vectors), expected)
    assert torch.equal(targets.class_cosines(vectors).diagonal(), torch.ones(5, dtype=torch.float64))
    assert torch.equal(targets.class_cosines(vectors), targets.class_cosines(vectors).T)


def test_the_length_of_class_vectors_and_their_precision_do_not_matter():
    vectors = logits_of(5, 3)
    stretched = vectors * torch.tensor([[1e-30], [1e30], [2.0], [0.5], [1.0]], dtype=torch.float64)
    same(targets.class_cosines(stretched), targets.class_cosines(vectors))
    half = targets.class_cosines(vectors.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, targets.class_cosines(vectors.half().double()).float())
    with_zero = targets.class_cosines(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert torch.equal(with_zero, torch.eye(2))


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)])
def test_class_vectors_of_another_form_are_refused(wrong):
    with pytest.raises(InputError, match=r"class vectors: found .*, expected floating point \(K, d\)"):
        targets.class_cosines(wrong)


@over(("power", "tau"), [(0.3, 0.5), (1.0, 1.0), (2.0, 0.05), (0.3, 10.0)])
def test_similar_classes_are_their_formula(power, tau):
    cosines, labels = targets.class_cosines(logits_of(6, 4)), labels_of()
    assert (cosines < 0).any()
    expected = []
    for label in labels.tolist():
        powered = [math.copysign(abs(c) ** power, c) for c in cosines[label].tolist()]
        expected.append(softmax(powered, tau))
    same(probabilities(targets.similar_classes(cosines, labels, power, tau)), expected)


def test_the_true_class_is_the_most_similar_and_the_order_is_that_of_the_cosines():
    cosines, labels = targets.class_cosines(logits_of(6, 4)), torch.arange(6)
    target = probabilities(targets.similar_classes(cosines, labels, 0.3, 0.5))
    assert torch.equal(target.argmax(1), labels)
    assert torch.equal(target.argsort(1), cosines.argsort(1))


def test_similar_classes_of_wide_powers_stay_finite():
    for power, tau in ((1e-3, 1e-3), (1e3, 1e-3), (1e3, 1e3)):
        target = targets.similar_classes(targets.class_cosines(logits_of(6, 4)), labels_of(), power, tau)
        assert not target.log_probs.isnan().any()
        same(probabilities(target).sum(1), torch.ones(7))


def related(label, groups, masses):
    """Share out the masses, class by class, as the docstring says."""
    classes = range(len(groups))
    siblings = [i for i in classes if i != label and groups[i] == groups[label]]
    rest = [i for i in classes if groups[i] != groups[label]]
    row = [0.0] * len(groups)
    row[label] = masses[0]
    near, far = masses[1:]
    if not siblings or not rest:
        near = far = masses[1] + masses[2]
    for i in siblings:
        row[i] = near / len(siblings)
    for i in rest:
        row[i] = far / len(rest)
    return row


@given(
    groups=st.lists(st.integers(0, 4), min_size=2, max_size=9),
    shares=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20)),
)
def test_related_classes_are_their_formula_with_any_groups(groups, shares):
    masses = [share / sum(shares) for share in shares]
    labels = torch.arange(len(groups))
    found = probabilities(targets.related_classes(labels, groups, masses, dtype=torch.float64))
    same(found, [related(label, groups, masses) for label in labels.tolist()])
    same(found.sum(1), torch.ones(len(groups)))


@over(
    ("masses", "line"),
    [
        ((0.5, 0.3, 0.1), "masses: found [0.5, 0.3, 0.1], which sum to 0.9, expected 1"),
        ((0.5, 0.5), "masses: found [0.5, 0.5], 2 in all, expected 3"),
        ((1.2, -0.1, -0.1), "masses: found -0.1, expected a finite number that is 0 or above"),
        ((math.nan, 0.5, 0.5), "masses: found nan, expected a finite number that is 0 or above"),
    ],
)
def test_masses_that_are_none_are_refused(masses, line):
    with pytest.raises(InputError) as caught:
        targets.related_classes(torch.tensor([0]), [0, 1], masses)
    assert str(caught.value) == line
    with pytest.raises(InputError, match=r"^masses: "):
        targets.RelatedClasses([0, 1], masses)


PETS = {"pets": ["cat", 1], "wheels": ["car", "van", 4]}


def test_a_hierarchy_may_be_named_numbered_or_the_datas_own():
    legend = Legend(NAMES, groups=(7, 7, 2, 2, 2))
    batch, outputs = Batch.of(torch.zeros(5, 1), torch.arange(5)), Outputs(torch.zeros(5, 5))
    masses = (0.6, 0.3, 0.1)
    rows = [
        targets.RelatedClasses(groups, masses).settled(legend)(outputs, batch, 4.0).log_probs
        for groups in (PETS, {"a": [0, 1], "b": [2, 3, 4]}, "coarse", [0, 0, 9, 9, 9])
    ]
    assert all(torch.equal(row, rows[0]) for row in rows)
    unsettled = targets.RelatedClasses({"b": [3, 4, 2], "a": [1, 0]}, masses)(outputs, batch, 4.0)
    assert torch.equal(unsettled.log_probs, rows[0])


@over(
    ("groups", "line"),
    [
        ({"pets": ["cat", "dog"], "wheels": ["car"]}, "groups: 2 of 5 classes are in no group, class 'van' first"),
        (PETS | {"more": ["dog"]}, "groups.more: class 'dog' is in 'pets' already, expected each class once"),
        (PETS | {"more": [0]}, "groups.more: class 0 is in 'pets' already"),
        (PETS | {"more": ["bsu"]}, "groups.more: found class 'bsu'; did you mean 'bus'?"),
        (PETS | {"more": [5]}, "groups.more: found class 5, expected 0 to 4"),
        (PETS | {"more": [True]}, "groups.more: found class True"),
        (PETS | {"more": 5}, "groups.more: found 5, expected a list of classes"),
        (PETS | {"more": "cat"}, "groups.more: found 'cat', expected a list of classes"),
        ([0, 0, 1], "groups: found the group of 3 classes, expected one for each of 5"),
        ("coarse", "groups: found coarse, but the data has no hierarchy of its classes"),
    ],
)
def test_a_hierarchy_that_is_none_is_refused(groups, line):
    with pytest.raises(InputError) as caught:
        targets.RelatedClasses(groups).settled(Legend(NAMES))
    assert str(caught.value).startswith(line)


@over("groups", [3, "fine", None, [0, "a"], [0, True], ["cat", "dog"]])
def test_groups_of_another_form_are_refused_at_once(groups):
    with pytest.raises(InputError, match=r"groups: found .*, expected \{group: \[classes\]\}"):
        targets.RelatedClasses(groups)


def test_class_names_mean_nothing_before_the_data_is_known():
    with pytest.raises(InputError, match="found the name 'cat', but the classes have only numbers"):
        targets.RelatedClasses(PETS)(Outputs(torch.zeros(1, 5)), Batch.of(torch.zeros(1, 1), torch.tensor([0])), 1.0)


# ----------------------------------------------------------------------------------------------------- KD-topk and DKPP


@over("k", [1, 2, 3, 5, 6])
def test_the_k_largest_are_kept_and_the_rest_spread(k):
    logits = logits_of()
    expected = []
    for row in logits.tolist():
        p = softmax(row, 4.0)
        kept = sorted(range(6), key=lambda i: (-p[i], i))[:k]
        rest = 1.0 - sum(p[i] for i in kept)
        expected.append([p[i] if i in kept else rest / (6 - k) for i in range(6)])
    same(probabilities(targets.top_k(losses.soften(logits, 4.0), k)), expected)


def test_all_classes_are_the_plain_target_exactly():
    plain = losses.soften(logits_of(), 4.0)
    assert targets.top_k(plain, 6) is plain
    batch = Batch.of(torch.zeros(7, 1))
    assert torch.equal(targets.TopK(k=6)(Outputs(logits_of()), batch, 4.0).log_probs, plain.log_probs)
    assert torch.equal(targets.TopK(share=1.0)(Outputs(logits_of()), batch, 4.0).log_probs, plain.log_probs)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=2, max_size=8),
    st.integers(1, 8),
)
def test_ties_are_resolved_by_the_number_of_the_class(row, k):
    k = min(k, len(row))
    plain = losses.soften(torch.tensor([row], dtype=torch.float64))
    found = targets.top_k(plain, k).log_probs[0].tolist()
    kept = set(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])
    others = [found[i] for i in range(len(row)) if i not in kept]
    assert all(found[i] == plain.log_probs[0, i] for i in kept)
    assert len(set(others)) <= 1
    assert math.isclose(sum(map(math.exp, found)), 1.0, abs_tol=1e-12)


@over(
    ("settings", "classes", "kept"),
    [
        ({}, 100, 25),
        ({}, 10, 3),  # 2.5, up
        ({}, 6, 2),  # 1.5, up as well
        ({"share": 0.29}, 50, 15),  # 14.5 as it is written, 14.499999999999998 as it is multiplied
        ({}, 2, 1),
        ({"share": 0.5}, 1000, 500),
        ({"share": 0.001}, 10, 1),
        ({"k": 7}, 10, 7),
        ({"share": 1.0}, 7, 7),
    ],
)
def test_a_share_is_rounded_and_is_one_class_at_least(settings, classes, kept):
    assert targets.TopK(**settings).count(classes) == kept


@over(
    ("settings", "line"),
    [
        ({"k": 0}, "k: found 0, expected a whole number, 1 or above"),
        ({"k": -3}, "k: found -3, expected a whole number, 1 or above"),
        ({"k": 2.5}, "k: found 2.5, expected a whole number, 1 or above"),
        ({"k": True}, "k: found True, expected a whole number, 1 or above"),
        ({"share": 0.0}, "share: found 0.0, expected a finite number above 0"),
        ({"share": 1.5}, "share: found 1.5, expected a number in [0, 1]"),
        ({"k": 3, "share": 0.5}, "k: found together with share; give one of them"),
    ],
)
def test_k_and_share_are_checked_at_once(settings, line):
    with pytest.raises(InputError) as caught:
        targets.TopK(**settings)
    assert str(caught.value) == line


def test_more_classes_than_there_are_are_refused_as_soon_as_that_is_known():
    line = "k: found 7, expected 1 to 6, the number of classes"
    with pytest.raises(InputError) as caught:
        targets.TopK(k=7).settled(Legend(tuple("abcdef")))
    assert str(caught.value) == line
    with pytest.raises(InputError) as caught:
        targets.top_k(losses.soften(logits_of()), 7)
    assert str(caught.value) == line
    mixed = targets.Mixture((targets.TrueClass(targets.TopK(k=7)), targets.Uniform()))
    with pytest.raises(InputError, match=f"^target mixture, {line}$"):
        SoftTargets(target=mixed).settle(Legend(tuple("abcdef")))


@pytest.mark.parametrize("task", [BINARY, MULTILABEL])
def test_where_each_label_is_yes_or_no_there_are_two_classes(task):
    legend = Legend(tuple("abcdef"), task=task)
    assert targets.TopK(k=2).settled(legend) == targets.TopK(k=2)
    with pytest.raises(InputError, match="k: found 3, expected 1 to 2, the number of classes"):
        targets.TopK(k=3).settled(legend)
    with pytest.raises(InputError, match="groups: a hierarchy is of several classes"):
        targets.RelatedClasses([0, 0, 0, 1, 1, 1]).settled(legend)


def test_permuted_probabilities_are_the_same_ones_with_the_largest_in_its_place():
    plain = losses.soften(logits_of(200, 9), 4.0)
    found = targets.permute(plain, torch.arange(200))
    assert torch.equal(found.log_probs.sort(1).values, plain.log_probs.sort(1).values)
    top = plain.log_probs.argmax(1, keepdim=True)
    assert torch.equal(found.log_probs.gather(1, top), plain.log_probs.gather(1, top))
    moved = (found.log_probs != plain.log_probs).sum(1)
    assert moved.float().mean() > 6.0


def test_each_permutation_of_the_others_is_drawn_alike():
    count = 60_000
    row = torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]], dtype=torch.float64).log().expand(count, -1)
    found = targets.permute(Dense(row), torch.arange(count)).log_probs
    orders, times = found.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    expected = count / 24
    assert ((times - expected) ** 2 / expected).sum() < 49.7  # chi-squared with 23 degrees, p = 0.001


def test_a_permutation_belongs_to_seed_and_sample():
    plain, index = losses.soften(logits_of(50, 9), 4.0), torch.randperm(50)
    whole = targets.permute(plain, index).log_probs
    for rows in (torch.tensor([3]), torch.randperm(50)[:20]):
        part = targets.permute(Dense(plain.log_probs[rows]), index[rows]).log_probs
        assert torch.equal(part, whole[rows])
    assert not torch.equal(targets.permute(plain, index + 50).log_probs, whole)
    assert not torch.equal(targets.permute(plain, index, seed=1).log_probs, whole)
    assert torch.equal(targets.permute(plain, index, seed=0).log_probs, whole)
    batch = Batch.of(torch.zeros(50, 1))
    batch.index = index
    one, two = (targets.Permuted(seed)(Outputs(logits_of(50, 9)), batch, 4.0).log_probs for seed in (1, 2))
    assert torch.equal(one, targets.permute(plain, index, seed=1).log_probs)
    assert not torch.equal(one, two)


def test_each_place_of_a_sequence_has_a_permutation_that_its_length_does_not_touch():
    plain = losses.soften(logits_of(24, 9).reshape(4, 6, 9), 4.0)
    index = torch.arange(4)
    whole = targets.permute(plain, index).log_probs
    cut = targets.permute(Dense(plain.log_probs[:, :3]), index).log_probs
    assert torch.equal(cut, whole[:, :3])
    same_row = Dense(plain.log_probs[:, :1].expand(4, 6, 9))
    rows = targets.permute(same_row, index).log_probs
    assert not torch.equal(rows[:, 0], rows[:, 1])


def test_of_two_classes_there_is_nothing_to_permute():
    plain = losses.soften(logits_of(20, 2), 4.0)
    assert torch.equal(targets.permute(plain, torch.arange(20)).log_probs, plain.log_probs)
