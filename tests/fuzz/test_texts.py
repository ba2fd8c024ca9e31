"""Whatever a file of texts or a tokenizer holds, limbeck reads it or answers with one line."""

import json
import random

import pytest
import yaml

from fuzzing import TEXTS, answered, cases, mutated
from limbeck import data
from limbeck.config import load_recipe
from limbeck.data import Splits
from limbeck.experiment.parts import Parts
from limbeck.experiment.vetting import vet
from limbeck.tokenizers import BytePairs, Characters, Tokenizer, Words, load_tokenizer

SIGNS = [
    "\t", ",", "\n", "\r\n", '"', '""', "\\", " ", "\0", "\ufeff", "\u2028", "é", "☃", "\ud800", "a", "b", "1", "0",
    "{", "}", "[", "]", ":",
]  # fmt: skip
LINES = {
    "tsv": "text\tlabel\n" + "".join(f"word {n} here\t{n % 2}\n" for n in range(12)),
    "csv": "text,label\n" + "".join(f'"word, {n}",{n % 2}\n' for n in range(12)),
    "jsonl": "".join(json.dumps({"text": f"a {n}", "label": n % 2}) + "\n" for n in range(12)),
    "txt": "".join(f"a line of text {n}\n" for n in range(40)),
    "chat": "".join(json.dumps({"prompt": f"say {n}", "response": f"it is {n}"}) + "\n" for n in range(12)),
    "pairs": "source\ttarget\n" + "".join(f"{n}\tthe {n}\n" for n in range(12)),
}
READERS = {
    "tsv": lambda path: data.sentences(path, tokenizer=Characters()),
    "csv": data.sentences,
    "jsonl": lambda path: data.sentences(path, tokenizer=BytePairs(260), max_length=9, bucket=2),
    "txt": lambda path: data.token_stream(path, lanes=2, length=5),
    "chat": lambda path: data.chat(path, max_length=16, pack=True),
    "pairs": data.seq2seq,
}


def damaged(draw, content):
    """Return the bytes of a file after some edits: signs that mean something, noise, parts left out or repeated."""
    text = list(content)
    for _ in range(draw.randint(0, 6)):
        place = draw.randrange(len(text) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            text[place:place] = [draw.choice(SIGNS)] * draw.choice([1, 1, 3, 300])
        elif kind == 1:
            del text[place : place + draw.choice([1, 5, 100, 10**6])]
        elif kind == 2:
            text[place:place] = text[: draw.randrange(60)]
        else:
            text[place:place] = [draw.choice(TEXTS)]
    raw = "".join(text).encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        place = draw.randrange(len(raw) + 1)
        raw = raw[:place] + bytes(draw.randrange(256) for _ in range(draw.randint(1, 9))) + raw[place:]
    return raw


@pytest.mark.miniature(5)
@pytest.mark.parametrize("seeds", cases(20, 2000, 4))
@pytest.mark.parametrize("kind", READERS)
def test_no_malformed_file_of_texts_ends_in_anything_but_one_line(tmp_path, kind, seeds):
    path = tmp_path / f"file.{'jsonl' if kind == 'chat' else 'tsv' if kind == 'pairs' else kind}"
    path.write_text(LINES[kind])
    assert isinstance(READERS[kind](str(path)), Splits)
    for seed in seeds:
        path.write_bytes(damaged(random.Random(seed), LINES[kind]))
        found = answered(lambda: READERS[kind](str(path)))
        assert isinstance(found, Splits | str), seed


@pytest.mark.parametrize("seeds", cases(30, 1000, 2))
def test_no_malformed_tokenizer_ends_in_anything_but_one_line(tmp_path, seeds):
    made = [Words().fit(["a b c"]), BytePairs(260).fit(["low lower"])]
    for seed in seeds:
        draw = random.Random(seed)
        each = draw.choice(made)
        each.save(tmp_path)
        path = tmp_path / "tokenizer.json"
        content = path.read_text()
        if draw.random() < 0.5 and each.document:
            content = json.dumps(mutated(draw, json.loads(each.document)), default=str)
        path.write_bytes(damaged(draw, content))
        found = answered(lambda: load_tokenizer(tmp_path))
        assert isinstance(found, Tokenizer | str), seed


@pytest.mark.parametrize("seeds", cases(25, 1000))
def test_a_mutated_recipe_of_texts_is_vetted_or_refused_in_a_line(tmp_path, seeds):
    for name, content in LINES.items():
        (tmp_path / f"a.{name}").write_text(content)
    small = {"kind": "transformer", "layers": 1, "width": 8, "heads": 2}
    sources = [
        {"kind": "sentences", "path": "a.tsv", "tokenizer": {"kind": "words", "at_least": 1}, "bucket": 2},
        {"kind": "token_stream", "path": "a.txt", "lanes": 2, "length": 5, "offset": "epoch", "varying_length": True},
        {"kind": "chat", "path": "a.jsonl", "max_length": 16, "pack": True, "template": "{{ messages[0]['content'] }}"},
        {"kind": "seq2seq", "path": "a.pairs", "tokenizer": "characters"},
    ]
    models = [small, {"kind": "lstm_lm", "embedding": 4, "hidden": 4}, {**small, "causal": True}]
    for seed in seeds:
        draw = random.Random(seed)
        keys = {"name": "r", "data": draw.choice(sources), "student": {"model": draw.choice(models)}}
        try:
            text = yaml.safe_dump(mutated(draw, keys), allow_unicode=True)
        except (UnicodeError, yaml.YAMLError, RecursionError):
            continue
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8", errors="replace")
        found = answered(lambda: vet(load_recipe(tmp_path / "recipe.yaml")))
        assert isinstance(found, Parts | str), seed
