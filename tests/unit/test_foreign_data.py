"""Data of other libraries: every form trains and measures as a set of the same samples, or says what it cannot."""

import random
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import limbeck as lb
from limbeck.errors import DataError, DataWarning, InputError, ModelError, RunError
from limbeck.teachers import state_digest
from small_rows import GENERATOR, INPUTS, LABELS, Rows, noisy

SET = lb.data.TensorSet.of(INPUTS, LABELS)


def network(seed=1, outputs=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs))


TEACHER = network(2)


class Stream(IterableDataset):
    """A dataset without positions."""

    def __iter__(self):
        return (Rows()[position] for position in range(30))


class MeasuredStream(Stream):
    """A stream that has a length."""

    def __len__(self):
        return 30


class Columns:
    """What the library `datasets` hands out: a mapping of Python's own values for each row."""

    def __len__(self):
        return 30

    def __getitem__(self, position):
        return {"pixel_values": INPUTS[position].tolist(), "label": int(LABELS[position])}


def train(data=SET, validation=None, student=None, teacher=TEACHER, batch_size=8, **settings):
    student = network() if student is None else student
    settings = {"epochs": 2, "learning_rate": 0.05, "batch_size": batch_size, **settings}
    if batch_size is None or isinstance(data, DataLoader):
        del settings["batch_size"]
    result = lb.fit(student, data, validation, teacher=teacher, **settings)
    return state_digest(student), result.history


@contextmanager
def silent():
    """Pass over what is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def expected():
    return train()


# -------------------------------------------------------------------------------------------------- the same as a set


FORMS = {
    "tensors": lambda: (INPUTS, LABELS),
    "arrays": lambda: (INPUTS.numpy(), LABELS.numpy()),
    "lists": lambda: [INPUTS.tolist(), LABELS.tolist()],
    "narrow labels, wide inputs": lambda: (INPUTS.double().numpy(), LABELS.numpy().astype("uint8")),
    "a TensorDataset": lambda: TensorDataset(INPUTS, LABELS),
    "a Subset": lambda: Subset(TensorDataset(INPUTS, LABELS), range(30)),
    "a Dataset": Rows,
    "a Dataset of wide inputs": lambda: Rows(lambda at: (INPUTS[at].double().numpy(), np.int32(LABELS[at]))),
    "a Dataset of mappings": Columns,
    "a list of samples": lambda: [Rows()[position] for position in range(30)],
    "a LazySet": lambda: lb.data.LazySet.of(Rows()),
}


@pytest.mark.miniature(9)
@pytest.mark.parametrize("form", FORMS)
def test_a_training_on_any_form_gives_the_weights_of_one_on_a_set(form, expected):
    assert train(FORMS[form](), seed=0) == expected


def test_a_subset_of_arrays_is_that_part_of_the_set():
    some = [7, 3, 11, 20, 5, 9]
    part = SET.subset(torch.tensor(some))
    inner = Subset(TensorDataset(INPUTS, LABELS), list(range(29, -1, -1)))
    for data in (
        Subset(TensorDataset(INPUTS, LABELS), some),
        Subset(inner, [29 - each for each in some]),
        Subset(Rows(), some),
    ):
        assert lb.evaluate(TEACHER, data) == lb.evaluate(TEACHER, part)
        assert train(data, batch_size=4) == train(part, batch_size=4)


@pytest.mark.thorough
def test_parts_and_workers_of_a_dataset_change_nothing():
    assert train(Rows(), accumulate=2) == train(accumulate=2)
    assert train(Rows(), workers=1) == train()


def test_a_student_and_its_teacher_train_as_a_distiller_of_them(expected):
    student = network()
    result = lb.fit(
        lb.Distiller(student, lb.ModelTeacher(network(2)), lb.methods.kd()), SET, epochs=2, learning_rate=0.05,
        batch_size=8,
    )  # fmt: skip
    assert (state_digest(student), result.history) == expected


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured_as_a_set_is(form):
    assert lb.evaluate(TEACHER, FORMS[form]()) == lb.evaluate(TEACHER, SET)
    assert lb.evaluate(TEACHER, FORMS[form](), batch_size=7) == lb.evaluate(TEACHER, SET, batch_size=7)


@pytest.mark.parametrize("data", [DataLoader(Rows(), 10), DataLoader(Rows(), 7, shuffle=True), Stream()])
def test_a_loader_is_measured_as_a_set_is_up_to_the_sums_of_another_order(data):
    assert lb.evaluate(TEACHER, data).as_dict() == pytest.approx(lb.evaluate(TEACHER, SET).as_dict(), abs=1e-7)


def test_samples_are_predicted_in_their_order():
    wanted = lb.evaluation.predict(TEACHER, SET)
    for data in (INPUTS, (INPUTS, LABELS), Rows(), DataLoader(Rows(), batch_size=30)):
        assert torch.equal(lb.evaluation.predict(TEACHER, data), wanted)
    with pytest.raises(InputError, match="samples: found a DataLoader that shuffles"):
        lb.evaluation.predict(TEACHER, DataLoader(Rows(), shuffle=True))


def test_arrays_have_stored_answers():
    stored = lb.store(TEACHER, (INPUTS, LABELS))
    assert train(TensorDataset(INPUTS, LABELS), teacher=stored) == train(teacher=stored)
    with pytest.raises(InputError, match=r"samples: found a dataset or a loader, .*LazySet.of\(dataset\)"):
        lb.store(TEACHER, Rows())
    with pytest.raises(InputError, match="stored teacher: the batch comes from another set"):
        train(Rows(), teacher=stored)


def test_the_teacher_is_left_as_it_is():
    teacher = network(2)
    teacher[1].eval()
    teacher[0].bias.requires_grad_(False)
    before = state_digest(teacher)
    train(teacher=teacher)
    assert state_digest(teacher) == before
    assert [module.training for module in teacher] == [True, False, True, True, True]
    assert [weights.requires_grad for weights in teacher.parameters()] == [True, False, True, True, True, True]


def test_a_training_without_a_teacher_needs_a_method():
    student = network()
    lb.fit(student, SET, method=lb.methods.hard(), epochs=2, learning_rate=0.05, batch_size=8)
    other = network()
    lb.fit(lb.Distiller(other, None, lb.methods.hard()), SET, epochs=2, learning_rate=0.05, batch_size=8)
    assert state_digest(student) == state_digest(other)
    with pytest.raises(InputError, match=r"teacher: found None and no objective; .*hard\(\)"):
        lb.fit(network(), SET)


def test_stages_take_plain_networks_and_arrays():
    short = lb.Training(epochs=1, batch_size=10)
    stages = [lb.Stage(name, lb.methods.kd(), short) for name in ("first", "second")]
    assert [result.steps for result in lb.fit_stages(network(), TEACHER, stages, (INPUTS, LABELS))] == [3, 3]


# ----------------------------------------------------------------------------------------------- what random draws give


@pytest.mark.thorough
def test_a_dataset_is_read_anew_in_each_epoch_and_alike_in_each_training():
    seen: dict[int, list[torch.Tensor]] = {}

    def function(position):
        sample = noisy(position)
        seen.setdefault(position, []).append(sample[0])
        return sample

    found = train(Rows(function), epochs=3)
    later = [torch.stack(each[-3:]) for each in seen.values()]
    assert all(len(each.unique(dim=0)) == 3 for each in later)
    assert train(Rows(noisy), epochs=3) == found
    assert train(Rows(noisy), epochs=3, workers=1) == found
    assert train(Rows(noisy), epochs=3, seed=1) != found
    random.seed(5)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    lb.evaluate(TEACHER, Rows(noisy))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002


def test_a_training_on_a_dataset_goes_on_where_it_stopped(tmp_path):
    def stop(look):
        if look.epoch == 2:
            raise KeyboardInterrupt

    wanted = train(Rows(noisy), epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(Rows(noisy), epochs=3, folder=tmp_path, checkpoint_seconds=0.0, watch=stop)
    assert train(Rows(noisy), epochs=3, folder=tmp_path) == wanted
    with pytest.raises(RunError, match="data was"):
        train(Rows(lambda at: (INPUTS[at] + (at == 7), int(LABELS[at]))), epochs=3, folder=tmp_path)


def test_samples_that_no_seed_decides_are_said_and_not_resumed(tmp_path):
    own = torch.Generator()
    data = Rows(lambda at: (INPUTS[at] + torch.randn(3, generator=own), int(LABELS[at])))
    with pytest.warns(DataWarning, match="train_set: samples of the dataset differ each time they are read"):
        train(data)
    with silent(), pytest.raises(InputError, match="folder: samples of train_set differ"):
        train(data, folder=tmp_path)


# ------------------------------------------------------------------------------------------------------------- loaders


def loader_of(data=None, **settings):
    return DataLoader(Rows() if data is None else data, **{"batch_size": 8, "shuffle": True, **settings})


def trained_with(loader, **settings):
    """Train with a loader, and return what `train` does and the one warning."""
    with pytest.warns(DataWarning) as said:
        found = train(loader, batch_size=None, **settings)
    return found, [str(each.message) for each in said]


def test_the_batches_of_a_loader_are_used_as_they_come_and_that_is_said_once():
    sizes, orders = [], []

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, inputs):
            if self.training:
                sizes.append(len(inputs))
                orders.append(inputs.detach().clone())
            return self.layer(inputs)

    _, said = trained_with(loader_of(drop_last=True), student=Student(), validation=(INPUTS, LABELS))
    assert sizes == [8] * 6
    assert not torch.equal(orders[0], orders[3])
    assert len(said) == 1
    assert "train_set: the batches of a DataLoader are used as they come" in said[0]


def test_a_loader_follows_the_seed_and_leaves_dropout_its_numbers():
    found, _ = trained_with(loader_of(Rows(noisy)))
    assert trained_with(loader_of(Rows(noisy)))[0] == found
    assert trained_with(loader_of(Rows(noisy)), seed=1)[0] != found
    still = loader_of(shuffle=False)
    plain = [(batch, labels) for batch, labels in still]

    class Batches:
        """A loader of its own kind, which draws random numbers."""

        def __len__(self):
            return len(plain)

        def __iter__(self):
            for batch in plain:
                torch.rand(random.randint(1, 9))
                yield batch

    assert trained_with(Batches())[0] == trained_with(still)[0]


def test_a_loader_of_mappings_hands_a_model_its_columns():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, first, second):
            return self.layer(first + second)

    rows = Rows(lambda at: {"first": INPUTS[at], "second": INPUTS[at] * 0.5, "labels": int(LABELS[at])})
    student, teacher = Sum(), Sum()
    trained_with(loader_of(rows), student=student, teacher=teacher)
    metrics = lb.evaluate(student, rows)
    assert metrics.as_dict() == pytest.approx(lb.evaluate(student, loader_of(rows)).as_dict(), abs=1e-9)
    assert metrics.examples == 30


def test_a_loader_that_leaves_samples_out_of_a_measurement_is_said():
    with pytest.warns(DataWarning, match="samples: drop_last leaves 6 samples out"):
        assert lb.evaluate(TEACHER, loader_of(drop_last=True)).examples == 24
    with pytest.warns(DataWarning, match="validation: drop_last leaves 6 samples out"):
        train(validation=loader_of(drop_last=True))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"batch_size": 5}, r"batch_size: found 5, but train_set is a DataLoader that has batches of 8.*batch_size=5"),
        ({"accumulate": 2}, "accumulate: found 2, but the batches of train_set"),
        ({"workers": 2}, "workers: found 2, but the batches of train_set"),
        ({"augment": lb.data.Augment(noise=0.1)}, "augment: found augmentation, but the batches of train_set"),
        ({"folder": "somewhere"}, "folder: train_set is a DataLoader, whose content is not known"),
    ],
)
def test_a_setting_that_would_need_other_batches_is_refused(settings, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with silent(), pytest.raises(InputError, match=line):
        lb.fit(network(), loader_of(), teacher=TEACHER, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_that_is_the_loaders_own_may_be_given():
    with silent():
        lb.fit(network(), loader_of(), teacher=TEACHER, batch_size=8, epochs=1)
    with pytest.raises(InputError, match="batch_size: found 9"):
        lb.evaluate(TEACHER, loader_of(), batch_size=9)


def test_a_stream_trains_where_it_has_a_length():
    with pytest.warns(DataWarning, match="the batches of an IterableDataset are used as they come"):
        assert len(train(MeasuredStream())[1]) == 2
    with pytest.raises(InputError, match="train_set: found an IterableDataset without a length"), pytest.warns():
        train(Stream())


def test_a_loader_that_gives_other_batches_than_it_says_is_refused():
    class Lying:
        def __init__(self, said):
            self.said = said

        def __len__(self):
            return self.said

        def __iter__(self):
            return iter([(INPUTS, LABELS)] * 3)

    for said, line in ((2, "batch 3: it has a length of 2 batches and gives more"), (4, "gave 3 batches in an epoch")):
        with pytest.raises(DataError, match=line), pytest.warns(DataWarning):
            train(Lying(said), batch_size=None)


# -------------------------------------------------------------------------------------------------- samples and classes


def test_images_of_pil_are_pixels():
    pixels = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    labels = LABELS[:6]
    wanted = lb.evaluate(model, (pixels, labels))
    for data in (
        list(zip(images, labels.tolist(), strict=True)),
        [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)],
        lb.data.LazySet.of(list(zip(images, labels.tolist(), strict=True))),
    ):
        assert lb.evaluate(model, data) == wanted
    grey = [(image.convert("L"), 0) for image in images]
    assert lb.evaluation.predict(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), grey).shape == (6, 4)


def test_samples_without_labels_teach_by_the_teacher_alone():
    soft = lb.methods.kd(alpha=0.0)
    wanted = train(SET.without_labels(), method=soft)
    for data in (INPUTS, TensorDataset(INPUTS), Rows(lambda position: INPUTS[position])):
        assert train(data, method=soft) == wanted
    with pytest.raises(InputError, match="need labels, but no sample has one"):
        train(Rows(lambda position: INPUTS[position]), teacher=None, method=lb.methods.hard())
    for data in (INPUTS, Rows(lambda position: INPUTS[position])):
        with pytest.raises(DataError, match="no labels"):
            lb.evaluate(TEACHER, data)


def test_a_first_batch_without_labels_says_nothing_of_the_rest():
    labels = torch.where(torch.arange(30) == 29, LABELS, lb.UNLABELLED)
    data = Rows(lambda at: (INPUTS[at], int(labels[at])))
    assert train(data, teacher=None, method=lb.methods.hard()) == train(
        lb.data.TensorSet.of(INPUTS, labels, classes=4), teacher=None, method=lb.methods.hard()
    )


def test_the_classes_are_those_that_the_student_answers():
    few = LABELS.clamp_max(1)
    for data in ((INPUTS, few), Rows(lambda at: (INPUTS[at], int(few[at])))):
        train(data, validation=(INPUTS, few))
    line = "student: answers 4 classes, the data has 10"
    for data, error in (
        ((INPUTS, LABELS + 6), line),
        (Rows(lambda at: (INPUTS[at], 9)), "found label 9, expected 0 to 3"),
    ):
        with pytest.raises((ModelError, DataError), match=error):
            train(data)
    with pytest.raises(ModelError, match="teacher: answers 5 classes, the student 4"):
        train((INPUTS, LABELS), teacher=network(outputs=5))


def test_a_batch_of_one_is_refused_before_a_batch_norm_sees_it():
    for data in (Rows(), (INPUTS, LABELS)):
        with pytest.raises(InputError, match="batch_size: 29 leaves a batch of one of 30 samples, and BatchNorm '1'"):
            train(data, batch_size=29)


# ------------------------------------------------------------------------------------------------------ one clear line


def columns(**more):
    return Rows(lambda position: {"x": INPUTS[position], **more})


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (TEACHER, r"found a network \(Sequential\), .*fit\(student, data, teacher=network\)"),
        (lb.data.Splits(SET, SET, "both"), "found Splits, .*splits.train"),
        ({"train": Rows(), "test": Rows()}, "found a dict of train, test, .*take one of its parts"),
        ((each for each in [(INPUTS, LABELS)]), "found a generator, .*each epoch reads it anew"),
        ((INPUTS, LABELS, LABELS), "found a tuple of 3, expected a pair of arrays"),
        (TensorDataset(INPUTS, LABELS, LABELS), "found a TensorDataset of 3 tensors"),
        ((INPUTS, LABELS[:4]), r"30 samples but labels of shape \(4,\)"),
        ((INPUTS, nn.functional.one_hot(LABELS)), r"labels have shape \(30, 4\), .*argmax\(1\) of one-hot"),
        ((INPUTS, LABELS.float()), "labels are torch.float32, expected whole numbers"),
        ((INPUTS, ["cat"] * 30), "labels: found .*expected a tensor, or an array or list of numbers"),
        ((INPUTS * torch.nan, LABELS), "sample 0 has a value that is NaN"),
        (Rows(size=0), "found 0 samples"),
        (loader_of(batch_size=40, drop_last=True), "it gives no batch"),
        (Rows(lambda at: (INPUTS[at], LABELS[at], at)), r"sample \d+: found a tuple of 3, expected \(inputs, label\)"),
        (Rows(lambda at: ((INPUTS[at], INPUTS[at]), 0)), "found a tuple of 2 tensors, .*as a mapping"),
        (Rows(lambda at: (INPUTS[at], "cat")), "has label 'cat', expected the number of a class"),
        (Rows(lambda at: (INPUTS[at], -1)), "found label -1, expected 0"),
        (Rows(lambda at: (INPUTS[at] / (at != 7), 0)), "sample 7: sample 0 has a value that is NaN or infinite"),
        (Rows(lambda at: (torch.zeros(3 + at % 2), 0)), "in one batch, expected one shape and type; resize or pad"),
        (Rows(lambda at: 1 / 0), r"fetching sample \d+ raised ZeroDivisionError"),
        (columns(label=0, labels=0), "found the columns 'label' and 'labels'"),
        (columns(fine_label=0, coarse_label=1), "expected the label under 'label' or 'labels'; rename 'fine_label'"),
        (columns(text="words", label=0), "column 'text': found 'words', .*remove the column"),
        (Rows(lambda at: (Image.new("P", (8, 8)), 0)), "found an image of mode 'P', .*convert"),
        (loader_of(Rows(lambda at: 1 / 0)), "reading a batch raised ZeroDivisionError"),
        (loader_of(Rows(lambda at: {"x": INPUTS[at].tolist(), "label": 0})), "found a list of 3 tensors, .*with_"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_is_one_line(data, line):
    for call in (lambda: train(data, epochs=1), lambda: lb.evaluate(TEACHER, data)):
        with silent(), pytest.raises((InputError, DataError), match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: lb.fit(lb.Distiller(network(), TEACHER), SET, teacher=TEACHER),
            "teacher: found together with a Distiller",
        ),
        (
            lambda: lb.fit(lb.Distiller(network(), TEACHER), SET, method=lb.methods.kd()),
            "method: found together with a Dist",
        ),
        (lambda: train(method="kd"), r"method: found 'kd', expected an Objective; limbeck.methods.kd\(\)"),
        (lambda: train(Rows(), augment=lb.data.Augment(noise=0.1)), "augment: train_set is a dataset, .*LazySet.of"),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(call, line):
    with pytest.raises(InputError, match=line):
        call()


def test_a_dataset_of_the_library_datasets_is_read_as_any_other(expected):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"pixel_values": INPUTS.tolist(), "label": LABELS.tolist()})
    assert train(data) == expected
    assert train(data.with_format("torch")) == expected
    with pytest.raises(InputError, match="found a DatasetDict of train"):
        train(datasets.DatasetDict({"train": data}))
