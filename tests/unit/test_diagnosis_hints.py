"""Hints as an arm of the diagnosis: where they are given, how they are searched, and whether their verdict is right."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck import methods, models
from limbeck.data import Augment, TensorSet
from limbeck.diagnosis import advice, diagnosing
from limbeck.diagnosis.attribution import attribute
from limbeck.diagnosis.diagnosing import diagnose
from limbeck.diagnosis.hints import HintPlaces, HintSetting, hint_places
from limbeck.diagnosis.inputs import DiagnosisInput, ask
from limbeck.diagnosis.searching import CANDIDATES, Setting, search_settings, settled
from limbeck.diagnosis.students import StudentTrainer
from limbeck.errors import NonFiniteLossError
from limbeck.experiment.building import initial_weights
from limbeck.records import plain_values
from limbeck.teachers import ModelTeacher
from limbeck.training import Training

POOL = ("pool", "pool")


def samples_of(inputs, labels, name):
    return TensorSet.of(inputs, labels, classes=2, name=name)


def folded(count=200, size=16, directions=4, epochs=10):
    """Return a teacher whose features say far more than its logits, and few samples to learn from.

    Its answer is a sum of |w·x| with either sign; its features are the halves of each |w·x|, and a student that has
    these has solved the task.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(directions, size, generator=generator) / size**0.5
    signs = 3 * torch.tensor([1.0, -1.0] * (directions // 2)).repeat(2)
    teacher = models.mlp((size,), 2, hidden=(2 * directions,)).eval()
    with torch.no_grad():
        teacher.stage1.linear.weight.copy_(torch.cat([w, -w]))
        teacher.stage1.linear.bias.zero_()
        teacher.fc.weight.copy_(torch.stack([-signs, signs]))
        teacher.fc.bias.zero_()
        inputs = torch.randn(count + 1000, size, generator=generator)
        labels = teacher(inputs).argmax(1)
    return subject_of(teacher, inputs, labels, count, Training(epochs=epochs, batch_size=32, learning_rate=0.05))


def plain(count=200, epochs=10):
    """Return two classes that lie far apart on one axis, and a teacher that reads it: its logits say all there is."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count + 1000, 6, generator=generator)
    inputs[:, 0] += 4 * inputs[:, 0].sign()
    teacher = models.mlp((6,), 2, hidden=(16,)).eval()
    with torch.no_grad():
        teacher.stage1.linear.weight.copy_(torch.eye(6)[0].repeat(16, 1) * torch.tensor([1.0, -1.0]).repeat(8)[:, None])
        teacher.stage1.linear.bias.zero_()
        teacher.fc.weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(1, 8))
        teacher.fc.bias.zero_()
        labels = teacher(inputs).argmax(1)
    return subject_of(teacher, inputs, labels, count, Training(epochs=epochs, batch_size=32, learning_rate=0.05))


def subject_of(teacher, inputs, labels, count, training):
    def student(seed):
        with initial_weights(seed, "student"):
            return models.mlp(tuple(inputs.shape[1:]), 2, hidden=(16,))

    train = samples_of(inputs[:count], labels[:count], "train")
    held_out = samples_of(inputs[count:], labels[count:], "held out")
    return DiagnosisInput("planted", ModelTeacher(teacher), train, held_out, student, None, training)


def verdict(subject, seeds=3):
    """Return the advice on features from students with and without hints, without a search."""
    answers, places = ask(subject), hint_places(subject)
    trainer = StudentTrainer(subject, answers)
    found = settled(trainer, ["kd", "hints"], places)
    students = diagnosing._teach(trainer, found, range(seeds), say=lambda line: None)
    attribution = attribute({arm: diagnosing._right(each, answers) for arm, each in students.items()})
    signs, capacity = SimpleNamespace(accuracy=1.0, student_accuracy=0.6), SimpleNamespace(limit="data")
    case = advice.AdviceInput(signs, capacity, (), attribution, 4.0, 4.0, {}, None, hints=found.chosen["hints"].hints)
    return attribution.effect("features"), advice.features(case)


@pytest.mark.thorough
def test_features_that_say_more_than_the_logits_are_found_to_add_to_them():
    effect, said = verdict(folded())
    assert effect.over_seeds.mean > 0.05
    assert (said.value, said.confidence) == (True, "measured")
    assert said.said.startswith("Add hints: features add ")
    assert said.said.endswith(" points to the logits here.")
    assert "it helps; hints at pool, strength 10" in said.evidence


@pytest.mark.thorough
def test_features_that_say_no_more_are_found_to_add_nothing():
    effect, said = verdict(plain())
    assert not effect.found
    assert (said.value, said.confidence) == (False, "measured")
    assert said.said == "Leave them out: nothing distinguishable is added to the logits."


@pytest.mark.slow
def test_a_whole_diagnosis_tells_the_two_apart():
    helped = diagnose(folded(size=24, directions=8, epochs=20), seeds=(0, 1, 2))
    assert helped.answer("features").value is True
    silent = diagnose(plain(), seeds=(0, 1, 2))
    assert silent.answer("features").value is False
    assert "nothing distinguishable" in silent.answer("features").said


# --------------------------------------------------------------------------------------------------------------- places


def test_hints_are_weighted_by_the_scale_of_the_teachers_feature():
    subject = folded()
    places = hint_places(subject)
    assert list(places.scales) == [POOL]  # the stage before it gives the same
    feature = nn.Sequential(*subject.teacher.model[:3])(subject.train.inputs[:200].float())
    assert places.scales[POOL] == pytest.approx(float(feature.square().mean()), rel=1e-5)
    [term] = places.objective(HintSetting((POOL,), 5.0)).terms.values()
    assert term.weight == pytest.approx(5.0 / places.scales[POOL])
    assert term.layers.pairs == (POOL,)


def test_hints_are_given_at_the_deepest_layer_and_in_the_middle():
    scales = {(name, name): 1.0 for name in ("stem", "stage1", "stage2", "stage3", "pool")}
    places = [setting.pairs[0][0] for setting in HintPlaces(scales).choices()]
    assert places == ["pool", "stage2"]
    assert [setting.pairs for setting in HintPlaces({POOL: 1.0}).choices()] == [(POOL,)]


class Alone:
    """A teacher with answers alone."""

    def __init__(self, teacher):
        self.teacher = teacher

    def __call__(self, batch, taps=None):
        return self.teacher(batch)

    def to(self, device):
        return self

    def fingerprint(self):
        return self.teacher.fingerprint()


def test_without_layers_to_pair_it_is_said_why():
    subject = folded()
    assert "no single network" in hint_places(replace(subject, teacher=Alone(subject.teacher))).reason
    linear = replace(subject, student=lambda seed: nn.Linear(16, 2))
    assert "no layers that can be paired" in hint_places(linear).reason


# --------------------------------------------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def short():
    return plain(count=64, epochs=2)


def test_hints_are_offered_as_many_settings_at_what_was_chosen_for_kd(short):
    lines = []
    trainer = StudentTrainer(short, ask(short))
    found = search_settings(trainer, ["kd", "hints"], 0, places=hint_places(short), say=lines.append)
    tried = [setting for arm, setting in found.known if arm == "hints"]
    assert len(tried) == len(set(tried)) == CANDIDATES
    base = found.chosen["kd"]
    assert {setting.temperature for setting in tried} == {base.temperature}
    assert {setting.learning_rate for setting in tried} <= {base.learning_rate, base.learning_rate / 3}
    assert len({setting.hints.strength for setting in tried}) > 2
    labels = trainer.answers.held_out_labels
    errors = {s: int((found.known["hints", s].held_out.argmax(1) != labels).sum()) for s in tried}
    assert errors[found.chosen["hints"]] == min(errors.values())
    assert any("hints at pool" in line for line in lines)


def test_what_a_student_with_hints_learns_from_is_kd_with_a_hint_from_the_live_teacher(short):
    moving = replace(short, training=replace(short.training, augment=Augment(noise=0.1)))
    trainer = StudentTrainer(moving, ask(moving))
    found = settled(trainer, ["hints"], hint_places(moving))
    plan = found.arms.plan("hints", found.chosen["hints"], 0, early=False)
    assert list(plan.objective.terms) == ["hard", "soft", "hint"]
    student = trainer.train_all([plan])[0]
    kd = replace(plan, objective=methods.kd(temperature=4.0, hard_weight=0.1, soft_weight=0.9))
    assert not torch.equal(student.held_out, trainer.train_all([kd])[0].held_out)


@pytest.mark.thorough
def test_hints_that_diverge_are_left_out_and_told(short):
    wild = replace(short, training=replace(short.training, epochs=30))
    places = HintPlaces({POOL: 1e-12})
    trainer = StudentTrainer(wild, ask(wild))
    found = search_settings(trainer, ["kd", "hints"], 0, places=places)
    assert list(found.chosen) == ["kd"]
    later = settled(trainer, ["kd", "hints"], places)
    assert list(diagnosing._teach(trainer, later, (0, 1), say=lambda line: None)) == ["kd"]
    broken = {"kd": Setting(1e12, 4.0)}
    with pytest.raises(NonFiniteLossError):
        diagnosing._teach(trainer, replace(later, chosen=broken), (0,), say=lambda line: None)


@pytest.mark.thorough
def test_a_diagnosis_says_what_hints_cost_and_whether_they_were_given(short, monkeypatch):
    lines = []
    found = diagnose(short, seeds=(0, 1), search=False, say=lines.append)
    [line] = [line for line in lines if line.startswith("hints: ")]
    assert line == "hints: 2 of the trainings compare layers (pool); for these the teacher answers at every step"
    assert found.attribution.effect("features") is not None
    assert plain_values(found)["chosen"]["hints"]["hints"] == {"pairs": [["pool", "pool"]], "strength": 10.0}
    monkeypatch.setattr(diagnosing, "hint_places", lambda subject: pytest.fail("looked for layers"))
    without = diagnose(short, seeds=(0,), search=False, hints=False)
    assert without.attribution.left_out["hints"] == "no student was given hints in this diagnosis"
    quick = diagnose(short, seeds=(0,), quick=True)
    for each in (without, quick):
        said = each.answer("features")
        assert (said.value, said.said) == (None, "Not answered: no student was given hints.")


def test_hints_are_no_target_that_is_advised():
    right = {"hard": torch.zeros(3, 300, dtype=torch.bool), "kd": torch.zeros(3, 300, dtype=torch.bool)}
    right["hints"] = torch.ones(3, 300, dtype=torch.bool)
    assert diagnosing._better_than_kd(right) is None
