"""Scores, calibration and the whole assessment against scikit-learn, scipy and plain float64 numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, recall_score, top_k_accuracy_score

import limbeck as lb
from limbeck import evaluation
from limbeck.errors import DataError, InputError
from limbeck.records import plain_values
from walk import over


def drawn(n=400, classes=7, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    labels = torch.where(
        torch.rand(n, generator=generator) < 0.6, logits.argmax(1), torch.randint(classes, (n,), generator=generator)
    )
    return logits, labels


def numpy_ece(logits, labels, bins, scheme):
    """The definition, bin by bin."""
    probabilities = softmax(logits.double().numpy(), axis=1)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    edges = np.linspace(0, 1, bins + 1)
    edges = np.arange(bins + 1) / bins if scheme == "width" else np.quantile(confidence, edges)
    total = 0.0
    for number in range(bins):
        low = -np.inf if number == 0 else edges[number]
        high = np.inf if number == bins - 1 else edges[number + 1]
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


DRAWS = pytest.mark.parametrize("draw", [{}, {"classes": 2}, {"n": 3000, "classes": 30}, {"scale": 20.0}])


@DRAWS
def test_scores_are_those_of_scikit_learn(draw):
    logits, labels = drawn(**draw)
    classes = logits.shape[1]
    probabilities = softmax(logits.double().numpy(), axis=1)
    found = evaluation.assess(logits, labels)
    predictions = logits.argmax(1)
    every = list(range(classes))
    true_log = log_softmax(logits.double().numpy(), axis=1)[np.arange(len(labels)), labels]
    assert found.nll == pytest.approx(-true_log.mean(), rel=1e-12)
    if draw.get("scale", 2.0) < 10:  # scikit-learn clips at the end of float64
        assert found.nll == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-9)
    one_hot = np.eye(classes)[labels]
    assert found.brier == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean(), rel=1e-10)
    if classes == 2:
        assert found.brier == pytest.approx(2 * brier_score_loss(labels, probabilities[:, 1]), rel=1e-9)
    assert found.errors == int((predictions != labels).sum())
    assert found.confusion.numpy().tolist() == confusion_matrix(labels, predictions, labels=every).tolist()
    recall = recall_score(labels, predictions, labels=every, average=None)
    assert found.class_accuracy == pytest.approx(tuple(recall))
    for k in (1, 2, 5):
        if k < classes and classes > 2:
            expected = top_k_accuracy_score(labels, probabilities, k=k, labels=every)
            assert evaluation.top_k_accuracy(logits, labels, k) == pytest.approx(expected)
    plain = evaluation.measure(logits, labels)
    assert (plain.errors, plain.accuracy) == (found.errors, found.accuracy)
    assert plain.nll == pytest.approx(found.nll)


@DRAWS
@over("scheme", ["width", "mass"])
@over("bins", [1, 10, 15])
def test_ece_is_its_definition(draw, scheme, bins):
    logits, labels = drawn(**draw)
    expected = numpy_ece(logits, labels, bins, scheme)
    assert evaluation.ece(logits, labels, bins=bins, scheme=scheme) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("scheme", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_is_that_of_scikit_learn(scheme, strategy):
    logits, labels = drawn(2000)
    scores = evaluation.score(logits, labels)
    found = evaluation.reliability(scores.confidence, scores.correct, bins=10, scheme=scheme)
    accuracy, confidence = calibration_curve(scores.correct, scores.confidence, n_bins=10, strategy=strategy)
    assert [value for value in found.accuracy if value is not None] == pytest.approx(accuracy)
    assert [value for value in found.confidence if value is not None] == pytest.approx(confidence)
    assert sum(found.count) == 2000
    if scheme == "mass":
        assert set(found.count) == {200}


def test_a_perfect_forecast_has_no_calibration_error_and_a_sure_wrong_one_all_of_it():
    sure = torch.tensor([[50.0, -50.0]] * 4)
    assert evaluation.ece(sure, torch.zeros(4, dtype=torch.int64)) == pytest.approx(0.0, abs=1e-12)
    assert evaluation.ece(sure, torch.ones(4, dtype=torch.int64)) == pytest.approx(1.0)
    assert evaluation.brier(sure, torch.ones(4, dtype=torch.int64)) == pytest.approx(2.0)
    assert evaluation.brier(sure, torch.zeros(4, dtype=torch.int64)) == pytest.approx(0.0, abs=1e-12)


def test_probabilities_are_given_by_their_log():
    probabilities = torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64)
    scores = evaluation.score(probabilities.log(), torch.tensor([0, 1]))
    assert scores.confidence.tolist() == pytest.approx([0.75, 0.5])
    assert scores.brier.tolist() == pytest.approx([0.0625 * 2, 0.25 + 0.5625 + 0.0625])


def test_of_equal_logits_the_first_counts_everywhere():
    logits = torch.tensor([[1.0, 1.0, 1.0]] * 3)
    scores = evaluation.score(logits, torch.arange(3))
    assert scores.predictions.tolist() == [0, 0, 0]
    assert scores.rank.tolist() == [0, 1, 2]
    assert [evaluation.top_k_accuracy(logits, torch.arange(3), k) for k in (1, 2, 3)] == pytest.approx(
        [1 / 3, 2 / 3, 1]
    )


def test_unlabelled_samples_do_not_count():
    logits, labels = drawn()
    hidden = labels.clone()
    hidden[::3] = lb.UNLABELLED
    kept = hidden != lb.UNLABELLED
    assert plain_values(evaluation.assess(logits, hidden)) == plain_values(
        evaluation.assess(logits[kept], labels[kept])
    )
    assert evaluation.fit_temperature(logits, hidden) == evaluation.fit_temperature(logits[kept], labels[kept])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_of_the_numbers_given_whatever_their_precision(dtype):
    logits, labels = drawn()
    logits = logits.to(dtype)
    exact = evaluation.assess(logits.double(), labels)
    assert evaluation.assess(logits, labels).nll == pytest.approx(exact.nll)


def test_what_is_given_is_left_alone():
    logits, labels = drawn()
    logits = logits.double()
    before = logits.clone()
    evaluation.assess(logits, labels)
    evaluation.fit_temperature(logits, labels)
    evaluation.fidelity(logits, logits.flip(0), labels)
    assert torch.equal(logits, before)


@given(st.integers(1, 60), st.integers(1, 12), st.floats(0.1, 30), st.integers(0, 999), st.booleans())
def test_properties_of_scores(n, classes, scale, seed, rounded):
    logits, labels = drawn(n, classes, scale, seed)
    logits = logits.round() if rounded else logits  # many ties
    found = evaluation.assess(logits, labels, resamples=10)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    again = evaluation.assess(logits[order], labels[order], resamples=10)
    assert 0 <= found.ece <= 1
    assert 0 <= found.brier <= 2
    assert found.nll >= 0
    assert found.wilson.low <= found.accuracy <= found.wilson.high
    for name in ("ece", "ece_mass", "brier", "nll", "errors"):
        assert getattr(found, name) == pytest.approx(getattr(again, name), abs=1e-9)
    shifted = evaluation.assess(logits.double() + 3.0, labels, resamples=10)
    assert shifted.nll == pytest.approx(found.nll, abs=1e-9)
    scores = evaluation.score(logits, labels)
    assert torch.equal(scores.correct, scores.predictions == labels)
    assert torch.equal(scores.predictions, logits.argmax(1))
    confidence = logits.double().softmax(1).amax(1)
    torch.testing.assert_close(scores.confidence, confidence)
    assert found.ece >= abs(float(confidence.mean()) - found.accuracy) - 1e-9  # the one-bin error is the least


# ----------------------------------------------------------------------------------------------------- temperature


@DRAWS
def test_the_temperature_is_the_optimum(draw):
    logits, labels = drawn(**draw)
    found = evaluation.fit_temperature(logits, labels)

    def nll(inverse):
        return -log_softmax(logits.double().numpy() * inverse, axis=1)[np.arange(len(labels)), labels].mean()

    best = minimize_scalar(nll, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10})
    assert not found.at_bound
    assert found.temperature == pytest.approx(1 / best.x, rel=1e-6)
    assert abs(found.slope) < 1e-10
    assert found.nll_before == pytest.approx(nll(1.0))
    assert found.nll_after == pytest.approx(nll(1 / found.temperature))
    assert found.nll_after <= min(found.nll_before, best.fun + 1e-14)
    step = 1e-6
    slope = (nll(1 / found.temperature + step) - nll(1 / found.temperature - step)) / (2 * step)
    assert slope == pytest.approx(found.slope, abs=1e-7 * draw.get("scale", 2.0) ** 2)


@pytest.mark.thorough
@given(st.floats(0.2, 5), st.integers(0, 99))
def test_the_temperature_undoes_a_scaling(scale, seed):
    logits, labels = drawn(200, 5, 1.5, seed)
    plain = evaluation.fit_temperature(logits.double(), labels)
    scaled = evaluation.fit_temperature(logits.double() * scale, labels)
    assert scaled.temperature == pytest.approx(plain.temperature * scale, rel=1e-6)
    assert scaled.nll_after == pytest.approx(plain.nll_after, rel=1e-9)


def test_labels_drawn_from_the_model_give_temperature_1():
    logits = 2 * torch.randn(100_000, 5)
    labels = logits.softmax(1).multinomial(1).squeeze(1)
    assert evaluation.fit_temperature(logits, labels).temperature == pytest.approx(1.0, abs=0.02)


def test_where_there_is_no_optimum_the_range_ends_it():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = evaluation.fit_temperature(logits, torch.tensor([0, 1]))
    wrong = evaluation.fit_temperature(logits, torch.tensor([1, 0]))
    assert (right.at_bound, right.temperature) == (True, pytest.approx(0.01))
    assert (wrong.at_bound, wrong.temperature) == (True, pytest.approx(100.0))
    assert right.slope <= 0 < wrong.slope


# --------------------------------------------------------------------------------------------------------- mistakes


@over(
    ("call", "said"),
    [
        (lambda: evaluation.score(torch.zeros(3), torch.zeros(3, dtype=torch.int64)), "expected floating point (n, K)"),
        (lambda: evaluation.score(torch.zeros(3, 2), torch.tensor([0, 1, 2])), "labels: found 0 to 2, expected 0 to 1"),
        (lambda: evaluation.score(torch.zeros(3, 2), torch.zeros(3)), "expected torch.int64"),
        (lambda: evaluation.score(torch.full((1, 2), torch.nan), torch.tensor([0])), "NaN"),
        (lambda: evaluation.score(torch.tensor([[torch.inf, 0.0]]), torch.tensor([0])), "infinity"),
        (lambda: evaluation.ece(torch.zeros(1, 2), torch.tensor([0]), bins=0), "bins: found 0"),
        (lambda: evaluation.ece(torch.zeros(1, 2), torch.tensor([0]), scheme="mas"), "one of: mass, width"),
        (lambda: evaluation.top_k_accuracy(torch.zeros(1, 2), torch.tensor([0]), 0), "k: found 0"),
        (lambda: evaluation.fit_temperature(torch.full((1, 2), torch.inf), torch.tensor([0])), "infinity"),
        (lambda: evaluation.confusion_matrix(torch.tensor([4]), torch.tensor([0]), 3), "predictions: found 4 to 4"),
        (lambda: evaluation.reliability(torch.tensor([1.5]), torch.tensor([True])), "outside [0, 1]"),
    ],
)
def test_a_mistake_is_one_line(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)


def test_a_set_without_labels_is_refused():
    for function in (evaluation.assess, evaluation.fit_temperature):
        with pytest.raises(DataError, match="no labels"):
            function(torch.zeros(2, 3), torch.full((2,), lb.UNLABELLED))


def test_an_assessment_is_json():

    logits, labels = drawn(300, 120)
    found = plain_values(evaluation.assess(logits, labels))
    assert found["confusion"] is None
    assert len(found["most_confused"]) == 20
    assert found["most_confused"][0][2] >= found["most_confused"][-1][2]
    assert sum(found["reliability"]["count"]) == 300
