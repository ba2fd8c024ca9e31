"""The table of consistent and patient teaching, every row of it at a size that says nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck import data
from limbeck.data import Augment
from limbeck.evaluation import measure, predict
from limbeck.recipes import beyer2022_patient as paper
from limbeck.recipes import reproducing
from limbeck.recipes.reproduction import Lab
from limbeck.teacher import Teacher
from limbeck.teachers import ModelTeacher
from limbeck.training.progress import ignore

TINY = {
    **paper.REPRODUCTION.budgets["reduced"],
    "train": 300,
    "held_out": 60,
    "teacher": {"kind": "mlp", "hidden": [16]},
    "student": {"kind": "mlp", "hidden": [4]},
    "shift": 1,
    "teacher_epochs": 1,
    "short": 1,
    "long": 2,
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(data, "mnist", lambda folder: data.digits())
    return replace(paper.REPRODUCTION, budgets={"reduced": TINY})


@pytest.fixture
def lab(tiny, tmp_path):
    return Lab(tiny.name, tmp_path / "lab", TINY, tiny.load(None, TINY), ignore)


def test_every_row_runs_and_is_read_the_second_time(tiny):
    found = reproducing.reproduce(tiny, seeds=[0])
    assert list(found) == [row.name for row in tiny.rows]
    assert len(found) == 12
    for row in tiny.rows:
        assert set(found[row.name][0]) == {figure.name for figure in row.figures}
    assert found["longer"][0]["epochs"] == round(2 * (1 + (64 * 16 + 160) / (3 * (64 * 4 + 40))))
    assert reproducing.reproduce(tiny, seeds=[0]) == found


def views_of(lab, teacher, epoch, seed=0):
    """What a teacher's network is shown in an epoch, beside the batch."""
    loader = data.Loader(lab.sets["train"], 20, seed=seed, augment=Augment(shift=1), clean_view=True)
    batch = next(loader.epoch(epoch))
    seen = []
    handle = teacher.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    return batch, seen, handle


def test_each_kind_of_teacher_sees_what_its_row_says(lab):
    network = paper._teacher(lab, 0)
    for views in ("fixed", "independent", "same"):
        asked = paper._asked(lab, 0, views)
        assert isinstance(asked, Teacher)
        model = asked.teacher.model if views == "independent" else getattr(asked, "model", network)
        batch, seen, handle = views_of(lab, model, epoch=3)
        logits = asked(batch).logits
        handle.remove()
        if views == "fixed":
            assert not seen
            torch.testing.assert_close(logits, network.eval()(batch.views["clean"]))
        elif views == "same":
            assert torch.equal(seen[0], batch.inputs)
        else:
            assert not torch.equal(seen[0], batch.inputs)
            own = Augment(shift=1).apply(batch.views["clean"], seed=asked.seed, view=batch.view, index=batch.index)
            assert torch.equal(seen[0], own)


def test_other_views_change_with_the_epoch_and_not_with_the_batch(lab):
    asked = paper.OtherViews(ModelTeacher(nn.Flatten()), Augment(shift=1), seed=0)
    samples = lab.sets["train"]

    def shown(positions, view):
        return asked(
            samples.batch(torch.tensor(positions), augment=Augment(shift=1), seed=9, view=view, clean_view=True)
        ).logits

    assert torch.equal(shown([3, 5, 8], 2)[1:], shown([5, 8], 2))
    assert not torch.equal(shown([3, 5, 8], 2), shown([3, 5, 8], 3))
    assert asked.fingerprint() != paper.OtherViews(ModelTeacher(nn.Flatten()), Augment(shift=1), seed=1).fingerprint()


def test_a_choice_is_made_on_the_short_schedule_with_as_many_candidates(lab):
    trained = []
    lab.watch = lambda progress: trained.append((progress.label, progress.epochs)) if progress.epoch_ended else None
    for views in ("labels", "same"):
        assert paper._settings(lab, views) in TINY["search"]["labels" if views == "labels" else "teacher"]
    students = [label for label, epochs in trained if "student" in label and epochs == 1]
    assert sorted(students) == ["student, labels (seed 0)"] * 4 + ["student, same (seed 0)"] * 4


def test_the_long_schedule_has_a_rate_of_its_own_and_the_temperature_of_the_short_one(lab):
    short = paper._settings(lab, "same")
    trained = []
    lab.watch = lambda progress: trained.append(progress.epochs) if progress.epoch_ended else None
    long = paper._settings(lab, "same", "long")
    assert long["temperature"] == short["temperature"]
    assert long["learning_rate"] in TINY["search"]["long"]
    assert trained == [2] * (2 * 3)  # three rates of two epochs each
    held_out = lab.sets["held_out"]
    students = [paper._student(lab, 0, "same", 2, {**short, "learning_rate": rate}) for rate in TINY["search"]["long"]]
    errors = [measure(predict(student, held_out), held_out.labels).errors for student in students]
    assert long["learning_rate"] == TINY["search"]["long"][errors.index(min(errors))]
