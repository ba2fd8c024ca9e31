"""Keyboards whose offers are a language model's: what they save, and how long a word takes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.data import TensorSet
from limbeck.errors import DataError, InputError
from limbeck.evaluation import measure_typing, simulate_typing, time_word
from limbeck.models import lstm_lm
from limbeck.outputs import Outputs
from limbeck.tasks import TOKENS
from small_text import SmallLanguageModel


class Recording(nn.Module):
    """A language model that notes what it reads."""

    state_axis = 0

    def __init__(self, vocabulary):
        super().__init__()
        self.score = nn.Parameter(torch.arange(float(vocabulary)))
        self.seen, self.threads = [], set()

    def forward(self, inputs, state=None):
        self.seen.append((tuple(inputs.shape), None if state is None else int(state)))
        self.threads.add(torch.get_num_threads())
        return Outputs(
            self.score.expand(*inputs.shape, -1), state=torch.tensor([0 if state is None else int(state) + 1])
        )


def test_a_word_is_timed_one_by_one_with_the_state_carried_and_on_one_thread():
    model, before = Recording(5), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        timing = time_word(model, 5, warm_up=2, budget=1e-6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert timing.batch == 1
    assert timing.passes == len(model.seen) - 2 == 20
    assert model.seen == [((1, 1), None if number == 0 else number - 1) for number in range(22)]
    assert model.threads == {1}
    assert timing.lower <= timing.seconds <= timing.upper


def test_a_model_types_a_text_as_its_scores_do():
    model, names = SmallLanguageModel(7), ("da", "do", "dodo", "<eos>", "N", "<unk>", "bi")
    ids = torch.randint(7, (4, 6), generator=torch.Generator().manual_seed(1))
    labels = ids.roll(-1, 1)
    labels[:, -1] = -100
    samples = TensorSet.of(ids, labels, classes=7, task=TOKENS, vocabulary=names)
    typed = measure_typing(model, samples, offers=2, batch_size=3)
    assert typed == simulate_typing(model(ids).logits, labels, names, offers=2)
    assert typed.words < 20
    assert typed.outside > 0
    assert measure_typing(model, samples, offers=2, never=()).outside < typed.outside
    with pytest.raises(DataError, match="samples: found tokens without names, expected words"):
        measure_typing(model, replace(samples, vocabulary=()))
    with pytest.raises(DataError, match="samples: found a tokenizer of kind bpe, expected words; use data of kind"):
        measure_typing(model, replace(samples, tokenizer=SimpleNamespace(kind="bpe")))


def test_the_mode_of_a_timed_model_stays():
    model = lstm_lm((1,), 12, vocabulary=12, embedding=4, hidden=4)
    assert model.training
    time_word(model, 12, offers=1, budget=1e-6)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 6}, "model: found logits .1, 1, 5. for one token, expected .1, 1, 6."),
        ({"vocabulary": 5, "offers": 6}, "offers: found 6, expected a whole number from 1 to 5"),
        ({"vocabulary": 5, "budget": 0.0}, "budget: found 0.0"),
    ],
)
def test_a_wrong_argument_of_a_timing_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        time_word(Recording(5), **arguments)
