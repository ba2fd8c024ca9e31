"""The attribution: contrasts against numpy and scipy, what may be said of them, and arms that differ in one thing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel

from limbeck.batch import Batch
from limbeck.diagnosis.arms import match, objectives
from limbeck.diagnosis.attribution import EFFECTS, TARGETS, attribute, effect
from limbeck.diagnosis.inputs import DiagnosisInput, TeacherAnswers
from limbeck.errors import InputError
from limbeck.outputs import Outputs
from limbeck.targets import class_cosines


def right(rates, seeds=4, n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(seeds, n, generator=generator) < rate for name, rate in rates.items()}


RATES = {"hard": 0.72, "ls": 0.74, "pt": 0.76, "sim": 0.75, "pt+sim": 0.765, "topk": 0.78, "kd": 0.77}


def test_the_effects_are_those_of_the_paper():
    """Tang et al. (2020), CIFAR-100: accuracies 72.51, 73.87, 75.08, 74.30, 75.24, 75.94."""
    n = 10_000
    accuracies = {"hard": 7251, "ls": 7387, "pt": 7508, "sim": 7430, "pt+sim": 7524, "kd": 7594}
    correct = {name: (torch.arange(n) < count).expand(2, n).clone() for name, count in accuracies.items()}
    found = {each.name: 100 * each.over_seeds.mean for each in attribute(correct).effects}
    said = {"smoothing": 1.36, "rescaling": 1.21, "relations": 0.43, "interaction": -0.27, "remainder": 0.70}
    for name, points in said.items():
        assert found[name] == pytest.approx(points, abs=1e-9)
    assert found["whole"] == pytest.approx(sum(said.values()), abs=1e-9)


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(2, 60), st.integers(0, 999))
def test_the_parts_add_up_to_the_whole(seeds, n, seed):
    correct = right(RATES, seeds, n, seed)
    found = {each.name: each.over_seeds.mean for each in attribute(correct).effects}
    assert found.keys() == EFFECTS.keys() - {"features"}
    assert sum(found.values()) - found["whole"] == pytest.approx(found["whole"], abs=1e-12)
    with_hints = attribute({**correct, "hints": correct["hard"]}).effect("features")
    assert with_hints.over_seeds.mean == pytest.approx(-found["whole"], abs=1e-12)


def test_the_interval_is_the_paired_one():
    correct = right(RATES)
    found = effect("rescaling", correct)
    pt, ls = (correct[name].double().mean(1).numpy() for name in ("pt", "ls"))
    low, high = ttest_rel(pt, ls).confidence_interval(0.95)
    assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((low, high))
    apart = (correct["pt"].double() - correct["ls"].double()).mean(0).numpy()
    half = 1.96 * apart.std() / np.sqrt(len(apart))
    assert found.over_examples.low == pytest.approx(apart.mean() - half, abs=0.006)
    assert found.over_examples.high == pytest.approx(apart.mean() + half, abs=0.006)


def test_an_effect_is_found_only_where_seeds_and_examples_agree():
    base = torch.zeros(3, 200, dtype=torch.bool)
    better = base.clone()
    better[:, :60] = True
    assert effect("smoothing", {"hard": base, "ls": better}).found
    one = effect("smoothing", {"hard": base[:1], "ls": better[:1]})
    assert (one.found, one.detectable) == (False, None)
    assert "with one seed" in one.verdict()
    lucky = base.clone()
    lucky[:, 0] = True  # all seeds agree, on one example of 200
    assert not effect("smoothing", {"hard": base, "ls": lucky}).found
    wavering = torch.stack([better[0], base[0], better[0]])
    assert not effect("smoothing", {"hard": base, "ls": wavering}).found
    assert effect("smoothing", {"hard": better, "ls": base}).verdict().endswith("it harms")


def test_what_is_said_to_be_detectable_is_found_that_often():
    """With the effect that a budget can detect 8 times in 10, the paired test finds it about that often."""
    generator = np.random.default_rng(0)
    seeds, sd = 6, 1.0
    size = (t.ppf(0.975, seeds - 1) + t.ppf(0.8, seeds - 1)) * sd / np.sqrt(seeds)
    drawn = generator.normal(size, sd, (4000, seeds))
    half = t.ppf(0.975, seeds - 1) * drawn.std(1, ddof=1) / np.sqrt(seeds)
    assert 0.75 < (drawn.mean(1) - half > 0).mean() < 0.9
    correct = right(RATES, seeds=6, n=500)
    over_seeds = float((correct["pt"].double() - correct["ls"].double()).mean(1).std()) / np.sqrt(6)
    least = float(t.ppf(0.975, 5) + t.ppf(0.8, 5)) * over_seeds
    assert effect("rescaling", correct).detectable >= least - 1e-12


def test_arms_may_be_missing():
    correct = right(RATES)
    some = {name: correct[name] for name in ("hard", "ls", "pt", "kd")}
    found = attribute(some, left_out={"sim": "why"})
    assert [each.name for each in found.effects] == ["smoothing", "rescaling", "whole"]
    assert found.left_out == {"sim": "why"}
    assert found.effect("relations") is None
    assert found.seeds, found.examples == (4, 400)


def test_mistakes():
    with pytest.raises(InputError, match="one shape for all arms"):
        attribute({"hard": torch.zeros(2, 5, dtype=torch.bool), "kd": torch.zeros(2, 6, dtype=torch.bool)})
    with pytest.raises(InputError, match="expected bool"):
        attribute({"hard": torch.zeros(2, 5)})


# ---------------------------------------------------------------------------------------------------------------- arms


class _Vectors:
    """A teacher that has nothing but class vectors."""

    def __init__(self, vectors):
        self.vectors = vectors

    def class_vectors(self, classes):
        return self.vectors


def answers(n=300, classes=6, vectors=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = 2 * torch.randn(n, classes, generator=generator)
    logits.scatter_add_(1, labels[:, None], torch.full((n, 1), 6.0))
    rows = torch.randn(classes, 8, generator=generator) if vectors else None
    return TeacherAnswers(logits, logits, labels, labels, torch.arange(n), rows, None)


def subject():
    keys = ("name", "teacher", "train", "held_out", "student", "larger", "training")
    made = object.__new__(DiagnosisInput)
    for key in keys:
        object.__setattr__(made, key, None)
    return made


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_targets_are_as_sure_of_the_true_class(temperature):
    known = answers()
    matching = match(known, temperature)
    makers, left_out = objectives(subject(), matching)
    assert not left_out
    assert makers.keys() == TARGETS.keys()
    batch = Batch.of(torch.zeros(300, 1), known.train_labels)
    outputs = Outputs(known.train, class_cosines=class_cosines(known.vectors))
    for name in ("ls", "pt", "sim", "kd", "pt+sim"):
        log_probs = makers[name]().terms["soft"].target(outputs, batch, temperature).log_probs
        own = log_probs.gather(1, known.train_labels[:, None]).exp()
        assert float(own.mean()) == pytest.approx(matching.confidence, abs=1e-5), name


def test_a_teacher_without_class_vectors_leaves_relations_out():
    matching = match(answers(vectors=False), 4.0)
    assert matching.tau is None
    makers, left_out = objectives(subject(), matching)
    assert left_out.keys() == {"sim", "pt+sim"}
    assert makers.keys() == TARGETS.keys() - left_out.keys()


def test_the_arms_differ_in_the_target_alone():
    makers, _ = objectives(subject(), match(answers(), 4.0))
    for name in TARGETS:
        terms = makers[name]().terms
        if name == "hard":
            assert list(terms) == ["hard"]
            continue
        assert (terms["hard"].weight, terms["soft"].weight, terms["soft"].temperature) == (0.1, 0.9, 4.0)
