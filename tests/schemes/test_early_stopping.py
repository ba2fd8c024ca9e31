"""Early stopping: when distillation ends, what goes on, and which teacher of its training teaches."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck import methods
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, RecipeError, RunError
from limbeck.experiment.building import build_student, seeded_build
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher, wrap_teacher
from limbeck.losses import cross_entropy, kl
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schedules import piecewise, until
from limbeck.schemes.early_stopping import EarlyStopping, Ending, EndingDistiller, ending_objective
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import Training, fit, load_weights

CONVERGED = {"name": "early_stopping", "patience": 1, "tolerance": 0.2}


# -------------------------------------------------------------------------------------------------------------- the end


@given(st.lists(st.floats(0.01, 10.0), max_size=12), st.integers(1, 4), st.sampled_from([0.0, 0.1]))
def test_the_end_has_come_when_patience_runs_out(losses, patience, tolerance):
    ending = Ending(patience=patience, tolerance=tolerance)
    ending.observe(losses, steps=7)
    expected = None
    for epoch in range(1, len(losses) + 1):  # each epoch anew, by what the last ones lack
        seen = losses[:epoch]
        good = [i for i, loss in enumerate(seen) if i == 0 or loss < min(seen[:i]) * (1 - tolerance)]
        if epoch - 1 - good[-1] >= patience and expected is None:
            expected = epoch * 7
    assert ending.step == expected
    assert not ending.come((expected or 10**9) - 1)
    if expected:
        assert ending.come(expected)


def test_an_end_is_a_function_of_the_history_alone():
    ending = Ending(patience=1)
    ending.observe([1.0, 2.0], steps=5)
    assert ending.step == 10
    ending.observe([1.0], steps=5)  # a resumed training hears of less
    assert ending.step is None
    fixed = Ending(3)
    fixed.observe([1.0, 2.0], steps=5)
    assert fixed.step == 3
    for wrong in ({}, {"step": 1, "patience": 1}):
        with pytest.raises(InputError, match="step: found together with patience"):
            Ending(**wrong)


def test_before_the_end_it_is_the_method_and_after_it_hard_labels():
    logits, taught = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    batch = Batch.of(torch.zeros(6, 1), torch.arange(6) % 4)
    outputs = {"student": Outputs(logits), "teacher": Outputs(taught)}
    kd = methods.kd(temperature=3.0, hard_weight=0.2, soft_weight=0.7)
    before = 0.2 * cross_entropy(logits, batch.labels) + 0.7 * 9 * kl(logits, taught, temperature=3.0)
    for objective, first in ((kd, before), (methods.kd(temperature=3.0, alpha=0.0), None)):
        ended = ending_objective(objective, Ending(5), hard_weight=1.5)
        if first is None:
            first = 9 * kl(logits, taught, temperature=3.0)
        torch.testing.assert_close(ended(outputs, batch, 4).total, first)
        torch.testing.assert_close(ended(outputs, batch, 5).total, 1.5 * cross_entropy(logits, batch.labels))


def test_trainings_with_other_ends_are_told_apart():
    def shown(ending):
        return repr(ending_objective(methods.kd(), ending, 1.0))

    different = [Ending(3), Ending(4), Ending(patience=1), Ending(patience=2), Ending(patience=1, tolerance=0.1)]
    assert len({shown(ending) for ending in different}) == len(different)
    assert shown(Ending(3)) == shown(Ending(3))


# --------------------------------------------------------------------------------------------------------- the training


@pytest.mark.miniature(1)
@pytest.mark.parametrize("where", [{"step": 3}, {"share": 0.5}])
def test_an_end_at_a_step_is_a_schedule_of_both_terms(tiny, carried_out, where, tmp_path):
    recipe = tiny(scheme={"name": "early_stopping", **where})
    path, _ = carried_out(recipe)
    parts = prepare(recipe)
    steps = math.ceil(len(parts.transfer) / 128)
    end = 3 if "step" in where else round(0.5 * 2 * steps)
    method = Objective([HardLabels(piecewise([0.1, 1.0], boundaries=[end])), SoftTargets(until(end, 0.9))])
    teacher = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    student = build_student(recipe, parts, 0)
    distiller = Distiller(student, wrap_teacher(recipe, teacher, parts), method)
    fit(distiller, parts.transfer, parts.held_out, training=recipe.training, seed=0)
    kept = build_student(recipe, parts, 0)
    load_weights(kept, path / "distilled-0" / "student.safetensors")
    assert all(torch.equal(one, two) for one, two in zip(student.parameters(), kept.parameters(), strict=True))


class Asked(ModelTeacher):
    """A teacher that counts how often it is asked."""

    asked = 0

    def __call__(self, *arguments):
        self.asked += 1
        return super().__call__(*arguments)


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_the_teacher_is_not_asked_after_the_end_and_judged_on_the_validation_set_alone(tiny):
    parts = prepare(tiny())
    teacher, judge, ending = Asked(flat()), Asked(flat()), Ending(patience=1, tolerance=1.0)  # no loss is ever better
    objective = ending_objective(methods.kd(), ending, 1.0)
    steps = math.ceil(len(parts.transfer) / 128)
    distiller = EndingDistiller(flat(), teacher, objective, ending, judge, steps)
    result = fit(distiller, parts.transfer, parts.held_out, epochs=4, batch_size=128)
    assert ending.step == 2 * steps
    assert teacher.asked == 1 + 2 * steps  # once to build
    assert judge.asked == 4 * math.ceil(len(parts.held_out) / 128)
    assert all(entry["train"].keys() >= {"hard", "soft"} for entry in result.history[:2])
    assert all("soft" not in entry["train"] for entry in result.history[2:])


def test_the_noted_loss_is_the_terms_mean_over_the_validation_set(tiny):
    parts = prepare(tiny())
    student, teacher = flat(), flat()
    ending = Ending(patience=9)
    objective = ending_objective(methods.kd(temperature=2.0), ending, 1.0)
    distiller = EndingDistiller(student, ModelTeacher(teacher), objective, ending, ModelTeacher(teacher), 4)
    result = fit(distiller, parts.transfer, parts.held_out, epochs=1, batch_size=33)
    inputs = parts.held_out.batch(torch.arange(len(parts.held_out)), augment=None, seed=0, view=0).inputs
    with torch.no_grad():
        wanted = 4 * kl(student(inputs), teacher(inputs), temperature=2.0)
    assert result.history[0]["validation"]["soft"] == pytest.approx(float(wanted), rel=1e-5)
    assert student.training


@pytest.mark.thorough
def test_converged_distillation_is_gone_on_with_exactly(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(scheme=CONVERGED, training={"epochs": 6, "batch_size": 64})
    whole, outcome = carried_out(recipe)
    end = outcome.decided[0]["end"]
    assert 1 < end < 6, "the tests below need an end within the training"
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "distilled-0"]
    same_weights(whole, killed, trained)
    lines = [json.loads(line) for line in (killed / "distilled-0" / "metrics.jsonl").read_text().splitlines()]
    assert ["soft" in line["train"] for line in lines] == [epoch <= end for epoch in range(1, 7)]


@pytest.mark.miniature(1)
@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_an_ending_training_resumes_bit_for_bit_from_any_epoch(tiny, tmp_path, epoch):
    parts = prepare(tiny())
    steps = math.ceil(len(parts.transfer) / 128)

    def train(folder, watch):
        torch.manual_seed(0)
        student, teacher, ending = flat(), ModelTeacher(flat()), Ending(patience=1, tolerance=0.5)
        objective = ending_objective(methods.kd(), ending, 1.0)
        distiller = EndingDistiller(student, teacher, objective, ending, teacher, steps)
        training = Training(epochs=6, batch_size=128, checkpoint_seconds=0.0)
        fit(distiller, parts.transfer, parts.held_out, training=training, folder=folder, watch=watch)
        return student, ending.step

    def kill(progress):
        if progress.epoch == epoch and progress.epoch_ended:
            raise KeyboardInterrupt

    whole, end = train(tmp_path / "whole", lambda progress: None)
    assert end is not None
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", kill)
    again, same = train(tmp_path / "killed", lambda progress: None)
    assert same == end
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))
    read, end_read = train(tmp_path / "killed", lambda progress: None)  # finished: read, its end included
    assert end_read == end
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), read.parameters(), strict=True))


@pytest.mark.thorough
def test_a_refit_ends_where_the_held_out_part_said(tiny, carried_out):
    recipe = tiny(scheme=CONVERGED, training={"epochs": 6, "batch_size": 64}, refit=True, seeds=[0, 1])
    path, outcome = carried_out(recipe)
    end = outcome.decided[0]["end"]
    assert end == outcome.decided[1]["end"] < 6
    for seed in (0, 1):
        lines = [json.loads(line) for line in (path / f"distilled-{seed}" / "metrics.jsonl").read_text().splitlines()]
        assert ["soft" in line["train"] for line in lines] == [epoch <= end for epoch in range(1, 7)]
        assert all(line["validation"] == {} for line in lines)


# ---------------------------------------------------------------------------------------------- teachers along the way


def test_candidate_teachers_are_the_teacher_after_those_epochs(tiny, tmp_path):
    longer = {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 4, "batch_size": 128}}
    recipe = tiny(teacher=longer, scheme={"name": "early_stopping", "share": 1.0, "teacher_epochs": [1, 3]})
    parts = prepare(recipe)
    taught = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache")
    plain = trained_teacher(tiny(teacher=longer), parts, 0, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "trainings").iterdir())) == 2
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in taught.model.state_dict().items())
    twin, seen = seeded_build(recipe.teacher.model, parts.train, 0, "teacher"), {}

    def look(progress):
        if progress.epoch_ended:
            seen[progress.epoch] = {name: value.clone() for name, value in twin.state_dict().items()}

    settings = {"training": recipe.teacher.training, "watch": look}
    fit(Distiller(twin, None, methods.hard()), parts.train, parts.held_out, **settings)
    assert list(taught.along) == [1, 3]
    for epoch, model in taught.along.items():
        assert all(torch.equal(value, seen[epoch][name]) for name, value in model.state_dict().items())
    assert not torch.equal(seen[1]["stage1.linear.weight"], seen[3]["stage1.linear.weight"])


def test_the_candidate_is_chosen_on_held_out_data_at_the_first_seed(tiny, carried_out):
    lines = []
    scheme = {"name": "early_stopping", "share": 0.5, "teacher_epochs": [1]}
    path, outcome = carried_out(tiny(scheme=scheme, seeds=[0, 1]), say=lines.append)
    told = [line for line in lines if line.startswith("early_stopping: the teacher of epoch ")]
    errors = {int(line.split("epoch ")[1].split()[0]): int(line.split("gives ")[1].split()[0]) for line in told}
    assert list(errors) == [1, 2]
    assert outcome.decided[0] == outcome.decided[1] == {"teacher_epoch": min(errors, key=errors.get)}
    kept = {folder.name for folder in path.iterdir() if folder.is_dir()}
    assert kept == {"alone-0", "alone-1", "taught_by_epoch_1-0", "taught_by_epoch_2-0", "distilled-0", "distilled-1"}
    chosen = path / f"taught_by_epoch_{outcome.decided[0]['teacher_epoch']}-0"
    for file in ("student.safetensors", "metrics.jsonl"):
        assert (path / "distilled-0" / file).read_bytes() == (chosen / file).read_bytes()
    compute = outcome.roles["distilled"].compute["learning"] / outcome.roles["alone"].compute["learning"]
    assert compute == pytest.approx((2 + 1) / 2)  # two candidates at the first seed, one training at the second


@pytest.mark.thorough
def test_a_run_with_candidates_that_is_killed_goes_on(tiny, carried_out, killed_everywhere, same_weights):
    recipe = tiny(scheme={"name": "early_stopping", "share": 0.5, "teacher_epochs": [1]})
    whole, _ = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "taught_by_epoch_1-0", "taught_by_epoch_2-0"]
    same_weights(whole, killed, [*trained, "distilled-0"])


def test_a_teacher_that_was_taken_away_is_named(tiny, tmp_path):
    recipe = tiny(scheme={"name": "early_stopping", "teacher_epochs": [1]})
    parts = prepare(recipe)
    trained_teacher(recipe, parts, 0, cache=tmp_path)
    [folder] = tmp_path.rglob("after-epoch-1")
    shutil.rmtree(folder)
    with pytest.raises(RunError, match=r"^teacher: it ended before epoch 1, or '.*after-epoch-1' was deleted"):
        trained_teacher(recipe, parts, 0, cache=tmp_path)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"step": 1, "share": 0.5}, "scheme.share: found together with step; give one of them"),
        ({"step": 0}, "scheme.step: found 0, expected a whole number, 1 or above"),
        ({"share": 0.0}, "scheme.share: found 0.0, expected a finite number above 0"),
        ({"share": 1.5}, "scheme.share: found 1.5, "),
        ({"patience": 0}, "scheme.patience: found 0"),
        ({"tolerance": 2.0}, "scheme.tolerance: found 2.0"),
        ({"hard_weight": -1.0}, "scheme.hard_weight: found -1.0"),
        ({"teacher_epochs": [3, 1]}, "scheme.teacher_epochs: found [3, 1], expected rising epochs"),
        ({"teacher_epochs": [0]}, "scheme.teacher_epochs: found 0"),
        ({"patiense": 1}, "scheme.patiense: there is no such key; did you mean 'patience'?"),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(scheme={"name": "early_stopping", **keys})
    assert str(caught.value).startswith(said)


def test_recipes_that_have_nothing_to_end_are_refused(tiny, refusal, tmp_path):
    scheme = {"name": "early_stopping"}
    assert refusal(tiny(scheme=scheme, method={"name": "hard"})).startswith(
        "scheme.name: early_stopping needs a method"
    )
    unlabelled = tiny(
        scheme=scheme, data={"kind": "digits", "transfer": {"labels": False}}, method={"name": "kd", "alpha": 0.0}
    )
    assert refusal(unlabelled).startswith("scheme.name: early_stopping ends with labels")
    late = tiny(scheme={**scheme, "teacher_epochs": [1, 2]})
    assert refusal(late) == "scheme.teacher_epochs: found 2, expected epochs before the teacher's last, 2"
    assert EarlyStopping().along == ()
