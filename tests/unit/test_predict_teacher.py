"""A teacher that is asked for probabilities: forests, pipelines and functions from outside of torch."""

import threading
import time

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.identity import content_digest
from limbeck.tasks import MULTILABEL, REGRESSION
from limbeck.teacher import Teacher
from limbeck.teachers import ArrayTeacher, PredictTeacher, store
from limbeck.training import Training, fit
from walk import over


def samples_of(size=90, classes=3):
    inputs = torch.randn(size, 2, 2, generator=torch.Generator().manual_seed(1))
    return TensorSet.of(inputs, (torch.arange(size) * 7) % classes, classes=classes)


def rows_of(samples):
    return samples.inputs.flatten(1).numpy(), samples.labels.numpy()


def whole(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


def forest(seed=0, samples=None, **keys):
    return RandomForestClassifier(7, random_state=seed, **keys).fit(*rows_of(samples or samples_of()))


def constant(*row):
    return lambda rows: np.tile(np.array(row), (len(rows), 1))


@over(
    "model",
    [
        RandomForestClassifier(5, random_state=0),
        HistGradientBoostingClassifier(max_iter=3),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GaussianNB(),
    ],
    ids=lambda model: type(model).__name__,
)
@over("batch_size", [7, 4096])
def test_its_answers_are_the_logarithms_of_predict_proba_whatever_the_batch(model, batch_size):
    samples = samples_of()
    rows, labels = rows_of(samples)
    model.fit(rows, labels)
    teacher = PredictTeacher(model, batch_size=batch_size)
    assert isinstance(teacher, Teacher)
    answer = teacher(whole(samples)).logits
    expected = np.maximum(model.predict_proba(rows).astype("float64"), 1e-6)
    assert answer.dtype == torch.float32
    assert torch.isfinite(answer).all()
    torch.testing.assert_close(answer.double(), torch.from_numpy(np.log(expected)), rtol=1e-5, atol=1e-6)


def test_a_probability_of_zero_is_the_floor_and_stays_finite_at_any_temperature():
    teacher = PredictTeacher(constant(1.0, 0.0, 0.0), floor=1e-4, identity="one")
    logits = teacher(Batch.of(torch.zeros(2, 3))).logits
    torch.testing.assert_close(logits[0], torch.log(torch.tensor([1.0, 1e-4, 1e-4])))
    soft = (logits / 4).softmax(-1)
    torch.testing.assert_close(soft[0, 1], torch.tensor(0.1 / 1.2))


def test_columns_go_to_the_classes_that_classes_names():
    samples = samples_of()
    part = samples.without_classes([0])
    model = forest(samples=TensorSet.of(part.inputs[part.index], part.labels, classes=3))
    assert model.classes_.tolist() == [1, 2]
    batch = whole(samples)
    for known in (None, 3):
        with pytest.raises(ModelError, match="found no class 0 of 3; fit it to samples of every class"):
            PredictTeacher(model, classes=known)(batch)
    logits = PredictTeacher(model, classes=4, missing="floor")(batch).logits
    assert logits.shape == (90, 4)
    torch.testing.assert_close(logits[:, [0, 3]], torch.full((90, 2), float(np.log(1e-6))))
    expected = torch.from_numpy(model.predict_proba(rows_of(samples)[0])).clamp_min(1e-6).log()
    torch.testing.assert_close(logits[:, 1:3].double(), expected, rtol=1e-5, atol=1e-6)


def test_several_threads_ask_one_after_the_other():
    inside, most = [], []

    def slow(rows):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return np.full((len(rows), 2), 0.5)

    teacher = PredictTeacher(slow, identity="slow")
    threads = [threading.Thread(target=teacher, args=(Batch.of(torch.zeros(2, 2)),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_regression_asks_predict():
    inputs = torch.randn(40, 3)
    samples = TensorSet.of(inputs, torch.stack([inputs.sum(1), inputs[:, 0]], 1), task=REGRESSION)
    model = ExtraTreesRegressor(4, random_state=0).fit(inputs.numpy(), samples.labels.numpy())
    answer = PredictTeacher(model)(whole(samples)).logits
    torch.testing.assert_close(answer.double(), torch.from_numpy(model.predict(inputs.numpy())), rtol=1e-5, atol=1e-6)


def test_it_teaches_a_student_and_its_answers_can_be_stored():
    samples = samples_of()
    teacher = PredictTeacher(forest())
    stored = store(teacher, samples)
    torch.testing.assert_close(stored(whole(samples)).logits, teacher(whole(samples)).logits)
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    result = fit(Distiller(student, stored, methods.kd(temperature=2.0)), samples, training=Training(epochs=3))
    assert result.history[-1]["train"]["total"] < result.history[0]["train"]["total"]


def test_its_fingerprint_is_of_what_was_fitted_and_of_how_it_is_read():
    first, same, other = (PredictTeacher(forest(seed)).fingerprint() for seed in (0, 0, 1))
    assert first == same != other
    model = forest()
    found = {
        PredictTeacher(model, **keys).fingerprint() for keys in ({}, {"floor": 1e-3}, {"classes": 3}, {"view": "clean"})
    }
    assert len(found) == 4
    before = PredictTeacher(model).fingerprint()
    model.predict_proba(np.zeros((2, 4), "float32"))
    assert PredictTeacher(model).fingerprint() == before
    assert (
        PredictTeacher(constant(1.0), identity="a").fingerprint()
        != PredictTeacher(constant(1.0), identity="b").fingerprint()
    )


def test_a_fingerprint_reads_boosted_trees_too():
    rows, labels = rows_of(samples_of())
    for kind in (HistGradientBoostingClassifier, GradientBoostingClassifier):
        name = "max_iter" if kind is HistGradientBoostingClassifier else "n_estimators"
        first, same, other = (
            content_digest(kind(**{name: 3, "learning_rate": rate, "random_state": 0}).fit(rows, labels))
            for rate in (0.1, 0.1, 0.2)
        )
        assert first == same != other


def test_a_digest_knows_content_and_not_where_it_lies():
    shared = np.arange(3.0)
    assert content_digest([shared, shared]) == content_digest([shared, shared.copy()])
    assert content_digest([1, [2]]) != content_digest([[1], 2])
    assert content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    loop = []
    loop.append(loop)
    assert content_digest(loop) == content_digest(loop)
    forest = RandomForestClassifier(1)
    forest.rows = (row for row in [1])
    with pytest.raises(InputError, match=r"teacher\.rows: found builtins\.generator.*give identity"):
        PredictTeacher(forest).fingerprint()


@over(
    ("answer", "said"),
    [
        ([0.5, 0.6], "expected probabilities that sum to 1"),
        ([1.5, -0.5], "expected probabilities that sum to 1"),
        ([float("nan"), 1.0], "expected probabilities that sum to 1"),
        (["a", "b"], "expected a row of numbers"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(answer, said):
    with pytest.raises(ModelError, match=said):
        PredictTeacher(constant(*answer), identity="bad")(Batch.of(torch.zeros(2, 3)))


def test_each_misuse_is_one_clear_line():
    batch = Batch.of(torch.zeros(2, 4))
    named = RandomForestClassifier(2).fit(np.zeros((4, 4)), list("abab"))
    for make, said in (
        (lambda: PredictTeacher(nn.Linear(2, 2)), "use limbeck.ModelTeacher"),
        (lambda: PredictTeacher(3), "has no predict_proba"),
        (lambda: PredictTeacher(constant(1.0)), "identity: found none for a function"),
        (lambda: PredictTeacher(forest(), floor=0.0), "floor"),
        (lambda: PredictTeacher(forest(), floor=2.0), "floor"),
        (lambda: PredictTeacher(forest(), missing="drop"), "missing: found 'drop'"),
        (lambda: PredictTeacher(forest(), batch_size=0), "batch_size"),
        (lambda: PredictTeacher(forest())(batch, {"a": "b"}), "use a network as the teacher"),
        (lambda: PredictTeacher(forest(), view="clean")(batch), "no view 'clean'"),
        (lambda: PredictTeacher(forest())(Batch.of({"ids": torch.zeros(2, 4)})), "expected one tensor"),
        (lambda: PredictTeacher(forest())(Batch.of(torch.zeros(2, 4), task=MULTILABEL)), "one label an example"),
    ):
        with pytest.raises(InputError, match=said):
            make()
    for make, said in (
        (lambda: PredictTeacher(RandomForestClassifier())(batch), "NotFittedError"),
        (lambda: PredictTeacher(forest())(Batch.of(torch.zeros(2, 5))), "cannot take rows of 5 numbers"),
        (lambda: PredictTeacher(named)(batch), "expected the number of a class for each column"),
        (lambda: PredictTeacher(forest(), classes=2)(batch), "found the classes 0 to 2, expected 0 to 1"),
        (lambda: PredictTeacher(lambda rows: np.zeros(len(rows)), identity="x")(batch), "a probability for each class"),
        (
            lambda: PredictTeacher(lambda rows: np.ones((1, 1)), identity="x")(batch),
            "expected a row of numbers for each",
        ),
    ):
        with pytest.raises(ModelError, match=said):
            make()


def test_a_black_box_in_arrays_and_one_that_is_asked_agree():
    samples = samples_of()
    model = forest()
    arrays = ArrayTeacher.of_probabilities(torch.from_numpy(model.predict_proba(rows_of(samples)[0])), samples)
    both = (arrays(whole(samples)).logits.exp(), PredictTeacher(model)(whole(samples)).logits.exp())
    torch.testing.assert_close(*(each.float() for each in both), rtol=0, atol=2e-6)
