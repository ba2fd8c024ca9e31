"""Rows of tokens of other libraries: ragged datasets and collated dictionaries in `fit` and `evaluate`."""

import warnings
from collections import UserDict

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import limbeck as lb
from limbeck import models
from limbeck.batch import UNLABELLED
from limbeck.data.foreign import samples_of
from limbeck.data.sources import one_pass
from limbeck.errors import DataError, InputError
from limbeck.teachers.model import state_digest
from walk import over

WORDS, COUNT = 30, 14
GENERATOR = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(2, 9, (COUNT,), generator=GENERATOR).tolist()
ROWS = [torch.randint(1, WORDS, (length,), generator=GENERATOR).tolist() for length in LENGTHS]


class Tokenised:
    """What the library `datasets` gives for text that a tokenizer has read: lists of unlike lengths."""

    def __init__(self, labels, pad_to=None, rows=ROWS):
        self.labels, self.pad_to, self.rows = labels, pad_to, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, position):
        row, label = self.rows[position], self.labels(position)
        more = 0 if self.pad_to is None else self.pad_to - len(row)
        label = label + [UNLABELLED] * more if isinstance(label, list) else label
        given = {"input_ids": row + [0] * more, "attention_mask": [1] * len(row) + [0] * more}
        return given if label is None else {**given, "labels": label}


def sentences(position):
    return sum(ROWS[position]) % 3


def tags(position):
    return [UNLABELLED, *(word % 3 for word in ROWS[position][1:])]


def collated(rows):
    """A batch as a collator of the Transformers library makes it: no dict, but a mapping."""
    longest = max(len(row["input_ids"]) for row in rows)
    whole = {}
    for name in rows[0]:
        fill = UNLABELLED if name == "labels" else 0
        ragged = isinstance(rows[0][name], list)
        values = [row[name] + [fill] * (longest - len(row[name])) if ragged else row[name] for row in rows]
        whole[name] = torch.tensor(values)
    return UserDict(whole)


def loader(labels, size=5):
    return DataLoader(Tokenised(labels), batch_size=size, collate_fn=collated)


def net(head="classification", seed=0, classes=3, **keys):
    torch.manual_seed(seed)
    sizes = {"layers": 1, "width": 8, "heads": 2, "positions": 16, "dropout": 0.0, **keys}
    return models.transformer((9,), classes, vocabulary=WORDS, head=head, **sizes)


def trained(data, student, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.DataWarning)
        lb.fit(student, data, epochs=2, learning_rate=0.05, **{"method": lb.methods.hard(), **settings})
    return student


@over(("labels", "head"), [(sentences, "classification"), (tags, "tokens")])
def test_rows_of_unlike_lengths_train_and_measure_as_those_that_were_padded_before(labels, head):
    ragged = trained(Tokenised(labels), net(head), batch_size=5)
    padded = trained(Tokenised(labels, pad_to=12), net(head), batch_size=5)
    assert state_digest(ragged) != state_digest(net(head))
    for name, tensor in padded.state_dict().items():
        torch.testing.assert_close(ragged.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    expected = lb.evaluate(ragged, Tokenised(labels, pad_to=12)).as_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (Tokenised(labels), loader(labels), loader(labels, 3)):
            assert lb.evaluate(ragged, data).as_dict() == pytest.approx(expected, rel=1e-5)
    trained(loader(labels), net(head))


def test_labels_of_tokens_are_counted_where_there_is_one():
    model = net("tokens").eval()
    found = lb.evaluate(model, Tokenised(tags))
    counted = sum(length - 1 for length in LENGTHS)
    assert found.as_dict()["examples"] == counted
    losses = []
    for position in range(COUNT):
        logits = model(input_ids=torch.tensor([ROWS[position]]))[0].double()
        losses.append(F.cross_entropy(logits, torch.tensor(tags(position)), reduction="sum"))
    assert found.nll == pytest.approx(sum(losses).item() / counted, rel=1e-6)
    (batch,) = one_pass(samples_of("data", Tokenised(tags)), 99).epoch(0)
    assert batch.task is lb.tasks.TOKENS
    assert torch.equal(batch.mask, batch.labels != UNLABELLED)
    assert torch.equal(batch.padding.sum(1), torch.tensor(LENGTHS))
    with pytest.raises(InputError, match="label for each token, whose logits are too many"):
        lb.evaluation.predict(model, Tokenised(tags))


def test_a_mask_is_made_of_the_lengths_where_rows_have_none():
    class Bare(Tokenised):
        def __getitem__(self, position):
            row = super().__getitem__(position)
            del row["attention_mask"]
            return row

    model = net().eval()
    found = lb.evaluate(model, Bare(sentences)).as_dict()
    assert found == pytest.approx(lb.evaluate(model, Tokenised(sentences)).as_dict(), rel=1e-6)
    (own,), (right,) = (one_pass(samples_of("data", each), 99).epoch(0) for each in (Bare(tags), Tokenised(tags)))
    assert torch.equal(own.padding, right.padding)


def test_labels_that_are_the_input_ids_are_refused_and_moved_once_they_are_the_librarys_own_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    data = Tokenised(lambda position: list(ROWS[position]))
    for unmoved in (data, loader(lambda position: list(ROWS[position]))):
        with pytest.raises(DataError, match="labels: found the input ids themselves") as caught:
            lb.evaluate(model, unmoved)
        assert "limbeck.data.next_tokens(" in str(caught.value)
    whole = collated([data[position] for position in range(COUNT)])
    own = model(**whole).loss.item()
    for moved in (lb.data.next_tokens(data), lb.data.next_tokens(Tokenised(lambda _: None)),
                  lb.data.next_tokens(loader(lambda position: list(ROWS[position]), 4))):  # fmt: skip
        assert lb.evaluate(model, moved).nll == pytest.approx(own, rel=1e-5)
    student = transformers.GPT2LMHeadModel(config)
    before = lb.evaluate(student, lb.data.next_tokens(data)).nll
    trained(lb.data.next_tokens(data), student, teacher=model, method=lb.methods.kd(), batch_size=5)
    assert lb.evaluate(student, lb.data.next_tokens(data)).nll != before


def test_a_model_of_the_library_teaches_another_network():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=16, num_labels=3, **sizes)
    teacher, student = transformers.BertForSequenceClassification(config), net()
    before = state_digest(teacher)
    trained(Tokenised(sentences), student, teacher=teacher, method=lb.methods.kd(2.0), batch_size=5)
    assert state_digest(teacher) == before
    assert teacher.training
    assert state_digest(student) != state_digest(net())


def test_a_training_on_rows_of_tokens_goes_on_in_its_folder_and_knows_other_labels(tmp_path):
    trained(Tokenised(tags), net("tokens"), folder=tmp_path, batch_size=5)
    trained(Tokenised(tags), net("tokens"), folder=tmp_path, batch_size=5)
    other = Tokenised(lambda position: [1, *tags(position)[1:]])
    with pytest.raises(lb.errors.RunError, match="belongs to another training: data was"):
        trained(other, net("tokens"), folder=tmp_path, batch_size=5)


@over(
    ("labels", "head", "line"),
    [
        (lambda at: tags(at) if at % 2 else 1, "tokens", "labels for each token of some samples and not of others"),
        (lambda at: [0.5] * LENGTHS[at], "tokens", "labels are float32, expected a whole number for each token"),
        (lambda at: ["O"] * LENGTHS[at], "tokens", "labels: found ['O'"),
        (lambda at: [7] * LENGTHS[at], "tokens", "found label 7, expected 0 to 2"),
        (lambda at: [1] * (LENGTHS[at] + 1), "classification", "expected the number of a class"),
        (lambda _: None, "tokens", "found no labels, and the student answers for each token"),
        (lambda _: 1, "tokens", "found a label for each sample, and the student answers for each token"),
    ],
)
def test_labels_that_cannot_be_are_one_line(labels, head, line):
    method = {"teacher": net(head), "method": lb.methods.kd()}
    with pytest.raises(DataError) as caught:
        trained(Tokenised(labels), net(head), batch_size=5, **method)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_rows_of_tokens_has_no_next_tokens():
    for data, line in (
        ([[1, 2]], "a row without a column 'input_ids'"),
        ([{"input_ids": [1, 2], "labels": 1}], "labels"),
    ):
        with pytest.raises(DataError, match=line):
            lb.data.next_tokens(data)[0]


def test_a_dataset_of_the_library_datasets_is_read_as_it_is():
    datasets = pytest.importorskip("datasets")
    columns = {name: [Tokenised(tags)[at][name] for at in range(COUNT)] for name in Tokenised(tags)[0]}
    data, expected = datasets.Dataset.from_dict(columns), trained(Tokenised(tags), net("tokens"), batch_size=5)
    for each in (data, data.with_format("torch")):
        assert state_digest(trained(each, net("tokens"), batch_size=5)) == state_digest(expected)
