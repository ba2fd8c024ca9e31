"""The method ranking_distillation: its terms against the pure losses, what they draw, and the tasks that they take."""

import dataclasses

import pytest
import torch

from limbeck import losses, methods
from limbeck.batch import Batch, Legend
from limbeck.data import HeldOut, synthetic_interactions
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.evaluation import evaluate
from limbeck.methods.darkrank import NeighbourOrder
from limbeck.methods.ranking_distillation import RankingOrder, SampledItems, free_items
from limbeck.models import two_tower
from limbeck.objective import Setup
from limbeck.outputs import Outputs
from limbeck.tasks import DENSE, MULTILABEL, RANKING, TOKENS
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels
from limbeck.training import fit
from walk import over

ITEMS = 30


def drawn(users=6, seed=0):
    """A batch of users with up to four items to be found and two known ones, and two models' scores."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, users, ITEMS, generator=generator, dtype=torch.float64)
    items = torch.rand(users, ITEMS, generator=generator).argsort(1)
    labels = torch.stack([items[:, :4], items[:, 4:8]], 1)
    labels[:, 1, 2:] = -100
    labels[1, 0, 2:] = -100
    labels[2, 0] = -100
    outputs = {"student": Outputs(student.requires_grad_()), "teacher": Outputs(teacher)}
    return outputs, Batch.of(torch.arange(users)[:, None], labels, task=RANKING)


def built(term, seed=3):
    outputs, batch = drawn()
    term.build(outputs, Setup(index=batch.index, seed=seed))
    return term


def test_the_teachers_order_is_taught_without_what_is_to_be_found_or_known():
    outputs, batch = drawn()
    term = built(RankingOrder(top=5, decay=2.0, samples=0))
    expected = losses.ranking_distillation(
        outputs["student"].logits,
        outputs["teacher"].logits,
        top=5,
        decay=2.0,
        known=batch.labels.flatten(1),
        reduction="sum",
    )
    assert float(term.sum(outputs, batch, 0).detach()) == float(expected.detach())
    assert term.count(batch) == 6  # of a user with nothing to be found too


def test_the_students_places_count_from_the_step_on_that_is_named():
    outputs, batch = drawn()
    plain, late, now = (built(RankingOrder(samples=n, start=at)) for n, at in ((0, 0), (50, 3), (50, 0)))
    values = {
        term: [float(term.sum(outputs, batch, step).detach()) for step in range(6)] for term in (plain, late, now)
    }
    assert values[late][:3] == values[plain][:3]
    assert values[late][3:] == values[now][3:]
    assert len(set(values[now])) == 6  # other items are drawn in each step
    with pytest.raises(InputError, match="start of term 'ranking'"):
        late.sum(outputs, batch, None)


def test_what_is_drawn_depends_on_seed_step_and_example_alone():
    outputs, batch = drawn()
    for term in (RankingOrder(samples=9, start=0), SampledItems()):
        whole = float(built(term).sum(outputs, batch, 4).detach())
        parts = 0.0
        for rows in (torch.tensor([5, 0]), torch.tensor([1, 2, 3, 4])):
            part = dataclasses.replace(batch, index=batch.index[rows], view=batch.view[rows], labels=batch.labels[rows])
            own = {name: Outputs(each.logits[rows]) for name, each in outputs.items()}
            parts += float(term.sum(own, part, 4).detach())
        assert parts == pytest.approx(whole, rel=1e-12)
        assert float(built(term, seed=4).sum(outputs, batch, 4).detach()) != whole


def test_the_items_drawn_against_an_item_do_not_depend_on_how_many_there_are():
    outputs, batch = drawn()
    term = built(SampledItems(negatives=5))
    padded = dataclasses.replace(batch, labels=torch.nn.functional.pad(batch.labels, (0, 3), value=-100))
    assert torch.equal(term.sum(outputs, padded, 1), term.sum(outputs, batch, 1))


def test_sampled_items_are_no_items_that_are_taken_and_all_others_alike():
    taken = torch.tensor([[3, -100, 0, 9], [-100, -100, -100, -100], [1, 2, 3, 4]])
    draws = torch.rand(3, 60_000, generator=torch.Generator().manual_seed(0))
    found = free_items(draws, taken, 10)
    for row, own in zip(found, taken, strict=True):
        counts = torch.bincount(row, minlength=10)
        free = [item for item in range(10) if item not in own.tolist()]
        assert counts[[item for item in range(10) if item not in free]].sum() == 0
        assert float((counts[free] * len(free) / 60_000 - 1).abs().max()) < 0.05
    assert free_items(torch.tensor([[0.0, 0.99]]), torch.tensor([[2, 0, 1]]), 3).tolist() == [[-100, -100]]


def test_sampled_items_are_drawn_for_each_item_to_be_found():
    _, batch = drawn()
    flat = {"student": Outputs(torch.zeros(6, ITEMS, dtype=torch.float64))}
    term = built(SampledItems(negatives=2))
    assert term.count(batch) == 5
    half = torch.tensor(0.5, dtype=torch.float64).log()
    assert float(term.sum(flat, batch, 0)) == pytest.approx(float(-5 * 3 * half))  # an item and its two others
    assert [*methods.ranking_distillation(alpha=0.0).terms] == ["sampled"]
    assert [*methods.ranking_distillation(alpha=1.0).terms] == ["ranking"]


@pytest.mark.parametrize("task", [DENSE, TOKENS], ids=lambda task: task.name)
def test_classes_of_each_place_are_ranked_too(task):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (3, 4), generator=generator)
    labels[0, 1] = -100
    batch = Batch.of(torch.zeros(3, 1), labels, task=task, mask=torch.arange(4).expand(3, 4) < 3)
    outputs = {"student": Outputs(student), "teacher": Outputs(teacher)}
    order = built(RankingOrder(top=3, samples=0))
    expected = losses.ranking_distillation(
        student, teacher, top=3, known=labels.unsqueeze(-1), mask=batch.mask, reduction="sum"
    )
    assert float(order.sum(outputs, batch, 0)) == pytest.approx(float(expected))
    assert int(order.count(batch)) == 9
    assert torch.isfinite(built(SampledItems()).sum(outputs, batch, 0))


def test_hard_labels_of_a_ranking_are_the_items_to_be_found():
    outputs, batch = drawn()
    term = HardLabels()
    positives, known = batch.labels.unbind(1)
    expected = losses.positives_log_loss(outputs["student"].logits, positives, known=known, reduction="sum")
    assert float(term.sum(outputs, batch, 0).detach()) == pytest.approx(float(expected.detach()))
    assert int(term.count(batch)) == 5


@over(
    "objective, task, said",
    [
        (methods.ranking_distillation(), MULTILABEL, "term 'sampled' teaches an order of classes that can be ranked"),
        (methods.hard(label_smoothing=0.1), RANKING, "label_smoothing of term 'hard' needs a label for each"),
        (methods.dkd(), RANKING, "term 'dkd' needs a label for each distribution over classes"),
        (methods.kd_pt(), RANKING, "target pt needs a label for each distribution over classes"),
    ],
)
def test_what_does_not_suit_a_task_is_refused_in_one_line(objective, task, said):
    with pytest.raises(InputError) as caught:
        objective.settle(Legend(tuple("abcde"), task=task))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    methods.kd().settle(Legend(tuple("abcde"), task=RANKING))


def test_values_out_of_range_are_refused():
    for keys in (
        {"alpha": 1.5},
        {"top": 0},
        {"decay": 0.0},
        {"mu": 0.0},
        {"samples": -1},
        {"start": -1},
        {"negatives": 0},
    ):
        with pytest.raises(InputError, match=f"{next(iter(keys))}: found"):
            methods.ranking_distillation(**keys)


def test_a_narrow_student_learns_to_rank_from_a_wide_teacher():
    splits = synthetic_interactions(users=100, items=60, each=12, rank=4, sharpness=4.0)
    train, held_out = HeldOut(1, "last").split(splits.train)
    settings = {"epochs": 20, "batch_size": 25, "optimizer": "adamw", "learning_rate": 0.03, "weight_decay": 0.1}
    models = {}
    for name, width, objective in (
        ("teacher", 16, methods.hard()),
        ("student", 8, methods.ranking_distillation(samples=20, start=40)),
    ):
        torch.manual_seed(0)
        models[name] = two_tower((1,), 60, 100, width=width)
        taught = ModelTeacher(models["teacher"]) if name == "student" else None
        before = evaluate(models[name], held_out)
        fit(Distiller(models[name], taught, objective), train, **settings)
        after = evaluate(models[name], held_out)
        assert before.accuracy < 0.2 < after.accuracy
        assert after.more["ndcg"] > 2 * before.more["ndcg"]


def test_darkrank_relates_features_by_its_own_settings():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    usual = {"n": 4, "alpha": 3.0, "beta": 3.0, "soft": False, "normalise": True}
    for name, value in {"n": 3, "alpha": 1.5, "beta": 1.0, "soft": True, "normalise": False}.items():
        given = {**usual, name: value}
        found = NeighbourOrder("pool", **given).relate(student, teacher, 0)
        assert torch.equal(found, losses.dark_rank(student, teacher, **given))
        assert found != losses.dark_rank(student, teacher, **usual)
    for wrong in ({"n": 1}, {"n": 6, "soft": True}, {"alpha": 0.0}, {"beta": -1.0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: found"):
            methods.darkrank("pool", **wrong)
