"""Streams of text: every token once, lanes that continue, borders by seed and epoch, and one line for each fault."""

import pytest
import torch

from limbeck import data
from limbeck.data import Augment, HeldOut, Loader, Selection, Splits, TokenStream
from limbeck.data.grammar import grammar_lines
from limbeck.errors import DataError, InputError
from limbeck.tasks import UNLABELLED
from limbeck.tokenizers import BytePairs, Words
from walk import over

WORDS = Words().fit([" ".join(map(str, range(200)))])


def stream(tokens=200, **keys):
    return TokenStream.of(torch.arange(tokens), tokenizer=WORDS, **keys)


def seen(batches):
    """Return the inputs and the labels of batches as each lane has them, one list a lane."""
    inputs, labels = {}, {}
    for batch in batches:
        assert torch.equal(batch.mask, batch.labels != UNLABELLED)
        assert torch.equal(batch.inputs[:, 0], batch.index)  # ids are positions here
        for row, lane in enumerate(batch.lanes.number.tolist()):
            assert bool(batch.lanes.fresh[row]) == (lane not in inputs)
            inputs.setdefault(lane, []).extend(batch.inputs[row][batch.mask[row]].tolist())
            labels.setdefault(lane, []).extend(batch.labels[row][batch.mask[row]].tolist())
    return inputs, labels


@over("lanes, length, tokens", [(1, 35, 200), (4, 7, 200), (3, 100, 200), (5, 1, 12), (2, 3, 8)])
def test_every_token_is_predicted_once_from_the_one_before_it(lanes, length, tokens):
    samples = stream(tokens, lanes=lanes, length=length)
    inputs, labels = seen(Loader(samples, 999, seed=0).epoch(0))
    lane = (tokens - 1) // lanes
    assert inputs == {number: list(range(number * lane, (number + 1) * lane)) for number in range(lanes)}
    assert labels == {number: [token + 1 for token in found] for number, found in inputs.items()}
    assert samples.tokens == lanes * lane
    assert len(samples) == lanes * -(-lane // length)
    assert samples.gather(torch.arange(len(samples))).dtype == torch.int64


def test_ranks_have_whole_lanes_the_same_in_every_step_and_epoch():
    samples = stream(lanes=6, length=5)
    for world in (2, 3, 4):
        parts = [seen(Loader(samples, 1, seed=0).epoch(1, rank=rank, world=world))[0] for rank in range(world)]
        assert sorted(lane for part in parts for lane in part) == list(range(6))
        assert {lane: found for part in parts for lane, found in part.items()} == seen(
            Loader(samples, 1, seed=0).epoch(1)
        )[0]


def test_borders_move_with_seed_and_epoch_and_the_number_of_chunks_stays():
    samples = stream(lanes=2, length=10, moving=True)
    starts = {epoch: int(samples.at_epoch(3, epoch).index[0]) for epoch in range(12)}
    assert starts == {epoch: int(samples.at_epoch(3, epoch).index[0]) for epoch in range(12)}
    assert set(starts.values()) <= set(range(10))
    assert len(set(starts.values())) > 4
    cuts = [samples.at_epoch(3, epoch) for epoch in range(12)]
    assert {len(cut) for cut in cuts} == {len(samples)}
    assert {cut.tokens for cut in cuts} == {2 * ((200 - 9 - 1) // 2)}
    for epoch, batches in enumerate([Loader(samples, 2, seed=3).epoch(epoch) for epoch in range(3)]):
        inputs, labels = seen(batches)
        assert inputs[0][0] == starts[epoch]
        assert labels[1] == [token + 1 for token in inputs[1]]
    plain = Loader(samples, 2, seed=3, shuffle=False)  # as an evaluation reads it
    assert next(iter(plain.epoch(5))).index[0] == 0


def test_lengths_vary_as_in_awd_lstm_and_fill_every_epoch():
    tokens = torch.arange(30_001) % 200
    samples = TokenStream.of(tokens, tokenizer=WORDS, lanes=3, length=70, varying=True)
    epochs = [samples.at_epoch(0, epoch) for epoch in range(4)]
    assert {len(each) for each in (samples, *epochs)} == {3 * 147}  # 10,000 tokens a lane, 68.25 on the average
    assert {each.tokens for each in epochs} == {30_000}
    sizes = torch.cat([each.sizes[::3] for each in epochs]).double()
    assert abs(float(sizes.mean()) - 10_000 / 147) < 1e-9
    assert 0.02 < float((sizes < 50).double().mean()) < 0.09  # one in twenty is half as long
    assert 4.3 < float(sizes[sizes > 50].std()) < 5.7
    assert not torch.equal(epochs[0].sizes, epochs[1].sizes)
    assert int(sizes.max()) <= samples.max_length
    assert torch.equal(epochs[2].sizes, samples.at_epoch(0, 2).sizes)
    short = stream(41, lanes=1, length=4, varying=True)
    assert [short.at_epoch(0, epoch).tokens for epoch in range(3)] == [40] * 3


def test_held_out_is_the_end_of_the_stream_with_lanes_of_its_own():
    samples = stream(lanes=4, length=7, moving=True, evaluation=(1, 20))
    rest, held = samples.split(0.25, seed=0)
    assert (rest.lanes, held.lanes, held.length, held.moving) == (4, 1, 20, False)
    assert held.index.tolist() == [150, 170, 190]
    assert held.labels[2, :10].tolist() == [*range(191, 200), UNLABELLED]
    assert int(stream(lanes=1).split(0.25, seed=0)[0].labels.max()) == 149  # no target is in the part that is held out
    assert rest.source == held.source == samples.source
    assert (
        HeldOut(0.25, "last").split(samples)[1].index.tolist()[0] == HeldOut(0.25).split(samples)[1].index.tolist()[0]
    )
    assert samples.fraction(0.5, seed=0).stop == 100
    again = rest.at_epoch(0, 4)
    assert int(again.labels.max()) <= 149
    with pytest.raises(InputError, match=r"found the first 0\.1 of a stream; expected its end"):
        HeldOut(0.1, "first").split(samples)
    with pytest.raises(InputError, match=r"^split: found 1.5 of 28 samples"):
        stream(lanes=4, length=7).split(1.5, seed=0)


def test_a_set_of_a_stream_is_a_set():
    samples = stream(lanes=4, length=7)
    assert samples.subset(torch.arange(len(samples))) is samples
    part = samples.subset(torch.arange(4, 12))
    assert part.index.tolist() == samples.index[4:12].tolist()
    assert bool(part.batch(torch.arange(4), augment=None, seed=0, view=0).lanes.fresh.all())
    for wrong in ([0, 1], [1, 2, 3, 4], [0, 1, 2, 4]):
        with pytest.raises(
            DataError, match="found samples here and there of a stream; expected whole chunks of its 4 lanes"
        ):
            samples.subset(torch.tensor(wrong))
    unlabelled = stream(lanes=4, length=7, moving=True).without_labels()
    for each in (unlabelled, unlabelled.at_epoch(0, 1)):
        batch = each.batch(torch.arange(4), augment=None, seed=0, view=0, clean_view=True)
        assert bool((batch.labels == UNLABELLED).all())
        assert bool(batch.mask.all())  # the teacher's answers count
        assert torch.equal(batch.views["clean"], batch.inputs)
    digests = {
        stream(**keys).digest()
        for keys in ({"lanes": 4}, {"lanes": 5}, {"length": 7}, {"moving": True}, {"varying": True})
    }
    assert len(digests) == 5
    assert samples.to("cpu").digest() == samples.digest()
    samples.require_repeatable()
    with pytest.raises(DataError, match=r"^augment: found random views"):
        samples.batch(torch.arange(4), augment=Augment(noise=0.1), seed=0, view=1)
    with pytest.raises(InputError, match=r"^first: found 3 samples of a stream, expected tokens; use most"):
        Selection(first=3).apply(Splits(samples, samples, "small"))


def test_files_become_streams_with_a_sentence_end_behind_each_line(tmp_path):
    (tmp_path / "a.txt").write_text(" the cat sat \n the dog \n")
    (tmp_path / "b.txt").write_text("the dog\r\n\r\na cat\n")
    splits = data.token_stream(
        str(tmp_path), train="a.txt", test="b.txt", validation="b.txt", lanes=1, length=4, evaluation_lanes=2
    )
    assert splits.train.vocabulary == ("the", "cat", "sat", "<eos>", "dog", "<unk>")
    assert splits.train.ids.tolist() == [0, 1, 2, 3, 0, 4, 3]
    assert splits.test.ids.tolist() == [0, 4, 3, 3, 5, 1, 3]
    assert splits.train.tokenizer.names[splits.test.labels[0, 2]] == "<eos>"  # an end that is padding's token is learnt
    assert (splits.validation.lanes, splits.test.lanes) == (2, 1)
    assert splits.notes == (
        f"{tmp_path}: 1 of 7 tokens of the validation part are unknown to the tokenizer",
        f"{tmp_path}: 1 of 7 tokens of the test part are unknown to the tokenizer",
    )
    whole = data.token_stream(str(tmp_path / "a.txt"), test_share=0.5, lanes=1, most=3)
    assert whole.train.ids.tolist() == [0, 1, 2]
    assert "dog" not in whole.train.vocabulary
    pytest.importorskip("tokenizers")
    pairs = data.token_stream(str(tmp_path / "a.txt"), test_share=0.5, lanes=1, tokenizer=BytePairs(257))
    assert int(pairs.train.tokenizer.token_bytes[pairs.train.ids.long()].sum()) == len(" the cat sat ")


BAD = {
    "empty": (b"\n \n", {}, "found 2 lines, all empty; expected text"),
    "not UTF-8": (b"a\nb\xff\n", {}, r"line 2 is not UTF-8 \(byte 0xff\)"),
    "too short": (b"a b\n" * 20, {"lanes": 90}, "expected at least 91 for 90 lanes and chunks of 35. Use fewer lanes"),
    "no lanes": (b"a b\n" * 20, {"lanes": 0}, "^lanes: found 0, expected a whole number, 1 or above"),
    "no length": (b"a b\n" * 20, {"evaluation_length": 0}, "^evaluation_length: found 0"),
    "one line": (b"a b c", {"lanes": 1}, "found 1 lines, of which 0.1 are none; expected more lines"),
    "no share": (b"a b\n" * 20, {"test_share": 1.0}, "^test_share: found 1.0"),
}  # fmt: skip


@over("fault", BAD)
def test_a_fault_is_one_line(fault, tmp_path):
    content, keys, words = BAD[fault]
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises((DataError, InputError), match=words) as caught:
        data.token_stream(str(tmp_path / "a.txt"), **keys)
    assert "\n" not in str(caught.value)


def test_ids_that_are_none_are_refused():
    with pytest.raises(DataError, match="found ids from 0 to 299; expected 0 to 201, the tokens of the vocabulary"):
        stream(300)
    with pytest.raises(DataError, match=r"found ids torch\.float32"):
        TokenStream.of(torch.zeros(4), tokenizer=WORDS)


def test_a_grammar_writes_the_same_lines_for_the_same_seed():
    lines, labels = grammar_lines(300, 20, seed=3)
    assert grammar_lines(10, 20, seed=3)[0] == lines[:10]
    assert grammar_lines(10, 20, seed=4)[0] != lines[:10]
    assert 0.3 < sum(labels) / 300 < 0.7
    assert len({word for line in lines for word in line.split()}) < 120
    splits = data.synthetic_sentences(lines=60, bucket=2)
    assert splits.train.bucket == 2
    assert data.synthetic_text(lines=60, lanes=2).test.lanes == 1


@pytest.mark.slow
def test_the_penn_treebank_has_its_published_counts():
    try:
        splits = data.ptb()
    except DataError as error:
        pytest.skip(str(error))
    assert len(splits.train.tokenizer) == 10_000
    assert [len(each.ids) for each in (splits.train, splits.validation, splits.test)] == [929_589, 73_760, 82_430]
    assert splits.test.tokens == 82_429
    assert splits.notes == ()
