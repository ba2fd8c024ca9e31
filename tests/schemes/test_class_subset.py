"""Students that serve a subset of the classes: the teacher learns them all and answers for the subset."""

import pytest
import torch

from limbeck.config import Recipe
from limbeck.errors import DataError, RecipeError
from limbeck.evaluation import evaluate
from limbeck.experiment.check import rehearse
from limbeck.experiment.parts import prepare
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.teacher import trained_teacher, wrap_teacher
from limbeck.experiment.vetting import vet
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder

SERVED = (8, "3", 5)
NUMBERS = (8, 3, 5)


def test_the_sets_hold_the_subset_and_the_teacher_learns_all(tiny):
    recipe, whole = tiny(classes=list(SERVED)), tiny()
    parts, all_parts = prepare(recipe), prepare(whole)
    for name in ("train", "held_out", "transfer", "alone", "test"):
        part, everything = getattr(parts, name), getattr(all_parts, name)
        known = torch.isin(everything.labels, torch.tensor(NUMBERS))
        assert torch.equal(part.index, everything.index[known])
        assert torch.equal(torch.tensor(NUMBERS)[part.labels], everything.labels[known])
        assert (part.classes, part.class_names) == (3, ("8", "3", "5"))
    assert torch.equal(parts.of_teacher.train.labels, all_parts.train.labels)
    assert all_parts.of_teacher is all_parts
    assert recipe.keys["classes"] == list(SERVED)
    assert whole.keys["classes"] is None
    again = Recipe.parse(recipe.keys)
    assert again.keys == recipe.keys


def test_the_teacher_is_that_of_all_classes_and_answers_for_some(tiny, tmp_path):
    recipe, whole = tiny(classes=list(SERVED)), tiny()
    parts, all_parts = prepare(recipe), prepare(whole)
    model = trained_teacher(whole, all_parts, 0, cache=tmp_path).model
    restricted = trained_teacher(recipe, parts, 0, cache=tmp_path).model
    assert len(list((tmp_path / "trainings").iterdir())) == 1
    inputs = parts.test.batch(torch.arange(20), augment=None, seed=0, view=0).inputs
    with torch.no_grad():
        expected = model.eval()(inputs)[:, list(NUMBERS)]
        assert torch.equal(restricted.eval()(inputs).logits, expected)
    batch = parts.transfer.batch(torch.arange(5), augment=None, seed=0, view=0)
    teacher = wrap_teacher(recipe, restricted, parts)
    with torch.no_grad():
        torch.testing.assert_close(teacher(batch).logits, model(batch.inputs)[:, list(NUMBERS)])
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert torch.equal(teacher.class_vectors(3), last.weight[list(NUMBERS)])


@pytest.mark.miniature(1)
@pytest.mark.parametrize("method", [{"name": "kd"}, {"name": "kd_sim"}, {"name": "kd_pt"}, {"name": "logit_matching"}])
def test_a_run_for_some_classes_is_measured_on_them_and_read_back(tiny, carried_out, method):
    recipe = tiny(classes=list(SERVED), method=method)
    path, outcome = carried_out(recipe)
    keep_outcome(RunFolder(path), outcome)
    found = FinishedRun.read(path)
    assert outcome.seeds[0].metrics["teacher"].examples == len(found.parts.test)
    for role in ("teacher", "alone", "distilled"):
        again = evaluate(found.model(role, 0), found.parts.test)
        assert again.errors == outcome.seeds[0].metrics[role].errors
    assert next(iter(found.student("distilled", 0).parameters())).shape[0] > 0
    assert found.student("distilled", 0)[-1].out_features == 3


def test_an_ensemble_answers_for_some_classes_member_by_member(tiny, tmp_path):
    recipe = tiny(classes=list(SERVED), teacher={**tiny().keys["teacher"], "members": 2})
    parts = vet(recipe)
    model = trained_teacher(recipe, parts, 0, cache=tmp_path).model
    teacher = wrap_teacher(recipe, model, parts)
    batch = parts.transfer.batch(torch.arange(5), augment=None, seed=0, view=0)
    assert teacher(batch).members.logits.shape == (2, 5, 3)


def test_unlabelled_transfer_still_holds_the_subset_alone(tiny):
    parts = prepare(tiny(classes=list(SERVED), data={"kind": "digits", "transfer": {"labels": False}}))
    assert len(parts.transfer) == len(parts.alone)
    assert not parts.transfer.legend.labelled
    assert parts.alone.legend.labelled


@pytest.mark.thorough
def test_a_rehearsal_says_who_answers_how_many_classes(tiny):
    rehearsal = rehearse(tiny(classes=list(SERVED)))
    assert [model.outputs[-1] for model in rehearsal.models] == [10, 3, 3]


@pytest.mark.parametrize(
    ("classes", "error", "line"),
    [
        ([3, "x"], RecipeError, "classes: 'digits/train' has no class 'x'"),
        ([3, 10], RecipeError, "classes: found 10, expected numbers from 0 to 9"),
        ([3, "3"], RecipeError, "classes: 3 occurs more than once"),
    ],
)
def test_classes_that_there_are_not_are_refused(tiny, classes, error, line):
    with pytest.raises(error) as caught:
        vet(tiny(classes=classes))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("classes", [[], [3]])
def test_fewer_than_two_classes_are_refused_at_once(tiny, classes):
    with pytest.raises(RecipeError, match=r"classes: found .*, expected two or more"):
        tiny(classes=classes)


def test_classes_without_samples_are_refused(tiny):
    with pytest.raises(DataError, match="classes: digits/train: found an empty subset"):
        prepare(tiny(classes=[1, 2], data={"kind": "digits", "transfer": {"only": [3, 4]}}))
