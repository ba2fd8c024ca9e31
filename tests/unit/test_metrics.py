"""Metrics against scikit-learn, and that measuring a model leaves it as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from limbeck.batch import UNLABELLED
from limbeck.data import TensorSet
from limbeck.errors import DataError, InputError, ModelError
from limbeck.evaluation import Metrics, evaluate, measure, predict
from limbeck.outputs import Outputs
from walk import over


def drawn(seed, size, classes, scale=3.0):
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=scale, size=(size, classes))
    labels = draw.integers(classes, size=size)
    return torch.tensor(logits), torch.tensor(labels)


def probabilities(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def samples_of(size=57, classes=4, **more):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(size, 5, generator=generator)
    return TensorSet.of(inputs, torch.randint(classes, (size,), generator=generator), classes=classes, **more)


def network(classes=4):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))


# ---------------------------------------------------------------------------------------------------------- the figures


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(2, 12))
def test_accuracy_and_nll_are_those_of_scikit_learn(seed, size, classes):
    logits, labels = drawn(seed, size, classes)
    found = measure(logits, labels)
    guesses = logits.argmax(-1).numpy()
    assert found.examples == size
    assert found.accuracy == pytest.approx(accuracy_score(labels, guesses))
    assert found.errors == size - accuracy_score(labels, guesses, normalize=False)
    expected = log_loss(labels, probabilities(logits.numpy()), labels=list(range(classes)))
    assert found.nll == pytest.approx(expected, rel=1e-9)


def test_unlabelled_samples_do_not_count():
    logits, labels = drawn(0, 60, 5)
    labels[::3] = UNLABELLED
    known = labels != UNLABELLED
    found = measure(logits, labels)
    assert found.examples == 40
    assert found.as_dict() == pytest.approx(measure(logits[known], labels[known]).as_dict(), rel=1e-12)


def test_a_set_without_labels_cannot_be_measured():
    logits, labels = drawn(0, 5, 3)
    with pytest.raises(DataError, match="evaluation: the set has no labels, expected at least one"):
        measure(logits, torch.full_like(labels, UNLABELLED))
    with pytest.raises(DataError, match="no labels"):
        evaluate(network(), samples_of().without_labels())


@pytest.mark.parametrize(
    ("labels", "said"), [([0, 3], "expected 0 to 2"), ([0], "labels has shape"), ([0.0, 1.0], "float")]
)
def test_labels_that_do_not_fit_the_logits_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        measure(torch.zeros(2, 3), torch.tensor(labels))


def test_ties_go_to_the_first_class_and_uniform_logits_cost_the_log_of_the_classes():
    found = measure(torch.zeros(4, 8), torch.tensor([0, 1, 2, 0]))
    assert (found.errors, found.accuracy) == (2, 0.5)
    assert found.nll == pytest.approx(np.log(8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_low_precision_is_measured_in_a_high_one(dtype):
    logits, labels = drawn(2, 500, 10)
    given_logits = logits.to(dtype)
    expected = measure(given_logits.double(), labels)
    assert measure(given_logits, labels) == expected


def test_wide_logits_stay_finite():
    found = measure(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([1, 1]))
    assert (found.errors, found.nll) == (1, pytest.approx(5e3))


def test_metrics_are_plain_values():
    found = measure(*drawn(0, 9, 3))
    assert set(found.as_dict()) == {"examples", "errors", "accuracy", "nll"}
    assert [type(value) for value in found.as_dict().values()] == [int, int, float, float]
    assert found == Metrics(**found.as_dict())


# ------------------------------------------------------------------------------------------------------- asking a model


@over("batch_size", [1, 7, 57, 1000])
def test_predictions_are_in_the_sets_order_whatever_the_batches(batch_size):
    model, samples = network().double(), samples_of()
    model.eval()
    with torch.no_grad():
        whole = model(samples.inputs.double())

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            return self.inner(inputs.double())

    torch.testing.assert_close(predict(Doubled(), samples, batch_size=batch_size), whole, rtol=1e-12, atol=1e-12)


def test_a_subset_is_measured_by_its_own_labels():
    model, samples = network(), samples_of()
    part = samples.subset(torch.tensor([9, 3, 50]))
    torch.testing.assert_close(predict(model, part), predict(model, samples)[[9, 3, 50]])
    assert evaluate(model, part) == measure(predict(model, part), samples.labels[[9, 3, 50]])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_measured_model_is_as_it_was(training):
    model, samples = network().train(training), samples_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first = evaluate(model, samples)
    assert evaluate(model, samples) == first  # no dropout, no statistics of the batch
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not predict(model, samples).requires_grad


def test_a_model_that_fails_has_its_mode_back():
    model = nn.Sequential(nn.Linear(6, 4)).train()
    with pytest.raises(ModelError, match=r"^model: its forward raised RuntimeError"):
        predict(model, samples_of())
    assert model.training


def test_a_model_may_answer_with_outputs_and_a_normalised_set_is_normalised():
    class Answering(nn.Module):
        def forward(self, inputs):
            return Outputs(inputs)

    images = torch.full((3, 2, 2, 2), 255, dtype=torch.uint8)
    samples = TensorSet.of(images, torch.zeros(3, dtype=torch.int64), classes=2, mean=[0.5, 1.0], std=[0.5, 2.0])
    found = predict(Answering(), samples)
    assert found.shape == (3, 2, 2, 2)
    assert found[:, 0].eq(1).all()
    assert found[:, 1].eq(0).all()


def test_a_model_that_answers_no_logits_is_named():
    class Mute(nn.Module):
        def forward(self, inputs):
            return None

    with pytest.raises(ModelError, match="the model returned NoneType, expected a tensor of logits"):
        predict(Mute(), samples_of())
