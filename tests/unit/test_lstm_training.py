"""LSTM language models trained on a stream: the state is carried, however a step is cut, and over an interruption."""

import pytest
import torch

from limbeck import methods
from limbeck.data.stream_set import TokenStream
from limbeck.distiller import Distiller
from limbeck.evaluation import evaluate
from limbeck.models import lstm_lm
from limbeck.models.lstm_lm import LstmDropout
from limbeck.objective import Objective
from limbeck.tokenizers import Words
from limbeck.training import Averaging, Mean, fit
from small_resume import Crash, Tripwire, crash, ended, once

TOKENS = [f"w{number}" for number in range(11)]
TOKENIZER = Words(unknown=False).fit([" ".join(TOKENS)])
NONE, ALL = LstmDropout(), LstmDropout(embedding_rows=0.1, input=0.2, between=0.2, output=0.3, weight_drop=0.4)


def stream(tokens=164, lanes=4, length=10, seed=0, **more):
    ids = torch.randint(len(TOKENIZER.names), (tokens,), generator=torch.Generator().manual_seed(seed))
    return TokenStream.of(ids, tokenizer=TOKENIZER, lanes=lanes, length=length, **more)


def model_of(seed=1, dropout=NONE, hidden=6):
    torch.manual_seed(seed)
    words = len(TOKENIZER.names)
    return lstm_lm((10,), words, words, embedding=5, hidden=hidden, dropout=dropout).double()


def trained(samples, *, objective=None, dropout=NONE, folder=None, validation=None, **settings):
    objective = (
        methods.kd(temperature=1.0, alpha=0.5)
        + methods.activation_regularization()
        + (objective or Objective([Tripwire()]))
    )
    distiller = Distiller(model_of(dropout=dropout), model_of(seed=2, hidden=9), objective)
    given = {"epochs": 2, "learning_rate": 2.0, "momentum": 0.0, "schedule": "constant", "clip": 0.25}
    return fit(distiller, samples, validation, folder=folder, **given | settings)


def weights(result):
    return torch.cat([each.flatten() for each in result.student.state_dict().values()])


def test_chunks_of_any_length_give_the_same_evaluation():
    whole = evaluate(model_of().eval(), stream(600, length=70))
    for length in (35, 13):
        found = evaluate(model_of().eval(), stream(600, length=length))
        assert found.nll == pytest.approx(whole.nll, rel=1e-12)
        assert found.examples == whole.examples


def test_lanes_in_two_parts_of_a_step_are_lanes_in_one():
    whole = trained(stream())
    torch.testing.assert_close(weights(trained(stream(), accumulate=2)), weights(whole), rtol=1e-9, atol=1e-12)
    other = trained(stream(length=5))
    assert not torch.allclose(weights(other), weights(whole))


def test_an_interrupted_training_carries_its_states_on_bit_for_bit(tmp_path):
    settings = {
        "samples": stream(moving=True, varying=True),
        "validation": stream(100, seed=3),
        "dropout": ALL,
        "epochs": 5,
        "checkpoint_seconds": 0.0,
        "averaging": Averaging(Mean(patience=1)),
        "rate_by_length": True,
        "no_decay": ("bias",),
        "weight_decay": 1e-3,
    }
    whole = trained(folder=tmp_path / "whole", **settings)
    a_step = whole.steps // 5
    for step in (a_step + 1, 4 * a_step + 2):
        with pytest.raises(Crash):
            trained(objective=Objective([Tripwire(once(step, crash))]), folder=tmp_path / str(step), **settings)
        resumed = trained(folder=tmp_path / str(step), **settings)
        assert ended(tmp_path / str(step)) == ended(tmp_path / "whole"), step
        assert torch.equal(weights(resumed), weights(whole))
    assert whole.metrics == evaluate(whole.student, settings["validation"]).as_dict()


def test_the_rate_follows_the_length_of_each_chunk():
    samples = stream(moving=False, varying=True)
    plain, scaled = trained(samples, epochs=1), trained(samples, epochs=1, rate_by_length=True)
    assert not torch.allclose(weights(plain), weights(scaled))
    even = stream(tokens=4 * 50 + 1, length=10)  # every chunk has 10 tokens
    assert torch.equal(weights(trained(even, epochs=1)), weights(trained(even, epochs=1, rate_by_length=True)))
