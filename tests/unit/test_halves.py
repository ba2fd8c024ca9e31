"""What a specialist learns from: labels with a dustbin, and epochs of which half are of its own classes."""

import pytest
import torch

from limbeck.data import HalfSet, Loader, TensorSet, TextSet, half_and_half, with_dustbin
from limbeck.errors import DataError, InputError
from limbeck.tokenizers import Words

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def drawn(size=100, seed=0, unlabelled=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (size,), generator=generator)
    labels[:unlabelled] = -100
    return TensorSet.of(torch.randn(size, 3, generator=generator), labels, class_names=NAMES)


def test_labels_are_places_in_the_set_and_all_else_is_the_dustbin():
    samples = drawn(unlabelled=7)
    told = with_dustbin(samples, ["dog", "ant"])
    expected = [{-100: -100, 3: 0, 0: 1}.get(label, 2) for label in samples.labels.tolist()]
    assert told.labels.tolist() == expected
    assert (told.classes, told.class_names) == (3, ("dog", "ant", "dustbin"))
    assert torch.equal(told.index, samples.index)
    assert told.source == samples.source


@pytest.mark.parametrize("classes", [["cat"], ["ant", "bee", "cat", "dog"]])
def test_half_of_each_epoch_is_all_of_the_sets_samples_and_the_rest_comes_in_turn(classes):
    samples = drawn(unlabelled=5)
    half = half_and_half(samples, classes)
    own = torch.isin(samples.labels, torch.tensor([NAMES.index(name) for name in classes]))
    rest = ~own & (samples.labels != -100)
    seen = torch.zeros(len(samples), dtype=torch.int64)
    epochs = 8
    for epoch in range(epochs):
        order = half.order(3, epoch)
        assert len(order) == len(half) == 2 * int(own.sum())
        assert int(own[order].sum()) == int(rest[order].sum()) == int(own.sum())
        seen += torch.bincount(order, minlength=len(samples))
    assert (seen[own] == epochs).all()
    assert seen[rest].max() - seen[rest].min() <= 1
    assert not seen[:5].any()


def test_an_epoch_is_a_function_of_seed_and_number_and_may_be_gone_on_with():
    half = half_and_half(drawn(), ["cat", "dog"])
    assert torch.equal(half.order(0, 4), half_and_half(drawn(), ["cat", "dog"]).order(0, 4))
    assert not torch.equal(half.order(0, 4), half.order(0, 5))
    assert not torch.equal(half.order(0, 4), half.order(1, 4))
    loader = Loader(half, 8, seed=1)
    whole = list(loader.epoch(2))
    assert sum(len(batch) for batch in whole) == len(half)
    for late, batch in zip(loader.epoch(2, start=3), whole[3:], strict=True):
        assert torch.equal(late.index, batch.index)
        assert torch.equal(late.labels, batch.labels)


def test_samples_keep_their_identity_and_their_inputs():
    samples = drawn()
    half = half_and_half(samples, ["eel"])
    batch = next(Loader(half, len(half), seed=0).epoch(0))
    assert batch.source == samples.source
    assert torch.equal(batch.inputs, samples.inputs[batch.index])
    assert torch.equal(batch.labels, torch.where(samples.labels[batch.index] == 4, 0, 1))


def test_the_share_is_that_of_the_labelled_samples():
    samples = drawn(unlabelled=20)
    half = half_and_half(samples, ["ant", "bee"])
    known = samples.labels[20:]
    assert half.share == pytest.approx(float((known < 2).double().mean()))


def test_a_part_of_a_subset_is_of_that_subset():
    samples = drawn().subset(torch.arange(10, 60))
    half = half_and_half(samples, ["cat"])
    index = torch.cat([batch.index for epoch in range(9) for batch in Loader(half, 16, seed=0).epoch(epoch)])
    assert set(index.tolist()) == set(range(10, 60))


def test_bad_sets_are_one_line():
    with pytest.raises(InputError, match="all 5 of 'tensors', so that no class is left for the dustbin"):
        half_and_half(drawn(), NAMES)
    with pytest.raises(InputError, match="did you mean 'cat'"):
        half_and_half(drawn(), ["cta"])
    with pytest.raises(DataError, match="no samples of these classes"):
        half_and_half(drawn().without_classes([2]), ["cat"])
    with pytest.raises(DataError, match="no samples of other classes"):
        half_and_half(drawn().only_classes([2]), ["cat"])
    half = half_and_half(drawn(), ["cat"])
    assert isinstance(half, HalfSet)
    with pytest.raises(InputError, match="take the subset before half_and_half"):
        half.subset(torch.tensor([0]))


def test_half_of_an_epoch_of_texts_is_from_a_specialists_classes():
    texts = ["a b", "c", "d e f", "g", "h"]
    samples = TextSet.of(texts, torch.tensor([0, 1, 2, 2, 1]), tokenizer=Words().fit(texts))
    half = half_and_half(samples, [0])
    batch = next(iter(Loader(half, 2, seed=0).epoch(0)))
    assert sorted(batch.labels.tolist()) == [0, 1]
    assert batch.padding.sum(1).tolist() == [half.inner.lengths[index] for index in batch.index]
