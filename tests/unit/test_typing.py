"""A keyboard that offers words, against one that is simulated letter by letter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import DataError, InputError
from limbeck.evaluation import Keyboard, Typing, simulate_typing

VOCABULARY = ["the", "cat", "car", "dog", "<unk>"]
UNIGRAMS = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
TEXT, LABELS = ["the", "car", "dog", "the", "cow"], torch.tensor([0, 2, 3, 0, 4])


def keys_of(word, scores, vocabulary, offerable, offers):
    """Type one word letter by letter and return its keys; the plain twin of `Keyboard`."""
    for typed in range(len(word)):
        begun = [number for number in offerable if vocabulary[number].startswith(word[:typed])]
        best = sorted(begun, key=lambda number: (-float(scores[number]), number))[:offers]
        if word in [vocabulary[number] for number in best]:
            return typed + 1
    return len(word) + 1


@pytest.mark.parametrize(("offers", "keys", "savings", "rate"), [(1, 12, 40.0, 40.0), (3, 9, 55.0, 60.0)])
def test_the_example_of_a_keyboard_takes_as_many_keys_as_by_hand(offers, keys, savings, rate):
    typed = simulate_typing(UNIGRAMS.expand(5, -1), LABELS, VOCABULARY, offers=offers, words=TEXT)
    assert (typed.words, typed.plain_keys, typed.keys) == (5, 20, keys)
    assert (typed.keystroke_savings, typed.word_prediction_rate) == (savings, rate)
    assert (typed.outside, typed.outside_keys) == (1, 4)
    known = typed.known
    assert (known.words, known.plain_keys, known.keys) == (4, 16, keys - 4)
    assert known.word_prediction_rate == rate * 5 / 4


@given(st.data())
def test_a_keyboard_takes_the_keys_of_a_plain_simulation(data):
    words = data.draw(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=12, unique=True))
    words = data.draw(st.permutations([*words, "<unk>", "<eos>", "N", "--"]))
    offerable = [number for number, word in enumerate(words) if word[0] in "ab"]
    offers, count = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    # whole numbers, so that many scores are equal
    scores = st.lists(st.sampled_from([-torch.inf, 0.0, 1.0, 2.0]), min_size=len(words), max_size=len(words))
    logits = torch.tensor([data.draw(scores) for _ in range(count)])
    labels = torch.tensor(
        data.draw(st.lists(st.sampled_from([-100, *range(len(words))]), min_size=count, max_size=count))
    )
    typed = simulate_typing(logits, labels, words, offers=offers)

    text = [(row, words[label]) for row, label in zip(logits, labels.tolist(), strict=True) if label != -100]
    text = [(row, word) for row, word in text if word != "<eos>"]
    known = [(row, word) for row, word in text if word[0] in "ab"]
    keys = [keys_of(word, row, words, offerable, offers) for row, word in known]
    outside = [len(word) + 1 for _, word in text if word[0] not in "ab"]
    assert typed == Typing(
        offers=offers,
        words=len(text),
        plain_keys=sum(len(word) + 1 for _, word in text),
        keys=sum(keys) + sum(outside),
        first=keys.count(1),
        outside=len(outside),
        outside_keys=sum(outside),
    )


def test_typing_in_parts_and_in_any_shape_adds_up_to_typing_at_once():
    generator = torch.Generator().manual_seed(0)
    keyboard = Keyboard(VOCABULARY, offers=2)
    logits, labels = torch.randn(6, 4, 5, generator=generator), torch.randint(5, (6, 4), generator=generator)
    labels[2, 1] = -100
    whole = keyboard.type(logits, labels)
    assert keyboard.type(logits.flatten(0, 1), labels.flatten()) == whole
    assert keyboard.type(logits[:2], labels[:2]) + keyboard.type(logits[2:], labels[2:]) == whole
    assert keyboard.type(3.0 * logits - 1.0, labels) == whole  # only the order counts


def test_a_text_without_words_has_no_rates_and_says_so():
    typed = simulate_typing(UNIGRAMS[None], torch.tensor([-100]), VOCABULARY)
    assert "keystroke_savings" not in typed.as_dict()
    with pytest.raises(DataError, match="no words"):
        _ = typed.keystroke_savings
    outside = simulate_typing(UNIGRAMS[None], torch.tensor([4]), VOCABULARY)
    assert outside.as_dict()["keystroke_savings"] == 0.0
    assert "known_keystroke_savings" not in outside.as_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(5, 4)}, "logits: found torch.float32 .5, 4., expected floating point .*, 5."),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels: found torch.int64 .4,., expected int64 .5,."),
        ({"labels": torch.tensor([0, 1, 2, 5, 0])}, "labels: found 5, expected 0 to 4, or -100"),
        ({"logits": torch.full((5, 5), torch.nan)}, "logits: found NaN"),
        ({"words": ["the"]}, "words: found 1, expected 5"),
        ({"offers": 0}, "offers: found 0"),
        ({"vocabulary": ["--", "<a>", "[B]", "N", "<unk>"]}, "vocabulary: found no word that can be offered"),
    ],
)
def test_a_wrong_argument_is_one_line(change, message):
    arguments = {"logits": UNIGRAMS.expand(5, -1), "labels": LABELS, "vocabulary": VOCABULARY} | change
    with pytest.raises(InputError, match=message):
        simulate_typing(**arguments)
