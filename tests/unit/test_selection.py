"""What of a data set a recipe uses: classes, first samples, wrong labels, the held-out part, and the teacher's part."""

import pytest
import torch

from limbeck.config import Recipe
from limbeck.data import Augment, HeldOut, Selection, Splits, Subset, TensorSet
from limbeck.errors import LimbeckError, RecipeError
from limbeck.evaluation import predict
from limbeck.experiment.building import as_teacher, build_teacher
from limbeck.experiment.parts import prepare
from limbeck.experiment.run import Experiment
from limbeck.runs import RunFolder
from limbeck.teachers import MeanOfModels, ModelTeacher
from limbeck.teachers.mean import selected_weights


def recipe(**keys) -> Recipe:
    whole = {
        "name": "small",
        "data": {"kind": "digits"},
        "teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": {"epochs": 1}},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 1},
        "validation": 0.2,
    }
    return Recipe.parse({**whole, **keys})


def numbered(count: int) -> TensorSet:
    return TensorSet.of(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 3)


def test_the_first_samples_are_all_there_are_and_the_held_out_part_lies_behind_the_rest():
    parts = prepare(recipe(data={"kind": "digits", "first": 100}, validation={"last": 30}))
    whole = prepare(recipe()).whole
    assert whole is not None
    published = recipe().load_data().train.index
    assert parts.train.index.tolist() == published[:70].tolist()
    assert parts.held_out.index.tolist() == published[70:100].tolist()


@pytest.mark.parametrize(
    ("held_out", "places"),
    [(HeldOut(2, "first"), [0, 1]), (HeldOut(0.25, "last"), [6, 7])],
    ids=["first", "last"],
)
def test_a_held_out_part_is_where_it_is_said_to_be(held_out, places):
    rest, part = held_out.split(numbered(8))
    assert part.index.tolist() == places
    assert sorted(rest.index.tolist() + places) == list(range(8))


def test_a_random_part_is_that_of_a_plain_number():
    plain, named = (prepare(recipe(validation=value)) for value in (300, {"random": 300}))
    assert torch.equal(plain.held_out.index, named.held_out.index)
    assert len(named.held_out.index.diff().unique()) > 1


def test_other_classes_leave_every_part_and_labels_are_renumbered():
    parts = prepare(recipe(data={"kind": "digits", "only_classes": [7, 2]}))
    for part in (parts.train, parts.held_out, parts.test):
        assert part.classes == 2
        assert part.class_names == ("7", "2")
        assert set(part.labels.tolist()) == {0, 1}


def test_groups_of_classes_stay_with_the_classes_that_are_kept():
    names = {"class_names": list("abcd"), "groups": [0, 0, 1, 1], "group_names": ["x", "y"]}
    samples = TensorSet.of(torch.zeros(8, 2), torch.arange(8) % 4, **names)
    kept = Selection(only_classes=("c", "d", "a")).apply(Splits(samples, samples, "small")).train
    assert [kept.group_names[group] for group in kept.groups] == ["y", "y", "x"]


def test_wrong_labels_are_of_the_training_part_alone():
    clean = prepare(recipe())
    noisy = prepare(recipe(data={"kind": "digits", "label_noise": 0.5}))
    changed = (clean.train.labels != noisy.train.labels).double().mean()
    assert 0.4 < float(changed) < 0.5  # a label that is drawn anew is often another one, at times the same
    assert torch.equal(clean.held_out.labels, noisy.held_out.labels)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    again = Selection(label_noise=0.5).noisy(clean.train.subset(torch.arange(50)))
    assert torch.equal(again.labels, noisy.train.labels[:50])


def test_the_teacher_learns_from_its_own_part_and_the_student_from_another(tmp_path):
    given = recipe(data={"kind": "digits", "transfer": {"first": 300}})
    own = given.with_values({"teacher.data": {"first": 100, "omit": [3]}})
    parts = prepare(own)
    assert len(parts.transfer) == len(parts.alone) == 300
    learnt = parts.of_teacher.train
    assert torch.equal(learnt.index, Subset(first=100, omit=(3,)).of(parts.train, seed=0).index)
    assert own.keys["teacher"]["data"] == {"first": 100, "fraction": 1.0, "omit": [3], "only": []}
    weights = []
    for each in (given, own):
        folder = RunFolder.create(tmp_path, "run", each.to_yaml(), ["test"])
        weights.append(Experiment(each, folder, cache=tmp_path / "cache").teacher(0).model.state_dict())
    assert not torch.equal(*(next(iter(each.values())) for each in weights))


def test_an_other_view_is_drawn_like_the_students_and_is_not_it():
    given = recipe(training={"epochs": 1, "augment": {"shift": 1}})
    other = given.with_values({"teacher.view": "other"})
    assert other.training.augment == Augment(shift=1, other_view=True)
    samples = prepare(other).transfer
    batch = samples.batch(torch.arange(40), augment=other.training.augment, seed=0, view=1)
    seen = batch.views["other"]
    moved = (batch.inputs != seen).flatten(1).any(1)
    assert 20 < int(moved.sum()) < 40  # of nine places, one in nine is the same
    plain = samples.batch(torch.arange(40), augment=given.training.augment, seed=0, view=1)
    assert torch.equal(plain.inputs, batch.inputs)
    teacher = as_teacher(other, other.teacher.model.build_for(samples))
    assert isinstance(teacher, ModelTeacher)
    same = samples.batch(torch.arange(40), augment=None, seed=0, view=0)
    same.inputs = seen
    assert torch.equal(teacher(batch).logits, teacher(same).logits)


def test_each_grid_of_a_search_is_crossed_by_itself():
    grids = [
        {"training.learning_rate": [0.1, 0.3], "method.temperature": [2.0], "method.alpha": [0.5]},
        {"method.temperature": [4.0], "method.alpha": [0.1]},
    ]
    searched = recipe(search=grids)
    assert [list(each.values()) for each in searched.settings()] == [[0.1, 2.0, 0.5], [0.3, 2.0, 0.5], [4.0, 0.1]]
    tried = [(each.training.learning_rate, each.method.values["temperature"]) for each in searched.candidates()]
    assert tried == [(0.1, 2.0), (0.3, 2.0), (0.1, 4.0)]
    assert searched.searched == ("training.learning_rate", "method.temperature", "method.alpha")


@pytest.mark.thorough
def test_a_candidate_that_diverges_drops_out_and_all_of_them_are_an_error(tmp_path):
    def chosen(rates, role):
        given = recipe(search={"training.learning_rate": rates}, training={"epochs": 3, "schedule": "constant"})
        folder = RunFolder.create(tmp_path, "run", given.to_yaml(), ["test"])
        return Experiment(given, folder, cache=tmp_path / "cache").chosen(role).values

    for role in ("alone", "distilled"):
        assert chosen([1e30, 0.1], role) == {"training.learning_rate": 0.1}
        with pytest.raises(LimbeckError, match=r"^search: found 2 candidates, which all diverge"):
            chosen([1e30, 1e29], role)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data": {"kind": "digits", "first": 5000}}, "data.first: found 5,000, expected at most 1,438"),
        ({"data": {"kind": "digits", "first": 1}}, "data.first: found 1"),
        ({"data": {"kind": "digits", "only_classes": [1]}}, "data.only_classes: found [1], expected two or more"),
        ({"data": {"kind": "digits", "label_noise": 2.0}}, "data.label_noise: found 2.0"),
        ({"data": {"kind": "digits", "transfer": {"first": 5000}}}, "data.transfer: first: found 5,000"),
        ({"validation": {"last": 0}}, "validation.last: found 0"),
        ({"validation": {"middle": 10}}, "validation: found {'middle': 10}, expected one of the keys random, first"),
        ({"validation": {"last": 1438}}, "validation: found 1438, which is 1438 of 1438"),
        ({"search": [{"training.epochs": [1]}, 3]}, "search[1]: found 3"),
        ({"search": [{"training.epochs": 3}]}, "search[0].training.epochs: found 3, expected a list"),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_line_with_its_place(keys, said):
    with pytest.raises(LimbeckError) as found:
        prepare(recipe(**keys))
    assert str(found.value).startswith(said)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(RecipeError, match=r"^teacher.view: found other, expected training.augment"):
        recipe(teacher={"model": {"kind": "mlp"}, "view": "other"})
    with pytest.raises(RecipeError, match=r"^teacher.data: found for a teacher that is not trained"):
        recipe(teacher={"arrays": {"path": "answers.npz"}, "data": {"first": 5}})
    with pytest.raises(LimbeckError, match=r"^augment.other_view: mixed samples"):
        Augment(mixup=1.0, other_view=True)


def test_the_test_set_is_not_made_smaller_by_the_first_samples():
    samples = numbered(9)
    assert len(Selection(first=4).apply(Splits(samples, samples, "small")).test) == 9


def test_pooled_images_are_the_means_of_their_squares():
    images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4) * 10 + torch.arange(3)[:, None, None, None]
    groups = {"groups": [1, 0], "group_names": ["x", "y"]}
    samples = TensorSet.of(images.to(torch.uint8), torch.tensor([0, 1, 1]), class_names=["a", "b"], **groups)
    pooled = Selection(pool=2).apply(Splits(samples, samples, "small")).train
    assert pooled.input_shape == (1, 2, 2)
    assert torch.allclose(pooled.gather(torch.arange(1)) * 255, torch.tensor([[[[25.0, 45.0], [105.0, 125.0]]]]))
    assert (pooled.class_names, pooled.groups, pooled.group_names) == (("a", "b"), (1, 0), ("x", "y"))
    part = samples.subset(torch.tensor([2, 0]))
    own = Selection(pool=2).apply(Splits(part, samples.subset(torch.tensor([1])), "small"))
    assert own.train.index.tolist() == [2, 0]
    assert own.train.source == own.test.source != samples.source
    assert torch.equal(own.train.gather(torch.arange(2)), pooled.gather(torch.tensor([2, 0])))
    with pytest.raises(LimbeckError, match=r"^pool: found 5 for inputs \(1, 4, 4\)"):
        Selection(pool=5).apply(Splits(samples, samples, "small"))
    tokens = TensorSet.of(torch.zeros(3, 1, 4, 4, dtype=torch.int64), torch.tensor([0, 1, 1]))
    with pytest.raises(LimbeckError, match=r"^pool: found 2 for inputs \(1, 4, 4\) int64"):
        Selection(pool=2).apply(Splits(tokens, tokens, "small"))


@pytest.mark.thorough
def test_an_ensemble_is_weighed_on_the_held_out_part_and_keeps_its_weights(tmp_path):
    members = [{"model": {"kind": "mlp", "hidden": [width]}, "training": {"epochs": 4}} for width in (1, 16, 24)]
    given = recipe(teacher={"members": members, "select": 5}, method={"name": "kd"})
    folder = RunFolder.create(tmp_path, "run", given.to_yaml(), ["test"])
    experiment = Experiment(given, folder, cache=tmp_path / "cache")
    model = experiment.teacher(0).model
    assert isinstance(model, MeanOfModels)
    held_out = experiment.choosing.held_out
    answers = [predict(member, held_out).softmax(1) for member in model.members]
    assert list(model.weights) == pytest.approx(selected_weights(answers, held_out.labels, rounds=5))
    assert model.weights[0] < max(model.weights)
    read = build_teacher(given, experiment.choosing, 0)
    read.load_state_dict(model.state_dict())
    assert read.weights == model.weights
    assert Recipe.parse(given.keys).keys == given.keys


@pytest.mark.parametrize(
    "keys",
    [{"members": 2, "weights": [0.5, 0.5]}, {"members": 1}, {"members": 2, "mean": "geometric"}],
    ids=["weights", "one", "geometric"],
)
def test_members_can_be_selected_for_an_arithmetic_mean_alone(keys):
    with pytest.raises(RecipeError, match=r"^teacher.select: found 5, expected several members"):
        recipe(teacher={"model": {"kind": "mlp"}, "select": 5, **keys})
    with pytest.raises(RecipeError, match=r"^teacher.select: found together with refit"):
        recipe(teacher={"model": {"kind": "mlp"}, "select": 5, "members": 2}, refit=True)
