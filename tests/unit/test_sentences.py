"""Sets of sentences: what batches hold, what changes no result, how files are read, and one line for each fault."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import data, methods
from limbeck.config import Recipe
from limbeck.data import Augment, Loader, TextSet
from limbeck.data.ragged import Ragged, bucketed, rounded_width
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError, ModelError, RecipeError
from limbeck.experiment.parts import prepare
from limbeck.experiment.vetting import vet
from limbeck.teachers import ModelTeacher
from limbeck.tokenizers import Words
from walk import over

NAMES = ("word", "other", "third")
TEXTS = [" ".join(NAMES[(place + n) % 3] for place in range(n % 7 + 1)) for n in range(22)]
WORDS = Words().fit(TEXTS)


def made(**keys):
    return TextSet.of(TEXTS, torch.arange(22) % 3, tokenizer=WORDS, **keys)


class MeanOfEmbeddings(nn.Module):
    """Classifies the mean of the embeddings of the real tokens; float64."""

    def __init__(self, tokens, seed):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.embedding, self.output = nn.Embedding(tokens, 6), nn.Linear(6, 3)
        self.double()

    def forward(self, input_ids, attention_mask):
        real = attention_mask.unsqueeze(-1).double()
        return self.output((self.embedding(input_ids) * real).sum(1) / real.sum(1))


def test_a_batch_is_padded_to_its_longest_text_rounded_up_to_8_and_the_end_is_counted():
    samples = made()
    assert samples.max_length == 8
    assert samples.input_shape == (8,)
    assert samples.vocabulary == WORDS.names
    batch = samples.batch(torch.tensor([1, 0]), augment=None, seed=0, view=0)
    ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    end = WORDS.special.eos
    assert end == WORDS.special.pad
    assert ids.tolist()[0] == [*WORDS.encode(TEXTS[1]), *[end] * 6]
    assert real.sum(1).tolist() == [3, 2]  # the end of the line is real, although padding looks like it
    assert torch.equal(batch.padding, real.bool())
    assert batch.mask is None
    assert batch.labels.tolist() == [1, 0]
    short = made(max_length=5)
    assert short.gather(torch.arange(22))["input_ids"].shape == (22, 5)
    assert (short.gather(torch.tensor([6]))["input_ids"][0, -1]) == end
    assert rounded_width(3, 64), rounded_width(9, 64) == (8, 16)
    pairs = TextSet.of(["a b c d"] * 2, tokenizer=Words().fit(["a b c d"]), pairs=["d", "d c"], max_length=6)
    assert pairs.gather(torch.arange(2))["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_no_padding_bucket_batch_split_or_world_changes_loss_or_gradient():
    samples = made()

    def total(parts, width=None):
        student, teacher = MeanOfEmbeddings(len(WORDS), 1), MeanOfEmbeddings(len(WORDS), 2)
        distiller = Distiller(student, ModelTeacher(teacher), methods.kd())
        batches = [samples.batch(part, augment=None, seed=0, view=0) for part in parts]
        if width is not None:
            for batch in batches:
                missing = width - batch.inputs["input_ids"].shape[1]
                pads = zip(batch.inputs.items(), (3, 0), strict=True)  # with any token, which is not attended to
                batch.inputs = {name: nn.functional.pad(each, (0, missing), value=fill) for (name, each), fill in pads}
        counts = {}
        for batch in batches:
            for name, count in distiller.objective.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        losses = [distiller(batch, 0, counts).total for batch in batches]
        sum(losses).backward()
        return torch.cat([sum(losses).detach().flatten(), student.embedding.weight.grad.flatten()])

    everything = torch.arange(22)
    whole = total([everything])
    assert float(whole[1:].abs().max()) > 1e-3
    order = made(bucket=2).order(0, 0, 4)
    for parts, width in (([everything], 40), (list(order.split(4)), None), (list(everything.split(5)), None)):
        torch.testing.assert_close(total(parts, width), whole, rtol=0, atol=1e-6)
    ranks = [batch.index for rank in range(3) for batch in Loader(samples, 8, seed=0).epoch(0, rank=rank, world=3)]
    torch.testing.assert_close(total(ranks), whole, rtol=0, atol=1e-6)


def test_buckets_put_texts_of_like_length_together_as_a_function_of_seed_and_epoch():
    samples = made(bucket=3)
    order = samples.order(5, 1, 4)
    assert sorted(order.tolist()) == list(range(22))
    assert torch.equal(order, samples.order(5, 1, 4))
    assert not torch.equal(order, samples.order(5, 2, 4))
    assert len(order.split(4)[-1]) == 2
    lengths = torch.tensor(list(range(40)) * 2)
    spread = [
        int(part.max() - part.min()) for part in lengths[bucketed(torch.randperm(80), lengths, 0, 0, 4, 10)].split(4)
    ]
    assert max(spread) <= 12  # of 39 without buckets
    waste = [sum(int((~batch.padding).sum()) for batch in Loader(made(bucket=k), 4, seed=0).epoch(0)) for k in (0, 5)]
    assert waste[1] <= waste[0]
    assert made().digest() != samples.digest()


def test_subsets_share_the_root_and_everything_a_set_does_works():
    samples = made()
    part = samples.subset(torch.tensor([3, 9])).to("cpu")
    assert part.source == samples.source
    assert part.texts([0, 1]) == [TEXTS[3], TEXTS[9]]
    assert part.digest() != samples.digest()
    rest, held = samples.split(0.25, seed=0, stratify=True)
    assert len(rest) + len(held) == 22
    assert samples.fraction(0.5, seed=0).class_counts() == [4, 4, 4]
    assert samples.without_labels().labelled_count == 0
    samples.require_repeatable()
    batch = samples.batch(torch.arange(2), augment=Augment(), seed=0, view=1, clean_view=True)
    assert batch.views["clean"] is batch.inputs
    assert TextSet.of(TEXTS, torch.arange(22) % 3, tokenizer=Words().fit([*TEXTS, "more"])).source != samples.source
    for augment in (Augment(noise=0.1), Augment(mixup=0.2)):
        with pytest.raises(DataError, match=r"^augment: found random views, expected none for 'texts'"):
            samples.batch(torch.arange(2), augment=augment, seed=0, view=1)
    assert Ragged.of([[1], []]).padded(torch.tensor([1]), 0)[0].tolist() == [[0]]


ROWS = [
    ("good film", "yes"), ('a "fine" one', "yes"), ("bad", "no"), ("so, so", "no"), ("poor\u2028show", "no"),
    ("great", "yes"),
]  # fmt: skip


def written(folder: Path) -> dict[str, Path]:
    """Write the rows in every form."""
    files = {ending: folder / f"rows.{ending}" for ending in ("tsv", "csv", "jsonl", "txt", "tsv.gz")}
    tabs = "text\tlabel\n" + "".join(f"{text}\t{label}\r\n" for text, label in ROWS)
    files["tsv"].write_text("\ufeff" + tabs + "\n")
    files["tsv.gz"].write_bytes(gzip.compress(tabs.encode()))
    quoted = ["text,label", *('"{}",{}'.format(text.replace('"', '""'), label) for text, label in ROWS)]
    files["csv"].write_text("\n".join(quoted))
    files["jsonl"].write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    files["txt"].write_text("".join(f"{label} {text}\n" for text, label in ROWS))
    return files


def test_every_form_of_file_gives_the_same_sentences(tmp_path):
    files = written(tmp_path)
    keys = {name: {} for name in files} | {"txt": {"columns": ("label", "text"), "delimiter": " "}}
    for name, file in files.items():
        splits = data.sentences(str(file), test_share=0.34, **keys[name])
        assert splits.train.class_names == ("no", "yes")  # sorted, whatever comes first
        assert splits.train.source == splits.test.source
        texts = splits.train.texts(range(4))
        assert {*texts} < {" ".join(text.split()) for text, _ in ROWS}
        assert {*splits.train.tokenizer.names} == {*" ".join(texts).split(), "<eos>", "<unk>"}  # none of the test part
        assert "<unk>" in " ".join(splits.test.texts(range(2)))
        assert splits.notes == ()


def test_parts_in_files_of_their_own_and_what_is_also_in_another_part(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\none\t2\ntwo  words\t10\nthree\t2\nfour\t10\n")
    (tmp_path / "b.tsv").write_text("text\tlabel\ntwo words\t10\n")
    (tmp_path / "c.tsv").write_text("text\tlabel\nfive\t2\nthree\t2\n")
    splits = data.sentences(str(tmp_path), train="a.tsv", test="b.tsv", validation="c.tsv", bucket=2, max_length=9)
    assert splits.train.class_names == ("2", "10")  # in the order of numbers
    assert splits.train.texts(range(2)) == ["one", "four"]
    assert splits.validation.labels.tolist() == [0, 0]
    assert splits.train.max_length == 9
    assert [note.removeprefix(f"{tmp_path}: ") for note in splits.notes] == [
        "1 training samples are also in the test part; left out of training",
        "1 training samples are also in the validation part; left out of training",
    ]
    (tmp_path / "d.tsv").write_text("text\tlabel\nfive\t2\ntwo  words\t10\nsix\t10\n")
    judged = data.sentences(str(tmp_path), train="a.tsv", test="b.tsv", validation="d.tsv")
    assert judged.validation.labels.tolist() == [0, 1]
    assert judged.notes == (
        f"{tmp_path}: 1 validation samples are also in the test part; left out of validation",
        f"{tmp_path}: 1 training samples are also in the test part; left out of training",
    )
    with pytest.raises(DataError, match="found every validation sample in the test part too; expected others"):
        data.sentences(str(tmp_path), train="a.tsv", test="d.tsv", validation="d.tsv")
    kept = data.Selection(only_classes=("10", "2")).apply(splits)
    assert kept.validation.class_names == ("10", "2")
    assert kept.validation.labels.tolist() == [1, 1]
    without = data.sentences(str(tmp_path / "a.tsv"), label=None, test_share=0.5)
    assert without.train.labelled_count == 0


TWO = b"text\tlabel\na\t1\nb\t0\nc\t1\nd\t0\n"
BAD = {
    "not UTF-8": ("tsv", "text\tlabel\ngut\t1\nsch\xf6n\t0\n".encode("latin-1"), {},
                  r"line 3 is not UTF-8 \(byte 0xf6\); save the file as UTF-8, or name its encoding"),
    "an empty sentence": ("tsv", b"text\tlabel\na\t1\n \t0\nb\t0\n", {},
                          r"line 3: column 'text' is empty \(1 such lines\); fill it in"),
    "one class": ("tsv", b"text\tlabel\na\t1\nb\t1\n", {}, r"label 'label': 1 classes, expected 2 or more"),
    "nothing": ("tsv", b"\n\n", {}, "found no rows below the header line"),
    "no such column": ("tsv", TWO, {"text": "txt"}, r"^text: there is no column 'txt' in .*; did you mean 'text'\?"),
    "a cell too many": ("tsv", b"text\tlabel\na\t1\tx\nb\t0\n", {}, "line 2 has 3 cells, the first line has 2"),
    "no JSON": ("jsonl", b'{"text": "a", "label": 1}\n{"text": ', {}, "line 2 is no JSON"),
    "no object": ("jsonl", b'{"text": "a", "label": 1}\n3\n', {}, "line 2: found 3; expected an object"),
    "a key that is missing": ("jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', {}, "line 2 has no 'label'"),
    "a quotation mark": ("csv", b'text,label\n"a" b,1\n', {}, "are plain text there, set quoting: none"),
    "a name twice": ("tsv", b"text\ttext\na\t1\n", {}, "names a column twice"),
    "an unknown encoding": ("tsv", TWO, {"encoding": "utf8x"}, "^encoding: found 'utf8x'"),
    "a long delimiter": ("tsv", TWO, {"delimiter": "::"}, "^delimiter: found '::'"),
    "no length": ("tsv", TWO, {"max_length": 1, "test_share": 0.5}, "^max_length: found 1; expected above 1, the spec"),
}  # fmt: skip


@over("fault", BAD)
def test_a_fault_is_one_line(fault, tmp_path):
    ending, content, keys, words = BAD[fault]
    file = tmp_path / f"rows.{ending}"
    file.write_bytes(content)
    with pytest.raises((DataError, InputError), match=words) as caught:
        data.sentences(str(file), **keys)
    assert "\n" not in str(caught.value)


def test_faults_between_files_are_one_line(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"film {n}\t{'xy'[n % 2]}\n" for n in range(8)))
    (tmp_path / "b.tsv").write_text("text\tlabel\nthree\tz\n")
    with pytest.raises(DataError, match="class 'z' does not occur in the training part; expected all classes there"):
        data.sentences(str(tmp_path), train="a.tsv", test="b.tsv")
    with pytest.raises(DataError, match="found every training sample in the test or validation part too"):
        data.sentences(str(tmp_path), train="a.tsv", test="a.tsv")
    with pytest.raises(DataError, match="is a folder; expected a file, or the name of one in it as train"):
        data.sentences(str(tmp_path))
    with pytest.raises(DataError, match="which is no folder; expected path to be its folder"):
        data.sentences(str(tmp_path / "a.tsv"), train="a.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        data.sentences(str(tmp_path / "none.tsv"))
    (tmp_path / "c.tsv").write_text('text\tlabel\n"a ""b"""\tx\nc\ty\nd\tx\ne\ty\n')
    assert "cells have them doubled, as CSV does; set quoting: csv" in data.sentences(str(tmp_path / "c.tsv")).notes[0]
    with pytest.raises(DataError, match="found 2 texts and 1 second ones"):
        TextSet.of(["a", "b"], tokenizer=WORDS, pairs=["c"])


GLUE = {  # training, validation and test samples, after those are left out that occur twice; classes
    "sst2": (6916, 872, 1821, 2), "sst2_phrases": (67334, 872, 1821, 2), "cola": (8532, None, 1043, 2),
    "mrpc": (3662, 408, 1725, 2), "rte": (2490, None, 277, 2), "trec": (5441, None, 500, 6),
    "trec_fine": (5441, None, 500, 50),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", GLUE)
def test_published_sets_have_their_sizes(name):
    try:
        splits = data.glue(name)
    except DataError as error:
        pytest.skip(str(error))
    sizes = len(splits.train), splits.validation and len(splits.validation), len(splits.test), splits.train.classes
    assert sizes == GLUE[name]
    if name == "sst2_phrases":
        assert splits.notes[0] == "sst2_phrases: 10 training samples are also in the test part; left out of training"


def test_a_recipe_takes_the_validation_part_of_the_data(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"film {n}\t{n % 2}\n" for n in range(8)))
    (tmp_path / "b.tsv").write_text("text\tlabel\ngood one\t1\nbad one\t0\n")
    source = {"kind": "sentences", "path": ".", "train": "a.tsv", "validation": "b.tsv", "tokenizer": "characters"}
    keys = {"name": "small", "data": source, "student": {"model": {"kind": "transformer"}}}
    recipe = Recipe.parse(keys, tmp_path)
    parts = prepare(recipe)
    assert parts.held_out.labels.tolist() == [1, 0]
    assert len(parts.train) == 6
    again = Recipe.parse(recipe.keys)  # a resolved recipe repeats the run from any folder
    assert again.keys == recipe.keys
    assert again.keys["data"]["tokenizer"]["kind"] == "characters"
    for key, value in (("validation", 0.2), ("refit", True)):
        with pytest.raises(
            RecipeError, match=f"^{key}: found beside data with a validation part of its own .2 samples"
        ):
            prepare(recipe.with_values({key: value}))
    for source_of, model in (("synthetic_sentences", "transformer"), ("synthetic_text", "lstm_lm")):
        wrong = {**keys, "data": {"kind": source_of, "lines": 60}, "student": {"model": {"kind": "mlp"}}}
        with pytest.raises(ModelError, match=rf"^teacher: cannot take inputs of shape .*; its inputs are .*{model}$"):
            vet(Recipe.parse(wrong, tmp_path))
    folder = Recipe.parse({**keys, "data": {**source, "tokenizer": {"folder": "encoder"}}}, tmp_path)
    assert folder.keys["data"]["tokenizer"] == {"kind": "folder", "folder": str(tmp_path / "encoder")}
    with pytest.raises(
        RecipeError, match=r"data\.tokenizer\.kind: found 'wordpiece'; one of: bpe, characters, folder, words"
    ):
        Recipe.parse({**keys, "data": {**source, "tokenizer": {"kind": "wordpiece"}}}, tmp_path)
