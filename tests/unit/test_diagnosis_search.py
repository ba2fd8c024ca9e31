"""Students of a diagnosis taught together and taken over from a run, and the same search for each kind of them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import methods
from limbeck.data import Augment, TensorSet
from limbeck.diagnosis.arms import match, objectives
from limbeck.diagnosis.capacity import Fit, asks_larger, asks_longer, judge_capacity
from limbeck.diagnosis.diagnosing import diagnose
from limbeck.diagnosis.examining import look_into_capacity
from limbeck.diagnosis.inputs import ask
from limbeck.diagnosis.searching import CANDIDATES, Setting, search_settings, settled
from limbeck.diagnosis.students import StudentTrainer, StudentTraining
from limbeck.diagnosis.thresholds import THRESHOLDS
from limbeck.distiller import Distiller
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import Fidelity
from limbeck.records import plain_values
from limbeck.training import Training, fit
from planted import Strengths, plant

SHORT = Strengths(training=Training(epochs=3, batch_size=32, learning_rate=0.05), teacher=(16,), student=(8,))
ARMS = ("hard", "ls", "pt", "sim", "kd")


@pytest.fixture(scope="module")
def subject():
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 8, generator=generator)
    labels = torch.arange(240) % 4
    inputs = centres[labels] + torch.randn(240, 8, generator=generator)
    return plant("healthy", TensorSet.of(inputs, labels, classes=4, name="four"), 0, SHORT)


@pytest.fixture(scope="module")
def answers(subject):
    return ask(subject)


class Asked:
    """A teacher that counts the batches that it is asked about."""

    def __init__(self, teacher):
        self.teacher, self.calls = teacher, 0

    def __call__(self, batch, taps=None):
        self.calls += 1
        return self.teacher(batch)

    def to(self, device):
        return self

    def fingerprint(self):
        return self.teacher.fingerprint()


def plans():
    return [
        StudentTraining("hard", methods.hard(), 0),
        StudentTraining("kd", methods.kd(temperature=2.0), 0, early=True),
        StudentTraining(
            "kd, hotter", methods.kd(temperature=8.0), 0, training=replace(SHORT.training, learning_rate=0.01)
        ),
        StudentTraining("kd, longer", methods.kd(temperature=2.0), 0, times=2),
        StudentTraining("kd, larger", methods.kd(temperature=2.0), 0, larger=True),
        StudentTraining("kd, other seed", methods.kd(temperature=2.0), 1),
    ]


def test_students_taught_together_are_those_taught_alone(subject, answers, tmp_path):
    together = StudentTrainer(subject, answers, tmp_path / "together").train_all(plans())
    for number, plan in enumerate(plans()):
        alone = StudentTrainer(subject, answers).train_all([plan])[0]
        assert torch.equal(alone.probe, together[number].probe), plan.name
        assert (alone.early is None) == (together[number].early is None) == (not plan.early)
        if plan.early:
            assert torch.equal(alone.early, together[number].early)


def test_a_student_wanted_twice_is_trained_once(subject, answers):
    labels = set()
    room = StudentTrainer(subject, answers, watch=lambda look: labels.add(look.label))
    one, other = room.train_all(
        [StudentTraining("one", methods.hard(), 0), StudentTraining("other", methods.hard(), 0)]
    )
    assert one is other
    assert labels == {"one (seed 0)"}


def test_a_teacher_of_augmented_samples_is_asked_once_a_batch_for_all_students_of_a_seed(subject):
    moving = replace(subject, training=replace(SHORT.training, augment=Augment(noise=0.1)))
    teacher = Asked(subject.teacher)
    room = StudentTrainer(replace(moving, teacher=teacher), replace(ask(moving), teacher=teacher))
    room.train_all([plan for plan in plans() if plan.seed == 0 and plan.training is None])
    steps = -(-len(subject.train) // 32)
    assert teacher.calls == 2 * 3 * steps  # the longest has twice the epochs


# ----------------------------------------------------------------------------------------------- the run's own students


def trained(subject, teacher, objective, folder, **changes):
    settings = replace(SHORT.training, **changes)
    distiller = Distiller(subject.student(0), teacher, objective)
    fit(distiller, subject.train, subject.held_out, training=settings, seed=0, folder=folder)
    return folder


@pytest.mark.thorough
def test_a_runs_own_students_are_taken_over_where_their_training_is_the_same(subject, answers, tmp_path):
    hard = trained(subject, None, methods.hard(), tmp_path / "alone-0")
    kd = trained(subject, answers.teacher, methods.kd(temperature=2.0), tmp_path / "distilled-0")
    trained_before = replace(subject, trained=(hard, kd))
    seen = set()
    room = StudentTrainer(trained_before, answers, watch=lambda look: seen.add(look.label))
    students = room.train_all([replace(plan, early=False) for plan in plans()])
    assert [student.reused for student in students] == [True, True, False, False, False, False]
    assert not {"hard (seed 0)", "kd (seed 0)"} & seen
    for number, plan in enumerate(plans()[:2]):
        alone = StudentTrainer(subject, answers).train_all([plan])[0]
        assert torch.equal(alone.held_out, students[number].held_out)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("change", [{"learning_rate": 0.02}, {"epochs": 2}, {"keep": "best"}, {"patience": 3}])
def test_a_runs_student_of_another_training_is_not_taken_over(subject, answers, tmp_path, change):
    other = trained(subject, None, methods.hard(), tmp_path / "alone-0", **change)
    room = StudentTrainer(replace(subject, trained=(other,)), answers)
    assert not room.train("hard", methods.hard(), 0).reused
    assert not room.train("kd", methods.kd(), 0).reused


# --------------------------------------------------------------------------------------------------------------- search


@pytest.mark.thorough
def test_each_arm_is_offered_as_many_settings_and_keeps_the_best(subject, answers):
    found = search_settings(StudentTrainer(subject, answers), ARMS, 0)
    for arm in ARMS:
        tried = {setting: student for (of, setting), student in found.known.items() if of == arm}
        assert len(tried) == CANDIDATES
        assert Setting(0.05, None if arm == "hard" else 4.0) in tried
        errors = {
            setting: int((student.held_out.argmax(1) != answers.held_out_labels).sum())
            for setting, student in tried.items()
        }
        assert errors[found.chosen[arm]] == min(errors.values())
    rates = sorted(setting.learning_rate for of, setting in found.known if of == "hard")
    assert rates == pytest.approx([0.05 / 9, 0.05 / 3, 0.05, 0.15, 0.45])
    soft = [setting for of, setting in found.known if of == "kd"]
    assert {setting.temperature for setting in soft} == {2.0, 4.0, 8.0}
    assert {setting.learning_rate for setting in soft if setting.temperature != 4.0} < set(rates)


def test_an_arm_at_another_temperature_is_matched_there(subject, answers):
    arms = settled(StudentTrainer(subject, answers), ARMS).arms
    for temperature in (2.0, 8.0):
        own = replace(subject, temperature=temperature)
        wanted, _ = objectives(own, match(answers, temperature))
        for arm in ARMS[1:]:
            plan = arms.plan(arm, Setting(0.02, temperature), 3, early=False)
            assert repr(plan.objective) == repr(wanted[arm]())
            assert (plan.training.learning_rate, plan.seed) == (0.02, 3)


@pytest.mark.thorough
def test_a_setting_that_diverges_is_passed_over(subject, answers):
    wild = replace(subject, training=replace(SHORT.training, learning_rate=27.0))
    found = search_settings(StudentTrainer(wild, answers), ["kd"], 0)
    assert {setting.learning_rate for _, setting in found.known} == {9.0}
    assert found.chosen["kd"].learning_rate == 9.0
    worse = replace(subject, training=replace(SHORT.training, learning_rate=1e30))
    with pytest.raises(NonFiniteLossError):
        search_settings(StudentTrainer(worse, answers), ["kd"], 0)


@pytest.mark.thorough
def test_a_diagnosis_with_a_search_measures_the_chosen_settings(subject, tmp_path):
    found = diagnose(subject, seeds=(0, 1), root=tmp_path)
    arms = list(found.chosen)
    assert arms == list(found.attribution.accuracies)
    assert found.settings["search"]
    assert found.trainings == len(arms) * (CANDIDATES + 1) + 3  # the chosen ones of the first seed are known
    assert plain_values(found)["chosen"]["hard"]["temperature"] is None
    room = StudentTrainer(subject, ask(subject))
    for arm in ("hard", "kd"):
        plan = settled(room, ["kd"]).arms.plan(arm, found.chosen[arm], 1, early=False)
        labels = room.answers.held_out_labels
        both = [
            room.train_all([replace(plan, seed=seed)])[0].held_out.argmax(1).eq(labels).double().mean()
            for seed in (0, 1)
        ]
        assert found.attribution.accuracies[arm].mean == pytest.approx(float(sum(both)) / 2)


@pytest.mark.slow
def test_what_the_findings_rest_on_is_not_searched(subject, tmp_path):
    searched = diagnose(subject, seeds=(0,), root=tmp_path)
    plain = diagnose(subject, seeds=(0,), search=False, root=tmp_path)
    assert searched.signs == plain.signs
    assert searched.findings == plain.findings
    assert searched.capacity == plain.capacity


def fit_of(name, disagreement, elsewhere):
    agreements = [Fidelity(100, 1 - share, 0.1, 10, 0.5) for share in (disagreement, elsewhere)]
    return Fit(name, 3, 10, *agreements, 0.9)


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_the_verdict_on_capacity_is_the_same_with_only_the_fits_that_it_asks_for(twentieths):
    d, longer, larger, elsewhere = (count / 20 for count in twentieths)
    student, others = fit_of("student", d, elsewhere), (fit_of("longer", longer, 0.5), fit_of("larger", larger, 0.5))
    whole = judge_capacity(student, *others)
    asked = [others[0] if asks_longer(student) else None, others[1] if asks_larger(student, others[0]) else None]
    found = judge_capacity(student, *asked)
    assert (found.limit, found.reason) == (whole.limit, whole.reason)


@pytest.mark.thorough
def test_a_quick_diagnosis_fits_only_what_its_verdict_asks_for(subject, answers):
    rooms = [StudentTrainer(subject, answers) for _ in range(2)]
    thrifty = look_into_capacity(rooms[0], 0, needed=True)
    whole = look_into_capacity(rooms[1], 0)
    assert (thrifty.limit, thrifty.reason) == (whole.limit, whole.reason)
    assert thrifty.fits == whole.fits[: len(thrifty.fits)]
    lenient = replace(THRESHOLDS, small_disagreement=1.0)
    assert [fit.name for fit in look_into_capacity(rooms[0], 0, needed=True, thresholds=lenient).fits] == ["student"]
