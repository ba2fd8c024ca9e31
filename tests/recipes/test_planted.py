"""Two of the reasons that Ba & Caruana (2014) give for matching a teacher's logits, planted in digits."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch

import limbeck as lb
from limbeck.randomness import normal, uniform

_SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def splits() -> tuple[lb.data.SampleSet, lb.data.SampleSet]:
    return lb.data.digits().train.split(0.3, seed=1)


def _teacher(samples: lb.data.SampleSet, epochs: int) -> lb.ModelTeacher:
    torch.manual_seed(0)
    model = lb.models.cnn((1, 8, 8), 10, channels=(16, 32), dropout=0.2)
    lb.fit(lb.Distiller(model, None, lb.methods.hard()), samples, epochs=epochs, batch_size=64, learning_rate=0.05)
    return lb.ModelTeacher(model)


def _mean_errors(train: lb.data.SampleSet, held_out: lb.data.SampleSet, teacher: lb.StoredTeacher | None) -> float:
    """Return the mean errors over seeds of a student on hard labels (no teacher) or on the teacher's logits."""
    errors = []
    for seed in _SEEDS:
        torch.manual_seed(seed)
        student = lb.models.mlp((1, 8, 8), 10, hidden=(64,))
        objective = lb.methods.hard() if teacher is None else lb.methods.logit_matching()
        distiller = lb.Distiller(student, teacher, objective)
        lb.fit(distiller, train, seed=seed, epochs=20, batch_size=32, learning_rate=0.05)
        errors.append(lb.evaluate(student, held_out).errors)
    return fmean(errors)


@pytest.mark.thorough
def test_a_teacher_that_learnt_from_noisy_labels_corrects_them(splits: tuple[lb.data.SampleSet, ...]) -> None:
    train, held_out = splits
    draws = uniform(0, "noise", torch.zeros_like(train.index), train.index, 2)
    drawn = (draws[:, 1] * 10).long()
    noisy = replace(train, labels=torch.where(draws[:, 0] < 0.5, drawn, train.labels))
    assert 0.4 < float((noisy.labels != train.labels).double().mean()) < 0.5
    alone = _mean_errors(noisy, held_out, None)
    taught = _mean_errors(noisy, held_out, lb.store(_teacher(noisy, epochs=12), noisy))
    assert taught < 0.8 * alone, (taught, alone)


def _blurred(samples: lb.data.SampleSet) -> lb.data.TensorSet:
    """Return the samples with noise that belongs to each sample for good: no one can average it away."""
    clean = samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)
    noise = normal(0, "blur", torch.zeros_like(samples.index), samples.index, 64).reshape(clean.inputs.shape)
    return lb.data.TensorSet.of(clean.inputs + 0.3 * noise, samples.labels, classes=10)


@pytest.mark.slow
def test_a_teacher_that_saw_inputs_the_student_does_not_see_helps_it(splits: tuple[lb.data.SampleSet, ...]) -> None:
    train, held_out = splits
    clean = lb.store(_teacher(train, epochs=20), train)
    blurred = _blurred(train)
    answers = lb.StoredTeacher(clean.logits, torch.arange(len(train)), source=blurred.source)
    alone = _mean_errors(blurred, _blurred(held_out), None)
    taught = _mean_errors(blurred, _blurred(held_out), answers)
    assert taught < alone, (taught, alone)
