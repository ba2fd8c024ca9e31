"""Groups of confusable classes: the columns they are made of, on-line K-means, sizes, overlap, and groups by name."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from limbeck.errors import InputError
from limbeck.teachers.specialists import cluster_classes, confusion_columns, covariance_columns, named_groups
from limbeck.teachers.specialists.groups import online_kmeans
from walk import over

NAMES = ("boat", "car", "cat", "dog", "owl")
PLANTED = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))


def predictions(size=600, seed=0, sharpness=2.0):
    """Predictions of a generalist that tells the three planted groups apart, and in a group guesses."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(12, (size,), generator=generator)
    same = (labels[:, None] % 3) == (torch.arange(12) % 3)
    logits = 4.0 * same + sharpness * torch.randn(size, 12, generator=generator)
    logits[torch.arange(size), labels] += 1.0
    return logits.softmax(1), labels


# ---------------------------------------------------------------------------------------------------------- the columns


def test_the_covariance_is_that_of_the_predictions():
    probabilities, _ = predictions(50)
    expected = np.cov(probabilities.numpy().astype(np.float64), rowvar=False)
    np.testing.assert_allclose(covariance_columns(probabilities, variances=True), expected, atol=1e-15)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(covariance_columns(probabilities), expected, atol=1e-15)


def test_the_confusion_is_a_share_of_each_true_class():
    probabilities, labels = predictions(200)
    labels[:20] = -100
    found = confusion_columns(probabilities, labels)
    for k in range(12):
        of_k = probabilities[labels == k].argmax(1)
        for i in range(12):
            assert found[i, k] == pytest.approx(float((of_k == i).double().mean()))


def test_a_class_without_examples_is_confused_with_none():
    found = confusion_columns(torch.eye(3)[[0, 0]], torch.tensor([0, 1]))
    assert found[:, 2].tolist() == [0, 0, 1]


# --------------------------------------------------------------------------------------------------------- the clusters


@over("seed", range(5))
@over("by", ["covariance", "confusion"])
def test_planted_groups_are_found(by, seed):
    probabilities, labels = predictions()
    columns = covariance_columns(probabilities) if by == "covariance" else confusion_columns(probabilities, labels)
    assert cluster_classes(columns, 3, seed=seed) == PLANTED


def test_many_small_groups_need_the_variances_out_of_the_way():
    """Fifty classes in ten groups: with the variances on the diagonal hardly a group is found."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(50, (4000,), generator=generator)
    logits = 3 * torch.randn(4000, 50, generator=generator) + 3 * (torch.arange(50) % 10 == labels[:, None] % 10)
    logits[torch.arange(4000), labels] += 1
    planted = {tuple(range(first, 50, 10)) for first in range(10)}
    kept = [
        len(planted & set(cluster_classes(covariance_columns(logits.softmax(1), variances=with_them), 10)))
        for with_them in (False, True)
    ]
    assert kept[0] == 10
    assert kept[1] <= 3


@pytest.mark.miniature(2)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_online_kmeans_is_about_as_good_as_kmeans(count):
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(60, 4, generator=generator).double() + 4 * torch.randint(2, (60, 4), generator=generator)
    ours = torch.cdist(points, online_kmeans(points, count)).amin(1).square().sum()
    theirs = KMeans(count, n_init=10, random_state=0).fit(points.numpy()).inertia_
    assert ours <= 1.1 * theirs


def test_fewer_different_points_than_centres_are_clustered_all_the_same():
    centres = online_kmeans(torch.tensor([[1.0], [1.0], [4.0]]), 3)
    assert centres.isfinite().all()
    assert {1.0, 4.0} == set(centres.flatten().tolist())


@pytest.mark.thorough
@settings(max_examples=30)
@given(
    st.integers(3, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.floats(1.0, 3.0), st.integers(0, 99)
)
def test_sizes_are_within_bounds_and_classes_are_covered_where_there_is_room(
    classes, count, smallest, more, overlap, seed
):
    count, smallest = min(count, classes), min(smallest, classes - 1)
    largest = min(smallest + more, classes - 1)
    columns = torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))
    groups = cluster_classes(columns, count, smallest=smallest, largest=largest, overlap=overlap, seed=seed)
    assert len(groups) == count
    assert all(smallest <= len(set(group)) == len(group) <= largest for group in groups)
    assert all(0 <= label < classes for group in groups for label in group)
    covered = {label for group in groups for label in group}
    assert len(covered) >= min(classes, largest * count) if overlap == 1 else covered
    if largest * count >= classes:
        assert len(covered) == classes
    assert groups == cluster_classes(columns, count, smallest=smallest, largest=largest, overlap=overlap, seed=seed)


def test_without_bounds_and_overlap_the_groups_part_the_classes():
    columns = covariance_columns(predictions()[0])
    for count in range(2, 5):
        groups = cluster_classes(columns, count, smallest=1)
        assert sorted(label for group in groups for label in group) == list(range(12))


def test_overlap_adds_the_classes_between_and_takes_none_away():
    columns = torch.tensor([[0.0, 1.0, 4.6, 9.0, 10.0]])
    parted = cluster_classes(columns, 2, smallest=1)
    shared = cluster_classes(columns, 2, smallest=1, overlap=2.0)
    assert parted == ((0, 1), (2, 3, 4)) or parted == ((0, 1, 2), (3, 4))
    assert shared == ((0, 1, 2), (2, 3, 4))


def test_a_full_group_sends_classes_to_the_next():
    columns = torch.tensor([[0.0, 0.1, 0.2, 0.3, 9.0]])
    assert cluster_classes(columns, 2, smallest=1, largest=3) == ((0, 1, 2), (3, 4))
    assert sum(map(len, cluster_classes(columns, 2, smallest=1, largest=2))) == 4


@over(
    ("keys", "line"),
    [
        ({"count": 0}, "count: found 0"),
        ({"count": 13}, "count: found 13 groups for 12 classes"),
        ({"smallest": 0}, "smallest: found 0"),
        ({"smallest": 5, "largest": 4}, "smallest: found 5, expected at most the largest size, 4"),
        ({"largest": 12}, "largest: found 12 of 12 classes"),
        ({"overlap": 0.5}, "overlap: found 0.5"),
        ({"overlap": float("nan")}, "overlap: found nan"),
    ],
)
def test_bad_settings_are_one_line(keys, line):
    columns = covariance_columns(predictions()[0])
    with pytest.raises(InputError, match=line):
        cluster_classes(columns, keys.pop("count", 3), **keys)


# -------------------------------------------------------------------------------------------------------------- by name


def test_groups_may_overlap_and_leave_classes_out():
    assert named_groups([["dog", "cat"], [4, "cat"]], NAMES) == ((2, 3), (2, 4))


@over(
    ("groups", "line"),
    [
        ([], "groups: found none"),
        ([["cat"], []], r"groups\[1\]: found no class"),
        ([["cat", "dog", "cat"]], r"groups\[0\]: found class 'cat' twice"),
        ([["cat", 2]], r"groups\[0\]: found class 2 twice"),
        ([["cat", "dgo"]], r"groups\[0\]: there is no class 'dgo'; did you mean 'dog'\?"),
        ([[5]], r"groups\[0\]: found class 5, expected 0 to 4"),
        ([[True]], r"groups\[0\]: found True, expected a class's name or number"),
        ([list(NAMES)], r"groups\[0\]: it holds all 5 classes"),
    ],
)
def test_bad_groups_are_one_line(groups, line):
    with pytest.raises(InputError, match=line) as caught:
        named_groups(groups, NAMES)
    assert "\n" not in str(caught.value)
