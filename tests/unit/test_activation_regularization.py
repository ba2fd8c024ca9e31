"""Activation regularisation: its worked example, what is counted, what is read, and that it ends with training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.models import lstm_lm
from limbeck.models.lstm_lm import LstmDropout
from limbeck.objective import Setup
from limbeck.outputs import Outputs, run_model
from limbeck.tasks import TOKENS
from small_text import stream_batches
from walk import over

EXAMPLE = torch.tensor([[[1.0, 2], [0, 1], [2, 2]]], dtype=torch.float64)


def outputs_of(dropped, plain=None):
    plain = dropped if plain is None else plain
    return {"student": Outputs(torch.zeros(*dropped.shape[:2], 4).double(), {"ar": dropped, "tar": plain})}


def batch_of(shape, *, padding=None, mask=None):
    inputs = torch.zeros(*shape[:2], dtype=torch.int64)
    if padding is not None:
        inputs = {"input_ids": inputs, "attention_mask": padding}
    labels = torch.zeros(*shape[:2], dtype=torch.int64)
    return Batch.of(inputs, labels, mask=torch.ones_like(labels).bool() if mask is None else mask, task=TOKENS)


def language_model(vocabulary=9, dropout=0.0, seed=1):
    torch.manual_seed(seed)
    return lstm_lm((5,), vocabulary, vocabulary, embedding=4, hidden=6, dropout=LstmDropout(output=dropout)).double()


def stream(lanes=3, length=5):
    ids = torch.randint(9, (lanes * 10 + 1,), generator=torch.Generator().manual_seed(0))
    return list(stream_batches(ids, lanes, length))


def test_the_worked_example():
    batch = batch_of(EXAMPLE.shape)
    for ar, tar, expected in ((2, 0, 14 / 3), (0, 1, 1.75), (2, 1, 14 / 3 + 1.75)):
        loss = methods.activation_regularization(ar=ar, tar=tar)(outputs_of(EXAMPLE), batch)
        assert float(loss.total) == pytest.approx(expected, abs=1e-6)
    other = torch.tensor([[[3.0, 0], [0, 0], [1, 0]]]).double()  # each term reads its own hidden states
    loss = methods.activation_regularization(ar=1, tar=1)(outputs_of(EXAMPLE, other), batch)
    assert {name: part.mean for name, part in loss.parts.items()} == pytest.approx({"ar": 7 / 3, "tar": 2.5})


def test_the_gradient_is_that_of_the_formula():
    hidden = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    objective = methods.activation_regularization(ar=2, tar=1)
    objective(outputs_of(hidden), batch_of(hidden.shape)).total.backward()
    h = hidden.detach()
    steps = h[:, 1:] - h[:, :-1]
    expected = 2 * 2 * h / h.numel()
    expected[:, 1:] += 2 * steps / steps.numel()
    expected[:, :-1] -= 2 * steps / steps.numel()
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-12, atol=1e-14)


def test_padding_and_parts_of_a_batch_change_nothing():
    torch.manual_seed(0)
    lengths = torch.tensor([4, 2, 1, 3])
    hidden = torch.randn(4, 6, 3, dtype=torch.float64)
    padding = torch.arange(6) < lengths[:, None]
    objective = methods.activation_regularization()
    whole = objective(outputs_of(hidden), batch_of(hidden.shape, padding=padding))
    squares = sum(hidden[row, :length].square().sum() for row, length in enumerate(lengths))
    pairs = sum(
        (hidden[row, 1:length] - hidden[row, : length - 1]).square().sum() for row, length in enumerate(lengths)
    )
    assert whole.parts["ar"].count == 10
    assert whole.parts["tar"].count == 6
    assert float(whole.total) == pytest.approx(float(2 * squares / 30 + pairs / 18), rel=1e-12)
    longer = torch.cat([hidden, torch.full((4, 5, 3), torch.nan, dtype=torch.float64)], 1).requires_grad_()
    padded = objective(outputs_of(longer), batch_of(longer.shape, padding=torch.arange(11) < lengths[:, None]))
    assert float(padded.total.detach()) == pytest.approx(float(whole.total), rel=1e-12)
    padded.total.backward()
    assert longer.grad.isfinite().all()
    counts = {name: part.count for name, part in whole.parts.items()}
    parts = [
        objective(outputs_of(hidden[rows]), batch_of(hidden[rows].shape, padding=padding[rows]), counts=counts)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert float(sum(part.total for part in parts)) == pytest.approx(float(whole.total), rel=1e-12)
    without = objective(
        outputs_of(hidden), batch_of(hidden.shape, padding=padding, mask=padding & (lengths > 2)[:, None])
    )
    assert without.parts["ar"].count == 7  # samples of which nothing counts are left out
    nothing = objective(outputs_of(hidden[:0]), batch_of(hidden[:0].shape))
    assert nothing.total == 0


def test_dropped_and_plain_outputs_of_the_last_layer_are_read_and_nothing_is_added_in_eval_mode():
    model, (batch, *_) = language_model(dropout=0.5), stream()
    distiller = Distiller(model, None, methods.hard() + methods.activation_regularization())
    distiller.build(batch, seed=3)
    torch.manual_seed(5)
    parts = distiller.train()(batch).parts
    torch.manual_seed(5)
    with torch.no_grad():
        hidden = run_model(model, batch.inputs, {"dropped": "output", "plain": "layers.-1"}).features
    assert hidden["dropped"].eq(0).any()
    assert parts["ar"].mean == pytest.approx(float(hidden["dropped"].square().mean()), rel=1e-12)
    steps = hidden["plain"][:, 1:] - hidden["plain"][:, :-1]
    assert parts["tar"].mean == pytest.approx(float(steps.square().mean()), rel=1e-12)
    loss = distiller.eval()(batch)
    assert loss.parts["ar"].sum == loss.parts["tar"].sum == 0
    assert float(loss.total.detach()) == pytest.approx(loss.parts["hard"].mean, rel=1e-12)


def test_it_adds_to_distillation_and_lowers_what_it_penalises():
    def trained(objective):
        distiller = Distiller(language_model(), language_model(seed=2), objective)
        batches = stream()
        distiller.build(batches[0], seed=3)
        optimizer = torch.optim.Adam(distiller.train().parameters(), lr=0.02)
        for _ in range(15):
            for step, batch in enumerate(batches):
                distiller(batch, step).total.backward()
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            hidden = run_model(distiller.student, batches[0].inputs, {"last": "layers.-1"}).features["last"]
        return float(hidden.square().mean())

    kd = {"temperature": 1.0, "alpha": 0.5}
    assert trained(methods.kd(**kd) + methods.activation_regularization(ar=20.0)) < 0.5 * trained(methods.kd(**kd))


@over("nothing", [{"ar": 0, "tar": 0}, {"ar": -1}, {"tar": float("nan")}])
def test_weights_out_of_range_are_refused(nothing):
    with pytest.raises(InputError, match=r"^(ar|tar)"):
        methods.activation_regularization(**nothing)


def test_what_is_no_sequence_is_refused():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4))
    distiller = Distiller(model, None, methods.hard() + methods.activation_regularization(layer="0"))
    with pytest.raises(InputError, match=r"term 'ar': its layer gives \(2, 5\); expected hidden states"):
        distiller.build(Batch.of(torch.zeros(2, 3), torch.tensor([0, 1])))
    outputs = outputs_of(torch.zeros(1, 4, 2).double())
    objective = methods.activation_regularization()
    objective.build(outputs, Setup(torch.arange(1)))
    with pytest.raises(InputError, match="expected one for each token"):
        objective(outputs, replace(batch_of(EXAMPLE.shape)))
