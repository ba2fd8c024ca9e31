"""The figures of every task against scikit-learn, and where there is nothing to measure."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    jaccard_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    top_k_accuracy_score,
)
from torch import nn

from limbeck.batch import UNLABELLED
from limbeck.data import TensorSet
from limbeck.errors import DataError
from limbeck.evaluation import Metrics, evaluate, mean_reciprocal_rank, measure, ndcg_at_k, predict, recall_at_k
from limbeck.evaluation.figures import FIGURES, average_precision
from limbeck.evaluation.summed import Places
from limbeck.losses import positives_log_loss
from limbeck.tasks import BINARY, DENSE, MULTILABEL, RANKING, REGRESSION, TASKS, TOKENS
from walk import over

seeds, sizes = st.integers(0, 10**6), st.integers(2, 40)


def against_zero(scores):
    return torch.stack([torch.zeros_like(scores), scores], -1)


@given(seeds, sizes)
def test_the_figures_of_a_binary_task_are_those_of_two_classes(seed, size):
    draw = np.random.default_rng(seed)
    z, y = draw.normal(size=size), draw.integers(2, size=size)
    found = measure(against_zero(torch.tensor(z)), torch.tensor(y), BINARY)
    assert found.accuracy == pytest.approx(accuracy_score(y, z > 0))
    assert found.errors == size - accuracy_score(y, z > 0, normalize=False)
    assert found.nll == pytest.approx(log_loss(y, 1 / (1 + np.exp(-z)), labels=[0, 1]), rel=1e-9)


@pytest.mark.thorough
@given(seeds, sizes, st.integers(1, 4))
def test_the_figures_of_a_multilabel_task_are_those_of_scikit_learn(seed, size, classes):
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(size, classes)).round(1)  # with ties
    y = draw.integers(2, size=(size, classes))
    found = measure(against_zero(torch.tensor(z)), torch.tensor(y), MULTILABEL)
    guesses = z > 0
    assert found.examples == size
    assert found.accuracy == pytest.approx(accuracy_score(y, guesses) if classes > 1 else (y == guesses).mean())
    assert found.errors == (y != guesses).any(1).sum()
    assert found.more["label_accuracy"] == pytest.approx((y == guesses).mean())
    assert found.nll == pytest.approx(-np.where(y, log_expit(z), log_expit(-z)).sum(1).mean(), rel=1e-9)
    positive = y.any(0)
    if positive.any():
        expected = [average_precision_score(y[:, i], z[:, i]) for i in range(classes) if positive[i]]
        assert found.more["map"] == pytest.approx(np.mean(expected), rel=1e-9)
    else:
        assert "map" not in found.more


def test_labels_that_are_missing_count_neither_as_right_nor_as_wrong():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]])
    y = torch.tensor([[1, UNLABELLED], [1, 1], [UNLABELLED, UNLABELLED], [0, 1]])
    found = measure(against_zero(z), y, MULTILABEL)
    assert (found.examples, found.errors) == (3, 2)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.more["label_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert found.nll == pytest.approx((3 * right + 2 * wrong) / 3)
    first = average_precision_score([1, 1, 0], [1.0, 1.0, 1.0])
    second = average_precision_score([1, 1], [-1.0, 1.0])
    assert found.more["map"] == pytest.approx((first + second) / 2)


@given(seeds, sizes)
def test_average_precision_is_that_of_scikit_learn_with_ties(seed, size):
    draw = np.random.default_rng(seed)
    scores, positive = draw.integers(0, 4, size=size).astype(float), draw.integers(2, size=size)
    found = average_precision(torch.tensor(scores), torch.tensor(positive) == 1)
    if positive.any():
        assert found == pytest.approx(average_precision_score(positive, scores), rel=1e-12)
    else:
        assert found is None


@given(seeds, st.integers(2, 40), st.integers(1, 3))
def test_the_figures_of_a_regression_are_those_of_scikit_learn(seed, size, numbers):
    draw = np.random.default_rng(seed)
    z, y = draw.normal(size=(2, size, numbers))
    found = measure(torch.tensor(z), torch.tensor(y), REGRESSION)
    assert found.examples == size
    assert found.errors == pytest.approx(mean_squared_error(y, z), rel=1e-9)
    assert found.nll == pytest.approx(0.5 * mean_squared_error(y, z), rel=1e-9)
    assert found.accuracy == pytest.approx(r2_score(y, z), rel=1e-9)
    assert found.more["mae"] == pytest.approx(mean_absolute_error(y, z), rel=1e-9)


def test_numbers_that_do_not_vary_are_explained_wholly_or_not_at_all():
    constant = torch.ones(3, 1)
    assert measure(constant, constant, REGRESSION).accuracy == r2_score(constant, constant) == 1
    assert measure(constant + 1, constant, REGRESSION).accuracy == r2_score(constant, constant + 1) == 0
    missing = torch.tensor([[1.0], [math.nan], [3.0]])
    assert measure(torch.tensor([[2.0], [9.0], [3.0]]), missing, REGRESSION).errors == 0.5


@pytest.mark.thorough
@given(seeds, st.integers(1, 6), st.integers(2, 4))
def test_the_figures_of_places_are_those_of_scikit_learn(seed, size, classes):
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(size, 3, 2, classes))
    y = draw.integers(classes, size=(size, 3, 2))
    known = draw.random(y.shape) < 0.7
    known.flat[0] = True
    found = measure(torch.tensor(z), torch.tensor(np.where(known, y, UNLABELLED)), DENSE)
    truth, guesses = y[known], z.argmax(-1)[known]
    assert found.examples == known.sum()
    assert found.accuracy == pytest.approx(accuracy_score(truth, guesses))
    there = sorted(set(truth) | set(guesses))
    assert found.more["miou"] == pytest.approx(jaccard_score(truth, guesses, average="macro", labels=there))
    probabilities = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    assert found.nll == pytest.approx(log_loss(truth, probabilities[known], labels=list(range(classes))), rel=1e-9)


def test_places_are_measured_batch_by_batch_as_all_at_once():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1)
    samples = TensorSet.of(torch.randn(10, 1, 4, 5), torch.randint(3, (10, 4, 5)), task=DENSE)
    whole = measure(predict(model, samples), samples.labels, DENSE)
    cut = evaluate(model, samples, batch_size=3)
    assert cut.as_dict() == pytest.approx(whole.as_dict(), rel=1e-6)
    parts = [Places.of(predict(model, part), part.labels) for part in samples.split(4, seed=0)]
    assert (parts[0] + parts[1]).metrics().as_dict() == pytest.approx(whole.as_dict(), rel=1e-6)


@over("task", TASKS.values(), ids=lambda task: task.name)
def test_a_set_without_labels_cannot_be_measured(task):
    logits = {1: torch.zeros(2, 3), 2: torch.zeros(2, 3, 2)}[2 if task in (MULTILABEL, DENSE, TOKENS) else 1]
    labels = torch.zeros(2, 3) if task in (REGRESSION, MULTILABEL, DENSE, TOKENS) else torch.zeros(2)
    labels = torch.zeros(2, 2, 3) if task is RANKING else labels
    with pytest.raises(DataError, match="evaluation: the set has no labels, expected at least one labelled sample"):
        measure(logits, task.without_labels(labels.to(torch.float32 if task is REGRESSION else torch.int64)), task)


def test_rankings_are_measured_batch_by_batch_as_all_at_once():
    generator = torch.Generator().manual_seed(0)
    logits, order = torch.randn(30, 40, generator=generator), torch.rand(30, 40, generator=generator).argsort(1)
    labels = torch.stack([order[:, :3], order[:, 3:6]], 1)
    labels[:, 0, 1:][torch.rand(30, 2, generator=generator) < 0.5] = UNLABELLED
    labels[4] = UNLABELLED
    whole = measure(logits, labels, RANKING)
    figures = FIGURES["ranking"]
    parts = figures.measure_batches((logits[rows], labels[rows]) for rows in torch.arange(30).split(4))
    assert whole.as_dict() == pytest.approx(parts.as_dict(), rel=1e-6)
    positives, known = labels.unbind(1)
    assert whole.examples == 29
    assert whole.accuracy == recall_at_k(logits, positives, 10, known)
    assert whole.more == {
        "mrr": mean_reciprocal_rank(logits, positives, known),
        "ndcg": pytest.approx(ndcg_at_k(logits, positives, 10, known)),
    }
    assert whole.errors == 29 - int(figures.correct(logits, labels).sum())
    nll = positives_log_loss(logits.double(), positives, known=known)
    assert whole.nll == pytest.approx(float(nll), rel=1e-6)


@pytest.mark.thorough
@given(seeds, st.integers(1, 5), st.integers(2, 6), st.sampled_from([torch.float32, torch.float64]))
def test_the_figures_of_tokens_are_those_of_scikit_learn_however_they_are_cut(seed, rows, vocabulary, dtype):
    draw = np.random.default_rng(seed)
    z, y = draw.normal(size=(rows, 7, vocabulary)), draw.integers(vocabulary, size=(rows, 7))
    known = draw.random(y.shape) < 0.7
    known.flat[0] = True
    logits, labels = torch.tensor(z, dtype=dtype), torch.tensor(np.where(known, y, UNLABELLED))
    logits[labels == UNLABELLED] = math.nan  # what is padding may be anything
    found = measure(logits, labels, TOKENS)
    probabilities = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    nll = log_loss(y[known], probabilities[known], labels=list(range(vocabulary)))
    top = top_k_accuracy_score(y[known], z[known], k=3, labels=list(range(vocabulary))) if vocabulary > 3 else 1.0
    assert found.examples == known.sum()
    assert found.nll == pytest.approx(nll, rel=1e-5)
    assert found.errors == pytest.approx(math.exp(nll), rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy_score(y[known], z.argmax(-1)[known]))
    assert found.more["top3"] == pytest.approx(top)
    parts = FIGURES["tokens"].measure_batches((logits[:, cut], labels[:, cut]) for cut in (slice(2), slice(2, 7)))
    assert parts.as_dict() == pytest.approx(found.as_dict(), rel=1e-6)


def test_of_equally_likely_tokens_the_first_is_the_answer():
    found = measure(torch.zeros(1, 5, 5), torch.arange(5)[None], TOKENS)
    assert (found.accuracy, found.more["top3"], found.errors) == (0.2, 0.6, pytest.approx(5))


def test_bits_a_byte_are_of_the_tokens_that_count():
    class Words:
        token_bytes = (1, 2, 5, 9)

    samples = TensorSet.of(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[2, 1, UNLABELLED]]), task=TOKENS)
    metrics = Metrics(examples=2, errors=2.0, accuracy=0.0, nll=math.log(2))
    assert FIGURES["tokens"].of_set(metrics, replace(samples, tokenizer=Words())).more == {
        "bits_per_byte": pytest.approx(2 / 7)
    }
    assert FIGURES["tokens"].of_set(metrics, samples).more == {}


def test_the_constant_answer_of_a_ranking_is_the_ten_most_frequent_items():
    labels = torch.full((12, 2, 2), UNLABELLED)
    labels[:, 0, 0] = torch.arange(12)
    labels[0, 0, 1] = 11  # the most frequent one; of the others, all as frequent, items 0 to 8 come first
    assert FIGURES["ranking"].constant_accuracy(labels) == pytest.approx(10 / 12)
    near = FIGURES["ranking"].nearness(torch.arange(12.0)[None], torch.arange(12.0).roll(1)[None])
    assert near.agreement == 0.9
    assert near.kl > 0


def test_figures_are_named_and_those_of_a_task_follow_the_common_ones():
    found = measure(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]), REGRESSION).as_dict()
    assert list(found) == ["examples", "errors", "accuracy", "nll", "mae"]
