"""Pairs of a source and a target: reading, batches, padding, other targets, and what is refused."""

import json

import pytest
import torch

from limbeck import data, methods
from limbeck.batch import UNLABELLED
from limbeck.data import Loader, PairSet, Restore
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError
from limbeck.models import seq2seq_lstm
from limbeck.tokenizers import Characters, Words

SOURCES = ["ab", "abcab", "c", "bcabcabcabcabc", "ba", "cc"]
TARGETS = ["ba", "bacba", "cc", "cbacbacbacbacb", "ab", "c"]


def pairs(bucket=0, **more):
    letters = Characters().fit([*SOURCES, *TARGETS])
    return PairSet.of(SOURCES, TARGETS, tokenizer=letters, bucket=bucket, **more)


def everything(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


def test_a_batch_begins_with_the_end_token_and_counts_the_end():
    samples = pairs()
    end = samples.tokenizer.special.eos
    batch = everything(samples)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        ids = samples.tokenizer.encode(target)
        assert batch.labels[row][batch.mask[row]].tolist() == [*ids, end]
        assert batch.inputs["decoder_input_ids"][row, : len(ids) + 1].tolist() == [end, *ids]
        assert batch.inputs["input_ids"][row][batch.padding[row]].tolist() == [*samples.tokenizer.encode(source), end]
    assert torch.equal(batch.mask, batch.labels != UNLABELLED)
    assert batch.inputs["input_ids"].shape == batch.labels.shape == (6, 15)
    assert samples.texts([3, 0]) == [(SOURCES[3], TARGETS[3]), ("ab", "ba")]
    assert samples.subset(torch.tensor([2, 0])).batch(torch.tensor([0]), augment=None, seed=0, view=0).labels.shape == (
        1, 8,
    )  # fmt: skip


def test_loss_and_gradient_depend_on_neither_batches_nor_buckets():
    found = []
    for samples, size in ((pairs(), 6), (pairs(), 1), (pairs(bucket=2), 2)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = seq2seq_lstm(samples.input_shape, samples.classes, len(samples.vocabulary), width=4).double()
        distiller = Distiller(model, None, methods.hard())
        batches = list(Loader(samples, size, seed=0).epoch(1))
        counts = {"hard": sum(int(batch.mask.sum()) for batch in batches)}
        loss = sum(distiller(batch, 0, counts).total for batch in batches)
        loss.backward()
        found.append([loss.detach(), *(weights.grad for weights in model.parameters())])
        assert counts["hard"] == sum(map(len, TARGETS)) + len(TARGETS)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(two, one, rtol=0, atol=1e-10)


def test_a_bucket_makes_batches_of_like_length_and_every_sample_is_there_once():
    samples = pairs(bucket=3)
    order = samples.order(seed=0, epoch=1, batch_size=2)
    assert sorted(order.tolist()) == list(range(6))
    lengths = samples.lengths[order].view(3, 2)
    assert int((lengths[:, 0] - lengths[:, 1]).abs().sum()) < int(
        (samples.lengths.view(3, 2)[:, 0] - samples.lengths.view(3, 2)[:, 1]).abs().sum()
    )
    assert samples.digest() != pairs().digest()


def test_other_targets_make_another_set_of_the_same_sources():
    samples = pairs()
    end = samples.tokenizer.special.eos
    half = samples.subset(torch.tensor([4, 1]))
    made = half.with_targets([[0, end], [1, 1, 1, end]], "teacher")
    batch = everything(made)
    assert batch.labels[:, :4].tolist() == [[0, end, -100, -100], [1, 1, 1, end]]
    assert batch.inputs["decoder_input_ids"][:, :3].tolist()[1] == [end, 1, 1]
    assert torch.equal(batch.inputs["input_ids"], everything(half).inputs["input_ids"])
    assert made.source != samples.source
    assert made.index.tolist() == [4, 1]
    assert made.name.endswith("targets: teacher")
    again = half.with_targets([[0, end], [1, 1, 1, end]], "teacher")
    assert again.digest() == made.digest() != half.with_targets([[1, end], [1, 1, 1, end]], "teacher").digest()
    for rows, line in (
        ([[0, end]], "targets: found 1; expected 2"),
        ([[0, end], []], "targets: found an empty one"),
        ([[0, end], [99]], "targets: found ids from 0 to 99"),
    ):
        with pytest.raises(InputError, match=line):
            half.with_targets(rows, "teacher")


def test_texts_without_their_vowels_are_restored(tmp_path):
    (tmp_path / "train.tsv").write_text(
        "sentence\tlabel\nthe cat sat on the mat\t1\na dog\t0\nthe end on it\t0\na dog\t1\n"
    )
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe end on it\t1\n")
    keys = {"train": "train.tsv", "test": "dev.tsv", "target": "sentence"}
    splits = data.seq2seq(str(tmp_path), restore=Restore(shortest=5, longest=12, cut=True), **keys)
    assert splits.train.texts(range(3)) == [
        ("thctst", "the cat sat"), ("nthmt", "on the mat"), ("dg", "a dog"),
    ]  # fmt: skip
    assert splits.test.texts([0]) == [("thndn", "the end on")]
    assert any("1 pairs occur before" in note for note in splits.notes)
    assert any("1 training pairs are also in the test part" in note for note in splits.notes)
    assert len(data.seq2seq(str(tmp_path), restore=Restore(), most=2, **keys).train) == 2
    (tmp_path / "choose.tsv").write_text("sentence\nthe end on it\nthe mat is on\n")
    chosen = data.seq2seq(
        str(tmp_path), restore=Restore(shortest=5, longest=12, cut=True), validation="choose.tsv", **keys
    )
    assert chosen.validation.texts([0])[0][1].startswith("the mat")
    assert any("1 validation pairs are also in the test part; left out of validation" in n for n in chosen.notes)
    with pytest.raises(DataError, match="restore leaves no pair of 4 lines"):
        data.seq2seq(str(tmp_path), restore=Restore(shortest=50), **keys)


def test_columns_and_json_lines_are_read_and_mistakes_are_one_line(tmp_path):
    lines = [{"source": source, "target": target} for source, target in zip(SOURCES, TARGETS, strict=True)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    splits = data.seq2seq(str(file), test_share=0.34)
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.source == splits.test.source
    table = tmp_path / "pairs.csv"
    table.write_text("source,target\na,b\n,c\n")
    for call, kind, line in (
        (lambda: data.seq2seq(str(file), source="sources"), DataError, "source: there is no column 'sources'"),
        (
            lambda: data.seq2seq(str(file), source="source", restore=Restore()),
            InputError,
            "source: found together with",
        ),
        (lambda: data.seq2seq(str(table)), DataError, "pairs.csv: line 3: column 'source' is empty"),
        (lambda: data.seq2seq(str(tmp_path)), DataError, "is a folder; expected a file"),
        (lambda: data.seq2seq(str(file), test_share=0.01), InputError, "test_share: found 0.01 of 6 pairs"),
        (lambda: PairSet.of(["a"], [], tokenizer=Words().fit(["a"])), DataError, "found 1 sources and 0 targets"),
        (lambda: Restore(drop=""), InputError, "drop: found no character"),
        (lambda: Restore(cut=True), InputError, "cut: found true without longest"),
    ):
        with pytest.raises(kind, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
