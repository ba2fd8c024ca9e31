"""Beyond one label of many classes: sets of every task, and training on them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import methods, targets
from limbeck.batch import UNLABELLED, Batch
from limbeck.data import Augment, Loader, TensorSet, Transfer
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError, ModelError
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, REGRESSION, TASKS, TOKENS
from limbeck.teachers import EnsembleTeacher, ModelTeacher, store
from limbeck.training import fit
from task_losses import NAN, Fixed, drawn, loss_of
from walk import over

# ----------------------------------------------------------------------------------------------------------------- data


def set_of(task, size=48, seed=0):
    """A learnable set of each task, with five inputs or small images."""
    generator = torch.Generator().manual_seed(seed)
    if task is DENSE:
        inputs = torch.randn(size, 1, 4, 4, generator=generator)
        return TensorSet.of(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 0] > 1).long(), task=task, name="dense")
    if task is TOKENS:
        inputs = torch.randint(5, (size, 6), generator=generator)
        return TensorSet.of(inputs, (inputs * 2 + 1) % 3, task=task, name="tokens")
    inputs = torch.randn(size, 5, generator=generator)
    scores = inputs @ torch.randn(5, 3, generator=torch.Generator().manual_seed(9))
    labels = {
        "classification": scores.argmax(1),
        "binary": scores[:, 0] > 0,
        "multilabel": scores > 0,
        "regression": scores,
        "ranking": torch.stack([scores.argmax(1), torch.full((size,), UNLABELLED)], dim=1)[..., None],
    }[task.name]
    return TensorSet.of(inputs, labels, task=task, name=task.name)


def network_of(task, seed=0, width=8):
    torch.manual_seed(seed)
    if task is DENSE:
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 1))
    if task is TOKENS:
        return nn.Sequential(nn.Embedding(5, width), nn.Linear(width, 3))
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, task.outputs(2 if task is BINARY else 3)))


def method_of(task):
    return methods.bounded_regression() if task is REGRESSION else methods.kd(temperature=2.0, alpha=0.5)


every_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


@every_task
def test_a_set_keeps_its_task_and_labels_through_batches_parts_and_devices(task):
    samples = set_of(task)
    part = samples.subset(torch.tensor([3, 1])).to("cpu")
    batch = part.batch(torch.tensor([1]), augment=None, seed=0, view=0)
    assert part.task is batch.task is samples.legend.task is task
    assert torch.equal(batch.labels, samples.labels[1:2])
    assert samples.classes == {"binary": 2}.get(task.name, 3)
    assert samples.legend.labelled
    bare = samples.without_labels()
    assert not bare.legend.labelled
    assert not bare.task.labelled(bare.labels).any()
    rest, held = samples.split(0.25, seed=0, stratify=True)
    assert len(rest) + len(held) == 48
    assert len(samples.fraction(0.5, seed=0)) == pytest.approx(24, abs=2)


@every_task
def test_the_task_of_a_set_is_part_of_what_it_is(task):
    labels = torch.zeros(4, 2, dtype=torch.int64)
    inputs = torch.zeros(4, 3)
    if task.dims == (1,):
        labels = labels[:, 0]
    others = [other for other in TASKS.values() if other.dims == task.dims and other is not task]
    for other in others:
        one, two = (TensorSet.of(inputs, labels, classes=2, task=each).source for each in (task, other))
        assert one != two


@over(
    ("task", "labels", "options", "line"),
    [
        (BINARY, [0, 1, 2], {}, "tensors: sample 2 has label 2, expected 0 to 1, or -100 for none"),
        (BINARY, [0, 1, 1], {"classes": 3}, "tensors: 3 classes, but task binary has 2"),
        (BINARY, [0.0, 0.5, 1.0], {}, "tensors: labels are torch.float32, expected whole numbers"),
        (MULTILABEL, [0, 1, 1], {}, "tensors: 3 samples but labels of shape (3,), expected (3, classes)"),
        (MULTILABEL, [[0, 1], [1, 0], [1, 3]], {}, "tensors: sample 2 has label 3 at (1,), expected 0 to 1"),
        (MULTILABEL, [[0, 1], [1, 0], [1, 1]], {"classes": 3}, "tensors: 3 classes but labels of shape (3, 2)"),
        (MULTILABEL, [[0, 1], [1, 0], [1, 1]], {"class_names": ["a"]}, "tensors: 1 classes but labels of shape (3, 2)"),
        (MULTILABEL, None, {}, "tensors: task multilabel needs labels, 0 or 1 for each class of an example"),
        (
            REGRESSION,
            [[0.0], [1.0], [math.inf]],
            {},
            "tensors: sample 2 has an infinite label, expected finite numbers",
        ),
        (REGRESSION, [0.0, 1.0], {}, "tensors: 3 samples but labels of shape (2,), expected (3,) or (3, numbers)"),
        (DENSE, [0, 1, 1], {}, "tensors: 3 samples but labels of shape (3,), expected (3, height, width)"),
        (DENSE, [[0, 1], [1, 0], [1, 7]], {"classes": 3}, "tensors: sample 2 has label 7 at (1,), expected 0 to 2"),
        (CLASSIFICATION, [[0], [1], [1]], {}, "tensors: 3 samples but labels of shape (3, 1), expected (3,)"),
    ],
    ids=str,
)
def test_labels_that_are_not_of_the_task_are_refused_in_one_line(task, labels, options, line):
    labels = None if labels is None else torch.tensor(labels)
    with pytest.raises(DataError) as caught:
        TensorSet.of(torch.zeros(3, 2), labels, task=task, **options)
    assert str(caught.value).startswith(line)


def test_missing_labels_of_numbers_and_of_several_classes_may_be_nan():
    several = TensorSet.of(torch.zeros(2, 2), torch.tensor([[0.0, NAN], [1.0, 0.0]]), task=MULTILABEL)
    assert several.labels.tolist() == [[0, UNLABELLED], [1, 0]]
    numbers = TensorSet.of(torch.zeros(2, 2), torch.tensor([0.5, NAN]), task=REGRESSION)
    assert numbers.labels.shape == (2, 1)
    assert numbers.task.labelled(numbers.labels).tolist() == [True, False]
    assert numbers.labelled_count == 1


@pytest.mark.parametrize("task", [MULTILABEL, REGRESSION, DENSE], ids=lambda task: task.name)
def test_samples_without_one_class_each_cannot_be_chosen_by_class(task):
    with pytest.raises(InputError, match=r"^classes: samples are chosen by one label an example, and the labels are"):
        Transfer(omit=(1,)).apply(set_of(task), seed=0)


def test_images_are_not_moved_away_from_the_labels_of_their_places():
    samples = set_of(DENSE)
    for augment in (Augment(shift=1), Augment(flip=0.5), Augment(pad_crop=1)):
        with pytest.raises(
            DataError, match=r"^augment: shift, pad_crop, flip and randaugment would move images but not their labels"
        ):
            next(Loader(samples, 8, seed=0, augment=augment).epoch(0))
    assert next(Loader(samples, 8, seed=0, augment=Augment(noise=0.1)).epoch(0)).augmented


@every_task
def test_a_rank_without_a_part_of_the_batch_counts_nothing(task):
    batch = next(Loader(set_of(task).subset(torch.tensor([0])), 4, seed=0).epoch(0, rank=1, world=2))
    assert method_of(task).counts(batch) == pytest.approx(dict.fromkeys(method_of(task).terms, 0))
    distiller = Distiller(network_of(task), ModelTeacher(network_of(task, 1)), method_of(task))
    loss = distiller(batch)
    loss.total.backward()
    assert loss.total.item() == 0


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.miniature(1)
@every_task
def test_a_student_of_every_task_learns_from_labels_and_teacher(task):
    train, held = set_of(task, 96), set_of(task, 48, seed=5)
    teacher = network_of(task, 1, width=32)
    taught = fit(Distiller(teacher, None, methods.hard()), train, epochs=30, batch_size=16, learning_rate=0.1)
    student = network_of(task)
    distiller = Distiller(student, ModelTeacher(teacher), method_of(task))
    result = fit(distiller, train, held, epochs=20, batch_size=16, learning_rate=0.1, keep="best")
    errors = [line["validation"]["errors"] for line in result.history]
    assert taught.history[-1]["train"]["hard"] < 0.7 * taught.history[0]["train"]["hard"]
    assert result.metrics["errors"] == min(errors) < 0.9 * errors[0] + 1e-9
    assert result.metrics["accuracy"] > 0.5


@pytest.mark.miniature(2)
@every_task
def test_a_training_in_parts_is_the_training(task):
    def train(accumulate):
        distiller = Distiller(network_of(task), ModelTeacher(network_of(task, 1)), method_of(task))
        return fit(distiller, set_of(task, 20), epochs=2, batch_size=8, learning_rate=0.1, accumulate=accumulate)

    whole, parts = (train(accumulate).student.state_dict() for accumulate in (1, 3))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


@every_task
def test_a_stored_teacher_gives_the_answers_of_the_live_one(task):
    samples, live = set_of(task), ModelTeacher(network_of(task))
    stored = store(live, samples, batch_size=7)
    batch = samples.batch(torch.tensor([5, 0, 11]), augment=None, seed=0, view=0)
    torch.testing.assert_close(stored(batch).logits, live(batch).logits)


def test_an_ensemble_answers_a_regression_with_the_mean_of_its_members_and_softens_what_has_classes():
    numbers, batch = torch.randn(2, 6, 3), Batch.of(torch.zeros(6, 1), task=REGRESSION)
    members = [ModelTeacher(Fixed(each)) for each in numbers]
    found = EnsembleTeacher(members, weights=[0.25, 0.75])(batch)
    torch.testing.assert_close(found.logits, 0.25 * numbers[0] + 0.75 * numbers[1])
    assert found.members is None
    with pytest.raises(InputError, match=r"^mean: found 'geometric', which is for distributions"):
        EnsembleTeacher(members, mean="geometric")(batch)
    several = EnsembleTeacher(members)(Batch.of(torch.zeros(6, 1), task=MULTILABEL))
    expected = torch.sigmoid(numbers).mean(0)
    torch.testing.assert_close(targets.softened(several, 1.0).log_probs[..., 1].exp(), expected)


def test_a_model_for_another_number_of_classes_is_refused_in_one_line():
    samples = set_of(MULTILABEL)
    with pytest.raises(ModelError, match=r"^student: answers 4 classes, the data has 3; give the student 3 outputs"):
        fit(Distiller(nn.Linear(5, 4), None, methods.hard()), samples, epochs=1)
    with pytest.raises(
        ModelError, match=r"^student: answers 4 numbers to predict, the data has 3; give the student 3 outputs"
    ):
        fit(Distiller(nn.Linear(5, 4), None, methods.hard()), set_of(REGRESSION), epochs=1)


@every_task
def test_fit_refuses_a_method_that_is_not_for_the_task(task):
    wrong = methods.kd() if task is REGRESSION else methods.bounded_regression()
    distiller = Distiller(network_of(task), ModelTeacher(copy.deepcopy(network_of(task))), wrong)
    with pytest.raises(InputError, match=rf"\(task {task.name}\); use"):
        fit(distiller, set_of(task), epochs=1)


def test_one_logit_in_half_precision_is_computed_in_single():
    z, v = (torch.tensor(x)[:, None] for x in drawn((6,)))
    half, _ = loss_of(methods.kd(4.0), z.half(), v.half(), torch.ones(6).long(), task=BINARY)
    single, _ = loss_of(methods.kd(4.0), z.half().float(), v.half().float(), torch.ones(6).long(), task=BINARY)
    assert half.total.item() == single.total.item()
    wide = torch.tensor([[1e4], [-1e4]]).half()
    loss, gradient = loss_of(methods.kd(4.0), wide, -wide, torch.tensor([0, 1]), task=BINARY)
    assert torch.isfinite(loss.total)
    assert torch.isfinite(gradient).all()
    assert F.softplus(torch.tensor(1e4)) == 1e4
