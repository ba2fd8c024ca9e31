"""Sample sets: identity, subsets, splits, batching, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.batch import UNLABELLED, Legend
from limbeck.data import Augment, LazySet, TensorSet, Transfer
from limbeck.errors import DataError, InputError, LimbeckError
from walk import over


def pixels(size: int = 30, classes: int = 3, **options) -> TensorSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (size, 2, 6, 5), dtype=torch.uint8, generator=generator)
    return TensorSet.of(images, torch.arange(size) % classes, **options)


def everything(samples):
    return samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)


def test_uint8_becomes_pixels_over_255():
    samples = pixels()
    batch = samples.batch(torch.tensor([4, 0, 29]), augment=None, seed=0, view=0)
    expected = samples.inputs.numpy()[[4, 0, 29]].astype(np.float32) / np.float32(255)
    assert batch.inputs.dtype == torch.float32
    assert np.array_equal(batch.inputs.numpy(), expected)
    assert batch.index.tolist() == [4, 0, 29]
    assert batch.labels.tolist() == [1, 0, 2]
    assert batch.view.tolist() == [0, 0, 0]
    assert batch.source == samples.source
    assert not batch.augmented
    assert batch.views == {}
    assert batch.mask is None


@pytest.mark.parametrize("inputs", [torch.rand(4, 3), torch.arange(12).view(4, 3)])
def test_other_types_are_kept(inputs):
    batch = TensorSet.of(inputs).batch(torch.tensor([2, 1]), augment=None, seed=0, view=0)
    assert batch.inputs.dtype == inputs.dtype
    assert torch.equal(batch.inputs, inputs[[2, 1]])
    assert batch.labels.tolist() == [UNLABELLED, UNLABELLED]


def test_a_batch_may_be_changed_without_touching_the_set():
    inputs = torch.rand(4, 3)
    samples = TensorSet.of(inputs.clone())
    everything(samples).inputs.zero_()
    assert torch.equal(samples.inputs, inputs)


def test_normalisation_comes_after_augmentation():
    plain = pixels()
    normalised = pixels(mean=[0.2, 0.6], std=[0.5, 2.0])
    augment = Augment(shift=2)
    mean = torch.tensor([0.2, 0.6]).view(2, 1, 1)
    std = torch.tensor([0.5, 2.0]).view(2, 1, 1)
    positions = torch.arange(30)
    for view in (0, 3):
        batch = normalised.batch(positions, augment=augment, seed=5, view=view, clean_view=True)
        bare = plain.batch(positions, augment=augment, seed=5, view=view, clean_view=True)
        torch.testing.assert_close(batch.inputs, (bare.inputs - mean) / std)
        torch.testing.assert_close(batch.views["clean"], (bare.views["clean"] - mean) / std)


def test_augmented_batches_say_so_and_keep_a_clean_view():
    samples = pixels()
    positions = torch.tensor([7, 3, 21])
    batch = samples.batch(positions, augment=Augment(shift=2), seed=1, view=4, clean_view=True)
    clean = samples.batch(positions, augment=None, seed=1, view=4)
    assert batch.augmented
    assert batch.view.tolist() == [4, 4, 4]
    assert torch.equal(batch.views["clean"], clean.inputs)
    expected = Augment(shift=2).apply(clean.inputs, seed=1, view=batch.view, index=positions)
    assert torch.equal(batch.inputs, expected)
    assert not torch.equal(batch.inputs, clean.inputs)


@pytest.mark.parametrize(("augment", "view"), [(None, 3), (Augment(), 3), (Augment(shift=1), 0)])
def test_what_is_not_augmented_has_view_0(augment, view):
    batch = pixels().batch(torch.tensor([1]), augment=augment, seed=0, view=view, clean_view=True)
    assert not batch.augmented
    assert batch.view.tolist() == [0]
    assert torch.equal(batch.views["clean"], batch.inputs)


def test_augmentation_follows_the_sample_not_its_place_in_a_subset():
    samples = pixels()
    part = samples.subset(torch.tensor([20, 4, 11]))
    options = {"augment": Augment(shift=2, flip=0.5), "seed": 2, "view": 6}
    whole = samples.batch(torch.tensor([4, 11, 20]), **options)
    assert torch.equal(part.batch(torch.tensor([1, 2, 0]), **options).inputs, whole.inputs)


def test_subsets_keep_identity_and_share_the_root():
    samples = pixels()
    part = samples.subset(torch.tensor([9, 2, 5, 7])).subset(torch.tensor([3, 0]))
    assert isinstance(part, TensorSet)
    assert len(part) == 2
    assert part.index.tolist() == [7, 9]
    assert part.labels.tolist() == [1, 0]
    assert part.source == samples.source
    assert part.inputs.data_ptr() == samples.inputs.data_ptr()
    assert torch.equal(everything(part).inputs, everything(samples).inputs[[7, 9]])


@pytest.mark.parametrize("positions", [[-1], [30], [0, 31]])
def test_positions_outside_the_set_are_refused(positions):
    with pytest.raises(InputError, match="0 to 29"):
        pixels().subset(torch.tensor(positions))


def test_positions_of_another_type_are_refused():
    with pytest.raises(InputError, match=r"torch.bool"):
        pixels().subset(torch.ones(30, dtype=torch.bool))
    with pytest.raises(DataError, match="empty subset"):
        pixels().subset(torch.zeros(0, dtype=torch.int64))


def test_without_labels():
    bare = pixels().without_labels()
    assert bare.labels.unique().tolist() == [UNLABELLED]
    assert bare.classes == 3
    assert bare.source == pixels().source


def test_fraction_is_stratified_nested_and_reproducible():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 3 + [UNLABELLED] * 10)
    samples = TensorSet.of(torch.rand(153, 2), labels)
    small, large = samples.fraction(0.1, seed=7), samples.fraction(0.5, seed=7)
    assert torch.bincount(small.labels.clamp_min(-1) + 1).tolist() == [1, 10, 4, 1]
    assert torch.bincount(large.labels.clamp_min(-1) + 1).tolist() == [5, 50, 20, 2]
    assert set(small.index.tolist()) < set(large.index.tolist())
    assert small.index.tolist() == sorted(small.index.tolist())
    assert torch.equal(samples.fraction(0.1, seed=7).index, small.index)
    assert not torch.equal(samples.fraction(0.1, seed=8).index, small.index)
    assert torch.equal(samples.fraction(1.0, seed=7).index, samples.index)


def test_fraction_draws_every_sample_as_often():
    samples = pixels(20, 2)
    counts = torch.zeros(20)
    for seed in range(600):
        counts[samples.fraction(0.3, seed).index] += 1
    assert (counts - 180).abs().max() < 4.5 * (600 * 0.3 * 0.7) ** 0.5


@over("share", [0, -0.1, 1.01, float("nan"), True, "half"])
def test_fraction_outside_its_range_is_refused(share):
    with pytest.raises(InputError, match="fraction"):
        pixels().fraction(share, seed=0)


def test_classes_can_be_left_out_or_kept_alone():
    labels = torch.tensor([0, 1, 2, UNLABELLED, 2, 0])
    samples = TensorSet.of(torch.rand(6, 2), labels)
    assert samples.without_classes([2]).index.tolist() == [0, 1, 3, 5]
    assert samples.only_classes([2, 0]).index.tolist() == [0, 2, 4, 5]
    assert samples.only_classes([2]).labels.tolist() == [2, 2]
    assert samples.only_classes([2]).classes == 3


def test_classes_that_do_not_exist_or_leave_nothing_are_refused():
    samples = pixels()
    for wrong in (3, -1, True, "cat"):
        with pytest.raises(InputError, match="0 to 2"):
            samples.without_classes([wrong])
    with pytest.raises(DataError, match="nothing is left"):
        samples.without_classes([0, 1, 2])
    with pytest.raises(DataError, match="nothing is left"):
        samples.without_classes([1]).only_classes([1])


@over(("held", "count"), [(0.3, 9), (7, 7), (1, 1), (29, 29)])
def test_split_is_disjoint_complete_and_reproducible(held, count):
    samples = pixels()
    rest, part = samples.split(held, seed=3)
    assert len(part) == count
    assert sorted(rest.index.tolist() + part.index.tolist()) == list(range(30))
    again, other = samples.split(held, seed=3)[1], samples.split(held, seed=4)[1]
    assert torch.equal(again.index, part.index)
    assert not torch.equal(other.index, part.index)


def test_split_can_be_stratified():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    rest, part = TensorSet.of(torch.rand(61, 2), labels).split(0.2, seed=0, stratify=True)
    assert torch.bincount(part.labels, minlength=3).tolist() == [10, 2, 0]
    assert torch.bincount(rest.labels, minlength=3).tolist() == [40, 8, 1]


@over("held", [0, 30, 31, -1, 0.0, 1.0, 0.001, True])
def test_splits_that_leave_a_part_empty_are_refused(held):
    with pytest.raises(InputError, match="split"):
        pixels().split(held, seed=0)


def test_source_is_of_content_labels_type_and_normalisation():
    inputs, labels = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    changed = inputs.clone()
    changed[2, 1] += 1e-6
    sets = [
        TensorSet.of(inputs, labels),
        TensorSet.of(changed, labels),
        TensorSet.of(inputs, 1 - labels),
        TensorSet.of(inputs.view(4, 1, 3), labels),
        TensorSet.of(inputs, labels, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),
        TensorSet.of(torch.zeros(4, 3), labels),
        TensorSet.of(torch.zeros(4, 12, dtype=torch.uint8), labels),
    ]
    assert len({samples.source for samples in sets}) == len(sets)
    assert TensorSet.of(inputs.clone(), labels.to(torch.uint8), name="other").source == sets[0].source


def test_class_count_and_names():
    inputs = torch.rand(3, 2)
    labels = torch.tensor([0, 2, UNLABELLED])
    assert TensorSet.of(inputs, labels).class_names == ("0", "1", "2")
    assert TensorSet.of(inputs, labels, classes=5).classes == 5
    assert TensorSet.of(inputs, labels, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    assert TensorSet.of(inputs).classes == 0


@over(
    ("inputs", "options", "line"),
    [
        (torch.zeros(0, 3), {}, "is empty"),
        (torch.zeros(3, 0), {}, "is empty"),
        (torch.zeros(3), {}, r"shape \(3,\)"),
        (torch.zeros(3, 2, dtype=torch.float64), {}, r"torch.float64"),
        (torch.tensor([[1.0], [float("nan")]]), {}, "sample 1 has a value that is NaN"),
        (torch.tensor([[float("inf")], [0.0]]), {}, "sample 0"),
        (torch.zeros(3, 2), {"labels": torch.zeros(2, dtype=torch.int64)}, "3 samples but labels of shape"),
        (torch.zeros(3, 2), {"labels": torch.zeros(3, 1, dtype=torch.int64)}, "3 samples but labels of shape"),
        (torch.zeros(3, 2), {"labels": torch.zeros(3)}, r"torch.float32, expected whole numbers"),
        (torch.zeros(3, 2), {"labels": torch.tensor([0, 5, 1]), "classes": 3}, "sample 1 has label 5, expected 0 to 2"),
        (torch.zeros(3, 2), {"labels": torch.tensor([0, 1, -1])}, "sample 2 has label -1"),
        (torch.zeros(3, 2), {"classes": 3, "class_names": ["a"]}, "3 classes but 1 class names"),
        (torch.zeros(3, 2), {"mean": [0.0, 0.0]}, "both mean and std"),
        (torch.zeros(3, 2), {"mean": [0.0], "std": [1.0]}, "expected one for each of 2"),
        (torch.zeros(3, 2), {"mean": [0.0, 0.0], "std": [1.0, 0.0]}, "std"),
        (torch.zeros(3, 2, dtype=torch.int64), {"mean": [0.0, 0.0], "std": [1.0, 1.0]}, "token ids"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(inputs, options, line):
    with pytest.raises(LimbeckError, match=line) as caught:
        TensorSet.of(inputs, **options)
    assert "\n" not in str(caught.value)


def test_moving_a_set_moves_all_of_it():
    samples = pixels(mean=[0.0, 0.0], std=[1.0, 1.0]).to("meta")
    for tensor in (samples.inputs, samples.index, samples.labels, samples.mean, samples.std):
        assert tensor.device.type == "meta"


class Rows:
    """A map-style dataset that counts how often it is read."""

    def __init__(self, size: int = 12) -> None:
        self.inputs = torch.rand(size, 3, generator=torch.Generator().manual_seed(0))
        self.reads = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int):
        self.reads += 1
        return self.inputs[index], index % 4


def test_lazy_set_batches_as_a_tensor_set_does():
    rows = Rows()
    lazy = LazySet.of(rows)
    whole = TensorSet.of(rows.inputs, torch.arange(12) % 4)
    options = {"augment": Augment(noise=0.1), "seed": 3, "view": 2, "clean_view": True}
    for make in (lambda s: s, lambda s: s.without_classes([1]), lambda s: s.fraction(0.5, 0).without_labels()):
        one, two = make(lazy), make(whole)
        positions = torch.arange(len(one)).flip(0)
        found, expected = one.batch(positions, **options), two.batch(positions, **options)
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.views["clean"], expected.views["clean"])
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.index, expected.index)


def test_lazy_set_with_labels_reads_only_what_it_needs():
    rows = Rows()
    lazy = LazySet.of(rows, torch.arange(12) % 4, source="rows")
    assert rows.reads == 1
    lazy.batch(torch.tensor([3, 5]), augment=None, seed=0, view=0)
    assert rows.reads == 3
    assert lazy.source == "rows"


def test_lazy_set_takes_a_function():
    lazy = LazySet.of(lambda index: (torch.full((2,), float(index)), 0), torch.zeros(5, dtype=torch.int64), source="f")
    assert everything(lazy.subset(torch.tensor([4, 1]))).inputs.tolist() == [[4.0, 4.0], [1.0, 1.0]]


def test_lazy_set_scans_content_for_its_source():
    one, two = Rows(), Rows()
    two.inputs[11, 2] += 1
    assert LazySet.of(one).source == LazySet.of(Rows()).source != LazySet.of(two).source


def test_lazy_set_refuses_what_it_cannot_know():
    with pytest.raises(InputError, match="found one of labels and source"):
        LazySet.of(Rows(), torch.zeros(12, dtype=torch.int64))
    with pytest.raises(InputError, match="no length"):
        LazySet.of(lambda index: (torch.zeros(2), 0))
    with pytest.raises(DataError, match="0 samples"):
        LazySet.of([])
    with pytest.raises(DataError, match="sample 0: found a tuple of 3, expected \\(inputs, label\\)"):
        LazySet.of([(torch.zeros(2), 0, 0)])


def test_lazy_set_takes_samples_without_a_label():
    assert LazySet.of([torch.zeros(2), torch.ones(2)]).labels.tolist() == [UNLABELLED, UNLABELLED]


@over(
    ("odd", "line"),
    [
        ((torch.zeros(4), 0), r"sample 1 is torch.float32 \(4,\), expected torch.float32 \(3,\)"),
        ((torch.zeros(3, dtype=torch.uint8), 0), r"sample 1 is torch.uint8"),
        ((torch.zeros(3), 1), "sample 1 was fetched with label 1, declared as 0"),
        ((torch.full((3,), float("nan")), 0), "sample 1.*NaN"),
    ],
)
def test_lazy_set_refuses_samples_unlike_the_others(odd, line):
    lazy = LazySet.of([(torch.zeros(3), 0), odd], torch.zeros(2, dtype=torch.int64), source="rows", classes=2)
    with pytest.raises(DataError, match=line):
        everything(lazy)


def test_transfer_sets():
    samples = pixels(30, 3)
    assert Transfer().apply(samples, 0) is samples
    assert len(Transfer(fraction=0.5).apply(samples, 0)) == 15
    assert Transfer(only=(1,)).apply(samples, 0).labels.unique().tolist() == [1]
    bare = Transfer(omit=(0, 2), labels=False, fraction=0.2).apply(samples, 0)
    assert (bare.index % 3).tolist() == [1, 1]
    assert bare.labels.tolist() == [UNLABELLED] * 2


@over("values", [{"fraction": 0}, {"fraction": 1.5}, {"fraction": True}, {"omit": (1,), "only": (2,)}])
def test_transfer_values_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        Transfer(**values)


def test_transfer_refuses_classes_that_do_not_exist_and_nothing():
    with pytest.raises(InputError, match="class 3"):
        Transfer(omit=(3,)).apply(pixels(), 0)
    with pytest.raises(DataError, match="nothing is left"):
        Transfer(omit=(0, 1, 2)).apply(pixels(), 0)


# ----------------------------------------------------------------------------------------------- other names for labels


def test_labels_become_positions_in_a_subset_and_names_and_groups_follow():
    names = ["cat", "dog", "eel", "fox"]
    samples = TensorSet.of(torch.zeros(5, 2), torch.tensor([3, 0, 1, 2, -100]), class_names=names, groups=[1, 1, 0, 2])
    part = samples.relabelled(["fox", 1])
    assert part.labels.tolist() == [0, -100, 1, -100, -100]
    assert (part.classes, part.class_names, part.groups) == (2, ("fox", "dog"), (2, 1))
    assert part.source == samples.source
    assert torch.equal(part.index, samples.index)
    assert samples.labels.tolist() == [3, 0, 1, 2, -100]
    alone = samples.only_classes([3, 1]).relabelled([3, 1])
    assert alone.labels.tolist() == [0, 1]
    assert torch.equal(samples.relabelled(range(4)).labels, samples.labels)


@over(
    ("classes", "line"),
    [
        ([], "classes: found none, expected at least one class"),
        (["cat", "cot"], "classes: 'tensors' has no class 'cot'; did you mean 'cat'?"),
        ([4], "classes: found 4, expected numbers from 0 to 3"),
        (["cat", 0], "classes: 0 occurs more than once, expected each class once"),
    ],
)
def test_a_subset_that_the_set_has_not_is_refused(classes, line):
    samples = TensorSet.of(torch.zeros(2, 2), torch.tensor([3, 0]), class_names=["cat", "dog", "eel", "fox"])
    with pytest.raises(InputError) as caught:
        samples.relabelled(classes)
    assert str(caught.value) == line


def test_the_legend_says_what_the_labels_mean():
    samples = TensorSet.of(torch.zeros(2, 2), torch.tensor([1, 0]), class_names=["cat", "dog"], groups=[3, 4])
    assert samples.legend == Legend(("cat", "dog"), (3, 4), labelled=True)
    assert samples.without_labels().legend == Legend(("cat", "dog"), (3, 4), labelled=False)


# ------------------------------------------------------------------------------------------------------------- repeats


def repeated():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = TensorSet.of(images, torch.tensor([0, 1, 2, 0, 1, 2]))
    return samples, samples.subset(torch.tensor([4, 2, 4, 1, 4, 2]))


def test_a_repeated_sample_has_a_view_of_its_own_at_each_place():
    samples, often = repeated()
    assert samples.turn is None
    assert often.turn.tolist() == [0, 0, 1, 0, 2, 1]
    batch = often.batch(torch.arange(6), augment=Augment(shift=2, noise=0.1), seed=3, view=5)
    assert batch.view.tolist() == [5, 5, 5 + 2**32, 5, 5 + 2**33, 5 + 2**32]
    assert len({tuple(image.flatten().tolist()) for image in batch.inputs}) == 6
    plain = samples.batch(torch.tensor([4, 2, 1]), augment=Augment(shift=2, noise=0.1), seed=3, view=5)
    assert torch.equal(batch.inputs[[0, 1, 3]], plain.inputs)  # the first time as if it stood there once


def test_the_views_of_repeats_do_not_hang_on_batch_or_order():
    _, often = repeated()
    augment = Augment(shift=2, noise=0.1, mixup=0.5)
    whole = often.batch(torch.arange(6), augment=augment, seed=3, view=5)
    for positions in ([5], [2, 0], [4, 3, 1]):
        part = often.batch(torch.tensor(positions), augment=augment, seed=3, view=5)
        assert torch.equal(part.inputs, whole.inputs[positions])
        assert torch.equal(part.mix.partner, whole.mix.partner[positions])


def test_repeats_are_mixed_with_partners_of_their_own():
    samples = TensorSet.of(torch.rand(500, 1, 4, 4), torch.arange(500) % 3)
    often = samples.subset(torch.arange(250).repeat(2))
    mix = often.batch(torch.arange(500), augment=Augment(mixup=1.0), seed=0, view=1).mix
    assert (mix.partner[:250] == mix.partner[250:]).float().mean() < 0.05
    assert (mix.share[:250] == mix.share[250:]).float().mean() < 0.05


def test_a_subset_counts_repeats_anew_and_unaugmented_ones_are_the_same():
    _, often = repeated()
    assert often.subset(torch.tensor([2, 4, 3])).turn.tolist() == [0, 1, 0]
    assert often.subset(torch.tensor([4, 3])).turn is None
    batch = often.batch(torch.arange(6), augment=None, seed=0, view=3)
    assert batch.view.tolist() == [0] * 6
    assert torch.equal(batch.inputs[0], batch.inputs[2])
    assert often.to("cpu").turn.tolist() == often.turn.tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_a_turn_is_how_often_a_sample_stood_before(places):
    samples, _ = repeated()
    turn = samples.subset(torch.tensor(places)).turn
    counted = [places[:number].count(place) for number, place in enumerate(places)]
    assert counted == ([0] * len(places) if turn is None else turn.tolist())
    assert (turn is None) == (len(set(places)) == len(places))


@over("nothing", [[], (), torch.zeros(0, dtype=torch.int64), torch.zeros(0)], ids=["list", "tuple", "int64", "float"])
def test_a_subset_of_nothing_is_one_line(nothing):
    with pytest.raises(DataError, match="found an empty subset, expected at least one sample"):
        TensorSet.of(torch.zeros(3, 2), torch.arange(3)).subset(nothing)
