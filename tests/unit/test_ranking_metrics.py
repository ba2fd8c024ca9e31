"""Ranking metrics against references that share no code with them: sorted lists, and scikit-learn's NDCG."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from limbeck.errors import DataError, InputError
from limbeck.evaluation import item_ranks, mean_reciprocal_rank, ndcg_at_k, recall_at_k
from walk import over

ITEMS = 40


def drawn(seed=0, users=30, levels=None):
    """Scores, up to four items to be found and up to six known ones of each user; some users have none."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, ITEMS)) if levels is None else rng.integers(0, levels, (users, ITEMS)) / 1.0
    positives, known = np.full((users, 4), -100), np.full((users, 6), -100)
    for user in range(users):
        items = rng.permutation(ITEMS)
        own, other = rng.integers(0, 5), rng.integers(0, 7)
        positives[user, rng.permutation(4)[:own]] = items[:own]
        known[user, :other] = items[own : own + other]
    return torch.tensor(scores), torch.tensor(positives), torch.tensor(known)


def ranking(scores, positives, known):
    """The items of each user in order, without the known ones, beside what is to be found."""
    for row, wanted, left in zip(scores.tolist(), positives.tolist(), known.tolist(), strict=True):
        wanted = [item for item in wanted if item >= 0]
        if wanted:
            items = [item for item in range(ITEMS) if item not in left]
            yield sorted(items, key=lambda item: (-row[item], item)), wanted


@over("seed, levels, k", [(0, None, 10), (1, None, 1), (2, None, 100), (3, 3, 10), (4, 1, 5)])
def test_the_metrics_equal_those_of_sorted_lists_also_where_scores_are_equal(seed, levels, k):
    data = drawn(seed, levels=levels)
    scores, positives, known = data
    recall, reciprocal, ndcg = [], [], []
    for order, wanted in ranking(*data):
        hits = [item in wanted for item in order]
        recall.append(sum(hits[:k]) / len(wanted))
        reciprocal.append(1 / (1 + hits.index(True)))
        ideal = sum(1 / math.log2(2 + place) for place in range(min(k, len(wanted))))
        ndcg.append(sum(1 / math.log2(2 + place) for place, hit in enumerate(hits[:k]) if hit) / ideal)
    assert recall_at_k(scores, positives, k, known) == pytest.approx(np.mean(recall), abs=1e-12)
    assert mean_reciprocal_rank(scores, positives, known) == pytest.approx(np.mean(reciprocal), abs=1e-12)
    assert ndcg_at_k(scores, positives, k, known) == pytest.approx(np.mean(ndcg), abs=1e-12)


def test_ndcg_equals_that_of_scikit_learn():
    scores, positives, _ = drawn(5)
    kept = (positives >= 0).any(1)
    truth = np.zeros((int(kept.sum()), ITEMS))
    for row, wanted in zip(truth, positives[kept].tolist(), strict=True):
        row[[item for item in wanted if item >= 0]] = 1
    for k in (1, 7, ITEMS):
        expected = ndcg_score(truth, scores[kept].numpy(), k=k)
        assert ndcg_at_k(scores, positives, k) == pytest.approx(expected, abs=1e-12)


def test_known_items_do_not_stand_above_what_is_to_be_found_and_what_is_to_be_found_is_never_left_out():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0]])
    positives = torch.tensor([[3]])
    for known, rank in (([0, 1], 1), ([-100, 2], 2), ([3, 0], 2), ([0, 1, 2, 3], 0)):
        assert item_ranks(scores, positives, torch.tensor([known])).tolist() == [[rank]]
    assert scores.tolist() == [[9.0, 8.0, 7.0, 6.0]]
    assert item_ranks(torch.tensor([[5.0, 5.0]]), torch.tensor([[1]]), torch.tensor([[1]])).tolist() == [[1]]


def test_of_equal_scores_the_first_items_come_first_and_infinite_ones_are_ranked():
    scores = torch.tensor([[0.0, 0.0, 0.0], [torch.inf, -torch.inf, torch.inf]])
    assert item_ranks(scores, torch.tensor([[0, 1, 2], [2, 1, -100]])).tolist() == [[0, 1, 2], [1, 2, -100]]


def test_the_order_of_what_is_to_be_found_and_padding_change_nothing():
    scores, positives, known = drawn(7)
    padded = torch.nn.functional.pad(positives.flip(1), (3, 2), value=-100)
    more = torch.nn.functional.pad(known, (2, 0), value=-100)
    for metric in (lambda *a: recall_at_k(*a[:2], 10, a[2]), mean_reciprocal_rank):
        assert metric(scores, padded, more) == metric(scores, positives, known)


def test_what_cannot_be_ranked_is_refused_in_one_line():
    scores, positives, known = drawn()
    for call, error, said in (
        (lambda: recall_at_k(scores, positives, 0), InputError, "k: found 0"),
        (lambda: recall_at_k(scores[0], positives, 1), InputError, "logits: found"),
        (lambda: recall_at_k(scores, positives[:3], 1), InputError, "positives: found"),
        (lambda: recall_at_k(scores, positives.double(), 1), InputError, "positives: found torch.float64"),
        (lambda: recall_at_k(scores, positives + 37, 1), InputError, "positives: found item"),
        (lambda: ndcg_at_k(scores, positives, 1, known - 50), InputError, "known: found item"),
        (lambda: mean_reciprocal_rank(scores * torch.nan, positives), InputError, "logits: found NaN"),
        (lambda: mean_reciprocal_rank(scores, torch.full_like(positives, -100)), DataError, "no labels"),
    ):
        with pytest.raises(error, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
