"""Teachers that exist already: their weights teach as they are, and see the images as they were trained to."""

from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.config import Recipe
from limbeck.data import TensorSet
from limbeck.errors import ModelError, RecipeError, RunError
from limbeck.evaluation import evaluate, measure
from limbeck.experiment.building import as_teacher, build_student
from limbeck.experiment.check import rehearse
from limbeck.experiment.cost import forward_flops
from limbeck.experiment.parts import prepare
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.teacher import trained_teacher, wrap_teacher
from limbeck.models.layers import InputTransform
from limbeck.networks import at_once
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.teachers import ModelTeacher, store
from limbeck.teachers.model import state_digest
from limbeck.training import load_weights, save_weights
from walk import over

FACTORY = """
import torch
from torch import nn

def linear(input_shape, classes, weights):
    model = nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], classes))
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model

def create_model(model_name, pretrained=False, **more):
    # as timm: what the function does not name would go to the network's constructor, and fail there
    assert (model_name, pretrained, more) == ("tiny", True, {"num_classes": 10})
    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 10))

class Counted(nn.Sequential):
    def forward(self, images):
        with open(self[1].log, "a") as file:
            print(len(images), file=file)
        return super().forward(images)

def counted(classes, log):
    model = Counted(nn.Flatten(), nn.Linear(64, classes))
    model[1].log = log
    return model

class Sized(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.shape, self.layer = tuple(shape), nn.Linear(4, classes)

    def forward(self, images):
        assert images.shape[1:] == self.shape, (images.shape, self.shape)
        flat = images.flatten(1)
        return self.layer(torch.stack([flat.mean(1), flat.amax(1), flat.amin(1), flat[:, 0]], 1))

def sized(input_shape, classes):
    torch.manual_seed(3)
    return Sized(input_shape, classes)
"""
TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "first": 200},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "training": {"epochs": 2, "batch_size": 100},
    "validation": 40,
}


@pytest.fixture
def given(tmp_path):
    """Return a recipe with a teacher whose factory reads its weights from a file, and further keys."""
    (tmp_path / "made.py").write_text(FACTORY)
    weigh(tmp_path, 0)

    def recipe(teacher=None, **more):
        model = {"factory": "made:linear", "arguments": {"weights": str(tmp_path / "w.pt")}}
        return Recipe.parse(
            {**TINY, "teacher": {"model": model, "training": "none"} | (teacher or {}), **more}, tmp_path
        )

    return recipe


def weigh(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
    torch.save(state, folder / "w.pt")
    return state


def carried_out(recipe, folder, **more):
    run = RunFolder.create(folder / "runs", recipe.name, recipe.to_yaml(), ["test"])
    return run, distill(recipe, run, cache=folder / "cache", **more)


def test_the_weights_of_a_factory_teach_as_they_are(given, tmp_path):
    lines = []
    run, outcome = carried_out(given(), tmp_path, say=lines.append)
    keep_outcome(run, outcome)
    finished = FinishedRun.read(run.path, trust=True)
    assert torch.equal(finished.teacher(0)[1].weight, torch.load(tmp_path / "w.pt")["1.weight"])
    assert outcome.roles["teacher"].compute == dict.fromkeys(("learning", "answers", "teachers", "total"), 0.0)
    assert outcome.roles["teacher"].label == "teacher, as given"
    assert outcome.roles["distilled"].compute["teachers"] == 0
    assert "teacher: as given, by made:linear" in lines
    assert (
        "compute: the teacher's weights are used as given, and what their training took is not counted" in outcome.notes
    )
    assert finished.recipe.teacher.members[0].given  # the recipe that is written into the run says so as well
    assert finished.recipe.keys["teacher"]["training"] == "none"
    assert not (tmp_path / "cache" / "trainings").exists()


def test_what_a_given_teacher_has_learnt_decides_the_students_that_it_taught(given, tmp_path):
    recipe = given()
    run, _ = carried_out(recipe, tmp_path)
    weigh(tmp_path, 1)
    with pytest.raises(RunError, match=r"belongs to another training: teacher was"):
        distill(recipe, RunFolder(run.path), cache=tmp_path / "cache")


def test_a_rehearsal_plans_no_step_of_a_given_teacher(given):
    found = rehearse(given())
    (teacher,) = (model for model in found.models if model.role.startswith("teacher"))
    assert (teacher.role, teacher.steps, teacher.runs) == ("teacher, as given", 0, 0)
    assert (teacher.parameters, teacher.inputs, teacher.outputs) == (650, (8, 1, 8, 8), (8, 10))
    assert found.trainings == 2  # alone and distilled


@pytest.mark.thorough
@over(
    ("teacher", "augment", "once"),
    [({}, {}, True), ({"store": False}, {}, False), ({"view": "clean"}, {"shift": 1}, True), ({}, {"shift": 1}, False)],
)
def test_a_rehearsal_asks_a_teacher_whose_answers_are_stored_once(given, tmp_path, monkeypatch, teacher, augment, once):
    """Its estimate is of steps that look answers up, and of one answer to each sample before."""
    monkeypatch.setattr("limbeck.experiment.check.plan_teacher", lambda *_: None)  # which asks for itself
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    model = {"factory": "made:counted", "arguments": {"log": str(log)}}
    training = {**TINY["training"], "epochs": 10, "augment": augment}
    found = rehearse(given({"model": model, **teacher}, training=training))
    batches = log.read_text().split().count("100")
    assert batches == 1 if once else batches > 2
    distilled = found.models[-1]
    assert (distilled.asking > 0) == once
    assert distilled.seconds == (20 * distilled.seconds_a_step + distilled.asking) * distilled.runs


@pytest.mark.thorough
def test_seeds_with_one_teacher_share_its_stored_answers_and_each_pays_for_them(given, tmp_path):
    log, costs = tmp_path / "log", []
    model = {"factory": "made:counted", "arguments": {"log": str(log)}}
    for seed, times in ((0, 1), (None, 3)):
        log.unlink(missing_ok=True)
        recipe = given({"model": model, "seed": seed}, seeds=[0, 1, 2])
        _, outcome = carried_out(recipe, tmp_path)
        assert log.read_text().split().count("160") == times
        costs.append(outcome.roles["distilled"].compute["answers"])
    assert costs[0] == costs[1] == 160 * forward_flops(recipe.teacher.model.build((1, 8, 8), 10), prepare(recipe).train)


@pytest.mark.thorough
def test_a_function_of_another_library_is_called_with_what_it_names_alone(given):
    arguments = {"model_name": "tiny", "pretrained": True, "num_classes": 10}
    found = rehearse(given({"model": {"factory": "made:create_model", "arguments": arguments}}))
    assert found.models[0].role == "teacher, as given"


def test_a_given_teacher_has_no_epochs(given):
    scheme = {"name": "early_stopping", "teacher_epochs": [1]}
    with pytest.raises(RecipeError, match="the teacher is used as given, so the epochs of its training are not"):
        rehearse(given(scheme=scheme))


@pytest.mark.thorough
def test_members_of_an_ensemble_are_given_or_trained_each_by_itself(given, tmp_path):
    model = {"factory": "made:linear", "arguments": {"weights": str(tmp_path / "w.pt")}}
    small = {"kind": "mlp", "hidden": [4]}
    members = [{"model": model, "training": "none"}, {"model": small}]
    teacher = {"members": members, "training": {"epochs": 1}, "model": None}
    recipe = given(teacher, method={"name": "kd"})
    assert [member.given for member in recipe.teacher.members] == [True, False]
    parts = prepare(recipe)
    ensemble = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    assert torch.equal(ensemble.members[0][1].weight, torch.load(tmp_path / "w.pt")["1.weight"])
    assert len(list((tmp_path / "cache" / "trainings").iterdir())) == 1
    found = [(model.role, model.runs) for model in rehearse(recipe).models]
    assert found[:2] == [("teacher, as given", 0), ("teacher", 1)]


def test_a_checkpoint_is_given_too_and_its_resolved_recipe_says_so(tmp_path):
    model = models.mlp((1, 8, 8), 10, hidden=(4,))
    save_weights(model, tmp_path / "t.safetensors")
    keys = {"kind": "mlp", "hidden": [4], "checkpoint": "t.safetensors"}
    for training in ({}, {"training": "none"}):
        recipe = Recipe.parse({**TINY, "teacher": {"model": keys, **training}}, tmp_path)
        assert recipe.keys["teacher"]["training"] == "none"
        again = Recipe.parse(recipe.keys, tmp_path / "elsewhere")
        taught = trained_teacher(again, prepare(again), 0, cache=tmp_path / "cache").model
        assert state_digest(taught) == state_digest(model)


def test_a_checkpoint_with_a_training_is_where_that_training_begins(tmp_path):
    model = models.mlp((1, 8, 8), 10, hidden=(4,))
    save_weights(model, tmp_path / "t.safetensors")
    keys = {"kind": "mlp", "hidden": [4], "checkpoint": "t.safetensors"}
    slow = {"epochs": 1, "learning_rate": 1e-4}
    recipe = Recipe.parse({**TINY, "teacher": {"model": keys, "training": slow}}, tmp_path)
    assert recipe.teacher.members[0].learns
    taught = trained_teacher(recipe, prepare(recipe), 0, cache=tmp_path / "cache")
    assert taught.compute.learning > 0
    first, then = (each.state_dict()["fc.weight"] for each in (model, taught.model))
    assert not torch.equal(then, first)
    torch.testing.assert_close(then, first, atol=0.01, rtol=0.01)
    listed = {"members": [{"model": keys}, {"model": {"kind": "mlp"}}], "training": slow}
    read, trained = Recipe.parse({**TINY, "teacher": listed}, tmp_path).teacher.members
    assert (read.given, trained.learns) == (True, True)


def test_a_student_starts_from_a_part_of_a_file_and_one_like_it_from_random_weights(tmp_path):
    """An assistant, or a teacher that is not named, is built like the student, and not from the student's weights."""
    model = models.mlp((1, 8, 8), 10, hidden=(4,))
    torch.save({"state_dict": {f"net.{name}": each for name, each in model.state_dict().items()}}, tmp_path / "s.ckpt")
    keys = {"kind": "mlp", "hidden": [4], "checkpoint": "s.ckpt", "key": "state_dict.net"}
    recipe = Recipe.parse({**TINY, "student": {"model": keys}}, tmp_path)
    for each in (recipe, Recipe.parse(recipe.keys, tmp_path / "elsewhere")):
        assert state_digest(build_student(each, prepare(each), 0)) == state_digest(model)
        assert each.teacher.members[0].learns
        assert set(each.keys["teacher"]["model"]).isdisjoint({"checkpoint", "key"})
    assert state_digest(build_student(recipe.without_checkpoints(), prepare(recipe), 0)) != state_digest(model)


MISTAKES = [
    (
        {"training": "none", "model": {"kind": "mlp"}},
        "teacher.training: found none for a new network, whose weights are random",
    ),
    ({"training": "never"}, "teacher.training: found 'never', expected keys and their values, or none"),
    ({"training": 0}, "teacher.training: found 0, expected keys and their values, or none"),
    ({"training": {"epochs": 0}}, "teacher.training.epochs: found 0"),
    ({"method": {"name": "hard", "label_smoothing": 0.1}}, "teacher.method: has no effect on a network that is not"),
    ({"data": {"first": 30}}, "teacher.data: found for a teacher that is not trained"),
    (
        {"model": None, "members": [{"model": {"kind": "mlp"}}]},
        "teacher.members[0].training: found none for a new network, whose weights are random",
    ),
    ({"model": None, "estimator": {"kind": "random_forest"}}, "teacher.training: is an option of networks"),
    ({"input": {}}, "teacher.input: found nothing, expected size, or mean and std"),
    ({"input": {"size": 0}}, "teacher.input.size: found 0"),
    ({"input": {"size": 5000}}, "teacher.input.size: found 5,000, expected at most 4,096"),
    ({"input": {"size": [8, 8, 8]}}, "teacher.input.size: found [8, 8, 8], expected one number, or height and width"),
    ({"input": {"mean": [0.5]}}, "teacher.input.mean: found without std"),
    ({"input": {"side": 8}}, "teacher.input.side: there is no such key; "),
    ({"input": {"size": "big"}}, "teacher.input.size: found 'big', expected "),
    (
        {"model": None, "training": {}, "input": {"size": 4}, "estimator": {"kind": "random_forest"}},
        "teacher.input: is an option of networks",
    ),
]


@over(("teacher", "says"), MISTAKES)
def test_each_mistake_is_one_line(given, teacher, says):
    with pytest.raises(RecipeError) as caught:
        given(teacher)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@over(
    ("values", "data", "says"),
    [
        (
            {"mean": [0.5] * 3, "std": [0.5] * 3},
            {"kind": "digits"},
            "mean has 3 and std 3 values, expected one for each of 1",
        ),
        ({"mean": [0.5], "std": [0.0]}, {"kind": "digits"}, "std: found 0.0"),
        ({"size": 4}, {"kind": "bundled", "name": "wine"}, "found for inputs that are no images"),
    ],
)
def test_a_transform_that_does_not_fit_the_data_is_one_line(given, values, data, says):
    model = {"factory": "made:sized"}
    with pytest.raises(RecipeError, match=r"teacher\.input") as caught:
        rehearse(given({"model": model, "input": values}, data=data))
    assert says in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- its input


OWN = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@over("values", [{"size": 9}, {"size": [9, 5], **OWN}, OWN])
@over("normalised", [False, True])
@over("stored", [torch.uint8, torch.float32])
def test_the_teacher_sees_the_images_in_its_own_size_and_normalisation(given, values, normalised, stored):
    """What the set's normalisation did is undone, so that the teacher's is of the pixels in [0, 1]."""
    pixels = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8)
    kept = pixels if stored == torch.uint8 else pixels / 255
    scale = {"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)} if normalised else {}
    samples = TensorSet.of(kept, torch.arange(20) % 4, **scale)
    model = given({"model": {"factory": "made:sized"}, "input": values}).teacher.model.build_for(samples)
    wanted = pixels / 255
    if "size" in values:
        size = (9, 9) if values["size"] == 9 else (9, 5)
        wanted = nn.functional.interpolate(wanted, size=size, mode="bilinear", antialias=True, align_corners=False)
    if "mean" in values:
        wanted = (wanted - torch.tensor(OWN["mean"]).view(3, 1, 1)) / torch.tensor(OWN["std"]).view(3, 1, 1)
    elif normalised:
        wanted = (wanted - samples.mean) / samples.std
    assert model.module.shape == tuple(wanted.shape[1:])  # what the factory was told
    batch = samples.batch(torch.arange(20), augment=None, seed=0, view=0)
    torch.testing.assert_close(model(batch.inputs), model.module(wanted), rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == {"module.layer.weight", "module.layer.bias"}


def test_what_the_teacher_sees_is_part_of_what_it_is(given, tmp_path):
    digests = set()
    for values in (None, {"size": 8}, {"size": 9}, {"mean": [0.5], "std": [0.5]}, {"mean": [0.5], "std": [0.4]}):
        recipe = given({"model": {"factory": "made:sized"}, **({"input": values} if values else {})})
        parts = prepare(recipe)
        model = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
        digests.add(as_teacher(recipe, model).fingerprint())
    assert len(digests) == 5


@pytest.mark.thorough
@pytest.mark.parametrize("stored", [True, False])
def test_a_run_with_a_resized_teacher_is_read_back(given, tmp_path, stored):
    recipe = given(
        {"model": {"factory": "made:sized"}, "input": {"size": 12, "mean": [0.1], "std": [0.9]}, "store": stored}
    )
    run, outcome = carried_out(recipe, tmp_path)
    keep_outcome(run, outcome)
    finished = FinishedRun.read(run.path, trust=True)
    teacher = finished.teacher(0)
    assert teacher.module.shape == (1, 12, 12)
    assert evaluate(teacher, finished.parts.test).errors == outcome.seeds[0].teacher.errors
    found = rehearse(finished.recipe)
    assert "teacher.input: the images are resized to 12 × 12 and normalised by its own mean and std" in found.notes


def test_stored_answers_are_those_of_a_teacher_that_is_asked_each_time(given, tmp_path):
    answers = []
    for stored in (True, False):
        recipe = given({"model": {"factory": "made:sized"}, "input": {"size": 12}, "store": stored})
        parts = prepare(recipe)
        teacher = wrap_teacher(recipe, trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model, parts)
        answers.append(teacher(parts.transfer.batch(torch.arange(6), augment=None, seed=0, view=0)).logits)
    torch.testing.assert_close(*answers)


def test_a_teacher_of_larger_images_is_asked_about_fewer_at_a_time(given, tmp_path):
    """So that its activations take no more memory than those of the images as they are."""
    sizes = {}
    for side in (8, 16, 400, None):
        recipe = given({"model": {"factory": "made:sized"}, **({"input": {"size": side}} if side else {})})
        parts = prepare(recipe)
        model = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
        asked = []
        handle = model.register_forward_hook(lambda _, inputs, answer, asked=asked: asked.append(len(answer)))
        few = parts.test if side != 400 else parts.test.subset(torch.arange(3))
        whole, stored = evaluate(model, few), store(model, few)
        handle.remove()
        sizes[side] = max(asked)
        assert at_once(ModelTeacher(model), 1000) == {8: 1000, 16: 250, 400: 1, None: 1000}[side]
        assert measure(stored.logits, few.labels).errors == whole.errors
    assert sizes == {8: 359, 16: 256, 400: 1, None: 359}


def test_a_trained_teacher_learns_from_what_it_sees_and_its_layers_keep_their_names(given, tmp_path):
    model = {"kind": "cnn", "channels": [4] * 4}  # four poolings, of which 8 pixels allow three
    with pytest.raises(ModelError, match=r"4 poolings need images of 16 pixels, found 8"):
        rehearse(given({"model": model, "training": {"epochs": 1}}))
    recipe = given({"model": model, "training": {"epochs": 1}, "input": {"size": 16}})
    assert Recipe.parse(recipe.keys, tmp_path).keys["teacher"]["input"] == recipe.keys["teacher"]["input"]
    assert recipe.keys["teacher"]["input"]["size"] == 16
    parts = prepare(recipe)
    taught = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache")
    inner = models.cnn((1, 16, 16), 10, channels=(4,) * 4)
    save_weights(taught.model, tmp_path / "t.safetensors")
    load_weights(inner, tmp_path / "t.safetensors")
    assert state_digest(inner) == state_digest(taught.model.module)
    assert taught.compute.learning > 0


def test_a_transform_is_said_in_words():
    assert str(InputTransform(size=(4, 6))) == "resized to 4 × 6"
    assert str(InputTransform(mean=(0.0,), std=(1.0,))) == "normalised by its own mean and std"
