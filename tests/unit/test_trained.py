"""Trainings that are kept: what decides one decides its address, and each is made once, by whatever process."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.batch import UNLABELLED
from limbeck.data import Augment
from limbeck.distiller import Distiller
from limbeck.errors import CheckpointError, NonFiniteLossError, RunError
from limbeck.objective import Objective, Term
from limbeck.teachers import ModelTeacher
from limbeck.teachers.estimators import logistic_regression, random_forest
from limbeck.terms import HardLabels
from limbeck.training import Job, Training, fit
from limbeck.training.identity import address_of, identity_of_fit, require_same
from limbeck.training.trained import attempt_or_read, fit_estimator_or_read, fit_or_read, read_if_same
from small_resume import HELD_OUT, SAMPLES, networks, samples_of

SHORT = Training(epochs=3, batch_size=16, learning_rate=0.05, checkpoint_seconds=0.0)


def net(seed: int = 0, **how) -> nn.Module:
    student = networks(seed, how.get("width", 8))[0]
    if act := how.get("act"):
        student[4] = act
    if how.get("frozen"):
        student[2].requires_grad_(False)
    return student


def wanted(student: nn.Module | None = None, teacher: int | None = 0, method: Objective | None = None, **how) -> Job:
    taught = None if teacher is None else ModelTeacher(networks(teacher)[1])
    distiller = Distiller(student or net(), taught, method or methods.kd(2.0))
    given = {"train_set": SAMPLES, "validation": HELD_OUT, "training": SHORT, "seed": 3, **how}
    return Job(distiller, **given)


def setting(**changes) -> dict[str, Training]:
    return {"training": replace(SHORT, **changes)}


LABELS = torch.where(SAMPLES.labels == UNLABELLED, SAMPLES.labels, 3 - SAMPLES.labels)
OTHER = {  # what is changed, and the key that says so
    "student.weights": lambda: {"student": net(1)},
    "student.architecture: width": lambda: {"student": net(width=9)},
    "student.architecture: activation": lambda: {"student": net(act=nn.Tanh())},
    "student.architecture: frozen": lambda: {"student": net(frozen=True)},
    "teacher": lambda: {"teacher": 1},
    "teacher: none": lambda: {"teacher": None, "method": methods.hard()},
    "objective: temperature": lambda: {"method": methods.kd(9.0)},
    "objective: weight": lambda: {"method": methods.kd(2.0, alpha=0.7)},
    "objective: terms": lambda: {"method": Objective([HardLabels()])},
    "data: size": lambda: {"train_set": SAMPLES.subset(torch.arange(45))},
    "data: order": lambda: {"train_set": SAMPLES.subset(torch.arange(46).flip(0))},
    "data: inputs": lambda: {"train_set": samples_of(46, 2)},
    "data: labels": lambda: {"train_set": replace(SAMPLES, labels=LABELS)},
    "data: unlabelled": lambda: {"train_set": SAMPLES.without_labels()},
    "validation: none": lambda: {"validation": None},
    "validation: size": lambda: {"validation": HELD_OUT.subset(torch.arange(5))},
    "seed": lambda: {"seed": 4},
    "order": lambda: {"order": 4},
    "training.epochs": lambda: setting(epochs=4),
    "training.batch_size": lambda: setting(batch_size=8),
    "training.learning_rate": lambda: setting(learning_rate=0.02),
    "training.optimizer": lambda: setting(optimizer="adamw"),
    "training.momentum": lambda: setting(momentum=0.5),
    "training.nesterov": lambda: setting(nesterov=True),
    "training.weight_decay": lambda: setting(weight_decay=0.1),
    "training.schedule": lambda: setting(schedule="constant"),
    "training.milestones": lambda: setting(schedule="step", milestones=(1.0,)),
    "training.decay": lambda: setting(decay=0.2),
    "training.warmup": lambda: setting(warmup=1.0),
    "training.clip": lambda: setting(clip=1.0),
    "training.max_norm": lambda: setting(max_norm=1.0),
    "training.precision": lambda: setting(precision="bf16"),
    "training.memory_format": lambda: setting(memory_format="channels_last"),
    "training.compile": lambda: setting(compile=True),
    "training.chunked_head": lambda: setting(chunked_head=True),
    "training.views": lambda: setting(views=2, augment=Augment(shift=1)),
    "training.class_weights": lambda: setting(class_weights="balanced"),
    "training.averaging": lambda: setting(averaging=0.9),
    "training.patience": lambda: setting(patience=2),
    "training.keep": lambda: setting(keep="best"),
    "training.augment": lambda: setting(augment=Augment(shift=1)),
    "training.rates": lambda: setting(rates={"*": 0.5}),
    "training.warmup_share": lambda: setting(warmup_share=0.1),
    "training.betas": lambda: setting(optimizer="adamw", betas=(0.8, 0.9)),
    "training.eps": lambda: setting(optimizer="adamw", eps=1e-6),
    "training.no_decay": lambda: setting(weight_decay=0.1, no_decay=("bias",)),
    "training.rate_by_length": lambda: setting(rate_by_length=True),
}
SAME = {
    "accumulate": lambda: setting(accumulate=2),
    "workers": lambda: setting(workers=1),
    "fsdp": lambda: setting(fsdp="both"),
    "checkpoint_seconds": lambda: setting(checkpoint_seconds=5.0),
    "label": lambda: {"label": "another"},
    "order that is the seed": lambda: {"order": 3},
    "no code": lambda: {"code": {}},
    "mode": lambda: {"student": net().eval()},
    "copy": lambda: {"student": copy.deepcopy(net())},
}


def key_of(name: str) -> str:
    return name.partition(":")[0]


@pytest.mark.miniature(17)
@pytest.mark.parametrize("name", OTHER)
def test_what_decides_a_training_decides_its_address_and_is_named_where_it_differs(name):
    one, other = wanted(), wanted(**OTHER[name]())
    assert one.address == wanted().address != other.address
    with pytest.raises(RunError) as caught:
        require_same({key_of(name): None, **one.identity}, {key_of(name): None, **other.identity}, Path("folder"))
    differ = {key for key in {**one.identity, **other.identity} if one.identity.get(key) != other.identity.get(key)}
    assert key_of(name) in differ
    assert any(f"resume: 'folder' belongs to another training: {key} was " in str(caught.value) for key in differ)


def test_every_setting_of_a_training_is_known_to_decide_it_or_not():
    known = {key_of(name).removeprefix("training.") for name in (*OTHER, *SAME)}
    assert vars(Training()).keys() <= known


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_decide_a_training_leaves_its_address(name):
    assert wanted(**SAME[name]()).address == wanted().address


class Scaled(Term):
    def __init__(self, by) -> None:
        super().__init__("scaled")
        self.by = by

    def sum(self, outputs, batch, step):
        return self.by(outputs["student"].logits).sum()


def test_what_a_term_does_decides_and_not_only_what_it_says_of_itself():
    one, again, other = (Objective([Scaled(act)]) for act in (lambda x: 2 * x, lambda x: 2 * x, lambda x: 3 * x))
    one, again, other = (wanted(method=method) for method in (one, again, other))
    assert one.identity["objective"] == other.identity["objective"]
    assert one.address == again.address != other.address


def test_the_code_and_the_epochs_that_are_kept_are_in_the_address_alone():
    plain = wanted()
    addresses = {plain.address, wanted(code={"net": "a"}).address, wanted(code={"net": "b"}).address}
    addresses |= {wanted(along=(1,)).address, wanted(along=(1, 2)).address}
    assert len(addresses) == 5
    assert wanted(code={"net": "a"}, along=(1,)).identity == plain.identity


ROWS = SAMPLES.subset(torch.where(SAMPLES.labels != UNLABELLED)[0])


def forest(**keys) -> nn.Module:
    return random_forest((1, 4, 4), 4, **{"n_estimators": 3, **keys})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": forest(n_estimators=4)},
        {"model": forest(max_depth=2)},
        {"model": forest(floor=0.1)},
        {"model": logistic_regression((1, 4, 4), 4)},
        {"samples": ROWS.subset(torch.arange(20))},
        {"held_out": None},
        {"seed": 1},
    ],
)
def test_what_decides_an_estimator_decides_its_address(changes):
    usual = {"model": forest(), "samples": ROWS, "held_out": HELD_OUT, "seed": 0}
    one, again, other = (identity_of_fit(**given) for given in (usual, {**usual, "model": forest()}, usual | changes))
    assert address_of(one) == address_of(again) != address_of(other)


# ----------------------------------------------------------------------------------------------------- made once, read


class Looks:
    """Counts the epochs that are trained; breaks off after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.epochs, self.stop_after = [], stop_after

    def __call__(self, progress) -> None:
        if progress.epoch_ended:
            self.epochs.append(progress.epoch)
            if len(self.epochs) == self.stop_after:
                raise KeyboardInterrupt


def make(root: Path, look: Looks | None = None, **how):
    return fit_or_read(wanted(**how), root=root, watch=look or Looks())


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_a_training_is_made_once_as_fit_makes_it_and_then_read(tmp_path):
    this = wanted()
    plain = fit(this.distiller, SAMPLES, HELD_OUT, training=SHORT, seed=3, folder=tmp_path / "plain")
    first, look = make(tmp_path), Looks()
    again = make(tmp_path, look)
    assert look.epochs == []
    assert same(first.student, plain.student)
    assert same(again.student, plain.student)
    assert (again.epoch, again.steps, again.metrics, again.history) == (3, 9, plain.metrics, plain.history)
    folder = tmp_path / "trainings" / wanted().address
    for file in ("result.json", "student.safetensors", "metrics.jsonl"):
        assert (folder / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_a_training_that_was_broken_off_goes_on_to_the_same_weights_along_the_way_too(tmp_path):
    whole = make(tmp_path / "whole", along=(1, 3))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", Looks(stop_after=2), along=(1, 3))
    look = Looks()
    rest = make(tmp_path / "cut", look, along=(1, 3))
    assert look.epochs == [2, 3]
    assert same(rest.student, whole.student)
    assert list(rest.along) == [1, 3]
    assert all(same(rest.along[epoch], whole.along[epoch]) for epoch in (1, 3))
    assert same(whole.along[3], whole.student)
    assert not same(whole.along[1], whole.student)


@pytest.mark.thorough
def test_several_on_the_same_batches_share_their_places_with_those_made_alone(tmp_path):
    def several() -> list[Job]:
        hot = wanted(method=methods.kd(8.0), label="hot", along=(2,))
        return [wanted(label="kd"), hot, wanted(label="slow", **setting(learning_rate=0.01))]

    alone, look = make(tmp_path, method=methods.kd(8.0), along=(2,)), Looks()
    together = attempt_or_read(several(), root=tmp_path, watch=look)
    assert look.epochs == [1, 1, 2, 2, 3, 3]
    assert same(together[1].student, alone.student)
    assert same(together[1].along[2], alone.along[2])
    in_memory = attempt_or_read(several(), root=None)
    assert all(same(one.student, other.student) for one, other in zip(together, in_memory, strict=True))
    assert same(in_memory[1].along[2], alone.along[2])
    assert same(make(tmp_path, look, **setting(learning_rate=0.01)).student, together[2].student)
    assert len(look.epochs) == 6


def test_a_training_that_diverges_is_its_error_and_is_not_kept(tmp_path):
    wild, tame = wanted(label="wild", **setting(learning_rate=1e30)), wanted(label="tame")
    outcomes = attempt_or_read([wild, tame], root=tmp_path)
    assert isinstance(outcomes[0], NonFiniteLossError)
    assert len(list(tmp_path.glob("trainings/*/result.json"))) == 1


def test_an_estimator_is_fitted_once(tmp_path):
    said, fitted = [], []

    def made() -> nn.Module:
        model = forest()
        keys = {"seed": 0, "root": tmp_path, "say": said.append, "label": "forest"}
        fit_estimator_or_read(model, lambda *given: fitted.append(model.fit(*given)), ROWS, HELD_OUT, **keys)
        return model

    one, other = made(), made()
    assert len(fitted) == 1
    assert same(one, other)
    assert said[0].startswith("forest: fitted by scikit-learn in ")
    assert said[1].startswith("forest: found in ")
    assert said[0].split(", ")[-1] == said[1].split(", ")[-1]
    assert said[0].endswith(" on its held-out part")


def test_a_finished_training_elsewhere_is_read_where_it_is_the_very_same(tmp_path):
    this = wanted()
    made = fit(this.distiller, SAMPLES, HELD_OUT, training=SHORT, seed=3, folder=tmp_path)
    for changes, found in (
        ({}, True),
        ({"validation": None}, True),  # by which nothing was chosen
        ({"seed": 4}, False),
        (setting(keep="best"), False),
        ({"student": net(1)}, False),
    ):
        other = wanted(**changes)
        assert read_if_same(other, tmp_path) == found
        assert same(other.distiller.student, made.student) == found
    assert not read_if_same(wanted(), tmp_path / "nothing")


def test_a_validation_set_by_which_was_chosen_may_not_be_another(tmp_path):
    this = wanted(**setting(keep="best"))
    fit(this.distiller, SAMPLES, HELD_OUT, training=this.training, seed=3, folder=tmp_path)
    assert read_if_same(wanted(**setting(keep="best")), tmp_path)
    assert not read_if_same(wanted(validation=None, **setting(keep="best")), tmp_path)


# ------------------------------------------------------------------------------------------------- what is not believed


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["student.safetensors", "after-epoch-1/student.safetensors"])
def test_weights_that_are_damaged_are_refused(tmp_path, file):
    make(tmp_path, along=(1,))
    [path] = tmp_path.glob(f"trainings/*/{file}")
    flip(path)
    with pytest.raises(CheckpointError, match=r"is damaged \(wrong checksum\); delete"):
        make(tmp_path, along=(1,))


@pytest.mark.miniature(1)
@pytest.mark.parametrize("part", ["", "after-epoch-1", "after-epoch-2"])
def test_what_was_made_of_another_training_is_refused(tmp_path, part):
    """Whole folders, with weights and digests that fit each other, in the place of those of another training."""
    one, other = (wanted(seed=seed, along=(1, 2)).address for seed in (3, 4))
    for seed in (3, 4):
        make(tmp_path, seed=seed, along=(1, 2))
    place = tmp_path / "trainings"
    shutil.copytree(place / other / part, place / one / part, dirs_exist_ok=True)
    with pytest.raises(RunError, match="belongs to another training: seed was 4, is 3"):
        make(tmp_path, along=(1, 2))


def test_another_epoch_of_the_same_training_is_refused(tmp_path):
    make(tmp_path, along=(1, 2))
    [place] = tmp_path.glob("trainings/*")
    shutil.copytree(place / "after-epoch-2", place / "after-epoch-1", dirs_exist_ok=True)
    with pytest.raises(RunError, match="epoch was 2, is 1"):
        make(tmp_path, along=(1, 2))


def test_an_epoch_that_the_training_did_not_come_to_is_named(tmp_path):
    with pytest.raises(RunError, match=r"^teacher: it ended before epoch 7, or '.*after-epoch-7' was deleted"):
        make(tmp_path, along=(7,), label="teacher")


def test_an_estimator_in_the_place_of_another_is_refused(tmp_path):
    for seed in (0, 1):
        model = forest()
        fit_estimator_or_read(model, model.fit, ROWS, seed=seed, root=tmp_path)
    one, other = (address_of(identity_of_fit(forest(), ROWS, None, seed)) for seed in (0, 1))
    place = tmp_path / "trainings"
    shutil.copytree(place / other, place / one, dirs_exist_ok=True)
    model = forest()
    with pytest.raises(RunError, match="seed was 1, is 0"):
        fit_estimator_or_read(model, model.fit, ROWS, seed=0, root=tmp_path)
    flip(place / other / "student.safetensors")
    with pytest.raises(CheckpointError, match=r"is damaged \(wrong checksum\)"):
        fit_estimator_or_read(model, model.fit, ROWS, seed=1, root=tmp_path)


@pytest.mark.skipif(not hasattr(Path, "chmod"), reason="no modes")
def test_a_place_that_others_can_write_is_refused_before_anything_is_read(tmp_path):
    make(tmp_path)
    tmp_path.chmod(0o777)
    for act in (lambda: make(tmp_path), lambda: attempt_or_read([wanted()], root=tmp_path)):
        with pytest.raises(RunError, match="which other users can write"):
            act()


def test_a_result_says_what_it_is_of(tmp_path):
    make(tmp_path)
    [path] = tmp_path.glob("trainings/*/result.json")
    assert json.loads(path.read_text())["identity"] == wanted().identity
