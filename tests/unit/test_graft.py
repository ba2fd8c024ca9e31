"""A student that ends in its teacher's classifier."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import methods
from limbeck.config import Recipe
from limbeck.diagnosis.recipes import _about
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.teachers import ModelTeacher, graft
from limbeck.training import Training, fit
from small_nets import Net, batch_of, distiller_of, pictures
from walk import over


def grafted(**options):
    teacher = Net(6, 2).double()
    inputs = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        student = graft(Net(4, 1).double(), teacher, inputs, **{"layers": "stage2", **options})
    return student.double(), teacher


def test_a_projector_that_gives_the_teachers_map_gives_the_teachers_logits():
    student, teacher = grafted()
    student.student, student.projector = copy.deepcopy(teacher), nn.Identity()
    inputs = batch_of().inputs
    torch.testing.assert_close(student(inputs), teacher(inputs))


def test_the_answer_is_the_teachers_classifier_on_the_pooled_projection():
    student, teacher = grafted()
    inputs = batch_of().inputs
    own = student.student.stage2(student.student.stage1(inputs))
    expected = F.linear(student.projector.eval()(own).mean((2, 3)), teacher.fc.weight, teacher.fc.bias)
    torch.testing.assert_close(student.eval()(inputs), expected)
    assert student.projector[0].weight.shape[0] == 4  # half of the teacher's 8 channels
    assert grafted(factor=4)[0].projector[0].weight.shape[0] == 2


def test_it_learns_the_map_alone_and_its_classifier_stays_the_teachers(tmp_path):
    teacher = Net(6, 2)
    student = graft(Net(4, 1), teacher, torch.zeros(2, 1, 6, 6), layers="stage2")
    own_head = student.student.fc.weight.detach().clone()
    distiller = Distiller(student, ModelTeacher(teacher), methods.simkd({"projector": "stage2"}, hard_weight=0.5))
    settings = Training(epochs=3, batch_size=12, learning_rate=0.05, weight_decay=0.1)
    result = fit(distiller, pictures(24), training=settings, folder=tmp_path / "run")
    assert torch.equal(result.student.classifier.weight, teacher.fc.weight)
    assert torch.equal(result.student.classifier.bias, teacher.fc.bias)
    assert torch.equal(result.student.student.fc.weight, own_head)
    first, *_, last = [line["train"]["simkd"] for line in result.history]
    assert last < first
    assert {"projector.0.weight", "classifier.weight", "student.stage1.0.weight"} <= set(result.student.state_dict())


def test_the_loss_is_the_mean_squared_error_of_the_map():
    student, teacher = grafted()
    batch = batch_of()
    distiller = distiller_of(methods.simkd({"projector": "stage2"}), batch, student=student, teacher=teacher).eval()
    own = student.projector(student.student.stage2(student.student.stage1(batch.inputs)))
    expected = F.mse_loss(own, teacher.stage2(teacher.stage1(batch.inputs)))
    loss = distiller(batch, 0)
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()))
    assert list(loss.parts) == ["simkd"]


@over("options, line", [
    ({"layers": ["stage1", "stage2"]}, "layers: found 2 pairs, expected one"),
    ({"layers": "pool"}, r"layers: the student's 'pool' gives \(2, 6\), expected maps"),
    ({"layers": {"stage2": "stage1"}}, r"layers: the teacher's 'stage1' gives \(2, 6, 6, 6\), whose mean"),
    ({"factor": 0}, "factor"),
])  # fmt: skip
def test_what_cannot_be_grafted_is_one_line(options, line):
    with pytest.raises((InputError, ModelError), match=line):
        grafted(**options)


KEYS = {
    "name": "grafted",
    "data": {"kind": "digits"},
    "teacher": {"model": {"kind": "cnn", "channels": [8, 16]}},
    "student": {"model": {"kind": "cnn", "channels": [4, 8]}, "graft": {"layers": "stage1"}},
    "method": {"name": "simkd", "layers": {"projector": "stage1"}},
}


@over("changes, line", [
    ({"scheme": {"name": "mutual"}}, "student.graft: found with scheme mutual"),
    ({"teacher": {"model": {"kind": "cnn"}, "members": 2}}, "student.graft: expected a teacher that is one network"),
    ({"student": {**KEYS["student"], "graft": {"layer": "stage1"}}}, "student.graft.layer: there is no such key"),
    ({"student": {**KEYS["student"], "graft": {"layers": "stage1", "factor": 0}}}, "student.graft.factor"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_grafted_is_one_line(changes, line):
    with pytest.raises(RecipeError, match=line):
        Recipe.parse({**KEYS, **changes})


def test_a_resolved_recipe_repeats_the_graft():
    recipe = Recipe.parse(KEYS)
    assert recipe.keys["student"]["graft"] == {"layers": "stage1", "factor": 2}
    assert Recipe.parse(recipe.keys).graft == recipe.graft


def test_a_diagnosis_says_that_its_students_have_no_graft():
    (line,) = _about(Recipe.parse(KEYS))
    assert "students without the graft" in line
    assert _about(Recipe.parse({**KEYS, "student": {"model": {"kind": "cnn"}}, "method": {"name": "kd"}})) == ()
