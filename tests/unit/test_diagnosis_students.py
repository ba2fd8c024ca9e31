"""Students of a diagnosis: kept by content, paired by seed, resumed; and the whole diagnosis on small planted cases."""

import json
from dataclasses import replace

import pytest
import torch

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.diagnosis.causes import CAUSES
from limbeck.diagnosis.diagnosing import Diagnosis, diagnose
from limbeck.diagnosis.gradient import nearness, rescaling
from limbeck.diagnosis.inputs import ask
from limbeck.diagnosis.relations import other_classes
from limbeck.diagnosis.rescaling import rescaling_factor
from limbeck.diagnosis.students import StudentTrainer
from limbeck.errors import DataError, InputError
from limbeck.records import plain_values, read_as
from limbeck.training import Training
from planted import PLANTED, Shuffled, Strengths, examine, plant

SHORT = Strengths(training=Training(epochs=10, batch_size=32, learning_rate=0.05), teacher=(48,), student=(16,))


@pytest.fixture(scope="module")
def samples():
    """Return six classes that lie around three centres, two by two."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(3, 12, generator=generator).repeat_interleave(2, 0)
    centres = centres + 0.8 * torch.randn(6, 12, generator=generator)
    labels = torch.arange(420) % 6
    inputs = centres[labels] + 0.6 * torch.randn(420, 12, generator=generator)
    return TensorSet.of(inputs, labels, classes=6, name="pairs", groups=[0, 0, 1, 1, 2, 2])


@pytest.fixture(scope="module")
def subject(samples):
    return plant("healthy", samples, 0, SHORT)


@pytest.fixture(scope="module")
def answers(subject):
    return ask(subject)


def test_the_teacher_is_asked_once(subject, answers):
    asked = []
    teacher = subject.teacher

    class Counting:
        def __call__(self, batch, taps=None):
            asked.append(len(batch))
            return teacher(batch)

        def to(self, device):
            return self

        def fingerprint(self):
            return teacher.fingerprint()

    room = StudentTrainer(replace(subject, teacher=Counting()), ask(replace(subject, teacher=Counting())))
    examine(room, 0)
    assert sum(asked) == len(subject.train) + len(subject.held_out)


def test_a_training_is_kept_and_never_run_twice(subject, answers, tmp_path):
    epochs = []
    room = StudentTrainer(subject, answers, tmp_path, lambda look: None if look.resumed else epochs.append(look.epoch))
    first = room.train("kd", methods.kd(), 0, early=True)
    assert max(epochs) == 10
    epochs.clear()
    again = room.train("kd", methods.kd(), 0, early=True)
    assert epochs == []
    for name in ("probe", "held_out", "early"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.early, first.probe)


def test_the_students_of_a_seed_start_alike_and_see_the_same_order(subject, answers):
    """Two objectives with the same gradient, under different names of their terms, give the same student."""
    room = StudentTrainer(subject, answers)
    one = room.train("one", methods.kd(temperature=2.0, hard_weight=1.0), 3)
    two = room.train("two", methods.hard(), 3)
    assert torch.equal(one.held_out, two.held_out)
    other = room.train("other", methods.hard(), 4)
    assert not torch.equal(two.held_out, other.held_out)


@pytest.mark.thorough
def test_an_interrupted_training_is_gone_on_with(subject, answers, tmp_path):
    whole = StudentTrainer(subject, answers).train("kd", methods.kd(), 0, early=True)

    def stop(progress):
        if progress.epoch_ended and progress.epoch == 5:
            raise KeyboardInterrupt

    always = replace(subject, training=replace(subject.training, checkpoint_seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        StudentTrainer(always, answers, tmp_path, stop).train("kd", methods.kd(), 0, early=True)
    seen = []
    room = StudentTrainer(always, answers, tmp_path, lambda progress: seen.append(progress.epoch))
    found = room.train("kd", methods.kd(), 0, early=True)
    assert min(seen) > 1
    assert torch.equal(found.probe, whole.probe)
    assert torch.equal(found.early, whole.early)


def test_no_choice_is_left_to_the_held_out_data(samples):
    subject = plant("healthy", samples, 0, SHORT)
    choosy = replace(subject, training=replace(SHORT.training, patience=1, keep="best"))
    plain = StudentTrainer(subject, ask(subject)).train("kd", methods.kd(), 0)
    assert torch.equal(StudentTrainer(choosy, ask(choosy)).train("kd", methods.kd(), 0).probe, plain.probe)


def test_unlabelled_samples_are_left_out(subject):
    labels = subject.train.labels.clone()
    labels[:10] = -100
    some = replace(subject, train=replace(subject.train, labels=labels))
    assert len(some.train) == len(subject.train) - 10
    with pytest.raises(DataError, match="0 labelled samples, expected 2 or more"):
        replace(subject, held_out=subject.held_out.without_labels())


# ------------------------------------------------------------------------------------------------------- planted cases


def test_shuffling_is_of_the_other_classes_alone_and_of_each_sample(subject):
    batch = subject.train.batch(torch.arange(50), augment=None, seed=0, view=0)
    shuffled = Shuffled(subject.teacher, 0)
    plain, dealt = subject.teacher(batch).logits, shuffled(batch).logits
    assert torch.equal(plain.argmax(1), dealt.argmax(1))
    assert torch.equal(plain.sort(1).values, dealt.sort(1).values)
    assert torch.equal(plain.max(1).values, dealt.max(1).values)
    assert not torch.equal(plain, dealt)
    some = subject.train.batch(torch.tensor([7, 3]), augment=None, seed=0, view=0)
    assert torch.allclose(shuffled(some).logits, dealt[[7, 3]], atol=1e-5)
    assert shuffled.fingerprint() != Shuffled(subject.teacher, 1).fingerprint()


def test_cases_that_do_not_exist(samples):
    with pytest.raises(InputError, match="did you mean 'two_classes'"):
        plant("two_class", samples, 0)
    assert set(PLANTED) == {"healthy", *CAUSES}


def test_unrelated_classes_share_nothing(samples):
    subject = plant("unrelated_classes", samples, 0, SHORT)
    inputs, labels = subject.train.inputs, subject.train.labels
    assert len(inputs) == 420
    means = torch.stack([inputs[subject.train.index][labels == label].mean(0) for label in range(6)])
    apart = means - means.mean(0)
    distances = torch.pdist(apart)
    assert float(distances.max() / distances.min()) < 2.5


@pytest.mark.thorough
def test_a_teacher_is_kept_at_its_lowest_validation_loss(samples):
    generator = torch.Generator().manual_seed(3)
    blurred = replace(samples, inputs=samples.inputs + 2.0 * torch.randn(samples.inputs.shape, generator=generator))
    strengths = replace(SHORT, training=replace(SHORT.training, epochs=25))
    gaps, losses = [], []
    for share in (0.0, 0.2):
        subject = plant("healthy", blurred, 0, replace(strengths, validation=share))
        known = ask(subject)
        assert len(subject.train) == (312 if share == 0 else 252)
        first, second = (
            float((logits.argmax(1) == labels).double().mean())
            for logits, labels in ((known.train, known.train_labels), (known.held_out, known.held_out_labels))
        )
        gaps.append(first - second)
        losses.append(float(torch.nn.functional.cross_entropy(known.held_out, known.held_out_labels)))
    assert gaps[1] < gaps[0] - 0.1
    assert losses[1] < losses[0]


@pytest.mark.thorough
def test_an_overfitted_teacher_knows_its_training_set(samples):
    strengths = replace(SHORT, large=128, memorising=12, mislabelled=0.6)
    subject = plant("overfitted_teacher", samples, 0, strengths)
    known = ask(subject)
    right = [
        float((logits.argmax(1) == labels).double().mean())
        for logits, labels in ((known.train, known.train_labels), (known.held_out, known.held_out_labels))
    ]
    assert right[0] - right[1] > 0.15


# -------------------------------------------------------------------------------------------------- the whole diagnosis


@pytest.mark.thorough
def test_the_whole_diagnosis(samples, tmp_path):
    subject = replace(plant("healthy", samples, 0, SHORT), groups=samples.groups)
    found = diagnose(subject, seeds=(0, 1), search=False, root=tmp_path)
    content = plain_values(found)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert plain_values(read_as(Diagnosis, content)) == content
    arms = 8 if found.matching.tau is not None else 6
    assert found.trainings == 2 * arms + 3
    assert [each.name for each in found.attribution.effects][-2:] == ["whole", "features"]
    assert [each.when for each in found.rescaling] == ["early", "late"]
    assert found.rescaling[0].spearman > 0
    assert found.teacher.given_blocks.p_value < 0.2
    assert found.teacher.order == (0, 1, 2, 3, 4, 5)
    assert set(found.nearness) == set(found.attribution.accuracies)
    assert found.answer("target").question == "target"
    again = diagnose(subject, seeds=(0, 1), search=False, root=tmp_path)
    assert plain_values(again) | {"seconds": 0} == content | {"seconds": 0}
    assert again.seconds < found.seconds


@pytest.mark.thorough
def test_a_quick_diagnosis_attributes_nothing(subject):
    found = diagnose(subject, seeds=(0, 1), quick=True)
    assert found.attribution is None
    assert found.trainings == 2 + len(found.capacity.fits) < 2 + 3
    assert found.settings["seeds"] == [0]


def test_two_classes_end_to_end(samples):
    found = diagnose(plant("two_classes", samples, 0, SHORT), seeds=(0,), quick=True)
    assert [finding.cause for finding in found.findings] == ["two_classes"]
    assert found.tail == {}
    assert found.nearness == {}


def test_rescaling_of_a_student(subject, answers):
    student = StudentTrainer(subject, answers).train("kd", methods.kd(), 0)
    found = rescaling("late", student.probe, answers, subject)
    assert sum(count for *_, count in found.curve) == len(answers.probe)
    confidences = [at for at, *_ in found.curve]
    assert confidences == sorted(confidences)
    assert found.quantiles[0] <= found.quantiles[1] <= found.quantiles[2]
    own = answers.on_probe.double().softmax(1).gather(1, answers.probe_labels[:, None]).squeeze(1)
    weights = {"temperature": 4.0, "hard_weight": 0.1, "soft_weight": 0.9}
    factor = rescaling_factor(student.probe, answers.on_probe, answers.probe_labels, **weights)
    lowest = own.argsort(stable=True)[: found.curve[0][2]]
    assert found.curve[0][:2] == pytest.approx((float(own[lowest].mean()), float(factor[lowest].median())))
    assert found.reversed == pytest.approx(float((factor < 0).double().mean()))
    assert -1 <= nearness(student, answers, subject.held_out) <= 1


def test_a_network_without_a_linear_end_has_no_nearness(subject, answers):
    student = StudentTrainer(subject, answers).train("kd", methods.kd(), 0, training=Training(epochs=1))
    wrapped = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    assert nearness(replace(student, network=wrapped), answers, subject.held_out) is None


def test_the_signs_of_the_planted_teachers_point_the_right_way(samples):
    healthy, smoothed, noise = (
        ask(plant(case, samples, 0, SHORT)) for case in ("healthy", "smoothed_teacher", "noise_beside_the_label")
    )
    beside = [other_classes(each.train, each.train_labels) for each in (healthy, smoothed, noise)]
    assert beside[1].evenness < beside[0].evenness
    assert beside[1].epsilon > beside[0].epsilon
    assert abs(beside[2].reliability) < 0.6 < beside[0].reliability
