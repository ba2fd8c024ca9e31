"""Noisy student: who is labelled, how classes are balanced, what the student learns from, and when nothing is left."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from limbeck import methods
from limbeck.batch import UNLABELLED, Batch
from limbeck.data import TensorSet, Transfer
from limbeck.errors import DataError, InputError, RecipeError
from limbeck.experiment.parts import prepare
from limbeck.experiment.teacher import trained_teacher
from limbeck.losses import cross_entropy, kl
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.schemes.noisy_student import OnUnlabelled, balanced

PART = {"kind": "digits", "transfer": {"labelled": 0.1}}
SCHEME = {"name": "noisy_student", "iterations": 2}
METHOD = {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 1.0}


# ------------------------------------------------------------------------------------------------- labelled in part


def test_a_transfer_set_is_labelled_in_part_and_the_rest_is_there_without():
    samples = TensorSet.of(torch.zeros(100, 2), torch.arange(100) % 4)
    part = Transfer(labelled=0.2).apply(samples, seed=0)
    assert torch.equal(part.index, samples.index)
    known = part.labels != UNLABELLED
    assert Counter(part.labels[known].tolist()) == dict.fromkeys(range(4), 5)
    assert torch.equal(part.labels[known], samples.labels[known])
    assert torch.equal(part.subset(known.nonzero().squeeze(1)).index, samples.fraction(0.2, 0).index)
    more = Transfer(labelled=0.4).apply(samples, seed=0).labels != UNLABELLED
    assert bool(more[known].all())


@pytest.mark.parametrize("keys", [{"labelled": 0.0}, {"labelled": 1.5}, {"labelled": 0.5, "labels": False}])
def test_a_wrong_share_is_refused(keys):
    with pytest.raises(InputError, match=r"^labelled: "):
        Transfer(**keys)


def test_neither_teacher_nor_student_alone_knows_the_other_labels(tiny):
    parts, whole = prepare(tiny(data=PART)), prepare(tiny(data={"kind": "digits"}))
    assert len(parts.transfer) == len(whole.transfer)
    labelled = parts.transfer.labels != UNLABELLED
    for samples in (parts.train, parts.alone):
        assert torch.equal(samples.index, parts.transfer.index[labelled])
        assert torch.equal(samples.labels, parts.transfer.labels[labelled])
    assert 0.09 < len(parts.train) / len(parts.transfer) < 0.11
    assert torch.equal(parts.held_out.index, whole.held_out.index)


# ------------------------------------------------------------------------------------------------------------ balance


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100)), min_size=1, max_size=40), st.integers(1, 12))
@example([(0, 1), (0, 2), (0, 0)], 1)
def test_every_class_that_occurs_stands_equally_often_by_its_most_confident(drawn, per_class):
    classes = torch.tensor([label for label, _ in drawn])
    confidence = torch.tensor([float(sure) for _, sure in drawn])
    chosen = balanced(classes, confidence, per_class).tolist()
    for label in set(classes.tolist()):
        own = [place for place, (other, _) in enumerate(drawn) if other == label]
        found = [place for place in chosen if drawn[place][0] == label]
        assert len(found) == per_class
        times = Counter(found)
        assert set(times) <= set(own)
        assert max(times.values()) - min(times[place] for place in own) <= 1  # repeated in turn, or cut
        least = min(drawn[place][1] for place in times)
        assert all(drawn[place][1] <= least for place in own if place not in times)
    assert len(chosen) == per_class * len(set(classes.tolist()))


def test_a_number_per_class_is_checked():
    with pytest.raises(InputError, match=r"^per_class: found 0"):
        balanced(torch.tensor([0]), torch.tensor([1.0]), 0)


# ----------------------------------------------------------------------------------------------------------- the loss


def test_labels_teach_the_labelled_and_the_teacher_the_others():
    logits, taught = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    labels = torch.tensor([0, UNLABELLED, 3, UNLABELLED, UNLABELLED, 1, 2])
    batch = Batch.of(torch.zeros(7, 1), labels)
    outputs = {"student": Outputs(logits), "teacher": Outputs(taught)}
    hard, soft = methods.kd(**{key: value for key, value in METHOD.items() if key != "name"}).terms.values()
    found = Objective([hard, OnUnlabelled(soft)])(outputs, batch)
    without = labels == UNLABELLED
    wanted = cross_entropy(logits[~without], labels[~without]) + kl(logits[without], taught[without])
    torch.testing.assert_close(found.total, wanted)
    assert int(found.parts["soft"].count) == 3
    masked = Batch.of(torch.zeros(7, 1), labels, mask=torch.tensor([True, True, True, False, True, True, False]))
    found = Objective([hard, OnUnlabelled(soft)])(outputs, masked)
    places = torch.tensor([1, 4])
    torch.testing.assert_close(found.parts["soft"].sum, 2 * kl(logits[places], taught[places]))
    assert int(found.parts["soft"].count) == 2
    none = Objective([hard, OnUnlabelled(soft)])(
        outputs, Batch.of(torch.zeros(7, 1), torch.zeros(7, dtype=torch.int64))
    )
    torch.testing.assert_close(none.total, cross_entropy(logits, torch.zeros(7, dtype=torch.int64)))


def test_the_loss_of_a_batch_is_that_of_its_parts():
    logits, taught = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)
    labels = torch.tensor([0, UNLABELLED] * 4)
    objective = Objective([OnUnlabelled(methods.kd(alpha=0.0).terms["soft"])])

    def loss(places, counts=None):
        batch = Batch.of(torch.zeros(len(places), 1), labels[places])
        outputs = {"student": Outputs(logits[places]), "teacher": Outputs(taught[places])}
        return objective(outputs, batch, 0, counts)

    whole = loss(torch.arange(8))
    counts = {"soft": 4}
    split = loss(torch.arange(3), counts).total + loss(torch.arange(3, 8), counts).total
    torch.testing.assert_close(whole.total, split)


# ------------------------------------------------------------------------------------------------------- the iterations


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_each_student_is_labelled_by_the_one_before(tiny, carried_out, tmp_path, kind):
    lines = []
    scheme = {**SCHEME, "pseudo_labels": kind, "confidence": 0.12, "per_class": 30}
    recipe = tiny(data=PART, scheme=scheme, method=METHOD)
    path, outcome = carried_out(recipe, say=lines.append)
    assert list(outcome.roles) == ["teacher", "alone", "student_1", "distilled"]
    parts = prepare(recipe)
    teacher = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    whole = parts.transfer.batch(torch.arange(len(parts.transfer)), augment=None, seed=0, view=0)
    with torch.no_grad():
        sure, classes = teacher(whole.inputs).softmax(-1).max(-1)
    kept = (parts.transfer.labels == UNLABELLED) & (sure >= 0.12)
    told = [line for line in lines if line.startswith("noisy_student, iteration 1: ")]
    occurring = len(classes[kept].unique())
    assert told[0].startswith(f"noisy_student, iteration 1: {30 * occurring} pseudo-labelled samples")
    compute = outcome.roles["student_1"].compute
    assert compute["answers"] == 2 * (64 * 24 + 240) * len(parts.transfer)
    seen = len(parts.alone) + 30 * occurring
    assert compute["learning"] == 3 * 2 * (64 * 8 + 80) * seen * 2
    lines = (path / "distilled-0" / "metrics.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])["train"]) == {"hard", "soft", "total"}


def test_students_may_grow_and_a_killed_run_goes_on(tiny, carried_out, killed_everywhere, same_weights):
    models = [{"kind": "mlp", "hidden": [12], "dropout": 0.2}]
    noisy = {"epochs": 2, "batch_size": 128, "augment": {"shift": 1}}
    recipe = tiny(data=PART, scheme={**SCHEME, "confidence": 0.0, "models": models}, method=METHOD, training=noisy)
    whole, outcome = carried_out(recipe)
    assert outcome.roles["student_1"].parameters == 64 * 12 + 12 + 120 + 10
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "student_1-0", "distilled-0"]
    same_weights(whole, killed, trained)


def test_nothing_left_is_one_line(tiny, carried_out):
    with pytest.raises(DataError) as caught:
        carried_out(tiny(data=PART, scheme={**SCHEME, "confidence": 1.0}, method=METHOD))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("scheme.confidence: none of 1,1")
    assert line.endswith("; lower it")


def test_unbalanced_classes_may_stay_as_they_are(tiny, carried_out):
    lines = []
    carried_out(
        tiny(data=PART, scheme={**SCHEME, "confidence": 0.0, "balance": False}, method=METHOD), say=lines.append
    )
    parts = prepare(tiny(data=PART))
    unlabelled = int((parts.transfer.labels == UNLABELLED).sum())
    assert any(line.startswith(f"noisy_student, iteration 1: {unlabelled:,} pseudo-labelled") for line in lines)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"iterations": 0}, "scheme.iterations: found 0"),
        ({"iterations": 10**9}, "scheme.iterations: found 1000000000, expected a whole number from 1 to 100"),
        ({"confidence": 1.5}, "scheme.confidence: found 1.5"),
        ({"pseudo_labels": "firm"}, "scheme.pseudo_labels: found 'firm', expected 'soft' or 'hard'"),
        ({"per_class": 3, "balance": False}, "scheme.per_class: found together with balance: false"),
        ({"per_class": 0}, "scheme.per_class: found 0"),
        (
            {"models": [{"kind": "mlp"}], "iterations": 3},
            "scheme.models: found 1 for 3 iterations, expected one for each",
        ),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(data=PART, scheme={"name": "noisy_student", **keys})
    assert str(caught.value).startswith(said)


def test_recipes_without_unlabelled_samples_or_a_teacher_are_refused(tiny, refusal):
    assert refusal(tiny(scheme=SCHEME)) == (
        "scheme.name: noisy_student found no unlabelled samples; set data.transfer.labelled below 1"
    )
    assert refusal(tiny(data=PART, scheme=SCHEME, method={"name": "hard"})).startswith(
        "scheme.name: noisy_student needs a method"
    )
