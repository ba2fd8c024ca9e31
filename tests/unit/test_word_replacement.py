"""Sentences made by replacing words: which words, by what, and of what each copy is a function."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limbeck.data import TensorSet, TextSet, WordReplacement
from limbeck.data.word_replacement import Words, similar_words
from limbeck.errors import DataError, InputError
from limbeck.tokenizers import SpecialTokens, Tokenizer
from limbeck.tokenizers import Words as Spaces
from walk import over

NAMES = (
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "film",
    "movie",
    "play",
    "good",
    "great",
    "bad",
    "un",
    "##real",
    "##ly",
    "the",
    ".",
    "x",
)
"""Word pieces; the vectors of film, movie and play are near each other, those of good and great, and the rest."""
VECTORS = torch.zeros(16, 3)
VECTORS[4:7] = torch.tensor([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.3, 0]])
VECTORS[7:9] = torch.tensor([[0, 1, 0], [0.1, 0.9, 0]])
VECTORS[9:14] = torch.tensor([[0, 0.2, 1], [0, 0, 1], [0, 0, 0.9], [0.5, 0, 0.5], [1, 1, 1]])
PIECES = Tokenizer("words", NAMES, SpecialTokens(pad=0, cls=1, sep=2, mask=3))
ROWS = [[1, 13, 4, 7, 14, 2], [1, 10, 11, 13, 6, 2], [1, 13, 14, 2]]


@pytest.fixture
def vectors(tmp_path):
    save_file({"embeddings.word_embeddings.weight": VECTORS}, tmp_path / "model.safetensors")
    return str(tmp_path)


def sentences(rows=ROWS, pairs=False):
    """Return sentences that are given by their pieces."""
    texts = TextSet.of(["film"] * len(rows), torch.arange(len(rows)) % 2, tokenizer=PIECES, max_length=12)
    from limbeck.data.ragged import Ragged

    types = Ragged.of([[0] * 3 + [1] * (len(row) - 3) for row in rows]) if pairs else None
    return dataclasses.replace(texts, rows=Ragged.of(rows), types=types)


def made(samples, settings, seed=0):
    """Return the rows that are made, without the samples themselves."""
    found = settings.extended(samples, seed)
    batch = found.batch(torch.arange(len(found)), augment=None, seed=0, view=0)
    ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    return [row[own].tolist() for row, own in zip(ids, real, strict=True)][len(samples) :]


def test_words_are_pieces_that_belong_together_and_neighbours_are_whole_words():
    words = Words.of(PIECES)
    assert words.split(ROWS[1]) == [slice(1, 3), slice(3, 4), slice(4, 5)]
    assert words.text([10, 11]) == "unreal"
    assert [NAMES[number] for number in words.whole] == ["film", "movie", "play", "good", "great", "bad", "un", "the"]
    spaces = Words.of(Spaces().fit(["a film"]))
    assert spaces.split([0, 1, 2]) == [slice(0, 1), slice(1, 2)]
    assert Words.of(Tokenizer("library", ("Ġa", "b", "Ġgood"), document="{}")).split([0, 1, 2]) == [
        slice(0, 2),
        slice(2, 3),
    ]


def test_the_nearest_words_are_those_of_the_largest_cosine(vectors, tmp_path):
    words = Words.of(PIECES)
    found = similar_words(words, [(4,), (10, 11)], vectors, 2)
    assert [NAMES[token] for token in found[4,]] == ["movie", "play"]
    own = VECTORS[[10, 11]].mean(0)
    nearest = max((n for n in words.whole), key=lambda n: float(torch.cosine_similarity(VECTORS[n], own, dim=0)))
    assert found[10, 11][0] == nearest
    table = tmp_path / "words.txt"
    table.write_text("film 1 0\nmovie 1 0.1\nbad 0 1\nunreal 0 0.9\nelsewhere 1 1\n")
    found = similar_words(words, [(4,), (10, 11), (6,)], str(table), 1)
    assert {key: NAMES[each[0]] for key, each in found.items()} == {(4,): "movie", (10, 11): "bad"}


def test_all_words_but_those_that_are_kept_are_replaced_and_the_sentences_stay_first(vectors):
    settings = WordReplacement(multiple=1, probability=1.0, candidates=1, vectors=vectors)
    found = settings.extended(sentences(), 0)
    assert found.labels.tolist() == [0, 1, 0, -100, -100]
    assert found.batch(torch.arange(3), augment=None, seed=0, view=0).inputs["input_ids"][0].tolist() == [
        *ROWS[0],
        0,
        0,
    ]
    first, second = made(sentences(), settings)  # the third sentence has nothing to replace, and its copy is itself
    assert first == [1, 13, 5, 8, 14, 2]
    assert second == [1, 10, 13, 5, 2]
    assert made(sentences(), WordReplacement(probability=0.0, vectors=vectors)) == []
    assert found.source != sentences().source


def test_copies_are_functions_of_seed_sample_and_copy_and_none_is_there_twice(vectors):
    settings = WordReplacement(multiple=6, candidates=2, vectors=vectors)
    found = made(sentences(), settings)
    assert found == made(sentences(), settings)
    assert found != made(sentences(), settings, seed=1)
    rows = {tuple(row) for row in [*ROWS, *found]}
    assert len(rows) == len(ROWS) + len(found)
    fewer = made(sentences(), dataclasses.replace(settings, multiple=3))
    assert {tuple(row) for row in fewer} <= rows
    alone = made(sentences().subset(torch.tensor([1])), settings)
    assert len(alone) > 1
    assert {tuple(row) for row in alone} <= rows


def test_words_are_replaced_as_often_as_was_asked_for(vectors):
    rows = [[1, 4, 7, 9, 2]] * 400
    settings = WordReplacement(multiple=1, probability=0.3, vectors=vectors)
    samples = sentences(rows)
    found = made(dataclasses.replace(samples, index=torch.arange(400)), settings)
    everything = settings.extended(samples, 0)
    assert len(everything) == 400 + len(found)
    from limbeck.randomness import uniform

    drawn = uniform(0, "word_replacement", torch.ones(400, dtype=torch.int64), torch.arange(400), 6)[:, :3]
    assert float((drawn < 0.3).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_token_types_of_pairs_follow_their_words(vectors):
    settings = WordReplacement(multiple=1, probability=1.0, candidates=1, vectors=vectors)
    found = settings.extended(sentences(pairs=True), 0)
    batch = found.batch(torch.tensor([4]), augment=None, seed=0, view=0).inputs
    assert batch["input_ids"][0, :5].tolist() == [1, 10, 13, 5, 2]
    assert batch["token_type_ids"][0, :5].tolist() == [0, 0, 1, 1, 1]


def test_a_masked_language_model_fills_in_words_of_one_token(vectors, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(NAMES), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path / "masked")
    settings = WordReplacement(
        multiple=1, probability=1.0, candidates=1, vectors=vectors, masked=str(tmp_path / "masked")
    )
    first, second = made(sentences(), settings)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1, 13, 3, 7, 14, 2]])).logits[0, 2]
    words = Words.of(PIECES)
    likely = max((n for n in words.whole if n != 4), key=lambda n: float(logits[n]))
    assert first[2] == likely
    assert second[1] == 10  # of two pieces: the nearest vector


@over(
    "change, error, line",
    [
        ({"vectors": ""}, InputError, "vectors: is missing"),
        ({"probability": 1.5}, InputError, "probability: found 1.5"),
        ({"candidates": 0}, InputError, "candidates: found 0"),
        ({"vectors": "/nowhere"}, DataError, "vectors: '/nowhere' cannot be read"),
        ({"masked": "/nowhere"}, DataError, "masked: '/nowhere' cannot be read"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(vectors, change, error, line):
    with pytest.raises(error, match=line) as caught:
        WordReplacement(**{"vectors": vectors, **change}).extended(sentences(), 0)
    assert "\n" not in str(caught.value)


def test_other_samples_and_other_vectors_are_refused(vectors, tmp_path):
    numbers = TensorSet.of(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(DataError, match="holds no sentences"):
        WordReplacement(vectors=vectors).extended(numbers, 0)
    save_file({"embeddings.word_embeddings.weight": VECTORS[:4]}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="vectors of 4 tokens; expected 16"):
        WordReplacement(vectors=vectors).extended(sentences(), 0)


def masked(folder, **keys):
    """Save an untrained masked language model of the word pieces."""
    transformers = pytest.importorskip("transformers")
    usual = {"vocab_size": len(NAMES), "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**usual, "hidden_size": 8, **keys})
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@over("key", ["vectors", "masked"])
def test_a_folder_of_another_tokenizer_is_refused(key, vectors, tmp_path):
    places = {"vectors": vectors, "masked": masked(tmp_path / "masked")}
    settings = WordReplacement(**places, multiple=1)
    folder = Path(places[key])
    PIECES.save(folder)
    assert settings.extended(sentences(), 0)
    Tokenizer("words", (*NAMES[:-1], "y"), SpecialTokens(pad=0, cls=1, sep=2, mask=3)).save(folder)
    with pytest.raises(DataError, match=rf"^{key}: '.*': found tokenizer .*; expected .*, that of the data"):
        settings.extended(sentences(), 0)
    PIECES.save(folder)


@over(
    "keys, line",
    [
        ({"vocab_size": 9}, "has 9 rows of embeddings; expected 16, the tokens of the data"),
        ({"max_position_embeddings": 5}, "has 5 positions, and the longest sentence has 6 tokens; .* max_length to 5"),
    ],
)
def test_a_masked_language_model_that_is_too_small_is_refused_in_one_line(keys, line, vectors, tmp_path):
    settings = WordReplacement(vectors=vectors, masked=masked(tmp_path / "masked", **keys))
    with pytest.raises(DataError, match=line) as caught:
        settings.extended(sentences(), 0)
    assert "\n" not in str(caught.value)


def test_positions_of_a_model_that_counts_from_its_padding_are_those_it_can_use(vectors, tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for positions in (7, 8):
        config = transformers.RobertaConfig(
            vocab_size=len(NAMES), max_position_embeddings=positions, pad_token_id=1, **small
        )
        transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "masked")
        settings = WordReplacement(vectors=vectors, masked=str(tmp_path / "masked"), multiple=1)
        if positions == 8:
            assert settings.extended(sentences(), 0)
        else:
            with pytest.raises(DataError, match="has 5 positions, and the longest sentence has 6 tokens"):
                settings.extended(sentences(), 0)
