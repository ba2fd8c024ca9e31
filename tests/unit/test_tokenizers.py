"""Tokenizers: ids, special tokens, bytes and fingerprints of every kind, and one line for each fault."""

import copy
import json
import sys

import pytest
import torch

from limbeck.errors import DataError, InputError
from limbeck.tokenizers import BytePairs, Characters, Folder, SpecialTokens, Tokenizer, Words, load_tokenizer
from small_tokenizers import word_pieces

LINES = ["the cat sat on the mat", "a naïve dog, not a cat", "", "to be or not to be"]


def test_words_are_numbered_by_first_appearance_and_the_line_end_is_one_of_them():
    words = Words().fit(LINES)
    assert words.names[:7] == ("the", "cat", "sat", "on", "mat", "<eos>", "a")
    assert words.names[-1] == "<unk>"
    assert words.special == SpecialTokens(
        pad=5, eos=5, bos=5, unk=len(words) - 1
    )  # padding is the line end, on purpose
    assert words.encode("the  whale\tsat") == [0, words.special.unk, 2]
    assert words.decode([0, 1, 5, 0]) == "the cat the"
    assert words.decode([0, 5], special=True) == "the \n"
    plain = Words(unknown=False).fit(["a b", "a <unk>"])
    assert plain.names == ("a", "b", "<eos>", "<unk>")  # as in texts whose rare words were replaced
    assert plain.encode("z") == [3]
    assert Words(most=3).fit(["a b b c c c"]).names == ("b", "c", "<eos>", "<unk>")
    assert Words(at_least=2, lower=True, unknown=False).fit(["A a b"]).names == ("a", "<eos>")


def test_bytes_of_tokens_add_up_to_the_bytes_of_the_text(tmp_path):
    text = "a naïve dog, not a cat"
    words, characters = Words().fit(LINES), Characters().fit(LINES)
    assert int(words.token_bytes[words.encode(text)].sum()) == len(f"{text}\n".encode())
    assert int(words.token_bytes[5]) == 0
    ids = [*characters.encode(text), characters.special.eos]
    assert int(characters.token_bytes[ids].sum()) == len(f"{text}\n".encode())
    pytest.importorskip("tokenizers")
    pairs = BytePairs(300).fit(LINES)
    for each in (text, "never seen ☃ 中文", "  two  spaces "):
        assert int(pairs.token_bytes[pairs.encode(each)].sum()) == len(each.encode())
        assert pairs.decode(pairs.encode(each)) == each
    word_pieces(tmp_path / "pieces")
    pieces = load_tokenizer(tmp_path / "pieces")
    assert int(pieces.token_bytes[pieces.encode("the cats sat")].sum()) == len("the cats sat ")
    assert pieces.token_bytes[:5].tolist() == [0] * 5


def test_byte_pairs_are_trained_alike_every_time_and_take_no_orders_from_the_text():
    pytest.importorskip("tokenizers")
    first, second = BytePairs(280).fit(LINES), BytePairs(280).fit(LINES)
    assert first.fingerprint == second.fingerprint != BytePairs(279).fit(LINES).fingerprint
    assert first.special == SpecialTokens(pad=0, eos=0, bos=0)
    assert first.names[0] == "<eos>"
    assert 0 not in first.encode("an <eos> in the text")  # a text cannot end itself
    assert first.encode("<eos>", markup=True) == [0]


def test_a_tokenizer_of_transformers_is_read_and_frames_and_shortens_as_it_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    word_pieces(tmp_path / "pieces")
    own = load_tokenizer(tmp_path / "pieces")
    assert own.special == SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "pieces", local_files_only=True)
    sentences = ["The cat sat.", "", "a dog, not a naive cat", "[MASK] cats"]
    for text in sentences[:3]:
        assert own.framed(own.encode(text))[0] == theirs(text)["input_ids"]
    for first in sentences[:3]:
        for second in (sentences[0], sentences[2]):  # an empty second text is none to Transformers
            for most in (4, 5, 8, 11, 64):
                ids, types = own.framed(own.encode(first), own.encode(second), max_length=most)
                expected = theirs(first, second, truncation="longest_first", max_length=most)
                assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])
    assert own.special.mask not in own.encode(sentences[3])
    assert own.decode(own.framed(own.encode("the cats"))[0]) == "the cats"
    word_pieces(tmp_path / "bare", config=False)
    assert load_tokenizer(tmp_path / "bare") == own  # special tokens by their usual names
    assert load_tokenizer(tmp_path / "bare" / "tokenizer.json") == own
    kept = json.loads((tmp_path / "bare" / "tokenizer.json").read_text())
    kept["normalizer"]["lowercase"] = False
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(kept))
    assert load_tokenizer(tmp_path / "bare").names == own.names
    assert load_tokenizer(tmp_path / "bare") != own  # the same tokens, split otherwise
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("\n".join(own.names))
    (tmp_path / "old" / "tokenizer_config.json").write_text((tmp_path / "pieces/tokenizer_config.json").read_text())
    old = Folder(str(tmp_path / "old")).fit([])
    assert old.framed(old.encode("the cats sat")) == own.framed(own.encode("the cats sat"))


def test_a_saved_tokenizer_is_the_same_and_damage_is_noticed(tmp_path):
    made = [Words().fit(LINES), Characters(lower=True).fit(LINES)]
    if pytest.importorskip("tokenizers"):
        made.append(BytePairs(280).fit(LINES))
    for number, each in enumerate(made):
        each.save(tmp_path / str(number))
        for read in (
            Tokenizer.load(tmp_path / str(number)),
            load_tokenizer(tmp_path / str(number)),
            copy.deepcopy(each),
        ):
            assert read == each
            assert read.names == each.names
            assert hash(read) == hash(each)
            assert read.encode("the cat") == each.encode("the cat")
            assert torch.equal(read.token_bytes, each.token_bytes)
    assert len({each.fingerprint for each in made}) == 3
    file = tmp_path / "0" / "tokenizer.json"
    file.write_text(file.read_text().replace('"cat"', '"bat"'))
    with pytest.raises(DataError, match=r"is no saved tokenizer \(wrong checksum\); put the run's own file back"):
        Tokenizer.load(tmp_path / "0")
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none")


def test_faults_are_one_line(tmp_path, monkeypatch):
    words = Words(unknown=False).fit(["a b"])
    with pytest.raises(DataError, match=r"found the word 'z'; expected one of the 3 of the training data"):
        words.encode("z")
    with pytest.raises(
        DataError, match=r"^teacher: found tokenizer \w{12}; expected \w{12}, that of the student \(4 and 3 "
    ):
        words.require_same(Words().fit(["a b"]), what="teacher", whose="the student")
    with pytest.raises(InputError, match="ids: found 9; expected 0 to 2"):
        words.decode([9])
    with pytest.raises(InputError, match="max_length: found 2; expected above 2"):
        words.framed([0], [0], max_length=2)
    for kind in (Words(), Characters()):
        with pytest.raises(DataError, match="found no text"):
            kind.fit(["", ""])
    with pytest.raises(InputError, match="size: found 20, expected a whole number, 257"):
        BytePairs(20)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "empty").mkdir()
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="has no tokenizer that can be read"):
        load_tokenizer(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        InputError, match=r"^tokenizer: found no package 'tokenizers'; expected it for byte-level pairs"
    ):
        BytePairs(300).fit(["a"])
