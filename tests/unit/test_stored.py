"""Stored answers: the right row for each sample, or an error; never a wrong target."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.config import Recipe
from limbeck.data import Augment, LazySet, Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, MemoryLimitError
from limbeck.experiment.building import as_teacher, build_teacher
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import wrap_teacher
from limbeck.features import FeatureTerm
from limbeck.objective import Objective
from limbeck.outputs import Outputs, Tap
from limbeck.teacher import Teacher
from limbeck.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher, store
from limbeck.training import fit
from walk import over

SIZE = 23


def numbered(size=SIZE, first=0, labels=True):
    """A set whose sample i is the number i, so that an answer tells which sample it was given to."""
    inputs = torch.arange(first, first + size, dtype=torch.float32)[:, None]
    return TensorSet.of(inputs, torch.arange(size) % 3 if labels else None, classes=3)


def telling():
    """A teacher that answers i·(1, 2, -3) to the number i, exactly."""
    model = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0]]))
    return ModelTeacher(model)


def answers(index):
    return index[:, None] * torch.tensor([1.0, 2.0, -3.0])


def images(size=SIZE):
    generator = torch.Generator().manual_seed(0)
    return TensorSet.of(torch.randn(size, 2, 4, 4, generator=generator), torch.arange(size) % 3)


def network(seed=0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.Dropout(0.5), nn.ReLU(), nn.Linear(width, 3))


# --------------------------------------------------------------------------------------------------- which row for whom


@over("batch_size", [1, 5, 23, 1000])
@over("seed", [0, 1])
def test_each_sample_gets_its_own_answer_in_whatever_order_it_comes(batch_size, seed):
    stored = store(telling(), numbered(), batch_size=batch_size)
    for epoch in range(2):
        for batch in Loader(numbered(), 4, seed=seed).epoch(epoch):
            assert torch.equal(stored(batch).logits, answers(batch.index))
            assert torch.equal(batch.inputs[:, 0], batch.index.float())


@over("positions", [[3, 22, 0, 7], [22], list(range(22, -1, -1)), [5, 5, 6]])
def test_answers_stored_for_a_part_belong_to_the_samples_of_that_part(positions):
    part = numbered().subset(torch.tensor(positions))
    stored = store(telling(), part, batch_size=3)
    assert torch.equal(stored.logits, answers(torch.tensor(positions)))
    again = numbered().subset(torch.tensor(sorted(set(positions))))  # the same samples in another order
    for batch in Loader(again, 2, seed=0).epoch(0):
        assert torch.equal(stored(batch).logits, answers(batch.index))


def test_a_part_of_a_part_keeps_its_places():
    stored = store(telling(), numbered())
    held, rest = numbered().split(9, seed=3)
    tiny = rest.fraction(0.5, seed=1).without_classes([1])
    for samples in (held, rest, tiny, tiny.without_labels()):
        for batch in Loader(samples, 2, seed=0).epoch(0):
            assert torch.equal(stored(batch).logits, answers(batch.index))


def test_answers_to_sequences_are_looked_up_whole():
    table = torch.randn(4, 5, 7)
    stored = StoredTeacher(table, torch.tensor([2, 0, 3, 1]), source="here")
    batch = replace(Batch.of(torch.zeros(3, 5)), index=torch.tensor([1, 1, 2]), source="here")
    assert torch.equal(stored(batch).logits, table[[3, 3, 0]])


def test_answers_have_no_graph_and_are_a_teachers():
    stored = store(telling(), numbered())
    outputs = stored(next(Loader(numbered(), 4, seed=0).epoch(0)))
    assert isinstance(stored, Teacher)
    assert isinstance(outputs, Outputs)
    assert not outputs.logits.requires_grad


# ------------------------------------------------------------------------------------------------------ what is refused


@over(
    "other",
    [numbered(first=1), numbered(size=SIZE + 1), numbered(labels=False), images()],
    ids=["other numbers", "more", "other labels", "images"],
)
def test_a_batch_of_another_set_is_refused(other):
    stored = store(telling(), numbered())
    with pytest.raises(InputError, match="the batch comes from another set than the answers; store them for this set"):
        stored(next(Loader(other, 4, seed=0).epoch(0)))


def test_a_batch_that_says_not_where_it_comes_from_is_refused():
    with pytest.raises(InputError, match="another set"):
        store(telling(), numbered())(Batch.of(torch.zeros(2, 1)))


@pytest.mark.parametrize("stored_for", [[0, 1, 2, 3], [2, 5, 22], [22, 0]], ids=str)
def test_a_sample_without_an_answer_is_refused(stored_for):
    stored = store(telling(), numbered().subset(torch.tensor(stored_for)))
    for missing in sorted(set(range(SIZE)) - set(stored_for)):
        batch = numbered().batch(torch.tensor([stored_for[0], missing]), augment=None, seed=0, view=0)
        with pytest.raises(InputError, match="samples without a stored answer; store them for the whole set"):
            stored(batch)


def test_an_augmented_batch_is_refused_unless_the_answers_are_to_the_clean_view():
    samples, augment = images(), Augment(shift=1)
    batch = samples.batch(torch.arange(6), augment=augment, seed=0, view=3, clean_view=True)
    teacher = ModelTeacher(network(), view="clean")
    with pytest.raises(InputError, match=r"the batch is augmented, the answers are not; .*view: clean.*store: false"):
        store(ModelTeacher(network()), samples)(batch)
    stored = store(teacher, samples, clean=True)
    torch.testing.assert_close(stored(batch).logits, teacher(batch).logits)
    seen = ModelTeacher(network())(batch).logits
    assert (stored(batch).logits - seen).abs().max() > 1e-3


def test_the_view_of_no_augmentation_is_the_sample_itself():
    samples = images()
    batch = samples.batch(torch.arange(6), augment=Augment(shift=1), seed=0, view=0)
    stored = store(ModelTeacher(network()), samples)
    torch.testing.assert_close(stored(batch).logits, ModelTeacher(network())(batch).logits)


def _doubled(feature):
    return 2 * feature


PLACES = {"first": "1", "before": Tap("3", side="input"), "doubled": Tap("1", _doubled)}


def test_features_that_are_stored_are_the_live_teachers_and_are_looked_up_by_place():
    samples, teacher = images(), ModelTeacher(network())
    stored = store(teacher, samples, batch_size=4, taps=PLACES)
    for batch in Loader(samples, 5, seed=0).epoch(0):
        expected = teacher(batch, PLACES).features
        for name, tap in PLACES.items():
            found = stored(batch, {"renamed": tap})
            assert not found.features["renamed"].requires_grad
            torch.testing.assert_close(found.features, {"renamed": expected[name]})
            torch.testing.assert_close(found.logits, teacher(batch).logits)
    assert torch.equal(
        stored(batch, {"a": "module.1", "b": "1"}).features["a"], stored(batch, {"b": "1"}).features["b"]
    )


def test_features_that_are_not_stored_are_refused_with_what_is_held():
    batch = next(Loader(images(), 4, seed=0).epoch(0))
    stored = store(ModelTeacher(network()), images(), taps=PLACES)
    for tap, held in (("3", "'3'"), (Tap("1", side="input"), "'1@input'"), (Tap("1", torch.neg), "'1'")):
        with pytest.raises(InputError) as caught:
            stored(batch, {"hint": tap})
        assert str(caught.value) == (
            f"stored teacher: it does not hold the feature {held}, which the objective reads; it holds '1', '3@input',"
            " '1'. Store it with the answers (store(..., taps=...)), or ask the teacher for every batch (store: false)"
        )
    bare = store(ModelTeacher(network()), images())
    with pytest.raises(InputError, match="it holds none"):
        bare(batch, {"hint": "1"})
    assert torch.equal(bare(batch, {}).logits, bare(batch).logits)


def test_features_beyond_memory_are_refused_before_the_teacher_answers_the_set(monkeypatch):
    asked = []
    teacher = ModelTeacher(network(), transform=lambda inputs: asked.append(len(inputs)) or inputs)
    size = SIZE * 8 * 4
    monkeypatch.setattr("limbeck.teachers.stored.memory_bytes", lambda: 4 * size - 1)
    with pytest.raises(MemoryLimitError, match=rf"^taps: '1' of {SIZE} samples take {size} bytes, more than a quarter"):
        store(teacher, images(), taps={"a": "1", "b": "1"})  # one place is stored once
    assert asked == [1]
    monkeypatch.setattr("limbeck.teachers.stored.memory_bytes", lambda: 4 * size)
    assert store(teacher, images(), taps={"a": "1"}).features.keys() == {Tap("1")}


def test_features_decide_the_fingerprint_and_have_a_row_for_each_answer():
    samples, teacher = images(), ModelTeacher(network())
    prints = {store(teacher, samples, taps=taps).fingerprint() for taps in ({}, {"a": "1"}, {"a": "3"}, {"b": "3"})}
    assert len(prints) == 3
    tables = [{"a": torch.zeros(3, 2)}, {"a": torch.ones(3, 2)}, {"b": torch.zeros(3, 2)}]
    bare = [StoredTeacher(torch.zeros(3, 2), torch.arange(3), source="here", features=each) for each in tables]
    assert len({each.fingerprint() for each in bare}) == 3
    with pytest.raises(InputError, match=r"features: found \(2, 4\) for 'pool', expected \(3, ...\)"):
        StoredTeacher(torch.zeros(3, 2), torch.arange(3), source="here", features={"pool": torch.zeros(2, 4)})


def test_the_members_of_an_ensemble_are_stored_with_no_features():
    ensemble = EnsembleTeacher([ModelTeacher(network(seed)) for seed in (0, 1)])
    with pytest.raises(InputError, match="ensemble: it has only logits in common"):
        store(ensemble, images(), taps={"a": "1"})


def test_features_of_a_recipes_teacher_are_stored_where_they_fit(monkeypatch):
    keys = {
        "name": "tiny",
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "cnn", "channels": [2, 3]}, "training": {"epochs": 1}},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 1},
    }

    def wrapped(**changes):
        recipe = Recipe.parse(keys | {"method": {"name": "rkd", "layers": "pool"}} | changes)
        parts = prepare(recipe)
        return recipe, parts, wrap_teacher(recipe, build_teacher(recipe, parts, 0), parts)

    recipe, parts, stored = wrapped()
    assert isinstance(stored, StoredTeacher)
    batch = parts.transfer.batch(torch.arange(5), augment=None, seed=0, view=0)
    taps = recipe.inspected.taps("teacher")
    live = as_teacher(recipe, build_teacher(recipe, parts, 0))(batch, taps)
    torch.testing.assert_close(stored(batch, taps).features, live.features)
    for changes in (
        {"teacher": keys["teacher"] | {"store": False}},
        {"training": {"epochs": 1, "augment": {"shift": 1}}},
    ):
        assert isinstance(wrapped(**changes)[2], ModelTeacher)
    clean = {"teacher": keys["teacher"] | {"view": "clean"}, "training": {"epochs": 1, "augment": {"shift": 1}}}
    assert isinstance(wrapped(**clean)[2], StoredTeacher)
    monkeypatch.setattr("limbeck.teachers.stored.memory_bytes", lambda: 4 * (len(parts.transfer) * 3 * 4 - 1))
    assert isinstance(wrapped()[2], ModelTeacher)
    assert isinstance(wrapped(method={"name": "kd"})[2], StoredTeacher)


class Nearness(FeatureTerm):
    def compare(self, student, teacher, number):
        return (student - teacher).square().mean(1)


def test_a_term_on_stored_features_trains_as_on_live_ones():
    samples, students = images(), []
    for taught in (ModelTeacher(network(1)), store(network(1), samples, taps={"any": "3"})):
        student = network(2)
        objective = methods.kd() + Objective([Nearness("nearness", 1.0, {"3": "3"})])
        fit(Distiller(student, taught, objective), samples, epochs=2, batch_size=8, learning_rate=0.1)
        students.append(student.state_dict())
    torch.testing.assert_close(students[0], students[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "index"), [(torch.zeros(3, 2), torch.arange(2)), (torch.zeros(3), torch.arange(3))], ids=["rows", "flat"]
)
def test_a_table_that_does_not_fit_its_index_is_refused(logits, index):
    with pytest.raises(InputError, match=r"expected \(n, K\) and \(n,\)"):
        StoredTeacher(logits, index, source="here")


# ----------------------------------------------------------------------------------------------------- the live teacher


def test_stored_answers_are_the_live_teachers():
    samples, teacher = images(), ModelTeacher(network().train())
    before = teacher.fingerprint()
    stored = store(teacher, samples)
    whole = samples.batch(torch.arange(SIZE), augment=None, seed=0, view=0)
    assert torch.equal(stored(whole).logits, teacher(whole).logits)
    for batch in Loader(samples, 5, seed=0).epoch(0):  # other batches, other rounding
        torch.testing.assert_close(stored(batch).logits, teacher(batch).logits, rtol=1e-6, atol=1e-6)
    assert teacher.fingerprint() == before


def test_a_lazy_set_can_be_answered_too():
    samples = numbered()
    lazy = LazySet.of([(samples.inputs[i], int(samples.labels[i])) for i in range(SIZE)])
    stored = store(telling(), lazy, batch_size=4)
    assert torch.equal(stored.logits, answers(torch.arange(SIZE)))
    with pytest.raises(InputError, match="another set"):
        stored(next(Loader(samples, 4, seed=0).epoch(0)))


def test_any_teacher_can_be_stored():
    class Constant:
        def __call__(self, batch, taps=None):
            return Outputs(torch.ones(len(batch), 3))

        def to(self, device):
            return self

        def fingerprint(self):
            return "constant"

    stored = store(Constant(), numbered())
    assert stored.origin == "constant"
    assert torch.equal(stored.logits, torch.ones(SIZE, 3))


def whole_numbers(seed, inputs, outputs):
    """A network whose answers to whole numbers have no rounding, so that they depend on no batch."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, outputs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
    return model


@pytest.mark.miniature(1)
@pytest.mark.parametrize("transfer", ["all", "part", "unlabelled"])
@pytest.mark.parametrize("method", [methods.kd, methods.logit_matching], ids=["kd", "logit_matching"])
@pytest.mark.parametrize("augment", [Augment(), Augment(shift=1)], ids=["plain", "augmented"])
def test_distilling_from_stored_answers_is_distilling_from_the_live_teacher(transfer, method, augment):
    pixels = torch.randint(-1, 2, (SIZE, 2, 4, 4), generator=torch.Generator().manual_seed(1)).float()
    samples = TensorSet.of(pixels, torch.arange(SIZE) % 3)
    part = {
        "all": lambda: samples,
        "part": lambda: samples.subset(torch.tensor([20, 3, 8, 1, 15, 2, 9])),
        "unlabelled": samples.without_labels,
    }[transfer]()
    clean = augment.active
    live = ModelTeacher(whole_numbers(1, 32, 3), view="clean" if clean else None)
    results = [
        fit(
            Distiller(network(5), teacher, method()),
            part,
            epochs=3,
            batch_size=4,
            learning_rate=1e-3,
            accumulate=2,
            augment=augment,
        )
        for teacher in (live, store(live, samples, clean=clean), store(live, part, clean=clean, batch_size=3))
    ]
    expected = results[0].student.state_dict()
    for result in results[1:]:
        assert result.history == results[0].history
        assert all(torch.equal(tensor, expected[name]) for name, tensor in result.student.state_dict().items())


# ------------------------------------------------------------------------------------------------------ the fingerprint


def test_the_fingerprint_changes_with_anything_that_decides_an_answer():
    logits, index = torch.arange(6.0).view(3, 2), torch.tensor([4, 0, 2])
    nudged, swapped = logits.clone(), logits[[1, 0, 2]]
    nudged[2, 1] = torch.nextafter(nudged[2, 1], torch.tensor(9.0))
    teachers = [
        StoredTeacher(logits, index, source="a"),
        StoredTeacher(nudged, index, source="a"),
        StoredTeacher(swapped, index, source="a"),
        StoredTeacher(logits, index[[1, 0, 2]], source="a"),
        StoredTeacher(logits, index, source="b"),
        StoredTeacher(logits, index, source="a", clean=True),
        StoredTeacher(logits, index, source="a", origin="o"),
        StoredTeacher(logits.double(), index, source="a"),
    ]
    assert len({teacher.fingerprint() for teacher in teachers}) == len(teachers)
    twin = StoredTeacher(logits.clone(), index.clone(), source="a")
    assert twin.fingerprint() == teachers[0].fingerprint()


def test_the_fingerprint_of_stored_answers_stays_what_it_was():
    # What is kept of long trainings is found by it.
    stored = store(ModelTeacher(whole_numbers(0, 1, 3)), numbered())
    assert stored.origin == "22404ab7f1beb56dc7bca96ae4bdd41fc3b2f6ad8e479bc15951bc3ce0c15210"
    assert stored.fingerprint() == "71c25749586ca05865fc37ef6aba089a98ebbd29b7b37d826e85bd1db3e2b201"


STABLE = """
import torch
from torch import nn
from limbeck.outputs import Tap
from limbeck.teachers import ModelTeacher

def halve(inputs):
    return inputs / 2

model = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.LSTM(3, 2))
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(0.5)
print(ModelTeacher(model, transform=halve, view="clean", taps={"a": Tap("0", torch.clone), "b": "1"}).fingerprint())
"""


def halve(inputs):
    return inputs / 2


@pytest.mark.thorough
def test_the_fingerprint_of_a_network_is_the_same_in_every_process():
    done = subprocess.run(
        [sys.executable, "-c", STABLE],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    model = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.LSTM(3, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    taps = {"a": Tap("0", torch.clone), "b": "1"}
    assert ModelTeacher(model, transform=halve, view="clean", taps=taps).fingerprint() == done.stdout.strip()
